"""The tag classifier: a backbone, a 1x1 class head before pooling, and the pooling.

Because the head comes before the pooling, its output is the class activation map (Zhou et al., CVPR
2016, in the form of Zhang et al., CVPR 2018, section 3.1). The class bias is added after the pooling.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import timm
import torch
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.localize.slots import cluster_slots
from wsss.models.glnet import deep_dispatch  # registers the GLNet models in timm, too
from wsss.models.weights import load_weights, no_download

OF_WEIGHTS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
"""Arguments of a timm model by which it would read or fetch weights in a way of its own."""


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


def check_backbone(name: str) -> None:
    """Refuse what is no timm model.

    Raises:
        UserError: there is no such model.
    """
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        hint = f"did you mean one of {near}?" if near else "see timm.list_models()"
        raise UserError(f"backbone '{name}' is no timm model: {hint}")


def _any_size(backbone: str, pretrained: bool, **options: object) -> nn.Module:
    """Create a timm model that takes images of any size where the model can."""
    for resizable in ({"dynamic_img_size": True}, {"strict_img_size": False}):  # ViT, Swin
        try:
            return timm.create_model(backbone, pretrained, **options, **resizable)
        except TypeError:
            continue
    return timm.create_model(backbone, pretrained, **options)


class TagClassifier(nn.Module):
    """Any timm backbone with a class map head.

    Args:
        backbone: name of a timm model, GLNet's among them.
        num_classes: number of tags N.
        output_stride: 32 or 16 pixels per position of the class map.
        pretrained: take timm's own published weights.
        weights: file with weights for the backbone (.safetensors or .pth).
        backbone_args: further arguments of the timm model.

    Raises:
        UserError: the backbone is unknown or cannot have this stride or these arguments, the weights
            do not fit.
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
        check_backbone(backbone)
        stride = {} if output_stride == 32 else {"output_stride": output_stride}
        own = dict(backbone_args or {})
        if of_weights := sorted(OF_WEIGHTS & own.keys()):
            raise UserError(
                f"backbone_args cannot have {of_weights[0]}: the weights of a backbone are given by "
                "model.weights or model.pretrained"
            )
        try:
            self.backbone = _any_size(
                backbone, pretrained and not weights, **{"num_classes": 0} | stride | own
            )
        except OSError as error:
            raise UserError(no_download(backbone)) from error
        except Exception as error:  # each of timm's models says in its own way what it cannot be
            also = f" and backbone_args {own}" if own else ""
            raise UserError(
                f"backbone {backbone} cannot be built with output stride {output_stride}{also} "
                f"({error}): take another backbone or model.output_stride 32"
                f"{', or leave out backbone_args' if own else ''}"
            ) from error
        if not hasattr(self.backbone, "forward_intermediates"):
            raise UserError(f"backbone {backbone} gives no feature maps: choose another timm model")
        if weights:
            load_weights(self.backbone, weights)
        cfg = self.backbone.pretrained_cfg
        for name, default in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            value = torch.tensor(cfg.get(name) or default).view(1, 3, 1, 1) * 255
            self.register_buffer(name, value, persistent=False)
        self._norm = (
            {"norm": True}
            if "norm" in inspect.signature(self.backbone.forward_intermediates).parameters
            else {}
        )
        self.slot_level = self._middle_level()
        self.head = nn.Conv2d(self.backbone.num_features, num_classes, 1, bias=False)
        nn.init.normal_(self.head.weight, std=0.01)
        # start at the usual frequency of a tag, about 1.5 tags an image (in VOC 1.48 to 1.56):
        # a bias far off would be all that the first epochs learn
        prior = min(0.5, 1.5 / num_classes)
        start = torch.full((num_classes,), prior).logit()
        self.bias = nn.Parameter(start)

    @property
    def reductions(self) -> list[int]:
        """Pixels per position of each of the backbone's features, the finest first."""
        info = self.backbone.feature_info
        return [level["reduction"] for level in getattr(info, "info", info)]

    def _middle_level(self) -> int:
        """The features that slots are clustered from: the last ones before the deepest stage."""
        reductions = self.reductions
        return len(reductions) - 2 if len(set(reductions)) > 1 else len(reductions) // 2

    def slot_features(self, images: Tensor) -> Tensor:
        """What `slots="features"` clusters: (B, 3, H, W) in 0..255 to (B, C, h, w)."""
        return self._features((images.float() - self.mean) / self.std)[1]

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Deepest features (B, C, h, w) and those for the slots."""
        final, middle = self.backbone.forward_intermediates(
            x, indices=[self.slot_level], output_fmt="NCHW", **self._norm
        )
        if final.ndim == 3:  # a ViT's tokens (B, prefix + h w, C)
            final = final[:, self.backbone.num_prefix_tokens :].transpose(1, 2)
            final = final.unflatten(2, middle[0].shape[-2:])
        if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
            final = final.permute(0, 3, 1, 2)
        return final, middle[0]

    def forward(
        self, images: Tensor, slots: Literal["none", "features", "blocks"] = "none"
    ) -> ClassifierOutput:
        """Classify, and map where.

        Args:
            images: (B, 3, H, W), RGB in 0..255 (uint8 or float).
            slots: `features` clusters the backbone's middle features without training; `blocks` takes
                the dispatch maps of the GLMix blocks (GLNet only); `none` gives no slots.
        """
        x = (images.float() - self.mean) / self.std
        dispatch = None
        if slots == "blocks":
            features, middle, dispatch = self._block_slots(x)
        else:
            features, middle = self._features(x)
            if slots == "features":
                dispatch = cluster_slots(middle).dispatch
        class_map = self.head(features).float()
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
        middle = out.intermediates[max(block.stage for block in out.maps)]
        return out.features, middle, deep_dispatch(out.maps)
