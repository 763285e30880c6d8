"""Pictures of slots show what they say, of any number and shape."""

import numpy as np
import pytest
from PIL import Image

from wsss.errors import UserError
from wsss.localize.slot_maps import SlotView
from wsss.pictures.slots import (
    colours,
    draw_groups,
    draw_reach,
    group_sheet,
    map_sheet,
    position_sheet,
    sheet,
    tint,
)


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


def test_borders_between_like_slots_are_faint():
    image = np.full((8, 40, 3), 128, np.uint8)
    dispatch = np.full((4, 1, 4), 0.01, np.float32)
    dispatch[0, 0], dispatch[1, 0] = [0.5, 0.4, 0, 0], [0.4, 0.5, 0, 0]  # one thing, two slots
    dispatch[2, 0], dispatch[3, 0] = [0, 0, 0.9, 0], [0, 0, 0, 0.9]
    groups = draw_groups(image, dispatch).astype(int)
    inside, like, unlike = groups[4, 12], groups[4, 10], groups[4, 30]
    assert abs(inside - like).max() < 20  # between 0 and 1
    assert unlike.max() < 0.3 * groups[4, 33].max()  # between 2 and 3


@pytest.mark.parametrize("colour", [(0, 0, 90), (60, 0, 120), (255, 0, 0), (255, 255, 255)])
def test_dark_colours_light_up_dark_things(colour):
    score = np.array([[0, 1]], np.float32)
    lit = tint(np.zeros((10, 40, 3), np.uint8), score, colour).astype(float)
    seen = lit @ (0.299, 0.587, 0.114)
    assert seen[5, 38] > seen[5, 2] + 45
    assert lit[5, 38].argmax() == np.argmax(colour)  # and are still that colour
    green = np.full((10, 40, 3), (0, 200, 0), np.uint8)  # whatever colour the thing has
    assert tint(green, score, colour)[5, 38].argmax() == np.argmax(colour)


def test_a_position_is_marked_with_its_reach():
    image, dispatch = np.full((40, 80, 3), 128, np.uint8), np.full((2, 1, 2), 0.1, np.float32)
    dispatch[0, 0, 0] = dispatch[1, 0, 1] = 0.9
    view = SlotView("2.0", dispatch)
    plain, marked = group_sheet(image, view, 2), group_sheet(image, view, 2, (70, 20))
    assert marked.width > 1.2 * plain.width  # one picture more
    reach = draw_reach(image, view, (70, 20)).astype(int)
    high, wide = reach.shape[:2]
    lit, dim = reach[high // 4, 9 * wide // 10], reach[high // 4, wide // 10]
    assert lit[0] > dim[0] + 60 and lit[0] - lit[2] > 60  # yellow where the slot is
    assert reach[round(20.5 / 40 * high), round(70.5 / 80 * wide)].min() > 240  # the cross
    with pytest.raises(UserError, match="80x40 pixels"):
        group_sheet(image, view, 2, (80, 20))


def test_pictures_of_different_shapes_are_level():
    black = [("a", np.zeros(shape, np.uint8)) for shape in [(50, 50, 3), (20, 60, 3), (90, 30, 3)]]
    canvas = np.asarray(sheet(black, side=60, level=True))
    dark = (canvas[20:] < 5).all(2)  # below the captions
    assert sorted(set(dark.sum(0))) == [0, 60] and dark.any(0).sum() == 60 + 180 + 20


@pytest.mark.parametrize("slots", [1, 5, 49])
@pytest.mark.parametrize("shape", [(31, 400), (333, 90), (1, 1)])
def test_sheets_of_any_slots_and_shapes(slots, shape):
    image, view = _photograph(*shape), SlotView("features", _dispatch(slots, 3, 5))
    for drawn in (group_sheet(image, view), map_sheet(image, view), position_sheet(image, view, 0, 0)):
        assert drawn.mode == "RGB" and 100 < max(drawn.size) < 4000
    assert np.asarray(group_sheet(image, view)).std() > 1
