"""Outlines of masks."""

import cv2
import numpy as np

TOLERANCE = 0.7
"""Pixels that an outline may leave the mask's border: what takes the steps off a slanted line."""


def outlines(where: np.ndarray) -> list[list[float]]:
    """Outlines of the connected regions of a mask; holes hang on them by a bridge of no width.

    Args:
        where: (H, W) booleans.

    Returns:
        For each region x0, y0, x1, y1, ... in pixels, with pixel (0, 0) reaching from 0 to 1 on both
        axes (as pycocotools draws them).
    """
    # traced at twice the size, contours run a quarter of a pixel inside a region's border instead of
    # through the middle of its pixels, so that one-pixel regions have an area and nothing shrinks
    double = np.repeat(np.repeat(where.astype(np.uint8), 2, 0), 2, 1)
    contours, tree = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for index, contour in enumerate(contours):
        if tree[0][index][3] >= 0:  # a hole: its region brings it in
            continue
        line = _smooth(contour)
        hole = tree[0][index][2]
        while hole >= 0:
            line = _bridge(line, _smooth(contours[hole]))
            hole = tree[0][hole][0]
        found.append(((line + 0.5) / 2).ravel().tolist())
    return found


def _smooth(contour: np.ndarray) -> np.ndarray:
    """(n, 2) points of a contour at double size, with fewer of them where enough remain."""
    smooth = cv2.approxPolyDP(contour, 2 * TOLERANCE, closed=True)
    return (smooth if len(smooth) >= 3 else contour).reshape(-1, 2).astype(float)


def _bridge(line: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One closed line around both: to the hole at the shortest way between points, and back."""
    apart = ((line[:, None] - hole[None]) ** 2).sum(-1)
    at, to = np.unravel_index(apart.argmin(), apart.shape)
    around = np.concatenate([hole[to:], hole[: to + 1]])
    return np.concatenate([line[: at + 1], around, line[at:]])
