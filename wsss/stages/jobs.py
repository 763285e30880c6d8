"""Making one mask, in a process of its own; imports no torch, so that they start quickly."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsss.data.images import read_image
from wsss.data.masks import SEED, read_arrays, read_scores, write_arrays, write_mask
from wsss.errors import UserError
from wsss.localize.pseudo_masks import Refinement, corrected_scores, pseudo_mask, refined_mask
from wsss.localize.slot_classifier import SlotClassifier
from wsss.parts import make_part
from wsss.settings import MaskSettings, RefinementSettings


class Job(NamedTuple):
    """An image whose mask is to be made.

    Attributes:
        image: the photograph's file.
        white: as in `read_image`.
        mask: file to write.
        maps: file of the scores that the mask is made from.
    """

    image: Path
    white: int | None
    mask: Path
    maps: Path


def mask_of_scores(job: Job, settings: MaskSettings, scores: np.ndarray, labels: np.ndarray) -> None:
    """Write scores (n, h, w) and the pseudo-mask of them: a mask file means both are there."""
    write_arrays(job.maps, scores=scores, labels=labels)
    image = read_image(job.image, job.white)
    mask = pseudo_mask(image, scores, labels.tolist(), settings.background, settings.crf)
    write_mask(job.mask, mask)


def mask_of_seed(job: Job, settings: MaskSettings, seed: Path, taught: SlotClassifier) -> None:
    """The pseudo-mask of a seed that is corrected by what others have taught about its slots."""
    found = read_arrays(seed, SEED)
    scores, labels = found["scores"], found["labels"]
    probabilities = taught.probabilities(found["slots"], labels)
    scores = corrected_scores(scores, found["dispatch"], probabilities, settings.background)
    mask_of_scores(job, settings, scores, labels)


def mask_of_segmenter(job: Job, settings: RefinementSettings, probabilities: np.ndarray) -> None:
    """The mask of a second round, from a segmenter's probabilities (L, h, w) and the scores kept."""
    scores, labels = read_scores(job.maps)
    image = read_image(job.image, job.white)
    refine: Callable[..., np.ndarray] = refined_mask
    if settings.refinement is not None:
        refine = make_part(settings.refinement, Refinement, "masks.refinement")
    background, crf = settings.background, settings.crf
    mask = refine(image, scores, labels, probabilities, background, crf)
    if getattr(mask, "shape", None) != image.shape[:2]:
        raise UserError(
            f"masks.refinement {settings.refinement} must return a mask {image.shape[:2]} of labels, "
            f"got {getattr(mask, 'shape', type(mask).__name__)}: see docs/how-to/extend.md"
        )
    write_mask(job.mask, mask)
