"""Which slots win, say most, and hold a position."""

import numpy as np
import pytest
import torch

from wsss.errors import UserError
from wsss.geometry import resize_scores
from wsss.localize.slot_maps import representative, slots_at, winners
from wsss.localize.slots import propagate


def _dispatch(slots, height, width, seed=0):
    logits = np.random.default_rng(seed).normal(0, 3, (slots, height, width))
    weights = np.exp(logits)
    return (weights / weights.sum(0)).astype(np.float32)


def test_winners_for_any_number_of_slots():
    dispatch = _dispatch(7, 3, 11)
    by_hand = resize_scores(dispatch, 30, 110).argmax(0)
    np.testing.assert_array_equal(winners(dispatch, 30, 110), by_hand)


def test_representative_slots_do_not_repeat_each_other():
    dispatch = np.full((5, 4, 4), 0.01, np.float32)
    dispatch[1, :, :3] = 0.9  # the largest
    dispatch[2, :, :3] = 0.8  # says the same with less weight
    dispatch[3, :, 3] = 0.7
    dispatch[4] = 0.9  # everywhere alike: belongs nowhere in particular
    assert representative(dispatch, 2) == [1, 3]
    assert sorted(representative(dispatch, 9)) == [0, 1, 2, 3, 4]


def test_position_and_reach_agree_with_propagation():
    dispatch = _dispatch(5, 4, 6)
    height, width = 8, 12  # pixel (2 x + 0.5) lies midway: choose a size where centres coincide
    at = slots_at(dispatch, 3, 2, 4, 6)
    np.testing.assert_allclose(at.shares, dispatch[:, 2, 3], rtol=1e-6)
    assert at.order[0] == dispatch[:, 2, 3].argmax() and at.reach.max() == 1
    # the value that propagation hands to this position is the mean by these weights
    values = torch.rand(1, 1, 4, 6)
    handed = propagate(values, torch.from_numpy(dispatch)[None], 1)[0, 0, 2, 3]
    weights = at.reach / at.reach.sum()
    assert float((values[0, 0].numpy() * weights).sum()) == pytest.approx(float(handed), rel=1e-4)
    # between map positions it is what the resized maps show there
    np.testing.assert_allclose(
        slots_at(dispatch, 7, 3, height, width).shares,
        resize_scores(dispatch, height, width)[:, 3, 7],
        atol=1e-5,
    )
    corner = slots_at(dispatch, 11, 7, height, width)
    np.testing.assert_allclose(corner.shares, dispatch[:, 3, 5], rtol=1e-6)
    for x, y in ((-1, 0), (12, 0), (0, 8)):
        with pytest.raises(UserError, match="12x8 pixels: x must be"):
            slots_at(dispatch, x, y, height, width)
