"""benchmarks/distil.py: its crops and errors by hand, growing, and a short training broken off."""

import csv
import importlib.util
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from small_pipeline import PROJECT

from wsss.models.classifier import TagClassifier


@pytest.fixture
def distil(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = PROJECT / "benchmarks" / "distil.py"
    spec = importlib.util.spec_from_file_location("distil", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in (("SHORT_SIDES", (64, 80)), ("CROP", 64), ("COMPONENTS", 8)):
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture
def kept(distil, tmp_path):
    """Two files of kept features, whose every value tells its place."""
    files = []
    for index, (rows, columns) in enumerate([(4, 6), (5, 5)]):
        place = np.arange(rows * columns).reshape(1, rows, columns)
        image = np.repeat(np.repeat(place, 16, 1), 16, 2).repeat(3, 0).astype(np.uint8)
        arrays = {"image": image, "middle": place.astype(np.float16), "final": place + 100.0 * index}
        files.append(tmp_path / f"{index}.npz")
        np.savez(files[-1], **arrays)
    return files


def test_crops_show_what_the_teacher_saw_there(distil, kept, monkeypatch):
    monkeypatch.setattr(distil, "recolour", lambda image, random: image)
    flipped = set()
    for image, middle, final in distil.crops(kept, 2, range(12)):
        assert image.shape == (2, 3, 64, 64) and middle.shape == final.shape == (2, 1, 4, 4)
        assert torch.equal(image[:, :1, ::16, ::16], middle)
        assert sorted((final - middle).amax((1, 2, 3)).tolist()) == [0, 100]  # all photographs
        flipped |= {bool(value) for value in middle[:, 0, 0, 0] > middle[:, 0, 0, 1]}
    assert flipped == {False, True}
    whole, rest = (list(distil.crops(kept, 1, steps)) for steps in (range(8), range(5, 8)))
    for a, b in zip(whole[5:], rest, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_recolour_stays_in_range(distil):
    image = np.random.default_rng(0).uniform(0, 255, (3, 8, 8)).astype(np.float32)
    found = [distil.recolour(image, np.random.default_rng(seed)) for seed in range(5)]
    assert all(f.shape == image.shape and f.min() >= 0 and f.max() <= 255 for f in found)
    assert len({round(float(f.mean()), 3) for f in found}) == 5


def test_kept_features_have_the_teachers_variance(distil):
    torch.manual_seed(0)
    features = torch.randn(12, 400).double() * torch.linspace(3, 0.1, 12).double()[:, None] + 2
    covariance = torch.cov(features, correction=0)
    values, vectors = torch.linalg.eigh(covariance)
    mean, scale = features.mean(1), features.std(1, correction=0)
    rotation = vectors.flip(1)[:, :8].T / values.sum().sqrt()
    parts = [mean[:, None, None], scale[:, None, None], mean[:, None, None], rotation]
    basis = distil.Basis(*(part.float() for part in parts))
    grid = features.float().unflatten(1, (20, 20))
    middle, final = basis.keep(grid, grid)
    assert float(middle.square().sum(0).mean()) == pytest.approx(1, abs=0.01)
    share = float(values[-8:].sum() / values.sum())
    assert float(final.square().sum(0).mean()) == pytest.approx(share, rel=1e-4)


def test_errors_are_shares_of_the_variance(distil):
    torch.manual_seed(0)
    both = distil.Distillation(TagClassifier("glnet_nano", 1), (5, 3)).eval()
    targets = [torch.randn(2, c, 4, 4) / c**0.5 for c in (5, 3)]
    for head in both.heads:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    with torch.no_grad():
        images = torch.rand(2, 3, 64, 64) * 255
        errors = both.errors(images, targets)
        (_, _), maps = both.features(images)
    for name, target in zip(("middle", "final"), targets, strict=True):
        assert float(errors[name]) == pytest.approx(float(target.square().sum(1).mean()))
    assert set(maps) == {"2.0", "2.2"} and set(errors) == {"middle", "final", *maps}
    share = maps["2.2"].double()  # by hand: each pixel is told the means of its slots
    told = torch.zeros(2, 8, 4, 4).double()
    stacked = torch.cat(targets, 1).double()
    for image in range(2):
        for slot in range(64):
            weight = share[image, slot]
            mean = (stacked[image] * weight).sum((1, 2)) / weight.sum()
            told[image] += mean[:, None, None] * weight
    by_hand = float((told - stacked).square().sum(1).mean() / 2)
    assert float(errors["2.2"]) == pytest.approx(by_hand, rel=1e-4)


def test_heads_begin_with_what_explains_most(distil):
    torch.manual_seed(0)
    both = distil.Distillation(TagClassifier("glnet_nano", 1), (5, 3)).eval()
    images = torch.rand(8, 3, 64, 64) * 255
    with torch.no_grad():
        own, _ = both.features(images)
        ways = [
            torch.nn.functional.conv2d(o, torch.randn(c, o.shape[1], 1, 1))
            for o, c in zip(own, (5, 3), strict=True)
        ]
        targets = [way + 0.1 * torch.randn_like(way) + 3 for way in ways]
        both.fit_heads(images, targets)
        errors = both.errors(images, targets)
    for name, target in zip(("middle", "final"), targets, strict=True):
        whole = (target - target.mean((0, 2, 3), keepdim=True)).square().sum(1).mean()
        assert float(errors[name] / whole) < 0.05


def test_grown_blocks_do_nothing_at_first(distil):
    torch.manual_seed(0)
    small = timm.create_model("glnet_nano", pretrained=True, num_classes=0).eval()
    large = timm.create_model("glnet_nano", num_classes=0, depths=(1, 1, 6, 1)).eval()
    early = distil.grow(large, small.state_dict())
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(large.forward_features(x), small.forward_features(x))
    frozen = {name for name, p in large.named_parameters() if not p.requires_grad}
    assert frozen and all(name.split(".")[1] in "01" for name in frozen) and len(early) == 4
    wide = timm.create_model("glnet_nano", num_classes=0, dims=(32, 64, 128, 64))
    distil.grow(wide, small.state_dict())  # the last stage is another one
    assert torch.equal(wide.stages[2].blocks[0].norm1.weight, small.stages[2].blocks[0].norm1.weight)
    assert wide.stages[3].blocks[0].mlp[-1].weight.std() > 0


def test_a_training_that_was_broken_off_ends_alike(distil, drawn, tmp_path, monkeypatch):
    weights = tmp_path / "teacher.safetensors"
    save_file(timm.create_model("mobilenetv2_050", num_classes=0).state_dict(), weights)
    unseen = drawn / "ImageSets" / "Segmentation" / "val.txt"
    words = ["--photographs", str(drawn / "JPEGImages"), "--unseen", str(unseen), "--batch", "8"]
    words += ["--weights", str(weights), "--teacher", "mobilenetv2_050", "--epochs", "2"]

    def run(name, *more):
        out = tmp_path / f"{name}.safetensors"
        more = ["--work", str(tmp_path / name), "--out", str(out), *more]
        distil.main([*words, "--features", str(tmp_path / "features"), *more])
        return load_file(out)

    monkeypatch.setattr(distil, "KEPT_EVERY", 1)
    whole = run("whole")
    rows = list(csv.DictReader((tmp_path / "whole" / "log.csv").open()))
    assert len(rows) >= 4 and {"unseen final", "seen 2.0"} <= set(rows[0])

    log, told = distil._log, []

    def break_off(path, row):
        log(path, row)
        told.append(row)
        if len(told) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(distil, "_log", break_off)
    with pytest.raises(KeyboardInterrupt):
        run("broken")
    again = run("broken")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    start = TagClassifier("glnet_nano", 3).backbone.state_dict()
    loaded = TagClassifier("glnet_nano", 3, weights=str(tmp_path / "broken.safetensors"))
    ones = [k for k, v in start.items() if v.ndim == 1 and "running" not in k and (v == 1).all()]
    state = loaded.backbone.state_dict()
    assert any(not torch.equal(state[name], start[name]) for name in ones)  # it was trained
    with pytest.raises(distil.UserError, match="give the same"):
        run("whole", "--epochs", "3")
