"""A timm model as a backbone: how it is built, which sizes it takes, its features at every position.

Nothing here goes by a model's name: what a network can do is found by trying.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import timm
import torch
from torch import Tensor, nn

import wsss.models.glnet_lite  # noqa: F401  (registers it and the GLNets in timm)
from wsss.errors import UserError
from wsss.geometry import MULTIPLE
from wsss.models.weights import load_weights, no_download

ANY_SIZE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""Options by which models with position embeddings or windows take images of any size."""


class Sizes(NamedTuple):
    """What a backbone takes and gives.

    Attributes:
        step: sides of images in pixels must be multiples of it; 1 for most CNNs, 14 or 16 for a ViT.
        multiple: sides are best multiples of it, so that no grid of features ends in half a position:
            a ViT's patch, 32 for what halves the image five times.
        channels: of the deepest features.
    """

    step: int
    multiple: int
    channels: int


def check_backbone(name: str) -> None:
    """Refuse what is no timm model.

    Raises:
        UserError: there is no such model, or no such weights of it.
    """
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        hint = f"did you mean one of {near}?" if near else "see timm.list_models()"
        raise UserError(f"backbone '{name}' is no timm model: {hint}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise UserError(f"backbone '{name}' names no weights of timm: known are {known}") from error


OF_WEIGHTS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
"""Arguments of a timm model by which it would read or fetch weights in a way of its own."""


def build_backbone(
    name: str,
    output_stride: Literal[16, 32] = 16,
    pretrained: bool = False,
    weights: str | None = None,
    args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a timm model without its class head, for images of any size where the model can.

    Args:
        name: of the model, with or without the tag of its weights.
        output_stride: 16 where the model can be dilated to it, else the model's own; 32: its own.
        pretrained: take timm's own published weights.
        weights: weight file instead.
        args: further arguments of the model.

    Raises:
        UserError: there is no such model, it cannot be built with these arguments, or its weights do
            not fit or cannot be fetched.
    """
    check_backbone(name)
    own = dict(args or {})
    if of_weights := sorted(OF_WEIGHTS & own.keys()):
        raise UserError(
            f"backbone_args cannot have {of_weights[0]}: the weights of a backbone are given by "
            "model.weights or model.pretrained"
        )
    refused: Exception | None = None
    for stride in ({"output_stride": 16}, {}) if output_stride == 16 else ({},):
        for any_size in ANY_SIZE:
            options = {"num_classes": 0} | stride | any_size | own
            try:
                backbone = timm.create_model(name, pretrained and not weights, **options)
            except OSError as error:
                raise UserError(no_download(name)) from error
            except UserError:
                raise
            except Exception as error:  # each of timm's models says in its own way what it cannot be
                refused = error  # of these options; the last ones are the user's alone
                continue
            if weights:
                load_weights(backbone, weights)
            return backbone
    with_args = f" with backbone_args {own}" if own else ""
    advice = "leave out backbone_args" if own else "take another backbone"
    raise UserError(f"backbone {name} cannot be built{with_args} ({refused}): {advice}") from refused


def reductions_of(backbone: nn.Module) -> list[int]:
    """Pixels per position of each of a backbone's features, the finest first; a ViT's are all alike."""
    info = backbone.feature_info
    return [level["reduction"] for level in getattr(info, "info", info)]


def is_plain(reductions: Sequence[int]) -> bool:
    """Whether all features have one stride, as a ViT's; else they are a pyramid, as a CNN's."""
    return len(set(reductions)) == 1


@cache
def _norm_of(kind: type[nn.Module]) -> dict[str, bool]:
    """A ViT's last norm is for all of its features: without it a few channels outweigh all others."""
    known = inspect.signature(kind.forward_intermediates).parameters
    return {"norm": True} if "norm" in known else {}


def dense_features(
    backbone: nn.Module, x: Tensor, levels: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Features at every position; class and register tokens are dropped.

    Args:
        backbone: of `build_backbone`.
        x: (B, 3, H, W), normalised.
        levels: of the features that are wanted beside the deepest ones, in rising order.

    Returns:
        Deepest features (B, C, h, w), and those of the levels.
    """
    final, found = backbone.forward_intermediates(
        x, indices=list(levels), output_fmt="NCHW", **_norm_of(type(backbone))
    )
    if final.ndim == 3:  # a ViT's tokens (B, prefix + h w, C)
        prefix = getattr(backbone, "num_prefix_tokens", 0)
        final = final[:, prefix:].transpose(1, 2)
        final = final.unflatten(2, found[0].shape[-2:])
    if getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        final = final.permute(0, 3, 1, 2)
    return final, found


def has_early_features(reductions: Sequence[int], stride: int) -> bool:
    """Whether a backbone has features of early layers at a stride or a finer one: a ViT has none."""
    return not is_plain(reductions) and reductions[0] <= stride


def early_features(backbone: nn.Module, images: Tensor, stride: int) -> Tensor | None:
    """Features (B, C, h, w) of the last level at a stride or a finer one; None where there is none."""
    levels = reductions_of(backbone)
    if not has_early_features(levels, stride):
        return None
    reached = [reduction for reduction in levels if reduction <= stride]
    return backbone.forward_intermediates(
        images, indices=[levels.index(reached[-1])], intermediates_only=True
    )[0]


@torch.no_grad()
def first_size(network: nn.Module, look: Callable[[Tensor], Tensor], steps: Iterable[int]) -> Any:
    """Find what sizes a network takes.

    Args:
        network: left as it is, in training or not.
        look: what is asked of it, of (1, 3, H, W) zeros.
        steps: in pixels, the first that works is the one.

    Returns:
        The step at whose odd multiples the network works, and what it gave there; or None and the last
        reason why not.
    """
    device, training = next(network.parameters()).device, network.training
    network.eval()
    refused = None
    try:
        for step in steps:
            rows = step * math.ceil(65 / step)
            columns = rows + step * math.ceil(32 / step)
            try:
                return step, look(torch.zeros(1, 3, rows, columns, device=device))
            except Exception as error:  # networks refuse a size in many ways
                refused = error
        return None, refused
    finally:
        network.train(training)


def sizes_of(backbone: nn.Module) -> Sizes:
    """What a backbone takes and gives, by trying.

    Raises:
        UserError: it gives no feature maps, or takes images of one size only.
    """
    name = backbone.pretrained_cfg["architecture"]
    if not (hasattr(backbone, "forward_intermediates") and hasattr(backbone, "feature_info")):
        raise UserError(f"backbone {name} gives no feature maps: choose another timm model")
    reductions = reductions_of(backbone)
    square = backbone.pretrained_cfg["input_size"][1:]

    def look(x: Tensor) -> Tensor:
        final = dense_features(backbone, x, [len(reductions) - 1])[0]
        if final.ndim != 4 or final.shape[-1] < 2:
            raise ValueError(f"features {tuple(final.shape)} of images {tuple(x.shape)}")
        return final

    steps = dict.fromkeys((1, *sorted(set(reductions)), MULTIPLE, *square))
    step, seen = first_size(backbone, look, steps)
    if step is None:
        try:
            with torch.no_grad():
                look(torch.zeros(1, 3, *square, device=next(backbone.parameters()).device))
        except Exception:
            reason = " ".join(str(seen).split())[:200]
            raise UserError(
                f"backbone {name} gives no feature maps ({reason}): choose another timm model"
            ) from seen
        raise UserError(
            f"backbone {name} takes images of {square[0]}x{square[1]} pixels only, and photographs "
            "have many shapes: choose another timm model"
        ) from seen
    whole = reductions[-1] if is_plain(reductions) else MULTIPLE
    return Sizes(step, math.lcm(whole, step), seen.shape[1])
