"""What both trainings have in common: frozen layers, checkpoints."""

import errno
import signal
from pathlib import Path

import pytest
import torch
from words import QUICK, random_weights

from wsss.cli import main
from wsss.errors import UserError
from wsss.lightning_cli import run_task
from wsss.tasks.checkpoints import read_checkpoint
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Default folders of the trainer are relative to where one is."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_norms_keep_their_statistics(frozen, drawn, tmp_path):
    words = ["--model.weights", str(random_weights("mobilenetv2_050", tmp_path))]
    words += ["--data.root", str(drawn), "--data.crop", "64", "--model.encoder", "mobilenetv2_050"]
    words += ["--model.freeze_norm", str(frozen).lower(), *QUICK]
    trainer = run_task("segment", ["fit", *words])
    means = {
        name: value.abs().max().item()
        for name, value in trainer.model.model.net.named_buffers()
        if name.endswith("running_mean")
    }
    inside = [value for name, value in means.items() if name.startswith("encoder.")]
    decoder = [value for name, value in means.items() if not name.startswith("encoder.")]
    assert len(inside) > 20 and all((value == 0) == frozen for value in inside)
    assert all(value > 0 for value in decoder)


@pytest.mark.parametrize("kind", ["classify", "segment"])
@pytest.mark.parametrize(("network", "stride"), [("mobilenetv2_050", 8), ("glnet_nano", 4)])
def test_frozen_layers_stay_as_they_are(kind, network, stride, drawn, tmp_path):
    name = {"classify": "backbone", "segment": "encoder"}[kind]
    words = ["--data.root", str(drawn), f"--model.{name}", network, *QUICK]
    words += ["--data.size" if kind == "classify" else "--data.crop", "64"]
    words += ["--model.freeze", str(stride), "--model.lr", "0.01"]
    words += ["--model.weights", str(random_weights(network, tmp_path))]
    trainer = run_task(kind, ["fit", *words])
    task = trainer.model
    inside = task.model.backbone if kind == "classify" else task.model.net.encoder
    still = [n for n, p in inside.named_parameters() if not p.requires_grad]
    learning = {id(p) for group in task.optimizers().param_groups for p in group["params"]}
    moving = [n for n, p in inside.named_parameters() if id(p) in learning]
    last = {"mobilenetv2_050": ("blocks.2", "blocks.3"), "glnet_nano": ("stages.0", "stages.1")}[
        network
    ]
    assert still and any(last[0] in n for n in still) and not any(last[1] in n for n in still)
    assert any(last[1] in n for n in moving) and not any(last[0] in n for n in moving)
    for layer in inside.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            assert layer.training == layer.weight.requires_grad  # else it would adapt to the images
    trainer.save_checkpoint(tmp_path / "frozen.ckpt")
    with torch.inference_mode():
        type(task).from_checkpoint(tmp_path / "frozen.ckpt")


@pytest.mark.parametrize(
    ("kind", "task"),
    [("classify", ClassificationTask), ("segment", SegmentationTask)],
)
def test_checkpoint_of_a_network_that_has_changed(kind, task, small_run, tmp_path):
    checkpoint = read_checkpoint(small_run / kind / "last.ckpt", kind)
    checkpoint["state_dict"].popitem()
    torch.save(checkpoint, tmp_path / "old.ckpt")
    with pytest.raises(UserError, match=r"old.ckpt does not fit .* Missing key"):
        task.from_checkpoint(tmp_path / "old.ckpt")


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(drawn, tmp_path, monkeypatch, capsys):
    words = ["classify", "fit", "--data.root", str(drawn), "--data.size", "64", *QUICK[2:]]
    words += ["--model.backbone", "glnet_nano", "--trainer.limit_train_batches", "1"]
    words += ["--trainer.limit_val_batches", "0", "--trainer.default_root_dir", str(tmp_path)]
    words += ["--trainer.logger", "false"]
    words += ["--trainer.max_epochs", "2"]
    start = ClassificationTask.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        start(self)

    with monkeypatch.context() as broken:
        broken.setattr(ClassificationTask, "on_train_epoch_start", stop)
        broken.setattr(signal, "signal", lambda *_: None)  # Lightning stops listening to Ctrl-C
        assert main(words) == 130
    kept = next(tmp_path.rglob("last.ckpt"))
    before = kept.read_bytes()
    write = Path.write_bytes

    def full(path, content):
        write(path, content[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    # without a logger it goes to the same place
    assert main([*words, "--ckpt_path", str(kept)]) == 2
    assert "last.ckpt: No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert [p.read_bytes() for p in tmp_path.rglob("*.ckpt")] == [before]
    assert not list(tmp_path.rglob("*.part"))
