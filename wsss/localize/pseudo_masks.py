"""From foreground scores to labels: background rule and CRF. Needs no torch."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from wsss.geometry import resize_scores
from wsss.localize.crf import dense_crf
from wsss.settings import CRFSettings


@runtime_checkable
class Refinement(Protocol):
    """What makes the masks of a second round; `refined_mask` is the one of wsss."""

    def __call__(
        self,
        image: np.ndarray,
        scores: np.ndarray,
        labels: Sequence[int],
        probabilities: np.ndarray,
        background: float,
        crf: CRFSettings | None,
    ) -> np.ndarray:
        """A mask (H, W) uint8 of the tagged labels; arguments as for `refined_mask`."""


def pseudo_mask(
    image: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[int],
    background: float,
    crf: CRFSettings | None = None,
) -> np.ndarray:
    """Turn scores into a mask of the image's size.

    A pixel takes the label of its largest score, background having the same score everywhere. With a
    CRF these scores are its unary term.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (n, h, w) float32 in 0..1, one per tag of the image; n may be 0.
        labels: mask label of each score.
        background: score of the background, 0..1.
        crf: None for the plain maximum.

    Returns:
        (H, W) uint8.
    """
    if len(labels) == 0:
        return np.zeros(image.shape[:2], np.uint8)
    floor = np.full((1, *scores.shape[1:]), background, np.float32)
    scores = np.concatenate([floor, scores.astype(np.float32)])
    return _label(image, scores, labels, crf)


def refined_mask(
    image: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[int],
    probabilities: np.ndarray,
    background: float,
    crf: CRFSettings | None = None,
) -> np.ndarray:
    """The pseudo-mask of a second round: what a first segmenter sees, restricted to the tags.

    The score of a label is the geometric mean of its probability by the segmenter and of that by
    the scores: where one of the two is sure that it is absent, it is. A tag is true of the
    image, so each tag's probability is first divided by its maximum in the image: a segmenter that
    has not learned a class cannot veto it everywhere (unless its largest one is below 1e-6).

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (n, h, w) float32 in 0..1, one per tag, as for `pseudo_mask`.
        labels: mask label of each score.
        probabilities: (L, h', w') float32, of all labels; the size at which the two are joined.
        background: score of the background beside `scores`, 0..1.
        crf: None for the plain maximum.

    Returns:
        (H, W) uint8.
    """
    if len(labels) == 0:
        return np.zeros(image.shape[:2], np.uint8)
    seen, own = probabilities_of_rounds(scores, labels, probabilities, background)
    return _label(image, np.sqrt(seen * own), labels, crf)


def corrected_scores(
    scores: np.ndarray, dispatch: np.ndarray, slot_probabilities: np.ndarray, background: float
) -> np.ndarray:
    """Scores of an image, corrected by what its slots are (`wsss.localize.slot_classes`).

    With R the probabilities of background and scores and Q those of the slots, handed to the pixels and
    each tag's divided by its maximum, J = sqrt(Q R). The score is the tag's part of J beside the
    background, to the power that puts equal parts at the background's score.

    Args:
        scores: (n, h, w) float32 in 0..1, one per tag.
        dispatch: (K, h, w) probability of each slot at each position.
        slot_probabilities: (n + 1, K) probabilities of background and tags in each slot.
        background: score of the background beside the scores, 0..1.

    Returns:
        (n, h, w) float32 in 0..1.
    """
    if len(scores) == 0:
        return scores
    background = min(max(background, 0.01), 0.99)
    seen = np.tensordot(slot_probabilities, dispatch.astype(np.float32), 1)
    seen, own = probabilities_of_rounds(scores, range(1, len(scores) + 1), seen, background)
    joint = np.sqrt(seen * own)
    part = joint[1:] / (joint[1:] + joint[:1]).clip(1e-6)
    return part ** (np.log(background) / np.log(0.5))


def probabilities_of_rounds(
    scores: np.ndarray, labels: Sequence[int], probabilities: np.ndarray, background: float
) -> tuple[np.ndarray, np.ndarray]:
    """What `refined_mask` joins: every label's probability by a segmenter, and by the scores.

    Arguments as for `refined_mask`, with one label at least.

    Returns:
        Two arrays (n + 1, h', w') float32, the background first, each summing to 1 at every pixel.
    """
    seen = probabilities[[0, *labels]].astype(np.float32)
    seen[1:] /= seen[1:].max((1, 2), keepdims=True).clip(1e-6)
    scores = resize_scores(scores.astype(np.float32), *seen.shape[1:])
    scores = np.concatenate([np.full((1, *seen.shape[1:]), background, np.float32), scores])
    return seen / seen.sum(0).clip(1e-6), scores / scores.sum(0).clip(1e-6)


def _label(
    image: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[int],
    crf: CRFSettings | None,
) -> np.ndarray:
    """Labels (H, W) of the largest of the scores (n + 1, h, w), the first one the background's."""
    if crf is not None:
        scores = dense_crf(image, scores, crf)
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    best = np.full((height, width), -1, np.float32)
    for label, score in zip([0, *labels], scores, strict=True):  # all at once would fill the memory
        one = resize_scores(score[None], height, width)[0]
        mask[one > best] = label
        np.maximum(best, one, out=best)
    return mask
