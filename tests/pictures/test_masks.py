"""Masks and maps over photographs, told apart without their colours."""

import numpy as np

from wsss.pictures.masks import hatching, overlay, show_maps, show_mask
from wsss.voc import palette


def test_class_maps_are_named_where_they_are_highest():
    image, scores = np.full((60, 90, 3), 128, np.uint8), np.zeros((2, 4, 6), np.float32)
    scores[0, 0, 1], scores[1, 3, 5] = 1, 0.9
    cell = show_maps(image, scores, ["<cat>", "dog"])
    places = [(label.text, int(label.x * 6), int(label.y * 4)) for label in cell.labels]
    assert places == [("<cat>", 1, 0), ("dog", 5, 3)]
    assert cell.picture[50, 85].mean() > 1.5 * cell.picture[10, 80].mean()
    assert show_maps(image, scores[:0], []).labels == []


def test_masks_are_told_apart_without_colours():
    image = np.full((80, 120, 3), 128, np.uint8)
    looks = {label: hatching(label, 80, 120) for label in (*range(1, 19), 255)}
    for label, lines in looks.items():
        assert 0.03 < lines.mean() < 0.5
        assert all((lines != other).any() for number, other in looks.items() if number != label)
    mask = np.zeros((40, 60), np.uint8)
    mask[5:35, 2:28], mask[10:12, 40:42], mask[30:, 45:] = 1, 2, 255
    cell = show_mask(image, mask, ["background", "<cat>", "dog"], "x")
    assert [label.text for label in cell.labels] == ["<cat>"]  # a speck gets no name, void neither
    assert mask[int(cell.labels[0].y * 40), int(cell.labels[0].x * 60)] == 1
    assert (cell.picture[5:20, 80:] == 128).all()  # background stays


def test_an_overlay_shows_the_photograph_where_there_is_background():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (600, 5, 3), np.uint8)  # more rows than are mixed at once
    mask = rng.choice([0, 1, 20, 255], (600, 5)).astype(np.uint8)
    before, colours = image.copy(), np.array(palette()).reshape(-1, 3)
    laid = overlay(image, mask)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(laid[mask == 0], image[mask == 0])
    mixed = 0.4 * image + 0.6 * colours[mask]
    np.testing.assert_array_equal(laid[mask > 0], np.floor(mixed)[mask > 0])
