"""The permutohedral lattice against sums over all pairs of points."""

import numpy as np
import pytest

import wsss.localize.lattice
from wsss.localize.lattice import Lattice, _distinct


def _normed(kernel):
    total = kernel.sum(1)
    return kernel / np.sqrt(total[:, None] * total)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_lattice_sums_with_the_weights_of_a_gaussian(d):
    chance = np.random.default_rng(d)
    points = chance.uniform(-6, 6, (400, d)) * (1, *[0.2] * (d - 1))  # near enough to matter
    expected = _normed(np.exp(-((points[:, None] - points) ** 2).sum(2) / 2))
    kernel = _normed(Lattice(points)(np.eye(400, dtype=np.float32)))
    values = chance.uniform(0, 1, (3, 400))
    apart = np.abs(values @ kernel - values @ expected).mean()
    assert apart < 0.07 * np.abs(values @ expected).mean() < np.abs(values @ expected - values).mean()
    assert np.corrcoef(kernel.ravel(), expected.ravel())[0, 1] > 0.97


def test_values_are_filtered_one_by_one():
    chance = np.random.default_rng(0)
    lattice = Lattice(chance.normal(0, 3, (50, 5)))
    values = chance.uniform(0, 1, (4, 50)).astype(np.float32)
    made = lattice(values)
    assert made.shape == values.shape and made.dtype == np.float32
    for value, one in zip(values, made, strict=True):
        np.testing.assert_allclose(lattice(value[None])[0], one, rtol=1e-5)
    assert lattice(values[:0]).shape == (0, 50)


GRID = np.indices((20, 20)).reshape(2, -1).T * 6.0
SCATTERED = np.random.default_rng(0).uniform(-1e6, 1e6, (400, 5))


@pytest.mark.parametrize("points", [GRID, SCATTERED], ids=["close codes", "codes beyond 64 bits"])
def test_points_far_apart_know_nothing_of_each_other(points):
    values = np.random.default_rng(1).uniform(0.5, 1, (1, 400)).astype(np.float32)
    lattice = Lattice(points)
    np.testing.assert_allclose(lattice(values) / lattice(np.ones_like(values)), values, rtol=1e-5)
    alike = Lattice(np.repeat(points[:1], 400, axis=0))  # all in one place
    np.testing.assert_allclose(alike(values), alike(np.full_like(values, values.mean())), rtol=1e-5)


def test_distinct_keys_are_those_of_numpy(monkeypatch):
    keys = np.random.default_rng(0).integers(-(2**62), 2**62, 500)
    keys = np.random.default_rng(1).choice(keys, 3000)
    for odd in (wsss.localize.lattice.ODD, np.uint64(1)):  # 1: many keys in a slot
        monkeypatch.setattr(wsss.localize.lattice, "ODD", odd)
        for mine, numpys in zip(_distinct(keys), np.unique(keys, return_inverse=True), strict=True):
            np.testing.assert_array_equal(mine, numpys)
