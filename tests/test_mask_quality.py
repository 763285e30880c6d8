"""benchmarks/mask_quality.py: its measures by hand, and a small table from start to finish."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

PATH = Path(__file__).parent.parent / "benchmarks" / "mask_quality.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("mask_quality", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _square(top, left, side=20, size=60):
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_boundary_hits_by_hand(bench):
    target = _square(20, 20)  # its rim has 4 * 19 pixels; one pixel of tolerance at 60 x 60
    assert bench.boundary_hits(target, target).tolist() == [76] * 4
    assert bench.boundary_hits(_square(20, 21), target).tolist() == [76] * 4
    hit, predicted, found, true = bench.boundary_hits(_square(20, 30), target)
    assert (predicted, true) == (76, 76) and 20 <= hit <= 44 and 20 <= found <= 44
    assert bench.boundary_hits(np.zeros_like(target), target).tolist() == [0, 0, 0, 76]
    assert bench.boundary_hits(_square(0, 0, 10), target)[[0, 2]].tolist() == [0, 0]
    blind = target.copy()
    blind[:, :19] = 255  # what is predicted where the ground truth is unknown counts neither way
    assert bench.boundary_hits(np.maximum(target, _square(40, 2, 10)), blind).tolist() == [76] * 4


def test_quality_by_hand(bench):
    quality = bench.Quality(("thing",))
    quality.update(_square(20, 30), _square(20, 20))  # half of it is hit
    row = quality.compute()
    assert row["fg_precision"] == row["fg_recall"] == pytest.approx(50)
    background = (3600 - 600) / (3600 - 200)
    assert row["miou"] == pytest.approx(100 * (background + 200 / 600) / 2)


def test_controls_by_hand(bench):
    cam = torch.rand(1, 2, 4, 6)
    blurred = bench.blur(cam)
    assert blurred[0, 0, 0, 0] == pytest.approx(cam[0, 0, :3, :3].mean().item(), abs=1e-6)
    assert blurred[0, 1, 2, 3] == pytest.approx(cam[0, 1, :, 1:].mean().item(), abs=1e-6)
    bump = bench.centre(cam)
    assert torch.equal(bump[0, 0], bump[0, 1]) and torch.equal(bump, bump.flip(3))
    assert bump[0, 0, 0, 0] == pytest.approx(np.exp(-4), abs=1e-6)
    halves = torch.zeros(1, 2, 4, 6)  # features of two kinds, left and right
    halves[:, 0, :, :3], halves[:, 1, :, 3:] = 1, 1
    mean = bench.dense_affinity(cam, halves, temperature=0.01)
    for part in (slice(0, 3), slice(3, 6)):
        expected = cam[..., part].mean((2, 3), keepdim=True).expand(1, 2, 4, 3)
        torch.testing.assert_close(mean[..., part], expected)
    own = torch.zeros(1, 1, 4, 6)
    own[..., :3] = 1  # speaks for the left half, so that the right one alone counts against it
    prior = bench.dense_prior(own, halves, temperature=0.01)
    torch.testing.assert_close(prior, own)
    assert bench.dense_prior(0.5 * own, halves, temperature=0.01).max() < 0.5


def test_superpixels_keep_the_outline_of_an_object(bench):
    image = np.full((64, 96, 3), 40, np.uint8)
    image[16:48, 32:64] = (220, 60, 30)
    cam = torch.zeros(1, 1, 16, 24)
    cam[..., 6:10, 10:14] = 1  # a spot inside it
    out = bench.superpixels(cam, image)[0, 0]
    assert out.sum() == pytest.approx(16, rel=0.05)  # averages keep the sum
    outside = torch.ones(16, 24, dtype=torch.bool)
    outside[3:13, 7:17] = False
    assert out[outside].max() < 0.05 < out[5:11, 9:15].mean()


def test_second_round_of_two_runs(bench, drawn, small_run, tmp_path):
    """Rows of the run's own segmenter, and of another run whose masks used no slots."""
    run = small_run
    other = tmp_path / "no_slots"
    shutil.copytree(run, other)
    path = other / "pseudo_masks" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["masks"]["slots"] = "none"
    path.write_text(yaml.safe_dump(config))
    assert bench.run_seed(run) == "learned slots" and bench.run_seed(other) == "no slots"
    config["masks"] |= {"slots": "blocks", "relabel_slots": False}
    (tmp_path / "alone" / "pseudo_masks").mkdir(parents=True)
    (tmp_path / "alone" / "pseudo_masks" / "config.yaml").write_text(yaml.safe_dump(config))
    assert bench.run_seed(tmp_path / "alone") == "slots x own x prior"
    table = {
        "base": str(PATH.parents[1] / "configs" / "demo" / "classify.yaml"),
        **{"split": "val", "size": 64, "scales": [1.0], "refine_scales": [1.0], "slots": "blocks"},
        **{"background": 0.5, "backgrounds": [0.3, 0.5], "seeds": ["no slots"], "others": []},
        "classifiers": {"run": {}},
    }
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table))
    words = ["--root", str(drawn), "--config", str(tmp_path / "table.yaml"), "--limit", "8"]
    bench.main([*words, "--run", str(run), str(other), "--out", str(tmp_path / "out")])
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert set(rows) == {"all background", "run: no slots", "run: no slots + CRF"} | {
        f"run: {seed}, second round{crf}"
        for seed in ("no slots", "learned slots")
        for crf in ("", " + CRF")
    }


def test_table_of_the_drawn_scenes(bench, drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = yaml.safe_load((PATH.parents[1] / "configs" / "demo" / "classify.yaml").read_text())
    base["data"] |= {"layout": "voc", "num_workers": 0, "batch_size": 8, "size": 64}
    base["trainer"] |= {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    config = yaml.safe_load((PATH.with_name("mask_quality_synthetic.yaml")).read_text())
    config |= {
        "base": "base.yaml",
        "classifiers": {"shipped": {}, "average": {"pooling": "average"}},
        "backgrounds": [0.3, 0.6],
        "size": 64,
    }
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(config))
    words = ["--root", str(drawn), "--config", str(path), "--out", str(tmp_path / "out")]
    bench.main(words)
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert len(rows) == 1 + 2 * 14 + 2 * 6
    learned, plain = (rows[f"shipped: {row}"] for row in ("learned slots", "slots x own x prior"))
    assert learned["iou"] != plain["iou"] and learned["seed_ms"] > plain["seed_ms"]
    chosen = rows["shipped: slots x own + CRF"]
    assert chosen["background"] in (0.3, 0.6) and chosen["miou"] <= chosen["best"] >= chosen["fixed"]
    assert chosen["background"] == 0.3 or chosen["miou"] == chosen["fixed"]
    empty = rows["all background"]
    assert empty["fg_recall"] == 0 and 0 < empty["miou"] < 30
    assert all(0 <= row["miou"] <= 100 and "miou_A" in row for row in rows.values())
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("| shipped: slots x own + CRF |") == 2  # all measures, and each class's IoU
    kept = (tmp_path / "out" / "table.json").read_bytes()
    capsys.readouterr()
    bench.main(words)  # again: nothing is measured anew
    assert "train" not in capsys.readouterr().err
    assert (tmp_path / "out" / "table.json").read_bytes() == kept
    with pytest.raises(SystemExit, match="another configuration"):
        bench.main([*words, "--limit", "3"])
