"""benchmarks/masks.py: all its tables from a few drawn images."""

import importlib.util
import json
import sys

import golden
import numpy as np
import pytest
from small_pipeline import PROJECT

from wsss.data.masks import read_mask

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="pydensecrf2 has no build for Python 3.13"
)


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("masks", PROJECT / "benchmarks" / "masks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_of_drawn_images(bench, drawn, tmp_path, monkeypatch):
    quick = {"steps": 20, "folds": 2}
    ways = {"wsss": quick, "wsss, the field's maps": quick | bench.FIELDS_MAPS}
    monkeypatch.setattr(bench, "WAYS", ways)
    checkpoint = golden.checkpoint("classify", tmp_path / "last.ckpt")
    words = ["--root", str(drawn), "--ckpt", str(checkpoint), "--out", str(tmp_path / "out")]
    words += ["--split", "train", "--size", "64", "--limit", "5", "--steps", "3"]
    bench.main([*words, "--precision", "32-true"])
    found = json.loads((tmp_path / "out" / "table.json").read_text())
    assert found["images"] == 5 and list(found["steps"]) == list(bench.STEPS)
    assert all(rate > 0 for pair in found["steps"].values() for rate in pair)
    assert list(found["ways"]) == ["field's way", *ways]
    crfs = found["CRFs"]
    assert crfs["pydensecrf, same settings"]["same pixels %"] == 100
    assert crfs["wsss"]["same pixels %"] > 99
    # kept scores have 16 bits: a pixel between two labels may fall to either side
    assert crfs["wsss"]["mIoU"] == pytest.approx(found["ways"]["wsss"][1], rel=1e-3)
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| CRF | " in text and "| field's way | " in text
    # the same method: at 64 pixels both CRFs work at the photograph's size
    for field in (tmp_path / "out" / "0" / "masks").glob("*.png"):
        same = read_mask(field) == read_mask(tmp_path / "out" / "2" / "masks" / field.name)
        assert np.mean(same) > 0.97, field.name
    assert len(list((tmp_path / "out" / "1" / "masks").glob("*.png"))) == 5
    with pytest.raises(SystemExit, match="exists: give a new folder"):
        bench.main(words)
