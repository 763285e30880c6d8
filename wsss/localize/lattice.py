"""Gaussian filtering of many features at once on the permutohedral lattice. Needs no torch.

The method is that of Adams, Baek & Davis, Eurographics 2010: values are spread to the corners of the
simplices that the points lie in, blurred along each of the lattice's directions, and gathered again.
"""

import numpy as np
from scipy.sparse import csr_array

ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 by the golden ratio: products' high bits are a good hash


class Lattice:
    """Sums over all points, weighted by a Gaussian of their distance: about linear in their number.

    The weights are nearly those of a Gaussian of standard deviation 1, all times the same number.

    Args:
        points: (N, d) float64, each feature divided by the standard deviation wanted for it.
    """

    def __init__(self, points: np.ndarray) -> None:
        count, d = points.shape
        # onto the plane of d + 1 coordinates with sum 0, in units of the lattice's d + 1; the blur's
        # variance along an axis, with that of spreading and gathering, is 2/3 of this unit's square
        axes = np.arange(1, d + 1)
        basis = np.triu(np.ones((d + 1, d)))
        basis[axes, axes - 1] = -axes
        lifted = points @ (basis * np.sqrt(2 / 3 / axes / (axes + 1))).T
        floor = np.floor(lifted)
        rest = lifted - floor
        order = np.argsort(-rest, axis=1)
        rest = np.take_along_axis(rest, order, axis=1)
        weights = np.empty((count, d + 1), np.float32)  # barycentric
        weights[:, 0] = 1 - rest[:, 0] + rest[:, -1]
        weights[:, 1:] = rest[:, :-1] - rest[:, 1:]
        # a corner's coordinates as one number, which is its own where 64 bits are enough; the step to
        # the neighbour in a direction is 1 along every coordinate, and -d along the direction's
        base = 2 * (d + 1) * (int(np.abs(floor).max()) + 3) + 1
        code = np.array([*(base**k % 2**64 for k in range(d)), 0], np.uint64).view(np.int64)
        steps = code.sum() - (d + 1) * code
        # from one corner of a simplex to the next: back along the direction of the next largest rest
        corners = np.empty((count, d + 1), np.int64)
        corners[:, 0] = floor.astype(np.int64) @ -steps
        corners[:, 1:] = -steps[order[:, :-1]]
        np.cumsum(corners, axis=1, out=corners)
        keys, where = _distinct(corners.ravel())
        nowhere = len(keys)  # a corner more, whose value is 0
        rows = np.arange(0, weights.size + 1, d + 1, dtype=np.int32)
        self.gather = csr_array((weights.ravel(), where, rows), shape=(count, nowhere + 1))
        self.spread = self.gather.T
        self.neighbours = []
        for step in steps:
            wanted = keys + step
            found = np.searchsorted(keys, wanted).clip(max=nowhere - 1)
            here = np.flatnonzero(keys[found] == wanted)
            up, down = np.full((2, nowhere + 1), nowhere)
            up[here], down[found[here]] = found[here], here
            self.neighbours.append((up, down))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Filter values (n, N) float32 of the points, to the same shape."""
        corners = self.spread @ np.ascontiguousarray(values.T)
        for up, down in self.neighbours:
            around = corners.take(up, 0)
            around += corners.take(down, 0)
            around *= 0.5
            corners += around
        return (self.gather @ corners).T


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As np.unique with the inverse, but sorts few of the keys twice: it is most of a lattice's time.

    Of the equal keys in a slot of a hash table one is kept; those of slots that hold others, too, are.
    """
    bits = (2 * len(keys)).bit_length()
    slots = (keys.view(np.uint64) * ODD >> np.uint64(64 - bits)).view(np.int64)
    own = np.arange(len(keys), dtype=np.int32)
    table = np.empty(1 << bits, np.int32)
    table[slots] = own
    first = table[slots]
    first = np.where(keys[first] == keys, first, own)
    kept = np.flatnonzero(first == own)
    distinct, inverse = np.unique(keys[kept], return_inverse=True)
    own[kept] = inverse
    return distinct, own[first]
