"""Masks and scores on disk."""

import numpy as np
import pytest
from PIL import Image

from wsss.data.masks import read_mask, read_scores, write_arrays, write_mask
from wsss.errors import UserError


def test_mask_round_trip_keeps_labels_not_colours(tmp_path):
    mask = np.random.default_rng(0).integers(0, 256, (7, 5)).astype(np.uint8)
    write_mask(tmp_path / "deep" / "m.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "deep" / "m.png"), mask)
    assert Image.open(tmp_path / "deep" / "m.png").mode == "P"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["m.png"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((4, 4)), r"array \(H, W\) of integers, got \(4, 4\) of float64"),
        (np.zeros((4, 4, 3), np.uint8), r"array \(H, W\) of integers, got \(4, 4, 3\) of uint8"),
        (np.full((4, 4), 256), "labels of a mask are 0 to 255, got 256 to 256"),
        (np.full((4, 4), -1), "got -1 to -1"),
    ],
)
def test_what_is_no_mask_is_not_written(wrong, said, tmp_path):
    with pytest.raises(UserError, match=said):
        write_mask(tmp_path / "m.png", wrong)
    assert not list(tmp_path.iterdir())


def test_scores_round_trip_and_damage_is_told(tmp_path):
    scores = np.random.default_rng(0).random((2, 5, 7)).astype(np.float16)
    path = tmp_path / "deep" / "a.npz"
    write_arrays(path, scores=scores, labels=np.array([3, 20]))
    read, labels = read_scores(path)
    assert (read.dtype, labels) == (np.float32, [3, 20])
    np.testing.assert_array_equal(read, scores)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"a\.npz are damaged"):
        read_scores(path)
    with pytest.raises(UserError, match=r"no class maps .*b\.npz"):
        read_scores(tmp_path / "b.npz")


def test_colour_mask_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="colour image"):
        read_mask(tmp_path / "m.png")
