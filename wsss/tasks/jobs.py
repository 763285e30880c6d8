"""Work for the CRF's processes; imports no torch, so that they start quickly."""

from pathlib import Path
from typing import Any

import numpy as np

from wsss.data.images import read_image
from wsss.data.masks import read_arrays, read_scores, write_arrays, write_mask
from wsss.localize.pseudo_masks import corrected_scores, pseudo_mask, refined_mask


def make_pseudo_mask(
    image: Path,
    white: int | None,
    seed: Path,
    slot_shares: np.ndarray | None,
    mask: Path,
    maps: Path,
    **settings: Any,
) -> None:
    """Make one pseudo-mask and write it, its scores first: a mask file means both are there."""
    found = read_arrays(seed)
    scores, labels = found["scores"], found["labels"]
    if slot_shares is not None:
        scores = corrected_scores(scores, found["dispatch"], slot_shares, settings["background"])
    write_arrays(maps, scores=scores, labels=labels)
    write_mask(mask, pseudo_mask(read_image(image, white), scores, labels.tolist(), **settings))


def make_refined_mask(
    image: Path,
    white: int | None,
    probabilities: np.ndarray,
    mask: Path,
    maps: Path,
    **settings: Any,
) -> None:
    """Make one pseudo-mask of the second round from a segmenter's probabilities and the scores kept."""
    scores, labels = read_scores(maps)
    write_mask(mask, refined_mask(read_image(image, white), scores, labels, probabilities, **settings))
