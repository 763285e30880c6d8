"""Progress: a bar for who watches, few lines for a log, and no chatter of the libraries."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small_pipeline import PROJECT, small_pipeline

import wsss.progress
from wsss.cli import main
from wsss.lightning_cli import run_task
from wsss.progress import progress
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _work(**how) -> None:
    with progress(range(4), "paint walls", "walls", **how) as bar:
        for number in bar:
            bar.set_postfix({"mIoU": f"{number:.3g}"}, refresh=False)


def test_log_has_a_line_a_minute(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    _work()
    first, last = sys.stderr.getvalue().splitlines()  # less than a minute: beginning and end
    assert first == "paint walls: 0 of 4"
    assert last.startswith("paint walls: 4 of 4 (100 %) in 00:00, 00:00 left, ")
    assert last.endswith("walls/s, mIoU=3") and "\r" not in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    _work(brief=True)
    assert sys.stderr.getvalue() == ""
    monkeypatch.setattr(wsss.progress, "MINUTE", 0.0)
    _work()
    middle = sys.stderr.getvalue().splitlines()[3]
    assert middle.startswith("paint walls: 3 of 4 (75 %)") and " left, " in middle
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(wsss.progress, "MINUTE", 60.0)
    monkeypatch.setenv("WSSS_LOG_SECONDS", "0")  # whoever reads the lines asks for more of them
    _work()
    assert sys.stderr.getvalue().splitlines()[3].startswith("paint walls: 3 of 4 (75 %)")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress(None, "paint walls", "walls", 2) as bar:
        bar.start_t -= 3600
        bar.update()
    last = sys.stderr.getvalue().splitlines()[-1]
    assert last == "paint walls: 1 of 2 (50 %) in 1:00:00, 1:00:00 left, 0.00 walls/s"


def test_terminal_has_a_bar_but_ci_has_not(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(sys, "stderr", _Terminal())
    _work()
    assert "\r" in sys.stderr.getvalue() and "100%|" in sys.stderr.getvalue()
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(sys, "stderr", _Terminal())
    _work()
    assert len(sys.stderr.getvalue().splitlines()) == 2
    monkeypatch.delenv("CI")  # a terminal of no width is nobody's window: a bar would be empty
    monkeypatch.setattr(_Terminal, "fileno", lambda self: 2)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((0, 0)))
    monkeypatch.setattr(sys, "stderr", _Terminal())
    _work()
    assert len(sys.stderr.getvalue().splitlines()) == 2


@pytest.fixture
def trained(drawn, tmp_path, monkeypatch, capfd):
    """Trains a moment through the real command line; returns what was printed, and again."""
    monkeypatch.chdir(tmp_path)

    def train(kind: str, *words: str, code: int = 0) -> list[str]:
        small = "--model.backbone glnet_nano --data.size" if kind == "classify" else "--data.crop"
        if kind == "segment":
            small = "--model.encoder glnet_nano --model.decoder Unet --data.crop"
        common = f"--data.root {drawn} {small} 64 --data.num_workers 0 --data.batch_size 8"
        common += " --trainer.accelerator cpu --trainer.max_epochs 2 --trainer.logger false"
        assert main([kind, "fit", *common.split(), *words]) == code
        out, err = capfd.readouterr()
        return (out + err).splitlines()

    return train


def test_a_training_is_a_few_lines_with_its_metric(trained, monkeypatch):
    lines = trained("classify")
    assert lines[0] == "train classifier: 0 of 6" and len(lines) == 2
    assert lines[1].startswith("train classifier: 6 of 6 (100 %)")
    assert "train_loss=" in lines[1] and "val_mAP=" in lines[1]
    assert trained("classify", "--trainer.enable_progress_bar", "false") == []
    monkeypatch.setattr(wsss.progress, "MINUTE", 0.0)
    lines = trained("segment")
    assert sum(line.startswith("train segmenter: ") for line in lines) == 8
    within = [line for line in lines if line.startswith("validate segmenter: 7 of 8 (88 %)")]
    assert len(within) == 2 and all("mIoU=" in line for line in within)
    assert any("epoch=2" in line and "val_mIoU=" in line for line in lines)


@pytest.mark.parametrize("kind", ["classify", "segment"])
def test_a_training_goes_on_from_its_last_epoch_and_counts_from_there(kind, trained, monkeypatch):
    seldom = ["--trainer.check_val_every_n_epoch", "3"] if kind == "segment" else []
    # parts of weights that were given stay as they are, also when it goes on
    more = ["--model.pretrained", "true", "--model.freeze", "4", *seldom]
    more += ["--trainer.max_epochs", "3"]
    with monkeypatch.context() as broken:
        _break_off(broken, kind, epoch=2)
        trained(kind, *more, code=130)
    first, *_, last = trained(kind, "--ckpt_path", "checkpoints/last.ckpt", *more)
    assert first.endswith("er: 6 of 9") and "er: 9 of 9" in last
    assert [path.name for path in Path("checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"] == 9


def _break_off(monkeypatch, kind: str, epoch: int) -> None:
    """Ctrl-C at the start of an epoch (0, 1, ...)."""
    task = ClassificationTask if kind == "classify" else SegmentationTask
    start = task.on_train_epoch_start

    def stop(self) -> None:
        if self.current_epoch == epoch:
            raise KeyboardInterrupt
        start(self)

    monkeypatch.setattr(task, "on_train_epoch_start", stop)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # Lightning stops listening to Ctrl-C


def _watch(monkeypatch) -> dict[int, list]:
    """Which images a classifier's training sees in each epoch, and how."""
    seen: dict[int, list] = {}
    step = ClassificationTask.training_step

    def spy(self, batch, index):
        shown = (*batch["id"], float(batch["image"].sum()))
        seen.setdefault(self.current_epoch, []).append(shown)
        return step(self, batch, index)

    monkeypatch.setattr(ClassificationTask, "training_step", spy)
    return seen


def test_a_training_that_goes_on_does_not_see_its_first_epoch_again(drawn, tmp_path, monkeypatch):
    words = f"fit --data.root {drawn} --model.backbone glnet_nano --data.size 64 --data.num_workers 0"
    words += " --data.batch_size 8 --trainer.accelerator cpu --trainer.logger false"
    words += f" --trainer.enable_progress_bar false --trainer.default_root_dir {tmp_path}"
    words = [*words.split(), "--trainer.max_epochs", "2"]
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        again = _watch(broken)
        _break_off(broken, "classify", epoch=1)
        run_task("classify", words)
    last = ["--ckpt_path", str(tmp_path / "checkpoints" / "last.ckpt")]
    on = _watch(monkeypatch)
    run_task("classify", [*words, *last])
    assert list(again) == [0] and list(on) == [1]
    assert not {batch[-1] for batch in again[0]} & {batch[-1] for batch in on[1]}
    assert [batch[:-1] for batch in again[0]] != [batch[:-1] for batch in on[1]]


@pytest.mark.parametrize("doing", ["train classifier", "make masks with classifier"])
def test_a_signal_ends_the_work_as_ctrl_c_does(doing, drawn, tmp_path):
    """As of `timeout`, `docker stop` or a cluster; Lightning goes on, or ends as if all were done."""
    pipeline = small_pipeline(tmp_path / "configs")
    for name in ("classify", "pseudo_masks"):
        path = pipeline.with_name(f"{name}.yaml")
        config = yaml.safe_load(path.read_text())
        config["trainer"]["enable_progress_bar"] = True
        if doing.startswith("make"):
            config["data"]["batch_size"] = 1
        elif name == "classify":
            config["trainer"]["max_epochs"] = 1000
        path.write_text(yaml.safe_dump(config))
    words = [sys.executable, "-m", "wsss.cli", "run", "-c", str(pipeline), "--root", str(drawn)]
    words += ["--out", str(tmp_path / "run")]
    with subprocess.Popen(words, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        told = b""
        for line in run.stderr:
            told += line
            if doing.encode() in line:
                break
        run.send_signal(signal.SIGTERM)
        told += run.stderr.read()
    assert run.returncode == 143, told
    assert told.splitlines()[-1] == b"stopped; the same command goes on with what is left"


@pytest.mark.parametrize("command", ["check .", "evaluate SegmentationClass SegmentationClass"])
def test_output_that_nobody_reads_on(command, drawn):
    words = [sys.executable, "-m", "wsss.cli", *command.split()]
    reads, writes = os.pipe()
    os.close(reads)
    env = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(words, cwd=drawn, env=env, stdout=writes, stderr=subprocess.PIPE, check=False)
    os.close(writes)
    assert done.returncode == 141 and b"Traceback" not in done.stderr and b"Broken" not in done.stderr


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_stopped_by_the_user_is_said(exception, drawn, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise exception(7)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ClassificationTask, "training_step", stop)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # Lightning stops listening to Ctrl-C
    words = ["classify", "fit", "--data.root", str(drawn), "--model.backbone", "glnet_nano"]
    words += ["--data.size", "64", "--data.num_workers", "0", "--trainer.accelerator", "cpu"]
    words += ["--trainer.max_epochs", "1"]
    if exception is SystemExit:  # of another cause: passed on
        with pytest.raises(SystemExit, match="7"):
            main(words)
        return
    assert main(words) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; no epoch was finished"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(ClassificationTask, "on_validation_epoch_end", lambda *_: None)
    monkeypatch.setattr(
        ClassificationTask, "on_train_epoch_start", lambda t: t.current_epoch and stop()
    )
    assert main([*words[:-1], "2"]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    path = last.removeprefix("stopped; --ckpt_path ").removesuffix(" goes on")
    assert torch.load(path, weights_only=True)["epoch"] == 0
