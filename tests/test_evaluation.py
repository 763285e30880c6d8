"""Evaluation against a confusion matrix by hand and scikit-learn."""

import json
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

from wsss.cli import main
from wsss.commands.export import mask_files
from wsss.data.masks import read_mask, write_mask
from wsss.errors import UserError, UserNotice
from wsss.evaluation import Evaluator, evaluate_files, threshold_curve
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
            (np.where(s.max(0) > threshold, np.array(labels)[s.argmax(0)], 0), truth)
            for s, labels, truth in maps
        ]
        evaluator = Evaluator(["a", "b", "c"])
        for prediction, truth in pairs:
            evaluator.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        assert value == pytest.approx(evaluator.compute().miou)


def test_threshold_curve_resizes_scores_to_the_mask():
    rng = np.random.default_rng(4)
    scores, truth = rng.random((2, 5, 7), np.float32), rng.choice([0, 1, 3], (31, 45))
    large = resize_scores(scores, *truth.shape)
    maps = [(scores, [1, 3], truth), (scores[:0], [], truth)]
    wanted = threshold_curve([(large, [1, 3], truth), (large[:0], [], truth)], 4)
    assert threshold_curve(maps, 4) == wanted
    assert wanted[0][1] != wanted[-1][1]


def test_refuses_other_size_and_unknown_label(tmp_path):
    write_mask(tmp_path / "a.png", np.zeros((4, 5)))
    write_mask(tmp_path / "b.png", np.zeros((5, 4)))
    write_mask(tmp_path / "c.png", np.full((4, 5), 9))
    with pytest.raises(UserError, match=r"a\.png is 5x4 pixels.*b\.png is 4x5"):
        evaluate_files([(tmp_path / "a.png", tmp_path / "b.png")], ["x"])
    with pytest.raises(UserError, match=r"c\.png has label 9"):
        evaluate_files([(tmp_path / "c.png", tmp_path / "a.png")], ["x"])
    with pytest.raises(UserError, match=r"d\.png"):
        evaluate_files([(tmp_path / "d.png", tmp_path / "a.png")], ["x"])


def _masks_on_disk(folder, names, label=3):
    for name in names:
        mask = np.zeros((20, 30), np.uint8)
        mask[:5] = label
        write_mask(folder / f"{name}.png", mask)


def test_a_palette_that_an_editor_changed_is_told(tmp_path):
    """The colours are the same at the same pixels, and the indices, which count, are others."""
    _masks_on_disk(tmp_path / "true", "abc")
    _masks_on_disk(tmp_path / "saved", "abc")
    with Image.open(tmp_path / "saved" / "b.png") as image:
        changed = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    changed.save(tmp_path / "saved" / "b.png")
    assert set(np.unique(read_mask(tmp_path / "saved" / "b.png"))) == {0, 1}
    words = ["evaluate", str(tmp_path / "saved"), str(tmp_path / "true")]
    with pytest.warns(UserNotice) as told:
        assert main(words) == 0
    said = [str(one.message) for one in told if "palette" in str(one.message)]
    assert len(said) == 1 and "palette of 1 masks is not VOC's" in said[0]
    assert f"{tmp_path / 'saved' / 'b.png'}: index 0 is " in said[0] and "VOC's label" in said[0]


def test_masks_in_linked_folders_and_with_capital_suffixes_count(tmp_path):
    _masks_on_disk(tmp_path / "pred" / "day", "ab")
    _masks_on_disk(tmp_path / "pred", "cd")
    _masks_on_disk(tmp_path / "disk", "ab")
    _masks_on_disk(tmp_path / "true", "cd")
    (tmp_path / "true" / "day").symlink_to(tmp_path / "disk")
    (tmp_path / "true" / "loop").symlink_to(tmp_path)
    (tmp_path / "true" / "c.png").rename(tmp_path / "true" / "c.PNG")
    with Image.open(tmp_path / "true" / "d.png") as image:
        image.save(tmp_path / "true" / "d.bmp")
    (tmp_path / "true" / "d.png").unlink()
    assert sorted(mask_files(tmp_path / "pred")) == ["c", "d", "day/a", "day/b"]
    with pytest.warns(UserNotice, match=r"1 pictures in .*true that are no PNG \(first: d\.bmp\)"):
        assert sorted(mask_files(tmp_path / "true")) == ["c", "day/a", "day/b"]


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


@pytest.mark.parametrize("listed", [False, True])
def test_accents_match_however_they_are_written(tmp_path, listed):
    names = ["été/garçon", "ñ 2", "plain"]
    forms = {form: [unicodedata.normalize(form, name) for name in names] for form in ("NFC", "NFD")}
    _masks_on_disk(tmp_path / "made", forms["NFC"])
    _masks_on_disk(tmp_path / "true", forms["NFD"])
    (tmp_path / "list.txt").write_text("\n".join(forms["NFD"]) + "\n", encoding="utf-8")
    words = ["evaluate", str(tmp_path / "made"), str(tmp_path / "true"), "--json", str(tmp_path / "s")]
    assert main([*words, *(["--list", str(tmp_path / "list.txt")] if listed else [])]) == 0
    scores = json.loads((tmp_path / "s").read_text())
    assert scores["images"] == 3 and scores["miou"] == pytest.approx(100)


def test_the_order_of_classes_of_other_tools_is_read(tmp_path, capsys):
    """labelme's list beside its masks; ours beside the predictions has another order."""
    _masks_on_disk(tmp_path / "labelme" / "SegmentationClass", "ab", 2)
    _masks_on_disk(tmp_path / "run" / "masks", "ab", 1)
    (tmp_path / "labelme" / "class_names.txt").write_text("_background_\nkite\nball\n")
    (tmp_path / "run" / "classes.txt").write_text("ball\nkite\n")
    words = [
        "evaluate",
        str(tmp_path / "run" / "masks"),
        str(tmp_path / "labelme" / "SegmentationClass"),
    ]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "ball, kite" in said and "kite, ball" in said
    (tmp_path / "run" / "classes.txt").write_text("kite\nball\n")
    assert main(words) == 0
    assert "kite" in (said := capsys.readouterr().out) and "aeroplane" not in said
