"""benchmarks/distil_lite.py: free energy by hand, crops, a short training broken off."""

import csv
import importlib

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from small_pipeline import PROJECT

from wsss.localize.slots import cluster_slots


@pytest.fixture
def lite(monkeypatch):
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    module = importlib.import_module("distil_lite")
    for name, value in (("CROPS", (3, 4)), ("BATCH", 4), ("KEPT_EVERY", 2)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(importlib.import_module("distil"), "SHORT_SIDES", (64, 80))
    return module


def test_free_energy_by_hand_and_lowered_by_expectation_maximisation(lite):
    torch.manual_seed(0)
    features = torch.randn(1, 6, 5, 4) + 0.5
    found = []
    for steps in (1, 2, 5, 20):
        dispatch = cluster_slots(features, (2, 2), steps).dispatch.flatten(2)
        found.append(float(lite.free_energy(dispatch, features.flatten(2))))
    assert found == sorted(found, reverse=True) and found[0] - found[-1] > 0.1
    d, z = dispatch[0].double().numpy(), features[0].flatten(1).double().numpy()
    z = z / np.linalg.norm(z, axis=0)
    by_hand = 0.0
    for k in range(4):
        mean = (d[k] * z).sum(1)
        mean /= np.linalg.norm(mean)
        by_hand += (d[k] * (np.log(d[k].clip(1e-6)) - mean @ z / 0.1)).sum() / 20
    assert found[-1] == pytest.approx(by_hand, rel=1e-5)


def test_crops_are_the_same_wherever_it_goes_on(lite, tmp_path):
    file = tmp_path / "0.npy"
    np.save(file, np.arange(30, dtype=np.float16).reshape(1, 5, 6))
    narrow = tmp_path / "1.npy"
    np.save(narrow, np.full((1, 2, 9), -1, np.float16))
    whole, rest = (list(lite.crops([file, narrow], steps)) for steps in (range(6), range(4, 6)))
    assert [tuple(crop.shape) for crop in whole[:2]] == [(4, 1, 3, 3), (4, 1, 4, 4)]
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert min(float(crop.min()) for crop in whole) >= 0  # what is too narrow is passed over
    assert {float(c[0, 0, 1] - c[0, 0, 0]) for crop in whole for c in crop} == {1.0, -1.0}


def test_a_training_that_was_broken_off_ends_alike(lite, drawn, tmp_path, monkeypatch):
    torch.manual_seed(0)
    start = timm.create_model("tf_efficientnet_lite2", num_classes=0).state_dict()
    save_file(start, tmp_path / "start.safetensors")
    unseen = drawn / "ImageSets" / "Segmentation" / "val.txt"
    words = ["--photographs", str(drawn / "JPEGImages"), "--unseen", str(unseen), "--steps", "4"]
    words += ["--weights", str(tmp_path / "start.safetensors")]

    def run(name, *more):
        out = tmp_path / f"{name}.safetensors"
        lite.main([*words, "--work", str(tmp_path / name), "--out", str(out), *more])
        return load_file(out)

    whole = run("whole")
    rows = list(csv.DictReader((tmp_path / "whole" / "log.csv").open()))
    assert [row["step"] for row in rows] == ["0", "2", "4"] and float(rows[0]["changed, percent"]) < 0.1
    assert float(rows[2]["block 1"]) != float(rows[0]["block 1"])
    early = [k for k in start if k.startswith(("conv_stem", "bn1", "blocks.0", "blocks.4"))]
    assert all(torch.equal(whole[k], start[k].half()) for k in early if start[k].is_floating_point())
    statistics = [k for k in start if k.startswith("blocks.5") and "running" in k]
    assert statistics and all(torch.equal(whole[k], start[k].half()) for k in statistics)
    assert not torch.equal(
        whole["blocks.6.0.conv_pw.weight"], start["blocks.6.0.conv_pw.weight"].half()
    )
    log = lite._log

    def break_off(path, row, fresh=False):
        log(path, row, fresh)
        if row["step"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(lite, "_log", break_off)
    with pytest.raises(KeyboardInterrupt):
        run("broken")
    monkeypatch.setattr(lite, "_log", log)
    again = run("broken")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    with pytest.raises(lite.UserError, match="give the same"):
        run("whole", "--steps", "6")
