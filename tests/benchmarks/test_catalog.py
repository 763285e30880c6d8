"""The benchmark of reading data sets, on a few images."""

import importlib.util

import pytest
from small_pipeline import PROJECT


@pytest.mark.parametrize("layout", ["voc", "folder", "coco"])
def test_each_layout_is_built_and_read(layout, drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location(
        "catalog_benchmark", PROJECT / "benchmarks/catalog.py"
    )
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    if layout == "voc":  # the drawn classes are not VOC's
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "classes.txt").write_text("ball\nbrick\nkite\nstar\n")
    benchmark.build(layout, drawn, tmp_path / "data", 30)
    benchmark.read(layout, str(tmp_path / "data"), "all" if layout == "folder" else "train")
    numbers = [float(word) for word in capsys.readouterr().out.split()]
    assert len(numbers) == 6 and numbers[3] <= numbers[4] <= numbers[5]
