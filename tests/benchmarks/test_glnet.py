"""benchmarks/glnet.py runs and fills its tables."""

import importlib
import sys

import pytest
import torch
from small_pipeline import PROJECT

sys.path.insert(0, str(PROJECT))  # benchmarks/ is no installed package
benchmark = importlib.import_module("benchmarks.glnet")


def test_benchmark_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # The code generator takes minutes; what matters is that its columns are filled.
    monkeypatch.setattr(torch, "compile", lambda model, fullgraph: model)
    threads = torch.get_num_threads()
    benchmark.main(["--quick", "--device", "cpu", "--threads", str(threads), "--compile"])
    printed = capsys.readouterr().out
    assert "| ours checkpointed bf16 |" in printed
    assert "Matrix rate:" in printed
    lines = printed.splitlines()
    head = next(line for line in lines if line.startswith("| batch"))
    row = lines[lines.index(head) + 2]
    assert "compiled bf16, ms" in head
    assert head.count("|") == row.count("|")
