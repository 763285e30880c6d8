"""The masks that one gets are those that the reported mIoU was measured by."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsss.api import Segmenter
from wsss.cli import main
from wsss.data.modules import MaskData
from wsss.errors import UserError
from wsss.exchange.model import card
from wsss.explore import Run
from wsss.predict import predict_folder
from wsss.settings import CRFSettings, InferenceSettings
from wsss.stages.training import measure
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.trainer import Trainer

ALL = InferenceSettings(
    (0.75, 1.25), True, 48, CRFSettings(side=48, iterations=3), max_side=56, precision="bf16-mixed"
)
"""Every setting unlike its default."""


@pytest.fixture
def val(drawn, tmp_path) -> Path:
    """The synthetic data set's val images, not square, with their masks, in VOC's layout."""
    root = tmp_path / "val"
    for inner in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (root / inner).mkdir(parents=True)
    shutil.copy(drawn / "classes.txt", root)
    names = [f"val_{number:05d}" for number in range(3)]
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    for number, path in enumerate(drawn / "JPEGImages" / f"{name}.jpg" for name in names):
        box = (0, 0, 64 - 3 * number, 50)
        Image.open(path).crop(box).save(root / "JPEGImages" / path.name, quality=95)
        mask = Image.open(drawn / "SegmentationClass" / f"{path.stem}.png")
        mask.crop(box).save(root / "SegmentationClass" / f"{path.stem}.png")
    return root


def _checkpoint(small_run: Path, folder: Path, how: InferenceSettings | None) -> Path:
    content = torch.load(small_run / "segment" / "last.ckpt", weights_only=True)
    torch.manual_seed(0)  # one epoch has learned nothing: let it see something everywhere
    for name, weight in content["state_dict"].items():
        if "segmentation_head" in name and weight.ndim > 1:
            weight.normal_()
    if how is not None:
        content["inference"] = how.to_dict()
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.mark.parametrize("how", [None, ALL], ids=["as trained", "all settings"])
def test_predict_makes_the_masks_of_the_test(how, small_run, val, tmp_path):
    """Byte for byte, and by the checkpoint alone."""
    ckpt = _checkpoint(small_run, tmp_path, how)
    task = SegmentationTask.from_checkpoint(ckpt)
    data = MaskData(str(val), max_side=task.inference.max_side, num_workers=0)
    trainer = Trainer(accelerator="cpu", logger=False, precision=task.inference.precision)
    assert 0 <= measure(task, data, tmp_path, trainer)["test_mIoU"] <= 100
    words = ["predict", str(val / "JPEGImages"), "--ckpt", str(ckpt), "--out", str(tmp_path / "new")]
    assert main([*words, "--device", "cpu"]) == 0
    tested = sorted((tmp_path / "test").glob("*.png"))
    assert len(tested) == 3
    for path in tested:
        assert (tmp_path / "new" / "masks" / path.name).read_bytes() == path.read_bytes()
    # what the settings are makes a difference
    plain = Segmenter.load(ckpt)
    plain.inference = InferenceSettings(max_side=plain.inference.max_side)
    image = np.asarray(Image.open(val / "JPEGImages" / f"{tested[0].stem}.jpg"))
    same = np.array_equal(plain.predict(image), np.asarray(Image.open(tested[0])))
    assert same == (how is None)


def test_predict_makes_the_masks_of_the_runs_own_test(small_run, drawn, tmp_path):
    words = ["predict", *map(str, drawn.glob("JPEGImages/val*.jpg")), "--out", str(tmp_path / "new")]
    assert main([*words, "--ckpt", str(small_run / "segment" / "last.ckpt"), "--device", "cpu"]) == 0
    tested = sorted((small_run / "segment" / "test").glob("*.png"))
    assert len(tested) == 8
    for path in tested:
        assert (tmp_path / "new" / "masks" / path.name).read_bytes() == path.read_bytes()


def test_the_command_line_overrides(small_run, drawn, tmp_path, capsys):
    ckpt = _checkpoint(small_run, tmp_path, ALL)
    photo = next(drawn.glob("JPEGImages/val*.jpg"))
    image = np.asarray(Image.open(photo))
    task = Segmenter.load(ckpt)
    assert task.inference == ALL
    words = ["predict", str(photo), "--ckpt", str(ckpt), "--device", "cpu", "--out"]
    more = ["--scales", "1", "--no-flip", "--tile", "0", "--no-crf", "--max-side", "48"]
    assert main([*words, str(tmp_path / "new"), *more]) == 0
    task.inference = InferenceSettings(max_side=48, precision="bf16-mixed")
    made = np.asarray(Image.open(tmp_path / "new" / "masks" / f"{photo.stem}.png"))
    np.testing.assert_array_equal(made, task.predict(image))
    capsys.readouterr()
    assert main([*words, str(tmp_path / "new")]) == 2  # settings are not mixed in one folder
    assert "of other settings" in capsys.readouterr().err
    for wrong, said in ((["--scales", "0"], "positive"), (["--tile", "7"], "32 pixels or more")):
        assert main([*words, str(tmp_path / "other"), *wrong]) == 2
        assert said in capsys.readouterr().err


def test_photographs_too_large_for_the_memory_are_told(networks, drawn, tmp_path, monkeypatch):
    def full(self, image):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Segmenter, "predict", full)
    monkeypatch.setattr(Segmenter, "device", torch.device("cuda:1"))
    photograph = drawn / "JPEGImages" / "val_00000.jpg"
    told = predict_folder([photograph], networks / "segment" / "last.ckpt", tmp_path / "out", "cpu")
    assert len(told) == 1 and "fit into the memory of cuda:1 at a long side of" in told[0]


def test_page_report_and_card_take_the_same_settings(small_run, drawn, tmp_path, monkeypatch):
    run_folder = shutil.copytree(small_run, tmp_path / "run")
    quick = replace(ALL, precision="32-true", tile=None)
    shutil.copy(_checkpoint(small_run, tmp_path, quick), run_folder / "segment" / "last.ckpt")
    used = []
    predict = Segmenter.predict

    def spy(self, image):
        used.append(self.inference)
        return predict(self, image)

    monkeypatch.setattr(Segmenter, "predict", spy)
    run = Run(run_folder)
    run.analyse_file(next(drawn.glob("JPEGImages/val*.jpg")))
    assert main(["report", str(run_folder)]) == 0
    assert len(used) == 7 and set(used) == {quick}  # the page's photograph and the report's six rows
    told = card(run.segmenter, None)
    assert told["input"]["max_side"] == 56
    assert InferenceSettings.from_dict(told["tested_with"]) == quick


def test_checkpoints_of_earlier_versions(small_run, tmp_path):
    content = torch.load(small_run / "segment" / "last.ckpt", weights_only=True)
    assert content.pop("inference")["max_side"] == 96  # one and a half crops
    torch.save(content | {"max_side": 200}, tmp_path / "old.ckpt")
    old = Segmenter.load(tmp_path / "old.ckpt")
    assert old.inference == InferenceSettings(max_side=200)


def test_settings_out_of_range():
    for wrong in ({"scales": ()}, {"scales": (1.0, -1.0)}, {"tile": 8}, {"max_side": 8}):
        with pytest.raises(UserError):
            InferenceSettings(**wrong)
    assert InferenceSettings.from_dict(ALL.to_dict()) == ALL
