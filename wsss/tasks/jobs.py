"""Work for the CRF's processes; imports no torch, so that they start quickly."""

from pathlib import Path
from typing import Any

import numpy as np

from wsss.data.images import read_image
from wsss.data.masks import write_atomic, write_mask
from wsss.errors import UserError
from wsss.localize.pseudo_masks import pseudo_mask, refined_mask


def make_pseudo_mask(
    image: Path, scores: np.ndarray, labels: list[int], mask: Path, maps: Path, **settings: Any
) -> None:
    """Make one pseudo-mask and write it, its scores first: a mask file means both are there."""

    def save(aside: Path) -> None:
        with aside.open("wb") as file:
            np.savez_compressed(file, scores=scores, labels=np.array(labels, np.int64))

    write_atomic(maps, save)
    write_mask(mask, pseudo_mask(read_image(image), scores.astype(np.float32), labels, **settings))


def make_refined_mask(
    image: Path, probabilities: np.ndarray, mask: Path, maps: Path, **settings: Any
) -> None:
    """Make one pseudo-mask of the second round from a segmenter's probabilities and the scores kept."""
    if not maps.is_file():
        raise UserError(f"there are no class maps {maps}: make the first round's pseudo-masks first")
    with np.load(maps) as file:
        scores, labels = file["scores"].astype(np.float32), file["labels"].tolist()
    write_mask(mask, refined_mask(read_image(image), scores, labels, probabilities, **settings))
