"""The segmentation network, and the probabilities that it gives at several scales and in windows."""

from collections.abc import Sequence
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wsss.models.glnet  # noqa: F401  (registers the GLNet models in timm)
from wsss.errors import UserError
from wsss.localize.crf import dense_crf
from wsss.models.weights import load_weights, no_download
from wsss.settings import CRFSettings


class SegmentationNetwork(nn.Module):
    """An SMP network with its normalisation and padding: RGB in 0..255 of any size to logits.

    Args:
        decoder: a segmentation_models_pytorch architecture (Unet, FPN, UPerNet, Segformer, ...).
        encoder: a timm model (`tu-` is put before it if needed) or one of SMP's own encoders.
        num_labels: number of labels, background included.
        pretrained: take the encoder's published ImageNet weights.
        weights: weight file of the encoder instead.
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
        is_timm = timm.is_model(name) and (
            encoder != name or encoder not in smp.encoders.get_encoder_names()
        )
        if name != encoder and not is_timm:  # SMP would look for it on the internet
            raise UserError(f"encoder '{encoder}' is no timm model: see timm.list_models()")
        options = {}
        if weights:
            if not is_timm:
                raise UserError(f"weights need a timm encoder, '{encoder}' is SMP's own: use tu-NAME")
            if not Path(weights).is_file():
                raise UserError(f"no weight file {weights} for the encoder {encoder}: check the path")
            # by way of the whole model: an encoder would take what fits of any file, and timm's
            # older releases run code from one
            whole = timm.create_model(name)
            load_weights(whole, weights)
            options["pretrained_cfg_overlay"] = {"state_dict": whole.state_dict()}
        try:
            self.net = smp.create_model(
                decoder,
                f"tu-{name}" if is_timm else encoder,
                encoder_weights="imagenet" if pretrained or weights else None,
                classes=num_labels,
                **options,
            )
        except (KeyError, ValueError, TypeError, AssertionError) as error:
            raise UserError(
                f"no segmentation network from decoder '{decoder}' and encoder '{encoder}': {error}"
            ) from error
        except OSError as error:
            raise UserError(no_download(encoder)) from error
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{weights} does not fit the encoder {encoder}: {reason}") from error
        cfg = timm.get_pretrained_cfg(name) if is_timm else None
        for key, default in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            value = getattr(cfg, key, None) or default
            self.register_buffer(key, torch.tensor(value).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..255 -> logits (B, L, H, W); sides are padded to multiples of 32."""
        x = (images.float() - self.mean) / self.std
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % 32, 0, -height % 32))  # zeros are the mean colour here
        return self.net(x)[..., :height, :width]


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
