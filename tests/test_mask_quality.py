"""benchmarks/mask_quality.py: its measures by hand, and a small table from start to finish."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
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
    truth = _square(20, 20)  # its rim has 4 * 19 pixels; one pixel of tolerance at 60 x 60
    assert bench.boundary_hits(truth, truth).tolist() == [76] * 4
    assert bench.boundary_hits(_square(20, 21), truth).tolist() == [76] * 4
    hit, drawn, found, true = bench.boundary_hits(_square(20, 30), truth)
    assert (drawn, true) == (76, 76) and 20 <= hit <= 44 and 20 <= found <= 44
    assert bench.boundary_hits(np.zeros_like(truth), truth).tolist() == [0, 0, 0, 76]
    assert bench.boundary_hits(_square(0, 0, 10), truth)[[0, 2]].tolist() == [0, 0]
    blind = truth.copy()
    blind[:, :19] = 255  # what is drawn where the truth is unknown counts neither way
    assert bench.boundary_hits(np.maximum(truth, _square(40, 2, 10)), blind).tolist() == [76] * 4


def test_quality_by_hand(bench):
    quality = bench.Quality(("thing",))
    quality.update(_square(20, 30), _square(20, 20))  # half of it is hit
    row = quality.compute()
    assert row["precision"] == row["recall"] == pytest.approx(50)
    background = (3600 - 600) / (3600 - 200)
    assert row["miou"] == pytest.approx(100 * (background + 200 / 600) / 2)


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
        "backgrounds": [0.3, 0.5],
        "size": 64,
    }
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(config))
    words = ["--root", str(drawn), "--config", str(path), "--out", str(tmp_path / "out")]
    bench.main(words)
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert len(rows) == 1 + 10 + 8 + 2 * 5
    assert rows["shipped: slots x own + CRF"]["background"] in (0.3, 0.5)
    truths = rows["all background"]
    assert truths["recall"] == 0 and 0 < truths["miou"] < 30
    assert all(0 <= row["miou"] <= 100 and "tuning_miou" in row for row in rows.values())
    kept = (tmp_path / "out" / "table.json").read_bytes()
    capsys.readouterr()
    bench.main(words)  # again: nothing is measured anew
    assert "train" not in capsys.readouterr().err
    assert (tmp_path / "out" / "table.json").read_bytes() == kept
    with pytest.raises(SystemExit, match="another configuration"):
        bench.main([*words, "--limit", "3"])
