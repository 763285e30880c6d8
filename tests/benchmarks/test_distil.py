"""benchmarks/distil.py: its views and errors by hand, and a short training on synthetic scenes."""

import importlib.util
import itertools
import json
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from small_pipeline import PROJECT

from wsss.data.catalog import read_catalog
from wsss.data.images import read_image
from wsss.models.classifier import TagClassifier


@pytest.fixture(scope="module")
def distil():
    path = PROJECT / "benchmarks" / "distil.py"
    spec = importlib.util.spec_from_file_location("distil", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_views_show_the_photographs(distil, drawn):
    photographs = distil.Photographs(str(drawn), "train", "cpu")
    index = torch.tensor([0, 3])
    whole = photographs.whole(index, 32)
    records = read_catalog("voc", drawn, "train").records
    for picture, record in zip(whole, [records[k] for k in index], strict=True):
        image = torch.from_numpy(read_image(record.image)).permute(2, 0, 1)[None].float()
        plain = F.interpolate(image, (32, 32), mode="bilinear", antialias=True)[0]
        assert torch.corrcoef(torch.stack([picture, plain]).flatten(1))[0, 1] > 0.98
        assert (picture.mean() - plain.mean()).abs() < 1
    torch.manual_seed(0)
    views = photographs.views(64, 32)
    assert views.shape == (64, 3, 32, 32) and views.min() >= 0 and views.max() <= 255
    assert views.std((1, 2, 3)).min() > 1  # none lies in the padding
    assert len(views.flatten(1).unique(dim=0)) == 64


def test_errors_are_shares_of_the_teachers_variance(distil):
    torch.manual_seed(0)
    teacher, student = (TagClassifier(n, 1) for n in ("mobilenetv2_100", "glnet_nano"))
    images = torch.rand(4, 3, 64, 64) * 255
    both = distil.Distillation(teacher, student, images)
    with torch.no_grad():
        target = distil.features(teacher, images)
        for head in both.heads:
            torch.nn.init.zeros_(head.weight)
            torch.nn.init.zeros_(head.bias)
        blind = both.errors(images)
    for error, features in zip(blind, target, strict=True):
        flat = features.transpose(0, 1).flatten(1)
        flat = flat[flat.std(1) > 1e-3].double()
        z = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
        assert float(error) == pytest.approx(float(z.clamp(-5, 5).square().mean()), rel=1e-3)
    assert not any(p.requires_grad for p in both.teacher.parameters())


def test_a_short_training_writes_weights_that_load(distil, drawn, tmp_path, capsys, monkeypatch):
    clock = itertools.count(step=0.25)  # the machine may be slow
    monkeypatch.setattr(distil, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    weights, out = tmp_path / "teacher.safetensors", tmp_path / "student.safetensors"
    save_file(timm.create_model("mobilenetv2_100", num_classes=0).state_dict(), weights)
    words = ["--root", str(drawn), "--weights", str(weights), "--out", str(out), "--minutes", "0.05"]
    distil.main([*words, "--batch", "4", "--size", "64"])
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 4 * told["steps"] == 44 and len(told["r2"]) == len(told["r2_unseen"]) == 2
    start = TagClassifier("glnet_nano", 3).backbone.state_dict()
    loaded = TagClassifier("glnet_nano", 3, weights=str(out)).backbone.state_dict()
    ones = [k for k, v in start.items() if v.ndim == 1 and "running" not in k and (v == 1).all()]
    assert any(not torch.equal(loaded[name], start[name]) for name in ones)  # it was trained
