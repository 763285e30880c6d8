"""The whole chain: bad input is told first, runs go on, what changed is made anew."""

import json
import os
import shutil

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from small_pipeline import small_pipeline

from wsss.data.masks import read_mask
from wsss.errors import UserError
from wsss.evaluation import confusion_matrix, iou_of
from wsss.pipeline import run_pipeline
from wsss.tasks.checkpoints import read_checkpoint
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Default folders of the trainer are relative to where one is."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("pipeline", {"refine": 5}, "refine in .* must name a config file, got 5"),
        ("pipeline", {"segment": None}, "segment in .* must name a config file, got None"),
        ("pseudo_masks", {"masks": [1]}, "masks in .*pseudo_masks.yaml must be lines of"),
        ("refine", {"masks": {"map": "x"}}, r"'masks.map': .* maps\?"),
        ("classify", {"data": {"sise": 64}}, r"classify.yaml: .* 'data.sise': .* size\?"),
        ("segment", {"model": {"frozen_norm": 1}}, "'model.frozen_norm': .* freeze_norm"),
        ("segment", {"trainer": {"max_epoch": 1}}, "segment.yaml: .* 'trainer.max_epoch'"),
        ("segment", {"model": {"lr": "fast"}}, "segment.yaml: model.lr: Expected float. Got .*: fast"),
        ("segment", {"model": {"freeze": 3}}, r"freeze: Expected one of \[2, 4, 8, 16, 'all'\]"),
        ("refine", {"data": {"xyz": 1}}, "'data.xyz': known are .*crop, .*tags"),
        ("pseudo_masks", {"masks": {"backgroud": 0.4}}, r"'masks.backgroud': .* background\?"),
        ("segment", {"model": {"decoder": "Unett"}}, "segment.yaml: no segmentation network .*Unett"),
        ("segment", {"model": {"encoder": "glnet_nano", "tile": 3}}, "tile must be 32"),
        ("segment", {"model": {"weights": "no.pth"}}, "segment.yaml: there is no weight file no.pth"),
        ("segment", {"data": {"train_split": "x"}}, "segment.yaml: no split 'x'"),
        ("segment", {"data": {"train_split": "val"}}, "segment.yaml trains on .* makes masks of split"),
        ("segment", {"trainer": {"accelerator": "tpu"}}, "segment.yaml: .*torch_xla"),
        ("segment", {"trainer": {"logger": {"class_path": "CometLogger"}}}, "trainer.logger: .*comet"),
        ("pseudo_masks", {"masks": {"background": 7.0}}, "background must lie in 0..1, got 7"),
        ("pseudo_masks", {"masks": {"steps": 0}}, "steps must be 1 or more, got 0"),
        ("pseudo_masks", {"masks": {"workers": 0}}, "workers must be 1 or more"),
        ("classify", {"model": {"backbone": "resnet18"}}, "pseudo_masks.yaml: .*resnet18 .*no GLMix"),
        ("pipeline", {"out": 3}, "out in .* must name a folder, got 3"),
        ("segment", {"model": ["glnet_nano"]}, "model in .*segment.yaml must be lines of"),
    ],
)
def test_a_bad_pipeline_is_told_before_anything_is_trained(name, change, said, drawn, tmp_path):
    config = small_pipeline(tmp_path / "configs")
    path = config.with_name(f"{name}.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(UserError, match=said):
        run_pipeline(config, None if name == "pipeline" else tmp_path / "run", str(drawn))
    assert not (tmp_path / "run").exists()


def test_tensorboard_without_its_library_is_told_first(drawn, tmp_path, monkeypatch):
    for name in ("tensorboard", "tensorboardX"):
        monkeypatch.setattr(f"lightning_fabric.loggers.tensorboard._{name.upper()}_AVAILABLE", False)
    with pytest.raises(UserError, match=r"trainer\.logger: .*tensorboard"):
        run_pipeline(small_pipeline(tmp_path / "c"), tmp_path / "run", str(drawn), tensorboard=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", [{}, {"root": None}])
def test_a_run_without_data_is_told(data, tmp_path):
    config = small_pipeline(tmp_path / "configs")
    path = config.with_name("classify.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"data": data}))
    with pytest.raises(UserError, match=r"where is the data\? .* in .*classify.yaml"):
        run_pipeline(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_whole_run_again_and_changed(drawn, tmp_path, capsys):
    config, out = small_pipeline(tmp_path / "configs"), tmp_path / "run"
    numbers = run_pipeline(config, out, str(drawn), upper_bound=True)
    written = json.loads((out / "metrics.json").read_text())
    assert all(written[name] == value for name, value in numbers.items())
    assert all(0 <= numbers[name] <= 100 for name in numbers if name != "minutes")
    stages = ("classify", "pseudo_masks", "segment_first", "refined_masks", "segment", "segment_true")
    assert list(written["minutes_per_stage"]) == list(stages)
    for name in stages:
        assert (out / name / "config.yaml").is_file() and (out / name / "metrics.json").is_file()
    assert (out / "classify" / "last.ckpt").is_file() and (out / "segment" / "last.ckpt").is_file()
    masks = out / "pseudo_masks" / "masks"
    assert len(list(masks.glob("*.png"))) == 24
    refined = out / "refined_masks" / "masks"
    for path in [*masks.glob("*.png"), *refined.glob("*.png")]:  # tagged classes only
        truth = read_mask(drawn / "SegmentationClass" / path.name)
        assert set(np.unique(read_mask(path))) <= {0, *np.unique(truth)}
    assert Image.open(out / "overview.png").size[0] == 7 * 150 and (out / "report.html").is_file()

    page = (out / "report.html").read_text()
    assert "refined by a first segmenter" in page and "first round's segmenter" in page
    assert page.count(f"{written['mask_miou_first']:.1f} before they were refined") >= 1
    refined_iou = json.loads((out / "refined_masks" / "metrics.json").read_text())["mask"]["miou"]
    assert written["mask_miou"] == refined_iou != written["mask_miou_first"]
    first = json.loads((out / "pseudo_masks" / "metrics.json").read_text())["mask"]
    assert written["mask_miou_first"] == first["miou"] and written["mask_void_first"] == first["void"]

    # what the report needs is kept: each image's counts, the training's own log, costs and versions
    metrics = json.loads((out / "segment" / "metrics.json").read_text())
    tested = json.loads((out / "segment" / "test.json").read_text())
    iou = iou_of(confusion_matrix(tested["images"].values(), 5))
    assert len(tested["images"]) == len(list((out / "segment" / "test").glob("*.png"))) == 8
    assert np.nanmean(iou) == pytest.approx(metrics["test_mIoU"], abs=1e-3)
    assert "test_mIoU" not in (out / "segment" / "log" / "metrics.csv").read_text()
    assert "CSVLogger" in (out / "segment" / "config.yaml").read_text()
    done = json.loads((out / "segment" / "done.json").read_text())
    assert (
        0.1 < done["memory_gb"] < 100 and done["versions"]["torch"] == torch.__version__.split("+")[0]
    )

    # the first round started from the classifier, which has the same network, the second from the first
    starts = {"segment_first": "classify", "segment": "segment_first", "segment_true": "classify"}
    settings = {name: yaml.safe_load((out / name / "config.yaml").read_text()) for name in starts}
    for name, start in starts.items():
        assert settings[name]["model"]["weights"] == str(out / start / "last.ckpt")
    assert "mask_dir" in settings["segment"]["data"]
    assert "mask_dir" not in settings["segment_true"]["data"]  # it learns from the ground truth
    epochs = {name: settings[name]["trainer"]["max_epochs"] for name in starts}
    assert epochs["segment_true"] == epochs["segment_first"] + epochs["segment"]

    # the refinement sees images as large as the segmenter's test
    refine = yaml.safe_load((out / "refined_masks" / "config.yaml").read_text())
    assert refine["data"]["crop"] == settings["segment"]["data"]["crop"] == 64

    # again: nothing is done twice, also when the data set was copied anew or is written otherwise
    for path in drawn.rglob("*.*"):
        os.utime(path)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("last.ckpt")}
    capsys.readouterr()
    elsewhere = f"{os.path.relpath(drawn)}/"
    assert run_pipeline(config, os.path.relpath(out), elsewhere, upper_bound=True) == numbers
    assert capsys.readouterr().out.count("done before, unchanged") == 6
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("last.ckpt")}

    # broken off while making masks: only the missing one is made again
    kept = {p: p.stat().st_mtime_ns for p in masks.glob("*.png")}
    lost = sorted(kept)[3]
    content = lost.read_bytes()
    lost.unlink()
    (out / "pseudo_masks" / "done.json").unlink()
    run_pipeline(config, out, str(drawn), upper_bound=True)
    assert lost.read_bytes() == content
    changed = [p for p, t in kept.items() if p.stat().st_mtime_ns != t]
    assert changed == [lost]

    # other settings of one stage: it and what follows are made anew, the old results kept
    path = config.parent / "pseudo_masks.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["masks"]["background"] = 0.5
    path.write_text(yaml.safe_dump(settings))
    capsys.readouterr()
    run_pipeline(config, out, str(drawn))
    printed = capsys.readouterr().out
    assert "classify: done before" in printed and "segment: settings or inputs changed" in printed
    assert "refined_masks: settings or inputs changed" in printed
    assert len(list((out / "pseudo_masks.old1" / "masks").glob("*.png"))) == 24

    # a single round
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"refine": None}))
    single = run_pipeline(config, out, str(drawn))
    printed = capsys.readouterr().out
    assert "pseudo_masks: done before" in printed and "segment: settings or inputs changed" in printed
    assert "segment_first" not in printed and "refined_masks" not in printed
    assert "mask_miou_first" not in single and single["mask_miou"] > 0

    # trained networks load without code from the file, and say what they are
    assert read_checkpoint(out / "classify" / "last.ckpt", "classify")["classes"][0] == "ball"
    with pytest.raises(UserError, match="not of `wsss segment`"):
        SegmentationTask.from_checkpoint(out / "classify" / "last.ckpt")
    task = ClassificationTask.from_checkpoint(out / "classify" / "last.ckpt")
    assert task.classes == ["ball", "brick", "kite", "star"] and not task.training


def test_a_run_with_nothing_to_do_makes_no_network(small_run, drawn, tmp_path, capsys, monkeypatch):
    config, out = small_run.parent / "configs" / "pipeline.yaml", tmp_path / "run"
    shutil.copytree(small_run, out)
    run_pipeline(config, out, str(drawn))  # it was moved, which the report is to tell

    def refuse(*_, **__):
        raise AssertionError("a network is made")

    monkeypatch.setattr(timm, "create_model", refuse)
    before = (out / "report.html").stat().st_mtime_ns
    capsys.readouterr()
    run_pipeline(config, out, str(drawn))
    assert capsys.readouterr().out.count("done before, unchanged") == 5
    assert (out / "report.html").stat().st_mtime_ns == before


def test_a_break_after_the_last_step_loses_no_number(small_run, drawn, tmp_path):
    out = shutil.copytree(small_run, tmp_path / "run")
    metrics = {
        name: json.loads((out / name / "metrics.json").read_text()) for name in ("classify", "segment")
    }
    for name in metrics:
        (out / name / "done.json").unlink()
        (out / name / "metrics.json").unlink()
    run_pipeline(small_run.parent / "configs" / "pipeline.yaml", out, str(drawn))
    for name, before in metrics.items():
        assert json.loads((out / name / "metrics.json").read_text()) == before
        assert "train_loss" in before


def test_a_moved_run_is_not_made_again(small_run, drawn, tmp_path, capsys):
    out, root = tmp_path / "moved", tmp_path / "data"
    shutil.copytree(small_run, out)
    shutil.copytree(drawn, root)
    config = small_run.parent / "configs" / "pipeline.yaml"
    before = {path: path.read_bytes() for path in out.rglob("done.json")}
    run_pipeline(config, out, str(root))
    assert capsys.readouterr().out.count("done before, unchanged") == len(before) == 5
    assert before == {path: path.read_bytes() for path in before}
    settings = yaml.safe_load((out / "segment" / "config.yaml").read_text())
    assert settings["data"]["root"] == str(root)
    assert settings["model"]["weights"] == str(out / "segment_first" / "last.ckpt")
    page = (out / "report.html").read_text()
    assert str(root) in page and str(drawn) not in page


def test_a_fully_supervised_baseline_without_ground_truth_is_told_first(photographs, tmp_path):
    root = shutil.copytree(photographs, tmp_path / "photos")
    shutil.rmtree(root / "masks")
    config = small_pipeline(tmp_path / "configs")
    for path in config.parent.glob("*.yaml"):
        path.write_text(path.read_text().replace("layout: synthetic", "layout: folder"))
    with pytest.raises(UserError, match="no ground-truth mask"):
        run_pipeline(config, tmp_path / "run", str(root), upper_bound=True)
    assert not (tmp_path / "run").exists()


def test_segmenter_starts_afresh_where_told_and_further_loggers_log(drawn, tmp_path):
    config = small_pipeline(tmp_path / "configs")
    config.write_text(config.read_text() + "start_from_classifier: false\n")
    for name in ("classify", "segment"):
        path = config.parent / f"{name}.yaml"
        settings = yaml.safe_load(path.read_text())
        settings["trainer"]["limit_train_batches"] = 1
        further = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / name)}}
        settings["trainer"]["logger"] = further
        path.write_text(yaml.safe_dump(settings))
    run_pipeline(config, tmp_path / "run", str(drawn))
    for stage, name in (("classify", "classify"), ("segment", "segment")):
        own = tmp_path / "run" / stage / "log" / "metrics.csv"  # what the report reads
        assert own.is_file() and list((tmp_path / name).rglob("metrics.csv"))
    segment = yaml.safe_load((tmp_path / "run" / "segment_first" / "config.yaml").read_text())
    assert "weights" not in segment["model"]
    config.write_text(config.read_text() + "begin: here\n")
    with pytest.raises(UserError, match="unknown key 'begin'"):
        run_pipeline(config, tmp_path / "run", str(drawn))
