"""Evaluation against a confusion matrix by hand and scikit-learn."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix as independent_matrix
from sklearn.metrics import jaccard_score

import wsss.evaluation
from wsss.data.masks import read_mask, write_mask
from wsss.errors import NotMeasurable, UserError
from wsss.evaluation import (
    Evaluator,
    compare_files,
    confusion_matrix,
    evaluate_files,
    iou_of,
    pixel_counts,
    read_counts,
    threshold_curve,
    write_counts,
)
from wsss.geometry import resize_scores


def _masks(count=4, labels=4, seed=0):
    rng = np.random.default_rng(seed)
    for index in range(count):
        shape = (20 + index, 31)
        prediction, target = rng.integers(0, labels, (2, *shape))
        target[0], prediction[:, :2] = 255, 255
        yield prediction.astype(np.uint8), target.astype(np.uint8)


def _by_hand(pairs, labels):
    matrix = np.zeros((labels, labels))
    for prediction, target in pairs:
        for p, t in zip(prediction.ravel(), target.ravel(), strict=True):
            if p != 255 and t != 255:
                matrix[t, p] += 1
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return np.diag(matrix) / union, np.diag(matrix).sum() / matrix.sum()


def test_scores_equal_hand_count_and_scikit_learn():
    pairs = list(_masks())
    evaluator = Evaluator(["a", "b", "c"])
    for prediction, target in pairs:
        evaluator.update(torch.from_numpy(prediction), torch.from_numpy(target))
    scores = evaluator.compute()
    iou, accuracy = _by_hand(pairs, 4)
    np.testing.assert_allclose(list(scores.iou.values()), 100 * iou, rtol=1e-6)
    assert scores.miou == pytest.approx(100 * iou.mean())
    assert scores.pixel_accuracy == pytest.approx(100 * accuracy)
    flat = [np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1)]
    known = (flat[0] != 255) & (flat[1] != 255)
    sklearn = jaccard_score(flat[1][known], flat[0][known], average="macro")
    assert scores.miou == pytest.approx(100 * sklearn)
    labelled = flat[1] != 255
    assert scores.void == pytest.approx(100 * (flat[0][labelled] == 255).mean())


def test_absent_class_does_not_count():
    evaluator = Evaluator(["a", "b"])
    evaluator.update(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
    scores = evaluator.compute()
    assert scores.iou["b"] is None and scores.miou == pytest.approx(25.0)


def test_threshold_curve_equals_thresholding_one_by_one():
    rng = np.random.default_rng(3)
    maps = [
        (rng.random((2, 9, 11), np.float32), [1, 3], rng.choice([0, 1, 3, 255], (9, 11)))
        for _ in range(3)
    ]
    curve = threshold_curve(maps, 4, steps=10, also=[0.4, 0.35])
    wanted = [0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert [threshold for threshold, _ in curve] == pytest.approx(wanted)
    for threshold, value in curve:
        pairs = [
            (np.where(s.max(0) > threshold, np.array(labels)[s.argmax(0)], 0), target)
            for s, labels, target in maps
        ]
        evaluator = Evaluator(["a", "b", "c"])
        for prediction, target in pairs:
            evaluator.update(torch.from_numpy(prediction), torch.from_numpy(target))
        assert value == pytest.approx(evaluator.compute().miou)


def test_threshold_curve_resizes_scores_to_the_mask():
    rng = np.random.default_rng(4)
    scores, target = rng.random((2, 5, 7), np.float32), rng.choice([0, 1, 3], (31, 45))
    large = resize_scores(scores, *target.shape)
    maps = [(scores, [1, 3], target), (scores[:0], [], target)]
    wanted = threshold_curve([(large, [1, 3], target), (large[:0], [], target)], 4)
    assert threshold_curve(maps, 4) == wanted
    assert wanted[0][1] != wanted[-1][1]


def test_refuses_other_size_and_unknown_label(tmp_path):
    write_mask(tmp_path / "a.png", np.zeros((4, 5), int))
    write_mask(tmp_path / "b.png", np.zeros((5, 4), int))
    write_mask(tmp_path / "c.png", np.full((4, 5), 9))
    with pytest.raises(UserError, match=r"a\.png is 5x4 pixels.*b\.png is 4x5"):
        evaluate_files([(tmp_path / "a.png", tmp_path / "b.png")], ["x"])
    with pytest.raises(UserError, match=r"c\.png has label 9"):
        evaluate_files([(tmp_path / "c.png", tmp_path / "a.png")], ["x"])
    with pytest.raises(UserError, match=r"d\.png"):
        evaluate_files([(tmp_path / "d.png", tmp_path / "a.png")], ["x"])


def test_masks_of_16_bits_are_read_by_their_labels(tmp_path):
    mask = np.arange(600, dtype=np.uint16).reshape(20, 30) % 3
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", 3), mask)
    Image.fromarray(mask + 255).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"b\.png has the label 257"):
        read_mask(tmp_path / "b.png")


def test_a_label_too_many_tells_of_the_palette(tmp_path):
    image = Image.fromarray(np.full((20, 30), 2, np.uint8))
    image.putpalette([0, 0, 0, 1, 2, 3, 128, 0, 0])
    image.save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"label 2.*palette is not VOC's: index 2 .*VOC's label 1"):
        read_mask(tmp_path / "a.png", 2)


@pytest.mark.parametrize("kind", ["voc", "grey palette", "grey", "short"])
def test_a_palette_in_order_is_not_told(tmp_path, kind):
    mask = np.zeros((20, 30), np.uint8)
    mask[:5] = 3
    write_mask(tmp_path / "a" / "x.png", mask)
    image = Image.fromarray(mask)
    if kind == "grey palette":
        image = image.convert("P")
    elif kind != "grey":
        with Image.open(tmp_path / "a" / "x.png") as voc:
            image.putpalette(voc.getpalette()[: 12 if kind == "short" else 768])
    image.save(tmp_path / "b.png")
    foreign = []
    np.testing.assert_array_equal(read_mask(tmp_path / "b.png", 4, foreign), mask)
    assert foreign == []


def test_counts_agree_with_scikit_learn():
    rng = np.random.default_rng(1)
    true, predicted = rng.choice([0, 1, 2, 255], (2, 7, 9)).astype(np.uint8)
    counts = pixel_counts(predicted, true)
    assert sum(pixels for _, _, pixels in counts) == 63
    known = (true != 255) & (predicted != 255)
    expected = independent_matrix(true[known], predicted[known], labels=range(4))
    np.testing.assert_array_equal(confusion_matrix([counts, counts], 4), 2 * expected)
    assert np.isnan(iou_of(expected)[3])


def test_counts_are_kept_as_they_come(tmp_path, monkeypatch):
    """Block by block, in the order of the images; a file that is not whole is not there."""
    monkeypatch.setattr(wsss.evaluation, "BLOCK", 2)
    names = [f"{index}" for index in range(5)]
    for index, name in enumerate(names):
        write_mask(tmp_path / "made" / f"{name}.png", np.full((2, 3), index % 2))
        write_mask(tmp_path / "true" / f"{name}.png", np.full((2, 3), index % 3))
    pairs = [(tmp_path / "made" / f"{name}.png", tmp_path / "true" / f"{name}.png") for name in names]
    evaluator, path, seen = Evaluator(["x", "ä"]), tmp_path / "counts.json", []

    def found():
        for name, counts in zip(names, compare_files(pairs, evaluator), strict=True):
            seen.append(evaluator.images)
            assert not path.exists()
            yield name, counts

    write_counts(path, ["x", "ä"], found())
    assert seen == [2, 2, 4, 4, 5]
    wanted = {name: [[index % 3, index % 2, 6]] for index, name in enumerate(names)}
    assert read_counts(path) == (["x", "ä"], wanted)
    assert evaluator.compute() == evaluate_files(pairs, ["x", "ä"])
    write_mask(tmp_path / "void.png", np.full((2, 3), 255))
    nothing = compare_files([(tmp_path / "void.png",) * 2], Evaluator(["x"]))
    with pytest.raises(NotMeasurable):
        write_counts(tmp_path / "none.json", ["x"], (("void", counts) for counts in nothing))
    assert not (tmp_path / "none.json").exists()
