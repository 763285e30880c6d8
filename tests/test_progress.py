"""Progress: a bar for who watches, few lines for a log, and no chatter of the libraries."""

import io
import os
import sys

import pytest
import torch

import wsss.progress
from wsss.cli import main
from wsss.progress import progress


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

    def train(kind: str, *words: str) -> list[str]:
        small = "--model.backbone glnet_nano --data.size" if kind == "classify" else "--data.crop"
        if kind == "segment":
            small = "--model.encoder glnet_nano --model.decoder Unet --data.crop"
        common = f"--data.root {drawn} {small} 64 --data.num_workers 0 --data.batch_size 8"
        common += " --trainer.accelerator cpu --trainer.max_epochs 2 --trainer.logger false"
        assert main([kind, "fit", *common.split(), *words]) == 0
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
def test_a_training_goes_on_from_its_last_epoch_and_counts_from_there(kind, trained):
    seldom = ["--trainer.check_val_every_n_epoch", "3"] if kind == "segment" else []
    trained(kind, *seldom)
    words = ["--ckpt_path", "checkpoints/last.ckpt", "--trainer.max_epochs", "3", *seldom]
    first, *_, last = trained(kind, *words)
    assert first.endswith("er: 6 of 9") and "er: 9 of 9" in last
    assert torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"] == 9
