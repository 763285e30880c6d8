"""Images and masks that cannot be read: what is left out, what is refused, and what is said of it."""

import csv
import errno
import json
import os
import shutil
from unittest.mock import MagicMock

import numpy as np
import pytest
from fuzzing import made_run
from own_folder import checked
from small_pipeline import small_pipeline

import wsss.data.images
import wsss.report.sections
from wsss import resources
from wsss.data.catalog import read_catalog
from wsss.data.masks import write_mask
from wsss.errors import Damaged, Unavailable, UserError, forget_notices
from wsss.pipeline import _Run


@pytest.fixture(autouse=True)
def _no_networks(monkeypatch):
    """They are made to check their settings, which takes seconds."""
    monkeypatch.setattr("wsss.pipeline._task", lambda *_: MagicMock())


@pytest.fixture
def spoiled(drawn, tmp_path):
    """The synthetic data with a photograph of train cut off and one of val empty."""
    root = shutil.copytree(drawn, tmp_path / "spoiled")
    path = root / "JPEGImages" / "train_00003.jpg"
    path.write_bytes(path.read_bytes()[:700])
    (root / "JPEGImages" / "val_00001.jpg").write_bytes(b"")
    forget_notices()
    return root


def _run(spoiled, tmp_path, **how) -> _Run:
    config = tmp_path / "configs" / "pipeline.yaml"
    if not config.is_file():
        small_pipeline(config.parent)
    names = {"classify": "classify", "pseudo_masks": "pseudo_masks", "segment": "segment"}
    files = {key: config.with_name(f"{name}.yaml") for key, name in names.items()}
    return _Run(tmp_path / "run", files, str(spoiled), None, **how)


def test_a_devkits_photographs_that_cannot_be_read_are_left_out(spoiled, drawn, recwarn):
    for split, name in (("train", "train_00003"), ("val", "val_00001")):
        catalog, whole = (read_catalog("voc", root, split) for root in (spoiled, drawn))
        ids = [record.id for record in whole.records if record.id != name]
        assert [record.id for record in catalog.records] == ids and not whole.left_out
        ((path, why),) = catalog.left_out.items()
        assert path.stem == name and f"image {path} cannot be read (" in why
        assert [str(w.message) for w in recwarn].count(f"left out: {why}") == 1
    shutil.copy(drawn / "JPEGImages" / "val_00001.jpg", spoiled / "JPEGImages")
    assert len(read_catalog("voc", spoiled, "val").records) == 8  # it was mended
    for path in spoiled.glob("JPEGImages/val*"):
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of 8 images can be read: image .*val_00000.jpg cannot"):
        read_catalog("voc", spoiled, "val")


def test_a_run_names_them_in_a_table_or_stops(spoiled, drawn, tmp_path, capsys):
    with pytest.raises(UserError, match=r"^2 images cannot be read: .*train_00003.jpg .*without --str"):
        _run(spoiled, tmp_path, strict=True).check()
    assert not (tmp_path / "run").exists()
    run = _run(spoiled, tmp_path)
    run.check()
    run.record()
    table = tmp_path / "run" / "bad_images.csv"
    with table.open(newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert [row["image"].rpartition("/")[2] for row in rows] == ["train_00003.jpg", "val_00001.jpg"]
    assert all("cannot be read" in row["why"] for row in rows)
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert {name: (one["images"], one["left_out"]) for name, one in data.items()} == {
        "train": (23, 1),
        "val": (7, 1),
    }
    shutil.copytree(drawn / "JPEGImages", spoiled / "JPEGImages", dirs_exist_ok=True)
    again = _run(spoiled, tmp_path, strict=True)
    again.check()
    again.record()
    assert not table.exists()


def test_a_report_counts_them(spoiled, tmp_path, monkeypatch):
    run = made_run(tmp_path, spoiled)
    monkeypatch.setattr(wsss.report.sections, "chart", lambda *_: None)
    about = dict(wsss.report.sections.gather(run, None, run["pseudo_masks"])["about"])
    assert "23 photographs with tags of 4 classes, 7 to validate" in about["data"]
    assert about["left out"] == "2 photographs that cannot be read (bad_images.csv)"


def test_what_has_changed_since_the_last_time_is_told(drawn, tmp_path, monkeypatch, recwarn):
    root = shutil.copytree(drawn, tmp_path / "data")
    run = _run(root, tmp_path)
    run.check()
    run.record()
    path = tmp_path / "run" / "run.json"
    first, when = json.loads(path.read_text()), path.stat().st_mtime_ns
    assert first["versions"]["torch"] and first["random_seeds"]["classify"] == 0
    run.record()
    assert not recwarn and path.stat().st_mtime_ns == when
    lists = root / "ImageSets" / "Segmentation" / "train.txt"
    lists.write_text("\n".join(lists.read_text().split()[:-1]))
    config = tmp_path / "configs" / "classify.yaml"
    config.write_text(f"{config.read_text()}seed_everything: 7\n")
    monkeypatch.setattr(resources, "_commit", lambda: {"commit": "0123456789ab"})
    forget_notices()
    run = _run(root, tmp_path)
    run.check()
    run.record()
    told = [str(w.message).removeprefix("since this run was last worked on, ") for w in recwarn]
    before = first["versions"].get("commit", "not known")
    assert f"versions.commit has changed: {before} before, 0123456789ab now" in told
    assert "random_seeds.classify has changed: 0 before, 7 now" in told
    assert "data.train.images has changed: 24 before, 23 now" in told
    assert len(told) == 4 and any(words.startswith("data.train.stamp has changed") for words in told)


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), MemoryError()])
def test_what_the_machine_could_not_do_is_no_images_fault(error, drawn, tmp_path, monkeypatch):
    root = shutil.copytree(drawn, tmp_path / "data")
    wsss.data.images._look.cache_clear()

    def fail(path):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(wsss.data.images, "open_image", fail)
        with pytest.raises(Unavailable, match=r"could not be read this time .*: give the same command"):
            read_catalog("voc", root, "val")
    assert len(read_catalog("voc", root, "val").records) == 8


def test_a_damaged_mask_of_the_ground_truth_is_refused(good, tmp_path):
    mask = good / "masks" / "größe 1" / "bild 00.png"
    write_mask(mask, np.zeros((40, 56), np.uint8))
    assert not checked(good, tmp_path)[1]["errors"]
    mask.write_bytes(mask.read_bytes()[:60])
    for _ in range(2):  # known from the first time
        with pytest.raises(Damaged, match=r"bild 00.png cannot be read .*make it again"):
            read_catalog("folder", good, "all")
    code, report = checked(good, tmp_path)
    assert code == 2 and "bild 00.png cannot be read" in report["errors"]["mask does not fit"][0]
