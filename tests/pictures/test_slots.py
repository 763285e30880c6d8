"""Pictures of slots show what they say, of any number and shape."""

import numpy as np
import pytest
from PIL import Image

from wsss.localize.slot_maps import SlotView
from wsss.pictures.slots import colours, draw_groups, group_sheet, map_sheet, position_sheet, tint


def _photograph(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _dispatch(slots, height, width, seed=0):
    logits = np.random.default_rng(seed).normal(0, 3, (slots, height, width))
    weights = np.exp(logits)
    return (weights / weights.sum(0)).astype(np.float32)


def test_colours_for_any_number_of_slots():
    dispatch = _dispatch(7, 3, 11)
    assert colours(dispatch).shape == (7, 3)
    assert colours(_dispatch(1, 2, 2)).shape == (1, 3)
    # maps that are alike have neighbouring hues, others do not
    two = np.zeros((4, 2, 2), np.float32)
    two[0, 0], two[1, 0], two[2, 1], two[3, 1] = 0.6, 0.4, 0.7, 0.3
    hue = [
        Image.new("RGB", (1, 1), tuple(map(int, c))).convert("HSV").getpixel((0, 0))[0]
        for c in colours(two)
    ]

    def apart(a, b):
        return min((hue[a] - hue[b]) % 256, (hue[b] - hue[a]) % 256)

    assert max(apart(0, 1), apart(2, 3)) < min(apart(0, 2), apart(1, 3), apart(0, 3), apart(1, 2))


def test_drawings_show_what_they_say():
    image = np.full((20, 60, 3), 128, np.uint8)
    dispatch = np.zeros((2, 1, 2), np.float32)
    dispatch[0, 0, 0] = dispatch[1, 0, 1] = 1
    groups = draw_groups(image, dispatch)
    hues = colours(dispatch).astype(int)
    for x, slot in ((5, 0), (55, 1)):
        assert abs(groups[10, x] - (0.35 * 128 + 0.65 * hues[slot])).max() <= 1
    lit = tint(image, dispatch[1], (255, 0, 0))
    assert lit[10, 58, 0] > 180 > lit[10, 58, 1] and len(set(lit[10, 2].tolist())) == 1


@pytest.mark.parametrize("slots", [1, 5, 49])
@pytest.mark.parametrize("shape", [(31, 400), (333, 90), (1, 1)])
def test_sheets_of_any_slots_and_shapes(slots, shape):
    image, view = _photograph(*shape), SlotView("features", _dispatch(slots, 3, 5))
    for sheet in (group_sheet(image, view), map_sheet(image, view), position_sheet(image, view, 0, 0)):
        assert sheet.mode == "RGB" and 100 < max(sheet.size) < 4000
    assert np.asarray(group_sheet(image, view)).std() > 1
