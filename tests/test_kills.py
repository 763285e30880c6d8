"""The chain is killed a dozen times and comes to the same end (`benchmarks/kills.py`)."""

import importlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from small_pipeline import PROJECT

SEED = 3487
"""One whose moments are in every stage and of every kind."""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_dozen_kills_change_nothing(tmp_path):
    # a program of its own: a fork of one that has trained may hang
    words = [sys.executable, str(PROJECT / "benchmarks" / "kills.py"), "--out", str(tmp_path / "out")]
    words += ["--kills", "12", "--each", "12", "--ranks", "1", "--seed", str(SEED)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [json.loads(line) for line in (tmp_path / "out" / f"seed{SEED}.jsonl").open()]
    kills = [kill for run in runs for kill in run["kills"]]
    assert len(kills) == 12 and not any(run["faults"] for run in runs)
    assert {whom for _, whom, _ in kills} == {"group", "main", "worker", "disk"}


def test_what_differs_is_seen(small_run, tmp_path, monkeypatch):
    """Else the kills would show nothing."""
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    kills = importlib.import_module("kills")
    run = shutil.copytree(small_run, tmp_path / "run")
    assert not [*kills.differences(small_run, run)]
    mask, seed = (sorted(run.glob(name))[0] for name in ("*/masks/*.png", "*/seeds/*.npz"))
    for path in (mask, seed):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    (run / "segment" / "metrics.json").write_text('{"test_mIoU": 99.0}')
    (run / "classify" / ".12-ab.part").touch()
    (run / "report.html").unlink()
    found = {path: what for path, what in kills.differences(small_run, run)}
    assert found == {
        "report.html": "is missing",
        "classify/.12-ab.part": "is left over",
        mask.relative_to(run).as_posix(): "differs",
        seed.relative_to(run).as_posix(): "differs",
        "segment/metrics.json": "differs",
    }
