"""Slots of a photograph as arrays: which one wins where, which say most, what a position shares.

Works on dispatch maps (K, h, w) of any K and any shape, wherever they come from: the GLMix blocks of
a GLNet, or the clustering of any backbone's features (`wsss.models.slot_views`).
"""

from typing import NamedTuple

import numpy as np

from wsss.errors import UserError
from wsss.geometry import resize_scores


class SlotView(NamedTuple):
    """The slots of one place in the network over one photograph.

    Attributes:
        name: "2.0" for stage 2, block 0 of a GLNet (counted from 0, as in `SlotMaps`), "features" or
            "features.1" for clustered features.
        dispatch: (K, h, w) float32 probability of each slot at each pixel; sums to 1 over K.
    """

    name: str
    dispatch: np.ndarray


class SlotsAt(NamedTuple):
    """The slots that a position belongs to.

    Attributes:
        shares: (K,) float32 probability of each slot, summing to 1.
        order: slots by probability, largest first.
        reach: (h, w) float32 in 0..1, how much each pixel shares these slots, 1 at the most: the
            weights with which propagation averages for this position.
    """

    shares: np.ndarray
    order: list[int]
    reach: np.ndarray


def winners(dispatch: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) index of the slot with the largest probability at every pixel."""
    return resize_scores(dispatch, height, width).argmax(0)


def representative(dispatch: np.ndarray, count: int) -> list[int]:
    """The slots that together say most about the photograph, most telling first.

    Greedy facility location: each next slot is the one that raises the sum over the pixels of the
    best probability among the chosen by the most. So a slot that repeats a chosen one is passed over,
    and so is one that belongs nowhere in particular: probabilities count above the slot's own
    smallest one.
    """
    flat = dispatch.reshape(len(dispatch), -1)
    flat = flat - flat.min(1, keepdims=True)
    best, chosen = np.zeros(flat.shape[1], np.float32), []
    for _ in range(min(count, len(flat))):
        gain = (np.maximum(flat, best) - best).sum(1)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        best = np.maximum(best, flat[chosen[-1]])
    return chosen


def check_inside(x: float, y: float, height: int, width: int, name: str = "the photograph") -> None:
    """Raise a UserError if pixel (x, y) lies outside an image height x width."""
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(
            f"position {x:g},{y:g} lies outside {name}, which is {width}x{height} pixels: x must be "
            f"0..{width - 1}, y 0..{height - 1}"
        )


def slots_at(dispatch: np.ndarray, x: float, y: float, height: int, width: int) -> SlotsAt:
    """The slots at pixel (x, y), counted from the upper left, of a photograph height x width.

    Raises:
        UserError: the position lies outside the photograph.
    """
    check_inside(x, y, height, width)
    rows, columns = dispatch.shape[1:]
    at = _between(dispatch, (x + 0.5) * columns / width - 0.5, (y + 0.5) * rows / height - 0.5)
    mass = dispatch.sum((1, 2)).clip(1e-12)
    reach = np.tensordot(at / mass, dispatch, 1)
    order = np.argsort(-at, kind="stable")
    return SlotsAt(at, [int(k) for k in order], (reach / reach.max()).astype(np.float32))


def _between(maps: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear value (K,) of maps (K, h, w) at map coordinates, the border extended."""
    rows, columns = maps.shape[1:]
    x, y = min(max(x, 0.0), columns - 1.0), min(max(y, 0.0), rows - 1.0)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
    u, v = x - left, y - top
    upper = (1 - u) * maps[:, top, left] + u * maps[:, top, right]
    lower = (1 - u) * maps[:, bottom, left] + u * maps[:, bottom, right]
    return (1 - v) * upper + v * lower
