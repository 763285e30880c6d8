"""What a checkpoint must hold."""

import pytest
import torch

from wsss.errors import UserError
from wsss.tasks.checkpoints import checkpoint_kind, read_checkpoint
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask

TASKS = {"classify": ClassificationTask, "segment": SegmentationTask}


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"classes": "ball"}, "classes should be a valid list"),
        ({"classes": []}, "classes .* at least 1 item"),
        ({"classes": ["a", "a"]}, "names a class twice"),
        ({"state_dict": {"a": 3}}, "state_dict.a should be an instance of Tensor, got 3"),
        ({"state_dict": None}, "state_dict should be a valid dictionary"),
        ({"state_dict": {}}, "does not fit the network"),
        ({"hyper_parameters": [1]}, "hyper_parameters should be a valid dictionary"),
        ({"hyper_parameters": {"lr": "fast"}}, "lr should be a valid number, got 'fast'"),
        ({"hyper_parameters": {"lr": -1.0}}, "holds no network that can be made: lr must be 0 or more"),
        ({"white": "x"}, "white should be a valid integer"),
        ({"epoch": -3}, "epoch .* greater than or equal to 0"),
        ({"inference": {"tile": "x"}}, "tile should be a valid integer"),
        ({"inference": {"crf": {"side": 0}}}, "crf.side must be 1 or more"),
        ({"inference": 3}, "inference should be a valid dictionary"),
        ({"kind": 3}, "another program"),
    ],
)
def test_content(kind, changed, words, networks, tmp_path):
    content = torch.load(networks / kind / "last.ckpt", weights_only=True)
    torch.save(content | changed, tmp_path / "new.ckpt")
    with pytest.raises(UserError, match=rf"new\.ckpt .*{words}"):
        TASKS[kind].from_checkpoint(tmp_path / "new.ckpt")


def test_missing_keys(networks, tmp_path):
    content = torch.load(networks / "classify" / "last.ckpt", weights_only=True)
    for key in ("classes", "state_dict", "hyper_parameters"):
        torch.save({k: v for k, v in content.items() if k != key}, tmp_path / "new.ckpt")
        with pytest.raises(UserError, match=f"{key} is missing"):
            read_checkpoint(tmp_path / "new.ckpt", "classify")
    torch.save({"kind": ["classify"]}, tmp_path / "new.ckpt")
    assert checkpoint_kind(tmp_path / "new.ckpt") is None


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg_overlay"])
def test_a_checkpoint_names_no_further_files(name, networks, tmp_path):
    content = torch.load(networks / "classify" / "last.ckpt", weights_only=True)
    content["hyper_parameters"]["backbone_args"] = {name: "evil.pth"}
    torch.save(content, tmp_path / "new.ckpt")
    with pytest.raises(UserError, match=f"backbone_args cannot have {name}"):
        ClassificationTask.from_checkpoint(tmp_path / "new.ckpt")


def test_an_encoder_is_not_looked_for_elsewhere(networks, tmp_path):
    content = torch.load(networks / "segment" / "last.ckpt", weights_only=True)
    content["hyper_parameters"]["encoder"] = "tu-hf-hub:someone/something"
    torch.save(content, tmp_path / "new.ckpt")
    with pytest.raises(UserError, match="is no timm model"):
        SegmentationTask.from_checkpoint(tmp_path / "new.ckpt")
