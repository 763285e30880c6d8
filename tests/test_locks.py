"""One process at a time in a folder of results."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_pipeline import small_pipeline

from wsss.cli import main
from wsss.errors import UserError
from wsss.locks import HOLDER, LOCK, locked

HOLD = """
import sys, time
from wsss.locks import locked
with locked(sys.argv[1], "wsss run"):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder():
    """Starts processes that hold folders."""
    running = []

    def hold(folder: Path) -> subprocess.Popen:
        words = [sys.executable, "-c", HOLD, str(folder)]
        running.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout.readline() == "held\n"
        return running[-1]

    yield hold
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.parametrize("inner", [".", "classify", "pseudo_masks/masks"])
def test_a_held_folder_and_all_in_it_are_refused(inner, holder, tmp_path):
    process = holder(tmp_path / "run")
    with pytest.raises(UserError) as told, locked(tmp_path / "run" / inner, "test"):
        pass
    said = str(told.value)
    assert f"{tmp_path / 'run'} is in use by wsss run (process {process.pid} on " in said
    assert "\n" not in said
    with locked(tmp_path / "other", "test"):
        pass


def test_a_run_does_not_begin_around_a_stage_in_work(holder, tmp_path):
    process = holder(tmp_path / "run" / "segment" / "log")
    told = pytest.raises(UserError, match=f"process {process.pid}")
    with told, locked(tmp_path / "run", "test"):
        pass


def test_the_system_releases_what_a_killed_process_held(holder, tmp_path):
    process = holder(tmp_path)
    assert (tmp_path / HOLDER).is_file()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with locked(tmp_path, "test"):
        assert '"what": "test"' in (tmp_path / HOLDER).read_text()


def test_who_holds_a_folder_may_enter_it_again(tmp_path):
    with locked(tmp_path, "run"):
        with locked(tmp_path / "classify", "fit"), locked(tmp_path, "run"):
            pass
        assert not (tmp_path / "classify" / LOCK).exists()  # one lock for the whole run
        assert (tmp_path / HOLDER).is_file()
    assert not (tmp_path / HOLDER).exists()
    with locked(tmp_path, "run"):
        pass


def test_a_refusal_leaves_nothing_in_the_folder(tmp_path):
    with pytest.raises(UserError, match="no"), locked(tmp_path, "test"):
        raise UserError("no")
    assert not list(tmp_path.iterdir())


def test_two_runs_in_one_folder(drawn, tmp_path, capsys):
    """The second is told; the first comes to its end, as if nobody had been there."""
    config, out = small_pipeline(tmp_path / "configs"), tmp_path / "run"
    words = ["run", "-c", str(config), "--root", str(drawn), "--out", str(out)]
    first = subprocess.Popen(
        [sys.executable, "-m", "wsss.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        end = time.monotonic() + 120
        while not (out / HOLDER).is_file() and time.monotonic() < end:
            time.sleep(0.05)
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"in use by wsss run (process {first.pid}" in error
        # a single stage, or predict into the run's folder, does not come between either
        ckpt = tmp_path / "none.ckpt"
        assert main(["predict", str(drawn), "--ckpt", str(ckpt), "--out", str(out / "new")]) == 2
        assert "in use by wsss run" in capsys.readouterr().err
        said = first.communicate(timeout=300)[0].decode()
        assert first.returncode == 0, said
    finally:
        first.kill()
    assert main(words) == 0
    assert capsys.readouterr().out.count("done before, unchanged") == 5


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_single_stages(command, holder, small_run, drawn, tmp_path, capsys):
    process = holder(tmp_path / "work")
    words = ["classify", command, "--data.root", str(drawn), "--data.num_workers", "0"]
    words += ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path / "work")]
    if command == "predict":
        words += ["-c", f"{small_run}/pseudo_masks/config.yaml"]
        words += ["--masks.out", str(tmp_path / "work" / "pseudo_masks" / "masks")]
        words += ["--ckpt_path", f"{small_run}/classify/last.ckpt"]
    else:
        words += ["--model.backbone", "glnet_nano", "--data.size", "64", "--trainer.max_epochs", "1"]
    assert main(words) == 2
    assert f"in use by wsss run (process {process.pid}" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("*.png"))


def test_where_locks_are_not_to_be_had_work_goes_on(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr("wsss.locks.FileLock.acquire", refuse)
    with locked(tmp_path, "test"):
        pass
