"""From foreground scores to labels: background rule, CRF, void. Needs no torch."""

from collections.abc import Sequence

import numpy as np

from wsss.localize.crf import CRFSettings, dense_crf, resize_scores
from wsss.voc import VOID


def pseudo_mask(
    image: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[int],
    background: float,
    crf: CRFSettings | None = None,
    void_below: float = 0.0,
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
        void_below: pixels whose share of the largest score lies below are void (255), 0..1.

    Returns:
        (H, W) uint8.
    """
    height, width = image.shape[:2]
    if len(labels) == 0:
        return np.zeros((height, width), np.uint8)
    floor = np.full((1, *scores.shape[1:]), background, np.float32)
    scores = np.concatenate([floor, scores.astype(np.float32)])
    if crf is not None:
        scores = dense_crf(image, scores, crf)
    scores = resize_scores(scores, height, width)
    mask = np.array([0, *labels], np.uint8)[scores.argmax(0)]
    if void_below > 0:
        mask[scores.max(0) / scores.sum(0).clip(1e-6) < void_below] = VOID
    return mask
