"""The slots that a network sees in a photograph, at any place in it."""

from collections.abc import Sequence

import numpy as np
import torch

from wsss.errors import UserError
from wsss.geometry import fit_long_side, resize
from wsss.localize.slot_maps import SlotView
from wsss.localize.slots import cluster_slots
from wsss.models.backbone import dense_features
from wsss.models.classifier import TagClassifier


def block_names(classifier: TagClassifier) -> list[str]:
    """All places that `slot_views` can show, GLMix blocks first."""
    levels = len(classifier.reductions)
    names = ["features", *(f"features.{level}" for level in range(levels))]
    blocks = getattr(classifier.backbone, "slot_blocks", [])
    return [*(f"{stage}.{block}" for stage, block in blocks), *names]


def default_blocks(classifier: TagClassifier) -> list[str]:
    """The GLMix block of each stage whose slots masks are made with, or else the first.

    Where there is none, the features that the chain clusters.
    """
    backbone = classifier.backbone
    if not hasattr(backbone, "slot_blocks"):
        return ["features"]
    chosen = {stage: block for stage, block in reversed(backbone.slot_blocks)}
    chosen |= dict([backbone.chosen_block])
    return [f"{stage}.{chosen[stage]}" for stage in sorted(chosen)]


def check_blocks(classifier: TagClassifier, blocks: Sequence[str]) -> list[str]:
    """`blocks`, with "all" spelt out and nothing twice; empty means the default ones.

    Raises:
        UserError: there is no such block.
    """
    known = block_names(classifier)
    if not blocks:
        return default_blocks(classifier)
    wanted = known if "all" in blocks else list(dict.fromkeys(blocks))
    for name in wanted:
        if name not in known:
            raise UserError(f"there is no block '{name}' in this network: it has {', '.join(known)}")
    return wanted


@torch.inference_mode()
def slot_views(
    classifier: TagClassifier, image: np.ndarray, blocks: Sequence[str], long_side: int
) -> list[SlotView]:
    """Run the network once on a photograph of any shape and take its slots.

    Args:
        classifier: trained or not; only its backbone is used.
        image: (H, W, 3) uint8 RGB.
        blocks: names from `block_names`.
        long_side: the photograph is scaled so that its longer side is this long; both sides are
            rounded to multiples of the network's `size_multiple`.
    """
    shape = fit_long_side(*image.shape[:2], long_side, multiple=classifier.size_multiple)
    small = np.ascontiguousarray(resize(image, *shape).transpose(2, 0, 1))
    device = classifier.mean.device
    x = classifier.normalised(torch.from_numpy(small)[None].to(device))
    found = {}
    if any(not name.startswith("features") for name in blocks):
        maps = classifier.backbone.forward_slots(x).maps
        found = {f"{m.stage}.{m.block}": m.dispatch for m in maps}
    levels = {name: _level(classifier, name) for name in blocks if name.startswith("features")}
    if levels:
        order = sorted(set(levels.values()))
        features = dense_features(classifier.backbone, x, order)[1]
        by_level = dict(zip(order, features, strict=True))
        found |= {name: cluster_slots(by_level[level]).dispatch for name, level in levels.items()}
    return [SlotView(name, found[name][0].float().cpu().numpy()) for name in blocks]


def _level(classifier: TagClassifier, name: str) -> int:
    _, _, level = name.partition(".")
    return int(level) if level else classifier.slot_level
