"""benchmarks/train.py runs and fills its tables."""

import importlib
import sys

import pytest
from small_pipeline import PROJECT
from torch import nn

sys.path.insert(0, str(PROJECT))  # benchmarks/ is no installed package
benchmark = importlib.import_module("benchmarks.train")

SMALL = """
    --backbone glnet_nano --size 64 --batch 2 --count 4 --photos 400x300 --workers 0 --seconds 0
    --steps 1 --rounds 1 --device cpu --ways float32+compile bf16+contiguous+unfused+plain+unkept"""


@pytest.mark.parametrize("task", ["classifier", "segmenter"])
def test_benchmark_runs(task, capsys, monkeypatch):
    compiled = []

    def in_this_process(args, way, root):
        return benchmark.frozen(args) if way == "frozen" else benchmark.fit(args, way, root)

    monkeypatch.setattr(benchmark, "apart", in_this_process)
    monkeypatch.setattr(nn.Module, "compile", lambda model: compiled.append(model))  # takes a minute
    monkeypatch.setattr(benchmark, "share_cores", lambda: None)
    benchmark.main([*SMALL.split(), "--task", task])
    tables = [table.splitlines() for table in capsys.readouterr().out.split("\n\n")[1:]]
    assert len(tables) == len(benchmark.PARTS) and len(compiled) == 3
    assert [len(table) for table in tables] == [3, 3, 3, 4, 3, 3]
    for head, _, *rows in tables:
        assert all(row.count("|") == head.count("|") and " nan " not in row for row in rows)
    decoded = tables[0][2].split(" | ")
    assert decoded[1] in ("100x75", "200x150") and 0 < float(decoded[-1].strip(" |")) < 8
    assert tables[3][2].endswith("| 1.00 |")


def test_an_unknown_way_is_named(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--ways", "bf61"])
    assert "bf61 is none of bf16, compile" in capsys.readouterr().err
