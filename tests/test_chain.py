"""The chain through the real command line: every shipped config, a whole run, bad input."""

import ast
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from small_pipeline import small_pipeline

import wsss
from wsss.cli import main, one_sentence
from wsss.data.masks import read_arrays, read_mask, write_mask
from wsss.data.modules import TagData
from wsss.data.synthetic import draw_dataset
from wsss.errors import UserError, UserNotice, forget_notices
from wsss.evaluation import Evaluator, confusion_matrix, iou_of
from wsss.lightning_cli import run_task
from wsss.models.segmenter import SegmentationNetwork
from wsss.pipeline import run_pipeline
from wsss.stages.recipe import stamp_catalog
from wsss.stages.training import for_rounds, network_of
from wsss.tasks.checkpoints import read_checkpoint
from wsss.tasks.classification import ClassificationTask, make_mosaics, quadrants
from wsss.tasks.segmentation import SegmentationTask

PROJECT = Path(__file__).parent.parent
CONFIGS = sorted(PROJECT.glob("configs/*/*.yaml"))
QUICK = ["--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu", "--trainer.precision", "32"]
QUICK += ["--data.num_workers", "0", "--data.batch_size", "2"]
SMALL = ["--model.encoder", "glnet_nano", *QUICK]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Default folders of the trainer are relative to where one is."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def photographs(drawn, tmp_path_factory) -> Path:
    """The drawn images as a folder with tags.csv and masks."""
    root = tmp_path_factory.mktemp("data") / "folder"
    shutil.copytree(drawn / "JPEGImages", root)
    shutil.copytree(drawn / "SegmentationClass", root / "masks")
    lines = ["image,tags,split"]
    for path in sorted(root.glob("*.jpg")):
        labels = sorted(set(np.unique(read_mask(root / "masks" / f"{path.stem}.png"))) - {0})
        names = "|".join(("ball", "brick", "kite", "star")[label - 1] for label in labels)
        lines.append(f"{path.name},{names},{path.stem.split('_')[0]}")
    (root / "tags.csv").write_text("\n".join(lines))
    return root


def _random_weights(network: str, folder: Path) -> Path:
    path = folder / f"{network}.safetensors"
    save_file(timm.create_model(network).state_dict(), path)
    return path


def _random_network(kind: str, folder: Path) -> list[str]:
    """A checkpoint of drawn scenes' classes, and the words that name it."""
    make, name = {
        "classify": (ClassificationTask, "backbone"),
        "segment": (SegmentationTask, "encoder"),
    }[kind]
    task = make(["ball", "brick", "kite", "star"], **{name: "glnet_nano"})
    content = {"kind": kind, "classes": task.classes, "state_dict": task.state_dict()}
    content |= {"hyper_parameters": dict(task.hparams), "pytorch-lightning_version": "2.6"}
    path = folder / f"{kind}.ckpt"
    torch.save(content, path)
    return [f"--model.{name}", "glnet_nano", "--ckpt_path", str(path)]


def _trainaug(root: Path) -> None:
    lists = root / "ImageSets" / "Segmentation"
    shutil.copy(lists / "train.txt", lists / "trainaug.txt")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_shipped_configs(config, drawn, tmp_path):
    """Each runs a step through the real CLI; only size and pretrained weights are overridden."""
    lines = config.read_text().splitlines()
    assert lines[0].startswith("# ") and len(lines) <= 14
    settings = yaml.safe_load(config.read_text())
    if config.stem == "pipeline":
        assert all((config.parent / settings[k]).is_file() for k in settings if k != "out")
        return
    root = tmp_path / "voc"
    shutil.copytree(drawn, root)
    _trainaug(root)
    words = ["-c", str(config), "--data.root", str(root), *QUICK]
    start = ["--model.pretrained", "false"]
    if network := settings.get("model", {}).get("backbone", settings.get("model", {}).get("encoder")):
        start += ["--model.weights", str(_random_weights(network, tmp_path))]
    if config.stem == "classify":
        main_ok(["classify", "fit", *words, "--data.size", "64", *start])
    elif config.stem == "segment":
        main_ok(["segment", "fit", *words, "--data.crop", "64", *start])
    elif config.stem == "refine":
        maps = tmp_path / "maps"
        maps.mkdir()
        for photo in Path(root).rglob("*.jpg"):
            scores = np.ones((1, 3, 3), np.float16)
            np.savez(maps / f"{photo.stem}.npz", labels=np.array([2]), scores=scores)
        places = {"out": str(tmp_path / "masks"), "maps": str(maps)}
        settings["masks"] |= places
        changed = tmp_path / "refine.yaml"
        changed.write_text(yaml.safe_dump(settings))
        words = ["-c", str(changed), "--data.root", str(root), *QUICK]
        main_ok(["segment", "predict", *words, *_random_network("segment", tmp_path)])
        made = list((tmp_path / "masks").glob("*.png"))
        assert made and all(set(np.unique(read_mask(path))) <= {0, 2} for path in made)
    else:
        settings["masks"]["out"] = str(tmp_path / "masks")
        changed = tmp_path / "pseudo_masks.yaml"
        changed.write_text(yaml.safe_dump(settings))
        words = ["-c", str(changed), "--data.root", str(root), *QUICK[2:], "--data.size", "64"]
        main_ok(["classify", "predict", *words, *_random_network("classify", tmp_path)])
        made = {path.stem for path in (tmp_path / "masks").glob("*.png")}
        assert len(made) >= 5 and made == {path.stem for path in (tmp_path / "maps").glob("*.npz")}


def main_ok(words):
    assert main(words) == 0


@pytest.mark.parametrize("kind", ["classify", "segment"])
def test_moving_average_by_lightnings_callback(kind, drawn, tmp_path):
    """The checkpoint holds the averaged weights and serves as any other."""
    words = ["fit", "-c", str(PROJECT / "configs" / "demo" / f"{kind}.yaml")]
    words += ["--data.root", str(drawn), "--data.batch_size", "8", "--data.num_workers", "0"]
    words += ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.logger", "false"]
    words += ["--trainer.check_val_every_n_epoch", "1", "--trainer.enable_progress_bar", "false"]
    average = ["--trainer.callbacks", "EMAWeightAveraging", "--trainer.callbacks.decay", "0.9"]
    kept = {}
    for name, more in (("plain", []), ("average", average)):
        folder = tmp_path / name
        trainer = run_task(kind, [*words, "--trainer.default_root_dir", str(folder), *more])
        task = ClassificationTask if kind == "classify" else SegmentationTask
        path = next(folder.rglob("last.ckpt"))
        kept[name] = task.from_checkpoint(path).state_dict()
        assert trainer.global_step == 3
    weight = next(name for name in kept["plain"] if name.endswith("head.weight") or "conv" in name)
    start = torch.linalg.norm(kept["average"][weight] - kept["plain"][weight])
    assert start > 1e-6  # averaged with the start, it lags behind


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
        ("segment", {"model": {"freeze_stride": 3}}, r"freeze_stride: Expected one of \[2, 4, 8, 16\]"),
        ("refine", {"data": {"xyz": 1}}, "'data.xyz': known are .*crop, .*tags"),
        ("pseudo_masks", {"masks": {"backgroud": 0.4}}, r"'masks.backgroud': .* background\?"),
        ("segment", {"model": {"decoder": "Unett"}}, "segment.yaml: no segmentation network .*Unett"),
        ("segment", {"model": {"encoder": "glnet_nano", "tile": 3}}, "tile must be 32"),
        ("segment", {"model": {"weights": "no.pth"}}, "segment.yaml: there is no weight file no.pth"),
        ("segment", {"data": {"train_split": "x"}}, "segment.yaml: no split 'x'"),
        ("segment", {"data": {"train_split": "val"}}, "segment.yaml trains on .* makes masks of split"),
        ("segment", {"trainer": {"accelerator": "tpu"}}, "segment.yaml: .*torch_xla"),
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--model.freeze_stride", "3"],
            "model.freeze_stride: Expected one of [2, 4, 8, 16]",
        ),
        (["--model.decodr", "Unet"], "unrecognized arguments: --model.decodr"),
        (["-c", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_bad_word_is_told_in_one_line(words, said, drawn, capsys):
    assert main(["segment", "fit", "--data.root", str(drawn), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize("data", [{}, {"root": None}])
def test_a_run_without_data_is_told(data, tmp_path):
    config = small_pipeline(tmp_path / "configs")
    path = config.with_name("classify.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"data": data}))
    with pytest.raises(UserError, match=r"where is the data\? .* in .*classify.yaml"):
        run_pipeline(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_refining_needs_the_first_rounds_maps(drawn, tmp_path, capsys):
    config = {
        "data": {"layout": "voc", "root": str(drawn), "num_workers": 0},
        "model": {"encoder": "glnet_nano"},
        "trainer": {"accelerator": "cpu"},
        "masks": {"out": str(tmp_path / "masks"), "maps": str(tmp_path / "nowhere")},
    }
    path = tmp_path / "refine.yaml"
    path.write_text(yaml.safe_dump(config))
    words = _random_network("segment", tmp_path)
    assert main(["segment", "predict", "-c", str(path), *words]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error and "first round" in error and "Traceback" not in error


def test_refined_masks_do_not_depend_on_the_batch(small_run, drawn, tmp_path):
    made, maps = {}, str(small_run / "pseudo_masks" / "maps")
    for size in (1, 5):
        out = tmp_path / str(size)
        data = {"root": str(drawn), "predict_split": "train", "crop": 64, "batch_size": size}
        config = {
            "data": data | {"layout": "voc", "num_workers": 0},
            "trainer": {"accelerator": "cpu", "logger": False},
            "masks": {"out": str(out), "maps": maps},
        }
        (tmp_path / "predict.yaml").write_text(yaml.safe_dump(config))
        checkpoint = str(small_run / "segment" / "last.ckpt")
        main_ok(["segment", "predict", "-c", str(tmp_path / "predict.yaml"), "--ckpt_path", checkpoint])
        made[size] = {path.name: read_mask(path) for path in sorted(out.glob("*.png"))}
    assert len(made[1]) == 24 and made[1].keys() == made[5].keys()
    for name, mask in made[1].items():
        assert (mask == made[5][name]).mean() > 0.99  # sums in another order


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("limits", "twice"),
    [
        ({"max_steps": 3}, {"max_steps": 6}),
        ({"max_epochs": 2, "max_steps": 3}, {"max_epochs": 4, "max_steps": 6}),
        ({"max_epochs": None}, {"max_epochs": 2000}),
        ({"max_epochs": -1, "max_steps": 3}, {"max_epochs": -1, "max_steps": 6}),
    ],
)
def test_two_rounds_as_one_have_as_many_steps(limits, twice):
    assert for_rounds(limits, 1) == limits and for_rounds(limits, 2) == twice


def test_a_classifier_is_not_trained_again_for_masks(photographs):
    catalog = TagData(str(photographs), "folder").catalog("train")
    assert all(record.mask for record in catalog.records)
    bare = replace(catalog, records=tuple(replace(r, mask=None) for r in catalog.records))
    assert stamp_catalog(catalog, truth=False) == stamp_catalog(bare, truth=False)
    assert stamp_catalog(catalog) != stamp_catalog(bare)


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


def test_upper_bound_without_true_masks_is_told_first(photographs, tmp_path):
    root = shutil.copytree(photographs, tmp_path / "photos")
    shutil.rmtree(root / "masks")
    config = small_pipeline(tmp_path / "configs")
    for path in config.parent.glob("*.yaml"):
        path.write_text(path.read_text().replace("layout: synthetic", "layout: folder"))
    with pytest.raises(UserError, match="no true mask"):
        run_pipeline(config, tmp_path / "run", str(root), upper_bound=True)
    assert not (tmp_path / "run").exists()


def test_segmenter_starts_from_the_classifier(small_run):
    checkpoint = small_run / "classify" / "last.ckpt"
    learned = read_checkpoint(checkpoint, "classify")["state_dict"]
    encoder = SegmentationNetwork("Unet", "tu-glnet_nano", 5, weights=str(checkpoint)).net.encoder
    state = encoder.state_dict()
    same = [
        k
        for k in state
        if torch.equal(state[k], learned["model.backbone." + k.removeprefix("model.model.")])
    ]
    assert len(same) == len(state) == 175
    with pytest.raises(UserError, match="does not hold the weights of glnet_4g"):
        SegmentationNetwork("Unet", "tu-glnet_4g", 5, weights=str(checkpoint))


def test_segmenter_starts_afresh_where_told(drawn, tmp_path):
    config = small_pipeline(tmp_path / "configs")
    config.write_text(config.read_text() + "start_from_classifier: false\n")
    for name in ("classify", "segment"):
        path = config.parent / f"{name}.yaml"
        settings = yaml.safe_load(path.read_text())
        settings["trainer"]["limit_train_batches"] = 1
        path.write_text(yaml.safe_dump(settings))
    run_pipeline(config, tmp_path / "run", str(drawn))
    segment = yaml.safe_load((tmp_path / "run" / "segment_first" / "config.yaml").read_text())
    assert "weights" not in segment["model"]
    config.write_text(config.read_text() + "begin: here\n")
    with pytest.raises(UserError, match="unknown key 'begin'"):
        run_pipeline(config, tmp_path / "run", str(drawn))


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_norms_keep_their_statistics(frozen, drawn, tmp_path):
    words = ["--model.weights", str(_random_weights("mobilenetv2_050", tmp_path))]
    words += ["--data.root", str(drawn), "--data.crop", "64", "--model.encoder", "mobilenetv2_050"]
    words += ["--model.freeze_norm", str(frozen).lower(), *QUICK]
    trainer = run_task("segment", ["fit", *words])
    means = {
        name: value.abs().max().item()
        for name, value in trainer.model.model.net.named_buffers()
        if name.endswith("running_mean")
    }
    inside = [value for name, value in means.items() if name.startswith("encoder.")]
    decoder = [value for name, value in means.items() if not name.startswith("encoder.")]
    assert len(inside) > 20 and all((value == 0) == frozen for value in inside)
    assert all(value > 0 for value in decoder)


@pytest.mark.parametrize("kind", ["classify", "segment"])
@pytest.mark.parametrize(("network", "stride"), [("mobilenetv2_050", 8), ("glnet_nano", 4)])
def test_frozen_layers_stay_as_they_are(kind, network, stride, drawn, tmp_path):
    name = {"classify": "backbone", "segment": "encoder"}[kind]
    words = ["--data.root", str(drawn), f"--model.{name}", network, *QUICK]
    words += ["--data.size" if kind == "classify" else "--data.crop", "64"]
    words += ["--model.freeze_stride", str(stride), "--model.lr", "0.01"]
    words += ["--model.weights", str(_random_weights(network, tmp_path))]
    trainer = run_task(kind, ["fit", *words])
    task = trainer.model
    inside = task.model.backbone if kind == "classify" else task.model.net.encoder
    still = [n for n, p in inside.named_parameters() if not p.requires_grad]
    learning = {id(p) for group in task.optimizers().param_groups for p in group["params"]}
    moving = [n for n, p in inside.named_parameters() if id(p) in learning]
    last = {"mobilenetv2_050": ("blocks.2", "blocks.3"), "glnet_nano": ("stages.0", "stages.1")}[
        network
    ]
    assert still and any(last[0] in n for n in still) and not any(last[1] in n for n in still)
    assert any(last[1] in n for n in moving) and not any(last[0] in n for n in moving)
    for layer in inside.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            assert layer.training == layer.weight.requires_grad  # else it would adapt to the images
    trainer.save_checkpoint(tmp_path / "frozen.ckpt")
    with torch.inference_mode():
        type(task).from_checkpoint(tmp_path / "frozen.ckpt")


@pytest.mark.parametrize(
    ("kind", "task"),
    [("classify", ClassificationTask), ("segment", SegmentationTask)],
)
def test_checkpoint_of_a_network_that_has_changed(kind, task, small_run, tmp_path):
    checkpoint = read_checkpoint(small_run / kind / "last.ckpt", kind)
    checkpoint["state_dict"].popitem()
    torch.save(checkpoint, tmp_path / "old.ckpt")
    with pytest.raises(UserError, match=r"old.ckpt does not fit .* Missing key"):
        task.from_checkpoint(tmp_path / "old.ckpt")


@pytest.mark.parametrize("kind", ["classify", "segment"])
@pytest.mark.parametrize("setting", ["freeze_norm=true", "freeze_stride=8"])
def test_random_layers_are_not_frozen(kind, setting, drawn, capsys):
    network = {"classify": "backbone", "segment": "encoder"}[kind]
    words = [kind, "fit", "--data.root", str(drawn), f"--model.{network}", "mobilenetv2_050", *QUICK]
    assert main([*words, f"--model.{setting}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {setting.partition('=')[0]} would keep random numbers")


def test_predictions_are_not_kept_in_memory(small_run, drawn, tmp_path):
    path = tmp_path / "predict.yaml"
    config = {"masks": {"out": str(tmp_path / "m")}, "trainer": {"accelerator": "cpu"}}
    path.write_text(yaml.safe_dump(config))
    words = ["predict", "-c", str(path), "--data.root", str(drawn), "--data.num_workers", "0"]
    checkpoint = str(small_run / "segment" / "last.ckpt")
    trainer = run_task("segment", [*words, "--ckpt_path", checkpoint])
    assert list((tmp_path / "m").glob("*.png")) and not trainer.predict_loop.predictions
    # photographs are shown as large as in the training, not at the default's size
    assert trainer.datamodule.max_side == 96
    told = ["--data.max_side", "64", "--masks.out", str(tmp_path / "m64")]
    trainer = run_task("segment", [*words, "--ckpt_path", checkpoint, *told])
    assert trainer.datamodule.max_side == 64


def test_predicting_needs_a_folder_of_its_own(small_run, drawn, tmp_path, capsys):
    words = ["segment", "predict", "--data.root", str(drawn), *QUICK[2:]]
    words += ["--ckpt_path", str(small_run / "segment" / "last.ckpt")]
    assert main(words) == 2
    assert "give their folder as masks.out" in capsys.readouterr().err
    write_mask(tmp_path / "m" / "x.png", np.zeros((4, 4)))
    assert main([*words, "--masks.out", str(tmp_path / "m")]) == 2
    assert "m holds masks of another origin" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["x.png"]


def test_refined_masks_know_their_maps_by_content(small_run, drawn, tmp_path, capsys):
    checkpoint = str(small_run / "segment_first" / "last.ckpt")
    config = yaml.safe_load((small_run / "refined_masks" / "config.yaml").read_text())

    def refine(maps):
        given = {"out": str(tmp_path / "refined"), "maps": str(maps)}
        config["masks"] |= given
        (tmp_path / "refine.yaml").write_text(yaml.safe_dump(config))
        return main(
            ["segment", "predict", "-c", str(tmp_path / "refine.yaml"), "--ckpt_path", checkpoint]
        )

    shutil.copytree(small_run / "pseudo_masks" / "maps", tmp_path / "moved")
    assert refine(small_run / "pseudo_masks" / "maps") == 0
    next((tmp_path / "refined").glob("*.png")).unlink()
    assert refine(tmp_path / "moved") == 0
    note = tmp_path / "moved" / "settings.json"
    note.write_text(note.read_text().replace("0.", "0.0"))
    assert refine(tmp_path / "moved") == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("classify", ["--model.lr", "0.5"], "was trained with lr"),
        ("classify", ["--model.mosaic", "0.25"], "was trained with mosaic"),
        ("segment", ["--model.decoder", "Unet"], "was trained with decoder"),
        ("segment", ["--trainer.max_epochs", "3"], "ends after 3 steps"),
    ],
)
def test_a_training_goes_on_as_it_began(kind, change, said, small_run, capsys):
    stage = {"classify": "classify", "segment": "segment_first"}[kind]
    words = [kind, "fit", "-c", str(small_run / stage / "config.yaml"), "--trainer.logger", "false"]
    words += ["--ckpt_path", str(small_run / stage / "last.ckpt"), "--trainer.limit_val_batches", "0"]
    main_ok(words)
    assert main([*words, *change]) == 2
    assert said in capsys.readouterr().err


def test_a_training_that_keeps_other_settings_than_the_defaults_says_so(small_run):
    stage = small_run / "classify"  # its lr is not the default
    words = ["fit", "-c", str(stage / "config.yaml"), "--trainer.logger", "false"]
    words += ["--ckpt_path", str(stage / "last.ckpt"), "--trainer.limit_val_batches", "0"]
    forget_notices()
    with pytest.warns(UserNotice, match=r"last\.ckpt goes on as it began, with lr 0\.001$"):
        run_task("classify", [*words, "--model.lr", "0.0001"])


def test_validation_may_begin_with_masks_that_are_void(drawn, tmp_path, monkeypatch):
    counted, compute = [], Evaluator.compute
    monkeypatch.setattr(Evaluator, "so_far", lambda self: {})
    monkeypatch.setattr(Evaluator, "compute", lambda self: counted.append(self.images) or compute(self))
    root = tmp_path / "voc"
    shutil.copytree(drawn, root)
    for name in (root / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:2]:
        write_mask(root / "SegmentationClass" / f"{name}.png", np.full((64, 64), 255))
    words = ["fit", "--data.root", str(root), "--data.crop", "64", "--data.batch_size", "8"]
    words += ["--data.num_workers", "0", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]
    trainer = run_task("segment", [*words, "--model.encoder", "glnet_nano"])
    assert 0 <= trainer.callback_metrics["val_mIoU"] <= 100
    assert counted == [8]  # what was looked at before the training does not count again


def test_a_backbone_of_other_arguments_is_anothernetwork_of():
    plain = {"model": {"encoder": "tu-glnet_nano"}}
    assert network_of({"model": {"backbone": "glnet_nano"}}) == network_of(plain)
    changed = {"model": {"backbone": "glnet_nano", "backbone_args": {"mlp_ratio": 2.0}}}
    assert network_of(changed) != network_of(plain)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trainer.max_epochs", "-1"], "give trainer.max_epochs or max_steps"),
        (
            ["--trainer.devices", "2", "--trainer.accelerator", "cpu"],
            "trainer.devices 2 is not supported",
        ),
        (["--model.lr", "-1"], "lr must be 0 or more, got -1"),
        (["--model.head_factor", "-1"], "head_factor must be 0 or more"),
        (["--model.weight_decay", "-1"], "weight_decay must be 0 or more"),
        (["--model.warmup", "5"], "warmup must be 0 to 1, got 5"),
        (["--model.crf.side", "-5"], "crf.side must be 1 or more, got -5"),
        (["--model.crf.bilateral_srgb", "0"], "crf.bilateral_srgb must be 0.001 or more"),
        (["--model.crf.gaussian_compat", "-1"], "crf.gaussian_compat must be 0 or more"),
        (["--trainer.precision", "bf16-true"], "bf16-true is not supported"),
        (["--trainer.accelerator", "tpu"], "torch_xla"),
        (["--data.batch_size", "0"], "data.batch_size must be 1 or more"),
        (["--data.crop", "0"], "data.crop must be 32 or more"),
        (["--data.num_workers", "-1"], "data.num_workers must be 0 or more"),
    ],
)
def test_values_that_cannot_be_used_are_told(words, said, drawn, capsys):
    start = ["segment", "fit", "--data.root", str(drawn), "--data.crop", "64", *QUICK[2:]]
    assert main([*start, "--model.encoder", "glnet_nano", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and said in error


def test_the_deepest_stage_learns_where_it_is_dilated():
    """At output stride 16 the last two stages have the same stride."""
    task = ClassificationTask(["a", "b"], "mobilenetv2_050", freeze_stride=16)
    still = {name for name, p in task.model.backbone.named_parameters() if not p.requires_grad}
    assert "blocks.4.0.conv_pw.weight" in still and "blocks.5.0.conv_pw.weight" not in still


def test_backbones_that_timm_refuses_are_told(capsys):
    with pytest.raises(UserError, match="ghostnet_100 cannot be built with output stride 16"):
        ClassificationTask(["a"], "ghostnet_100")


def test_freezing_where_there_is_nothing_is_refused():
    with pytest.raises(UserError, match=r"no features at stride 2.*freeze_stride 4"):
        ClassificationTask(["a", "b"], "glnet_nano", freeze_stride=2)
    with pytest.raises(UserError, match=r"no features at stride 2.*raise freeze_stride"):
        SegmentationTask(["a", "b"], "Unet", "glnet_nano", freeze_stride=2)


def test_segmenter_goes_on_from_a_segmenter(small_run):
    path = str(small_run / "segment" / "last.ckpt")
    old = read_checkpoint(path, "segment")
    how = {"decoder": "DeepLabV3Plus", "encoder": "tu-glnet_nano", "weights": path}
    for key, value in SegmentationTask(old["classes"], **how).state_dict().items():
        torch.testing.assert_close(value, old["state_dict"][key], rtol=0, atol=0)
    with pytest.raises(UserError, match="holds another network"):
        SegmentationTask(old["classes"], **how | {"decoder": "FPN"})
    with pytest.raises(UserError, match="knows the classes"):
        SegmentationTask(["dog"], **how)


def test_one_class_alone(tmp_path):
    root = tmp_path / "photos"
    draw_dataset(tmp_path / "drawn", train=12, val=4, size=64)
    images = sorted((tmp_path / "drawn" / "JPEGImages").glob("*.jpg"))
    root.mkdir()
    lines = ["image,tags,split"]
    for number, path in enumerate(images):
        (root / path.name).write_bytes(path.read_bytes())
        lines.append(f"{path.name},{'thing' if number % 2 else ''},{'val' if number > 11 else 'train'}")
    (root / "tags.csv").write_text("\n".join(lines) + "\n")
    words = ["--data.layout", "folder", "--data.root", str(root), "--data.size", "64"]
    trainer = run_task("classify", ["fit", *words, "--model.backbone", "glnet_nano", *QUICK])
    assert 0 <= trainer.callback_metrics["val_mAP"] <= 100
    assert "val_AP/thing" in trainer.callback_metrics


def test_scripts(tmp_path):
    write_mask(tmp_path / "a" / "x.png", np.array([[0, 1], [1, 255]]))
    words = [str(tmp_path / "a"), str(tmp_path / "a")]
    done = subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / "evaluate.py"), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "mIoU 100.00" in done.stdout
    for name in ("train_cls", "make_pseudo_masks", "train_seg", "evaluate"):
        text = (PROJECT / "scripts" / f"{name}.py").read_text()
        assert len(ast.parse(text).body) == 4  # docstring, two imports, one call


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["paint"], "'paint' is no command"),
        (["evaluate", "nowhere", "nowhere"], "no folder nowhere"),
        (["run", "-c", "nowhere.yaml"], "no config file nowhere.yaml"),
        (["classify", "fit", "--data.root", "nowhere"], "nowhere does not exist"),
        (["classify", "fit", "--data.root", "ROOT", "--model.mosaic", "2"], "got 2"),
        (["classify", "fit", "--data.root", "ROOT", "--model.weights", "no.pth"], "no.pth"),
        (["segment", "fit", "--data.root", "ROOT", "--model.weights", "no.pth"], "no.pth"),
        (["segment", "fit", "--data.root", "ROOT", "--model.encoder", "nix"], "'nix'"),
        (["classify", "fit", "--data.root", "ROOT", "--data.train_split", "x", *QUICK], "split 'x'"),
        (["classify", "validate", "--data.root", "ROOT", "--ckpt_path", "no.ckpt"], "no.ckpt: give"),
        (["classify", "validate", "--data.root", "ROOT"], "uses a trained network: give --ckpt_path"),
        (["classify", "predict", "--data.root", "ROOT"], "uses a trained network: give --ckpt_path"),
        (["segment", "test", "--data.root", "ROOT"], "uses a trained network: give --ckpt_path"),
        (["segment", "predict", "--data.root", "ROOT", "--ckpt_path", "last"], "no checkpoint last"),
        (["classify", "fit", "--data.root", "ROOT", "--data.min_scale", "2"], "above 0 to 1, got 2"),
        (["segment", "test", "--data.root", "ROOT", "--ckpt_path", __file__], "plain tensors"),
        (["classify", "fit", "--data.root", "ROOT", "--model.weights", __file__], "plain tensors"),
        (["segment", "fit", "--data.root", "ROOT", "--model.scales", "[1, 0]"], "got [1.0, 0.0]"),
        (["segment", "fit", "--data.root", "ROOT", "--model.tile", "8"], "32 pixels or more"),
        (
            [
                *("classify", "fit", "--data.root", "ROOT"),
                *("--trainer.callbacks", "wsss.tasks.writers.PseudoMaskWriter"),
                *("--trainer.callbacks.out", "m", "--trainer.callbacks.crf", "{side: -5}"),
            ],
            "error: crf.side must be 1 or more, got -5",
        ),
        (["segment", "fit", "--data.root", "ROOT", *SMALL, "--data.batch_size", "1"], "two images"),
        (
            [
                "segment",
                "fit",
                "--data.root",
                "ROOT",
                "--model.encoder",
                "tu-swin_tiny_patch4_window7_224",
            ],
            "no segmentation network from decoder 'DeepLabV3Plus'",
        ),
    ],
)
def test_bad_input_is_one_sentence(words, message, drawn, capsys):
    small = ["--model.backbone", "glnet_nano"] if words[:2] == ["classify", "fit"] else []
    assert main([str(drawn) if word == "ROOT" else word for word in words] + small) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(drawn, tmp_path, monkeypatch, capsys):
    words = ["classify", "fit", "--data.root", str(drawn), "--data.size", "64", *QUICK[2:]]
    words += ["--model.backbone", "glnet_nano", "--trainer.limit_train_batches", "1"]
    words += ["--trainer.limit_val_batches", "0", "--trainer.default_root_dir", str(tmp_path)]
    words += ["--trainer.logger", "false"]
    words += ["--trainer.max_epochs", "2"]
    start = ClassificationTask.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        start(self)

    with monkeypatch.context() as broken:
        broken.setattr(ClassificationTask, "on_train_epoch_start", stop)
        broken.setattr(signal, "signal", lambda *_: None)  # Lightning stops listening to Ctrl-C
        assert main(words) == 130
    kept = next(tmp_path.rglob("last.ckpt"))
    before = kept.read_bytes()
    write = Path.write_bytes

    def full(path, content):
        write(path, content[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    # without a logger it goes to the same place
    assert main([*words, "--ckpt_path", str(kept)]) == 2
    assert "last.ckpt: No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert [p.read_bytes() for p in tmp_path.rglob("*.ckpt")] == [before]
    assert not list(tmp_path.rglob("*.part"))


def test_error_from_a_loader_process_is_one_sentence():
    wrapped = "Caught UserError\nTraceback ...\nwsss.errors.UserError: image x.jpg cannot be read"
    assert one_sentence(UserError(wrapped)) == "image x.jpg cannot be read"


def test_masks_of_other_settings_are_not_mixed(drawn, tmp_path, capsys):
    def config(background):
        masks = {"out": str(tmp_path / "m"), "background": background, "crf": None, "steps": 40}
        path = tmp_path / f"{background}.yaml"
        path.write_text(yaml.safe_dump({"masks": masks}))
        return path

    words = ["--data.root", str(drawn), "--data.size", "64", *QUICK[2:]]
    networks = []
    for name in ("a", "b"):  # each at random, so another one
        (tmp_path / name).mkdir()
        networks.append(_random_network("classify", tmp_path / name))
    for network, said in ((0, 0), (1, 2), (0, 0)):
        of_it = [*words, *networks[network]]
        assert main(["classify", "predict", "-c", str(config(0.2)), *of_it]) == said
        assert ("another network" in capsys.readouterr().err) == (said == 2)
    words += networks[0]
    shutil.rmtree(tmp_path / "m")
    # the first masks' maps are there still, and the refinement would take them for the new ones'
    before = {path: path.read_bytes() for path in (tmp_path / "maps").iterdir()}
    assert len(before) > 1 and main(["classify", "predict", "-c", str(config(0.3)), *words]) == 2
    assert "maps of masks made with other settings" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "maps").iterdir()} == before
    shutil.rmtree(tmp_path / "maps")
    assert main(["classify", "predict", "-c", str(config(0.3)), *words]) == 2  # nor the first seeds
    assert "seeds holds the maps of masks made with other settings" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "seeds")
    assert main(["classify", "predict", "-c", str(config(0.3)), *words]) == 0
    assert main(["classify", "predict", "-c", str(config(0.5)), *words]) == 2
    assert "other settings" in capsys.readouterr().err
    larger = [*words, "--data.predict_size", "96"]
    assert main(["classify", "predict", "-c", str(config(0.3)), *larger]) == 2
    assert "other settings" in capsys.readouterr().err
    words = ["segment", "predict", "--masks.out", str(tmp_path / "s")]
    words += ["--data.root", str(drawn), *QUICK[2:]]
    words += [*_random_network("segment", tmp_path), "--data.crop", "64"]
    assert main(words) == main(words) == 0  # the same again goes on
    for change in (["--model.flip", "true"], ["--data.max_side", "80"]):
        assert main([*words, *change]) == 2
        assert "other settings" in capsys.readouterr().err


def test_masks_are_made_when_all_seeds_are_there(drawn, tmp_path, capsys):
    masks = {"out": str(tmp_path / "run" / "masks"), "scales": [1.0], "workers": 1, "steps": 40}
    path = tmp_path / "pseudo_masks.yaml"
    path.write_text(yaml.safe_dump({"masks": masks, "trainer": {"accelerator": "cpu"}}))
    words = ["classify", "predict", "-c", str(path), "--data.root", str(drawn), "--data.size", "64"]
    words += [*QUICK[2:], *_random_network("classify", tmp_path)]
    assert main([*words, "--trainer.limit_predict_batches", "2"]) == 2
    assert "4 of 24 images have a seed" in capsys.readouterr().err
    seeds, masks = tmp_path / "run" / "seeds", tmp_path / "run" / "masks"
    early = {file: file.stat().st_mtime_ns for file in seeds.glob("*.npz")}
    assert len(early) == 4 and not [*masks.glob("*.png")]
    assert main(words) == 0  # goes on with the other images
    assert {file: file.stat().st_mtime_ns for file in early} == early
    made = {file: read_mask(file) for file in masks.glob("*.png")}
    assert len(made) == 24 and any(mask.any() for mask in made.values())
    for file in [*made][:3]:
        file.unlink()
    stamps = {file: file.stat().st_mtime_ns for file in seeds.glob("*.npz")}
    assert main(words) == 0
    again = {file: file.stat().st_mtime_ns for file in seeds.glob("*.npz")}
    assert again == stamps  # no network was asked again
    assert all((read_mask(file) == mask).all() for file, mask in made.items())
    stamps = {file: file.stat().st_mtime_ns for file in masks.glob("*.png")}
    assert main(words) == 0  # nothing is left to do
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps


def test_slots_that_learn_make_other_masks(drawn, tmp_path):
    network = _random_network("classify", tmp_path)
    made = []
    for learn in (True, False):
        masks = {"out": str(tmp_path / f"{learn}" / "masks"), "learn_slots": learn, "crf": None}
        path = tmp_path / f"{learn}.yaml"
        config = {"masks": masks | {"steps": 40}, "trainer": {"accelerator": "cpu"}}
        path.write_text(yaml.safe_dump(config))
        words = ["classify", "predict", "-c", str(path), "--data.root", str(drawn)]
        assert main([*words, "--data.size", "64", *QUICK[2:], *network]) == 0
        made.append([read_mask(file) for file in sorted((tmp_path / f"{learn}").rglob("*.png"))])
        learned = tmp_path / f"{learn}" / "slot_classes.npz"
        assert learned.is_file() == learn
        seeds = [*(tmp_path / f"{learn}" / "seeds").glob("*.npz")]
        assert bool(seeds) == learn  # else masks are made at once
        assert all("dispatch" in read_arrays(seed) for seed in seeds)
    assert any((a != b).any() for a, b in zip(*made, strict=True))


def test_mosaics_and_quadrants_agree():
    images = torch.rand(4, 3, 8, 12)
    tags = torch.eye(4)
    mosaics, quadrant_tags = make_mosaics(images, tags)
    parts = quadrants(mosaics)
    small = torch.nn.functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    for mosaic in range(4):
        assert sorted(quadrant_tags[mosaic].argmax(1).tolist()) == [0, 1, 2, 3]
        for part in range(4):
            source = quadrant_tags[mosaic, part].argmax()
            torch.testing.assert_close(parts[mosaic, part], small[source])


def test_environment_names_this_package_and_its_pythons():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    pyproject = (PROJECT / "pyproject.toml").read_text()
    python = next(d for d in environment["dependencies"] if str(d).startswith("python "))
    assert f'requires-python = "{python.removeprefix("python ")}"' in pyproject
    assert environment["name"] == "wsss" and {"pip": ["-e ."]} in environment["dependencies"]
    assert wsss.__version__
