"""The segmentation network, and the probabilities that it gives at several scales and in windows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.geometry import MULTIPLE
from wsss.localize.crf import dense_crf
from wsss.models.backbone import (
    ANY_SIZE,
    build_backbone,
    dense_features,
    early_features,
    first_size,
    reductions_of,
    sizes_of,
)
from wsss.models.weights import load_weights, no_download
from wsss.settings import CRFSettings


class LinearSegmenter(nn.Module):
    """A backbone, and BatchNorm and a 1x1 convolution on its deepest features, scaled up bilinearly.

    The head of DINOv2's linear evaluation (Oquab et al., TMLR 2024, arXiv:2304.07193, section 7.4). It
    goes with any backbone that the classifier takes, with a ViT's, too, which have no pyramid.

    Args:
        encoder: name of a timm model.
        num_labels: number of labels.
        pretrained: take the encoder's published weights.
        weights: weight file of the encoder instead.

    Raises:
        UserError: as of `build_backbone` and `sizes_of`.
    """

    def __init__(
        self, encoder: str, num_labels: int, pretrained: bool = False, weights: str | None = None
    ) -> None:
        super().__init__()
        self.encoder = build_backbone(encoder, pretrained=pretrained, weights=weights)
        sizes = sizes_of(self.encoder)
        self.size_multiple = sizes.multiple
        self.decoder = nn.BatchNorm2d(sizes.channels)
        self.segmentation_head = nn.Conv2d(sizes.channels, num_labels, 1)

    def features(self, x: Tensor) -> Tensor:
        """Deepest features (B, C, h, w) of (B, 3, H, W), normalised, multiples of `size_multiple`."""
        return dense_features(self.encoder, x, [len(reductions_of(self.encoder)) - 1])[0]

    def decode(self, features: Tensor, size: Sequence[int]) -> Tensor:
        """Logits (B, L, H, W) of features, of a size (H, W)."""
        logits = self.segmentation_head(self.decoder(features))
        return F.interpolate(logits, tuple(size), mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), normalised, multiples of `size_multiple` -> logits (B, L, H, W)."""
        return self.decode(self.features(x), x.shape[-2:])


class SegmentationNetwork(nn.Module):
    """A segmentation network with its normalisation and padding: RGB in 0..255 of any size to logits.

    Args:
        decoder: a segmentation_models_pytorch architecture (DeepLabV3Plus, Unet, FPN, UPerNet, ...), or
            `Linear` (`LinearSegmenter`), which goes with any encoder of timm.
        encoder: a timm model (`tu-` is put before it if needed) or one of SMP's own encoders.
        num_labels: number of labels, background included.
        pretrained: take the encoder's published ImageNet weights.
        weights: weight file of the encoder instead.

    Attributes:
        size_multiple: sides of images are padded to multiples of so many pixels.

    Raises:
        UserError: there is no such decoder or encoder, they do not go together, or the weights do not
            fit or cannot be fetched.
    """

    def __init__(
        self,
        decoder: str,
        encoder: str,
        num_labels: int,
        pretrained: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        name = encoder.removeprefix("tu-")
        linear = decoder.lower() == "linear"
        is_timm = timm.is_model(name) and (
            linear or encoder != name or encoder not in smp.encoders.get_encoder_names()
        )
        if name != encoder and not is_timm:  # SMP would look for it on the internet
            raise UserError(f"encoder '{encoder}' is no timm model: see timm.list_models()")
        if linear:
            self.net: nn.Module = LinearSegmenter(name, num_labels, pretrained, weights)
            self.size_multiple: int = self.net.size_multiple
        else:
            options = _weight_options(name, encoder, is_timm, weights)
            words = (decoder, f"tu-{name}" if is_timm else encoder, num_labels)
            self.net, self.size_multiple = _smp_network(*words, pretrained or bool(weights), options)
        cfg = timm.get_pretrained_cfg(name) if is_timm else None
        for key, default in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            value = getattr(cfg, key, None) or default
            self.register_buffer(key, torch.tensor(value).view(1, 3, 1, 1) * 255, persistent=False)

    def early_features(self, stride: int) -> Tensor | None:
        """An output of the encoder's layers up to a stride, 2, 4, 8 or 16; None where there is none."""
        encoder = self.net.encoder
        images = torch.zeros(1, 3, 2 * self.size_multiple, 2 * self.size_multiple)
        if isinstance(self.net, LinearSegmenter):
            return early_features(encoder, images, stride)
        if isinstance(self.net, smp.DPT):
            return None
        features = encoder(images)[stride.bit_length() - 1]  # SMP's k-th features have stride 2^k
        return features if features.numel() else None

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..255 -> logits (B, L, H, W); sides are padded to `size_multiple`."""
        return self.decode(self.features(images), images.shape[-2:])

    def features(self, images: Tensor) -> list[Tensor]:
        """The encoder's features of images (B, 3, H, W) in 0..255, the finest first."""
        x = (images.float() - self.mean) / self.std
        height, width = x.shape[-2:]
        whole = self.size_multiple
        x = F.pad(x, (0, -width % whole, 0, -height % whole))  # zeros are the mean colour here
        if isinstance(self.net, LinearSegmenter):
            return [self.net.features(x)]
        found = self.net.encoder(x)
        return [*found[0], *found[1]] if isinstance(self.net, smp.DPT) else found

    @torch.enable_grad()
    def looked_at(self, features: list[Tensor]) -> list[bool]:
        """Which of the `features` the decoder looks at; it takes any in the place of the others."""
        leaves = [one[:1].detach().requires_grad_() for one in features]
        parts = self.net.decoder, self.net.segmentation_head
        training = [part.training for part in parts]
        for part in parts:
            part.eval()
        logits = self.decode(leaves, (1, 1))
        for part, mode in zip(parts, training, strict=True):
            part.train(mode)
        gradients = torch.autograd.grad(logits.sum(), leaves, allow_unused=True)
        return [gradient is not None for gradient in gradients]

    def decode(self, features: list[Tensor], size: Sequence[int]) -> Tensor:
        """Logits (B, L, H, W) of the encoder's features of images of a size (H, W)."""
        height, width = size
        if isinstance(self.net, LinearSegmenter):
            whole = self.size_multiple
            padded = [side + -side % whole for side in size]
            return self.net.decode(features[0], padded)[..., :height, :width]
        if isinstance(self.net, smp.DPT):  # its encoder gives maps and prefix tokens
            half = len(features) // 2
            decoded = self.net.decoder(features[:half], features[half:])
        else:
            decoded = self.net.decoder(features)
        return self.net.segmentation_head(decoded)[..., :height, :width]


def _weight_options(
    name: str, encoder: str, is_timm: bool, weights: str | None
) -> dict[str, dict[str, Any]]:
    """What makes timm take a weight file for an encoder of SMP's."""
    if not weights:
        return {}
    if not is_timm:
        raise UserError(f"weights need a timm encoder, '{encoder}' is SMP's own: use tu-NAME")
    if not Path(weights).is_file():
        raise UserError(f"no weight file {weights} for the encoder {encoder}: check the path")
    # by way of the whole model: an encoder would take what fits of any file, and timm's
    # older releases run code from one
    whole = timm.create_model(name)
    load_weights(whole, weights)
    return {"pretrained_cfg_overlay": {"state_dict": whole.state_dict()}}


def _smp_network(
    decoder: str, encoder: str, num_labels: int, given: bool, options: dict[str, Any]
) -> tuple[nn.Module, int]:
    """An SMP network, and of what its sides must be multiples."""
    fixed: Exception | None = None
    for any_size in ({}, *ANY_SIZE[:2]) if encoder.startswith("tu-") else ({},):
        try:
            net = smp.create_model(
                decoder,
                encoder,
                encoder_weights="imagenet" if given else None,
                classes=num_labels,
                **options | any_size,
            )
        except (KeyError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
            if any_size:  # an option that the encoder does not have
                continue
            raise UserError(
                f"no segmentation network from decoder '{decoder}' and encoder '{encoder}': {error}; "
                "decoder Linear goes with any encoder of timm"
            ) from error
        except OSError as error:
            raise UserError(no_download(encoder)) from error
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"the weights do not fit the encoder {encoder}: {reason}") from error
        square = getattr(timm.get_pretrained_cfg(encoder[3:]), "input_size", (3, MULTIPLE, MULTIPLE))
        step, seen = first_size(net, net, dict.fromkeys((MULTIPLE, *square[1:])))
        if step is not None:
            return net, step
        fixed = seen
    reason = " ".join(str(fixed).split())[:200]
    raise UserError(
        f"decoder '{decoder}' and encoder '{encoder}' do not work together ({reason}): take decoder "
        "Linear, which goes with any encoder of timm"
    ) from fixed


def predict_probabilities(
    network: nn.Module,
    images: Tensor,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    tile: int | None = None,
) -> Tensor:
    """Average the network's probabilities over scales and the horizontal flip.

    Args:
        network: (B, 3, H, W) in 0..255 to logits (B, L, H, W).
        images: (B, 3, H, W), RGB in 0..255.
        scales: factors of the image size.
        flip: also take the horizontal flip.
        tile: slide a window of this side, half overlapping, over images larger than it.

    Returns:
        (B, L, H, W) float32, summing to 1 over L.
    """
    height, width = images.shape[-2:]
    total = None
    for scale in scales:
        view = images.float()
        if scale != 1.0:
            shape = [max(32, round(height * scale)), max(32, round(width * scale))]
            view = F.interpolate(view, shape, mode="bilinear", antialias=scale < 1)
        for flipped in (False, True)[: 1 + flip]:
            logits = _tiled(network, view.flip(3) if flipped else view, tile)
            logits = logits.float()
            if logits.shape[-2:] != (height, width):  # of many labels, copies fill the memory
                logits = F.interpolate(logits, (height, width), mode="bilinear")
            found = (logits.flip(3) if flipped else logits).softmax(1)
            total = found if total is None else total.add_(found)
    return total.div_(len(scales) * (1 + flip))


# MONAI's sliding_window_inference gives the same numbers, but takes 2.3 s and 1,975 modules to import.
def _tiled(network: nn.Module, images: Tensor, tile: int | None) -> Tensor:
    height, width = images.shape[-2:]
    if tile is None or max(height, width) <= tile:
        return network(images)
    total, weight = None, images.new_zeros(1, 1, height, width)
    for top in _starts(height, tile):
        for left in _starts(width, tile):
            window = (..., slice(top, top + tile), slice(left, left + tile))
            logits = network(images[window]).float()
            if total is None:
                total = logits.new_zeros(len(images), logits.shape[1], height, width)
            total[window] += logits
            weight[window] += 1
    return total / weight


def _starts(side: int, tile: int) -> list[int]:
    last = max(0, side - tile)
    return sorted({*range(0, last, max(1, tile // 2)), last})


def mask_of(
    probabilities: Tensor, image: Tensor, size: tuple[int, int], crf: CRFSettings | None = None
) -> Tensor:
    """The labels of largest probability at the size of the photograph.

    Args:
        probabilities: (1, L, h, w) float32.
        image: (1, 3, h, w) RGB in 0..255, what the network saw.
        size: (height, width) of the photograph.
        crf: dense CRF on the probabilities; None: none.

    Returns:
        (height, width) uint8.
    """
    if crf is not None:
        seen = image[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
        probabilities = torch.from_numpy(dense_crf(seen, probabilities[0].cpu().numpy(), crf))[None]
    height, width = size
    # label by label: all of them at the size of a large photograph would fill the memory
    best = probabilities.new_full((height, width), -1.0)
    mask = torch.zeros(height, width, dtype=torch.uint8, device=best.device)
    for label in range(probabilities.shape[1]):
        one = F.interpolate(probabilities[:, label, None], (height, width), mode="bilinear")[0, 0]
        mask[one > best] = label
        best = torch.maximum(best, one)
    return mask
