"""`wsss export model`: the files alone, with their card, give the masks of `wsss predict`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from wsss import cli
from wsss.data.masks import read_mask
from wsss.exchange import model
from wsss.tasks.segmentation import SegmentationTask

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    torch.manual_seed(0)
    task = SegmentationTask(["cat", "dög"], decoder="FPN", encoder="mobilenetv2_100")
    path = tmp_path_factory.mktemp("ckpt") / "last.ckpt"
    torch.save(
        {
            "kind": "segment",
            "classes": task.classes,
            "max_side": 160,
            "hyper_parameters": dict(task.hparams),
            "state_dict": task.state_dict(),
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def exported(ckpt, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "model"
    assert cli.main(["export", "model", "--ckpt", str(ckpt), "--out", str(out)]) == 0
    return out


def test_card_alone_reproduces_predict(ckpt, exported, tmp_path):
    assert sorted(p.name for p in exported.iterdir()) == [
        "model.onnx",
        "model.pt2",
        "preprocessing.json",
    ]
    card = json.loads((exported / "preprocessing.json").read_text(encoding="utf-8"))
    assert card["classes"] == ["background", "cat", "dög"] and card["void"] == 255
    assert card["palette"] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    height, width = 75, 130
    noise = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((width, height), Image.BICUBIC).save(tmp_path / "photo.png")
    words = ["predict", str(tmp_path / "photo.png"), "--ckpt", str(ckpt), "--out", str(tmp_path / "p")]
    assert cli.main([*words, "--device", "cpu"]) == 0

    pixels = np.asarray(Image.open(tmp_path / "photo.png").convert(card["input"]["channels"]))
    assert max(pixels.shape) <= card["input"]["max_side"]
    step = card["input"]["multiple_of"]
    padded = np.empty((1, 3, -(-height // step) * step, -(-width // step) * step), np.float32)
    padded[:] = np.array(card["mean"], np.float32)[:, None, None]
    padded[0, :, :height, :width] = pixels.transpose(2, 0, 1)
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    logits = session.run([card["output"]["name"]], {card["input"]["name"]: padded})[0]
    mask = logits[0, :, :height, :width].argmax(0)
    wanted = read_mask(tmp_path / "p/masks/photo.png", 3)
    assert len(np.unique(wanted)) > 1
    assert (mask == wanted).mean() > 0.999


def test_fixed_size(ckpt, tmp_path, capsys):
    words = ["export", "model", "--ckpt", str(ckpt), "--out", str(tmp_path / "m")]
    assert cli.main([*words, "--size", "64", "96"]) == 0
    assert "model.onnx: largest difference" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "m/model.onnx")
    assert session.get_inputs()[0].shape == [1, 3, 64, 96]


def test_mistakes(ckpt, exported, tmp_path, capsys, monkeypatch):
    def fails(*more: str, out=tmp_path / "m", file=ckpt) -> str:
        assert cli.main(["export", "model", "--ckpt", str(file), "--out", str(out), *more]) == 2
        assert sorted(tmp_path.iterdir()) == []
        return capsys.readouterr().err

    assert "multiples of 32" in fails("--size", "60", "64")
    assert "is there already" in fails(out=exported)
    assert "no checkpoint" in fails(file=tmp_path / "none.ckpt")
    assert "not a checkpoint" in fails(file=exported / "preprocessing.json")
    monkeypatch.setattr(model, "TOLERANCE", -1.0)
    assert "other numbers than torch" in fails("--size", "64", "64")
    monkeypatch.setattr(model.importlib.util, "find_spec", lambda name: None)
    assert "onnxruntime is not installed" in fails()
