"""docs/tour.ipynb runs from its first cell to its last on a real, small run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
TOUR = PROJECT / "docs" / "tour.ipynb"


def test_tour_is_small_and_without_outputs():
    assert TOUR.stat().st_size < 2**20
    cells = [
        c for c in json.loads(TOUR.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"
    ]
    assert len(cells) == 10
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)


def test_tour_runs(small_run):
    pytest.importorskip("nbmake", reason="nbmake is not installed: pip install nbmake ipykernel")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install ipykernel")
    words = ["-m", "pytest", "--nbmake", "--nbmake-timeout=120", "-p", "no:cacheprovider", str(TOUR)]
    done = subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"WSSS_RUN": str(small_run)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
