"""benchmarks/scale.py measures few images, and draws a table and a plot of them."""

import importlib
import json
import sys

from PIL import Image
from small_pipeline import PROJECT

sys.path.insert(0, str(PROJECT))  # benchmarks/ is no installed package
benchmark = importlib.import_module("benchmarks.scale")


def test_few_images(tmp_path, monkeypatch):
    words = ["--out", str(tmp_path), "--size", "32", "--steps", "2"]
    benchmark.main([*words, "--images", "4"])
    first = json.loads((tmp_path / "scale.json").read_text())["rows"]
    benchmark.main([*words, "--images", "4", "8"])
    rows = json.loads((tmp_path / "scale.json").read_text())["rows"]
    assert rows["4"] == first["4"] and list(rows) == ["4", "8"]  # not measured again
    for row in rows.values():
        assert {*benchmark.STEPS, "learn"} <= row.keys()
        assert all(row[step] > 0 for step in benchmark.STEPS)
        assert row["main MiB"] > row["masks MiB"]
    lines = (tmp_path / "scale.md").read_text().splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["4", "8"]
    assert Image.open(tmp_path / "scale.png").size == (1000, 360)
    assert not (tmp_path / "data").exists()
