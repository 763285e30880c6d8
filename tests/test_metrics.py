"""What cannot be measured is left out, and said; it does not count as 0."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

from wsss.cli import main
from wsss.data.labels import UNKNOWN
from wsss.data.masks import write_mask
from wsss.errors import UserNotice, forget_notices
from wsss.tasks.classification import ClassificationTask


class _Trainer:
    sanity_checking = False


def _logged(classes: list[str], chances: np.ndarray, tags: np.ndarray, monkeypatch) -> dict[str, float]:
    """What a validation logs of given probabilities, in two batches."""
    task = ClassificationTask(classes, "glnet_nano")
    logged: dict[str, float] = {}
    monkeypatch.setattr(task, "log", lambda name, value, **_: logged.update({name: float(value)}))
    monkeypatch.setattr(ClassificationTask, "trainer", _Trainer())
    logits = torch.tensor(chances).reshape(len(tags), -1).logit()
    monkeypatch.setattr(task.model, "forward", lambda images: SimpleNamespace(logits=logits[images]))
    for some in torch.arange(len(tags)).tensor_split(2):
        its = torch.tensor(tags, dtype=torch.float32).reshape(len(tags), -1)[some]
        task.validation_step({"image": some, "tags": its}, 0)
    task.on_validation_epoch_end()
    assert logged.pop("val_loss") > 0
    return logged


@pytest.mark.parametrize("absent", [(), (1,), (0, 2)])
def test_a_class_without_an_image_has_no_precision(absent, monkeypatch):
    rng = np.random.default_rng(0)
    chances = rng.random((40, 4), dtype=np.float32)
    tags = (rng.random((40, 4)) < 0.4).astype(int)
    tags[:, list(absent)] = 0
    names = ["ant", "bee", "cow", "dog"]
    logged = _logged(names, chances, tags, monkeypatch)
    present = [i for i in range(4) if i not in absent]
    for name, measure, scores in (
        ("AP", "mAP", lambda i: average_precision_score(tags[:, i], chances[:, i])),
        ("F1", "F1", lambda i: f1_score(tags[:, i], chances[:, i] >= 0.5)),
    ):
        wanted = {f"val_{name}/{names[i]}": 100 * scores(i) for i in present}
        found = {key: value for key, value in logged.items() if key.startswith(f"val_{name}/")}
        assert found == pytest.approx(wanted, abs=1e-3)
        assert logged[f"val_{measure}"] == pytest.approx(np.mean(list(wanted.values())), abs=1e-3)


@pytest.mark.parametrize("count", [1, 3])
def test_what_nobody_looked_for_does_not_count(count, monkeypatch):
    rng = np.random.default_rng(1)
    chances = rng.random((60, count), dtype=np.float32)
    tags = (rng.random((60, count)) < 0.4).astype(int)
    known = rng.random((60, count)) < 0.6
    names = ["ant", "bee", "cow"][:count]
    logged = _logged(names, chances, np.where(known, tags, int(UNKNOWN)), monkeypatch)
    columns = [(tags[known[:, i], i], chances[known[:, i], i]) for i in range(count)]
    for name, (its, scores) in zip(names, columns, strict=True):
        wanted = 100 * average_precision_score(its, scores), 100 * f1_score(its, scores >= 0.5)
        assert (logged[f"val_AP/{name}"], logged[f"val_F1/{name}"]) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("count", [1, 3])
def test_without_any_tag_nothing_is_measured_and_that_is_said(count, monkeypatch):
    chances, tags = np.full((6, count), 0.7, np.float32), np.zeros((6, count), int)
    if count == 1:
        chances, tags = chances[:, 0], tags[:, 0]
    forget_notices()
    with pytest.warns(
        UserNotice, match="val_mAP is not measurable: no image to validate with has a tag"
    ):
        assert _logged(["a", "b", "c"][:count], chances, tags, monkeypatch) == {}


def test_one_class(monkeypatch):
    tags, chances = np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1], np.float32)
    logged = _logged(["a"], chances, tags, monkeypatch)
    assert logged["val_mAP"] == logged["val_AP/a"] == pytest.approx(100 * (1 + 2 / 3) / 2, abs=1e-3)


def _photographs(root: Path) -> None:
    """Ten synthetic photographs: in val none has a tag, and all of the ground truth is void."""
    root.mkdir()
    lines, rng = ["image,tags,split"], np.random.default_rng(0)
    for index in range(10):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / f"{index}.png")
        write_mask(root / "masks" / f"{index}.png", np.full((40, 48), 255))
        tag = ("a", "b")[index % 2] if index < 7 else ""
        lines.append(f"{index}.png,{tag},{'train' if index < 7 else 'val'}")
    (root / "tags.csv").write_text("\n".join(lines))


def test_a_run_in_which_nothing_can_be_measured(tmp_path, capsys):
    _photographs(tmp_path / "photos")
    words = ["init", str(tmp_path / "photos"), "--out", str(tmp_path / "r"), "--quick"]
    assert main([*words, "--backbone", "glnet_nano"]) == 0
    capsys.readouterr()
    assert main(["run", "-c", str(tmp_path / "r" / "pipeline.yaml")]) == 0
    out, _ = capsys.readouterr()
    assert "classifier, mAP on val" in out and "not measurable: no image of val has a tag" in out
    results = tmp_path / "r" / "results"
    numbers = json.loads((results / "metrics.json").read_text())
    for name in ("cls_map_val", "seed_miou_fixed", "mask_miou", "seg_miou_val"):
        assert numbers[name] is None, name
    with (results / "classify" / "log" / "metrics.csv").open() as file:
        assert not [name for name in next(csv.reader(file)) if name.startswith(("val_mAP", "val_AP"))]
    page = (results / "report.html").read_text()
    assert "not measurable: no image of val has a tag" in page
    assert not re.search(r"[> ]nan\b", page) and "There is no ground truth" in page
