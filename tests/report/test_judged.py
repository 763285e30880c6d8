"""Errors of masks whose ground truth is known."""

import numpy as np
import pytest

from wsss.report.judged import best_and_worst, kinds_of_error, what_went_wrong


def test_what_went_wrong():
    names = ["background", "cat", "dog"]
    says = {
        "Missed: 75 % of the ground-truth cat taken for background": [
            (1, 0, 75),
            (1, 1, 20),
            (1, 2, 5),
        ],
        "Class confused: 60 % of the ground-truth cat taken for dog": [
            (1, 2, 60),
            (1, 1, 40),
            (0, 1, 9),
        ],
        "Background taken: 80 % of the predicted cat is background": [(0, 1, 80), (1, 1, 20)],
        "Class confused: 50 % of the predicted cat is dog": [(2, 1, 20), (1, 1, 20)],
        "IoU 100 %. Every pixel is right.": [(1, 1, 20), (0, 0, 7), (255, 0, 9)],
    }
    for sentence, counts in says.items():
        assert sentence in what_went_wrong(counts, 1, names)


def test_best_and_worst():
    counts = {
        "all of it": [(0, 0, 900), (1, 1, 100)],
        "half": [(0, 0, 900), (1, 1, 50), (1, 0, 50)],
        "a speck": [(0, 0, 999), (1, 1, 1)],
        "most wrong": [(0, 1, 400), (1, 1, 60), (0, 0, 540)],
        "other": [(0, 0, 10), (2, 0, 990)],
    }
    assert best_and_worst(counts, 1, 1) == {"best": ["all of it"], "worst": ["most wrong"]}
    assert best_and_worst(counts, 1, 2)["worst"] == ["most wrong", "half"]
    # the best one has the most wrong pixels: it stays the best
    counts = {"large": [(1, 1, 900), (1, 0, 100)], "small": [(0, 0, 980), (1, 1, 10), (1, 0, 10)]}
    assert best_and_worst(counts, 1, 2) == {"best": ["large"], "worst": ["small"]}


def test_hits_and_kinds_of_error_make_up_the_union():
    matrix = np.array([[50, 3, 1, 0], [4, 20, 5, 0], [0, 6, 0, 0], [0, 0, 0, 0]])
    errors = kinds_of_error(matrix)
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    every = sum(errors.values()) + 100 * matrix.diagonal() / union.clip(1)
    assert every == pytest.approx([100, 100, 100, 0])
    assert errors["missed"][1] == pytest.approx(100 * 4 / union[1])
    assert errors["background taken"][1] == pytest.approx(100 * 3 / union[1])
    assert errors["confused"][1] == pytest.approx(100 * 11 / union[1])
