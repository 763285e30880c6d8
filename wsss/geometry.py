"""Sizes of images, and the one way in which images and scores are resized."""

import cv2
import numpy as np

MULTIPLE = 32
"""Sides are multiples of so many pixels for networks that halve an image five times."""


def fit_multiple(side: float, multiple: int) -> int:
    """The multiple next to a side, one at least."""
    return max(multiple, round(side / multiple) * multiple)


def fit_long_side(height: int, width: int, long_side: int, multiple: int = 1) -> tuple[int, int]:
    """(height, width) scaled so that the longer one is `long_side`, each rounded to a multiple."""
    scale = long_side / max(height, width)
    return tuple(fit_multiple(side * scale, multiple) for side in (height, width))


def fit_within(height: int, width: int, max_side: int) -> tuple[int, int]:
    """(height, width), scaled down where the longer one is above `max_side`."""
    return fit_long_side(height, width, min(max_side, max(height, width)))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W, 3) uint8: area averaging when shrinking, bilinear when growing."""
    if image.shape[:2] == (height, width):
        return image
    shrinking = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    )


def resize_scores(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (L, h, w) float32 bilinearly to (L, height, width)."""
    resized = [cv2.resize(score, (width, height), interpolation=cv2.INTER_LINEAR) for score in scores]
    return np.stack(resized)
