"""The tag classifier: a backbone, a 1x1 class head before pooling, and the pooling.

Because the head comes before the pooling, its output is the class activation map (Zhou et al., CVPR
2016, in the form of Zhang et al., CVPR 2018, section 3.1). The class bias is added after the pooling.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.geometry import fit_multiple
from wsss.localize.slots import cluster_slots
from wsss.models.backbone import build_backbone, dense_features, is_plain, reductions_of, sizes_of
from wsss.settings import SLOT_GRID


def pool_class_map(class_map: Tensor) -> Tensor:
    """Pool class maps (B, N, H, W) to (B, N) float32: the mean of the largest 20 % of the positions."""
    values = class_map.float().flatten(2)  # B N HW
    return values.topk(max(1, round(0.2 * values.shape[2])), 2).values.mean(2)


class ClassifierOutput(NamedTuple):
    """What the classifier sees.

    Attributes:
        logits: (B, N) float32, one per class.
        class_map: (B, N, H/s, W/s) float32 at the output stride s, signed, without the class bias.
        dispatch: (B, K, h, w) float32 probability of each of the K slots at every pixel, or None
            where it was not asked for.
        middle: (B, C, h, w) features that tell the slots of one image from those of another, those that
            they are clustered from or that their stage leads to; None where no slots were asked for.
    """

    logits: Tensor
    class_map: Tensor
    dispatch: Tensor | None
    middle: Tensor | None = None


class TagClassifier(nn.Module):
    """Any timm backbone that gives feature maps, a CNN's or a ViT's, with a class map head.

    Args:
        backbone: name of a timm model, GLNet's among them.
        num_classes: number of tags N.
        output_stride: pixels per position of the class map: 16 where the backbone can be dilated to it,
            else the backbone's own; 32: the backbone's own.
        pretrained: take timm's own published weights.
        weights: file with weights for the backbone (.safetensors or .pth).
        backbone_args: further arguments of the timm model.

    Attributes:
        sizes: of the images that it takes. Images of other sides are resized to the nearest that fit.
        slot_level: of the features that slots are clustered from.

    Raises:
        UserError: the backbone is unknown, cannot be built with these arguments or takes images of one
            size only, or the weights do not fit.
    """

    pool = staticmethod(pool_class_map)
    """Class maps (B, N, h, w) to (B, N) float32; benchmarks/mask_quality.py compares others."""

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        output_stride: Literal[16, 32] = 16,
        pretrained: bool = False,
        weights: str | None = None,
        backbone_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, output_stride, pretrained, weights, backbone_args)
        self.sizes = sizes_of(self.backbone)
        cfg = self.backbone.pretrained_cfg
        for name, default in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            value = torch.tensor(cfg.get(name) or default).view(1, 3, 1, 1) * 255
            self.register_buffer(name, value, persistent=False)
        self.slot_level = self._middle_level()
        self.head = nn.Conv2d(self.sizes.channels, num_classes, 1, bias=False)
        nn.init.normal_(self.head.weight, std=0.01)
        # start at the usual frequency of a tag, about 1.5 tags an image (in VOC 1.48 to 1.56):
        # a bias far off would be all that the first epochs learn
        prior = min(0.5, 1.5 / num_classes)
        start = torch.full((num_classes,), prior).logit()
        self.bias = nn.Parameter(start)

    @property
    def reductions(self) -> list[int]:
        """Pixels per position of each of the backbone's features, the finest first."""
        return reductions_of(self.backbone)

    @property
    def output_stride(self) -> int:
        """Pixels per position of the class map."""
        return self.reductions[-1]

    @property
    def size_multiple(self) -> int:
        """Sides of images are rounded to multiples of so many pixels."""
        return self.sizes.multiple

    def _middle_level(self) -> int:
        """The features that slots are clustered from.

        Of a pyramid the last ones before the deepest stage. A ViT has one stride: its first blocks tell
        positions and colours apart (Amir et al., ECCV 2022 workshops, arXiv:2112.05814), its last ones
        gather what the whole image shows in some of the tokens (Darcet et al., ICLR 2024,
        arXiv:2309.16588). So they are those at three quarters of its depth, as a CNN's are.
        """
        count = len(self.reductions)
        return max(0, count * 3 // 4 - 1 if is_plain(self.reductions) else count - 2)

    def normalised(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in 0..255 as the backbone takes them: (B, 3, H', W') float32."""
        x = (images.float() - self.mean) / self.std
        if all(side % self.sizes.step == 0 for side in x.shape[-2:]):
            return x
        shape = [fit_multiple(side, self.size_multiple) for side in x.shape[-2:]]
        return F.interpolate(x, shape, mode="bilinear", antialias=True)

    def slot_features(self, images: Tensor) -> Tensor:
        """What `slots="features"` clusters: (B, 3, H, W) in 0..255 to (B, C, h, w)."""
        return self._features(self.normalised(images))[1]

    def features(self, images: Tensor) -> Tensor:
        """What the class head sees: (B, 3, H, W) in 0..255 to (B, C, h, w)."""
        return self._features(self.normalised(images))[0]

    def class_map(self, features: Tensor) -> Tensor:
        """The class head's answer to `features`: (B, N, h, w) float32, without the class bias."""
        return self.head(features).float()

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Deepest features (B, C, h, w) and those for the slots."""
        final, (middle,) = dense_features(self.backbone, x, [self.slot_level])
        return final, middle

    def forward(
        self,
        images: Tensor,
        slots: Literal["none", "features", "blocks"] = "none",
        slot_grid: int = SLOT_GRID,
    ) -> ClassifierOutput:
        """Classify, and map where.

        Args:
            images: (B, 3, H, W), RGB in 0..255 (uint8 or float); H and W are best multiples of
                `size_multiple`.
            slots: `features` clusters the backbone's middle features without training; `blocks` takes
                the dispatch maps of the GLMix blocks (GLNet only); `none` gives no slots.
            slot_grid: rows and columns of the grid that the clustering of `features` starts from.
        """
        x = self.normalised(images)
        dispatch = None
        if slots == "blocks":
            features, middle, dispatch = self._block_slots(x)
        else:
            features, middle = self._features(x)
            if slots == "features":
                dispatch = cluster_slots(middle, (slot_grid, slot_grid)).dispatch
        class_map = self.class_map(features)
        middle = None if dispatch is None else middle
        return ClassifierOutput(self.logits(class_map), class_map, dispatch, middle)

    def logits(self, class_map: Tensor) -> Tensor:
        """One logit per class, (B, N) float32, of class maps (B, N, h, w)."""
        return self.pool(class_map) + self.bias

    def require_blocks(self) -> None:
        """Refuse a backbone that has no slots of its own."""
        if not hasattr(self.backbone, "forward_slots"):
            raise UserError(
                f"backbone {self.backbone.pretrained_cfg['architecture']} has no GLMix blocks: "
                "use slots: features, which works with any backbone"
            )

    def _block_slots(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.require_blocks()
        out = self.backbone.forward_slots(x)
        place = self.backbone.chosen_block
        chosen = next(block for block in out.maps if (block.stage, block.block) == place)
        return out.features, out.intermediates[chosen.stage], chosen.dispatch.float()
