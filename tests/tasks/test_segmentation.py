"""Training and measuring the segmenter."""

import shutil

import numpy as np
import pytest
import torch

from wsss.data.masks import write_mask
from wsss.errors import UserError
from wsss.evaluation import Evaluator
from wsss.lightning_cli import run_task
from wsss.models.segmenter import SegmentationNetwork
from wsss.tasks.checkpoints import read_checkpoint
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Default folders of the trainer are relative to where one is."""
    monkeypatch.chdir(tmp_path)


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


def test_freezing_where_there_is_nothing_is_refused():
    with pytest.raises(UserError, match=r"no features at stride 2.*freeze 4"):
        ClassificationTask(["a", "b"], "glnet_nano", freeze=2)
    with pytest.raises(UserError, match=r"no features at stride 2.*raise freeze"):
        SegmentationTask(["a", "b"], "Unet", "glnet_nano", freeze=2)
