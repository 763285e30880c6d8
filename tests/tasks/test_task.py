"""What both trainings have in common: frozen layers, checkpoints."""

import errno
import signal
from pathlib import Path

import pytest
import torch
from words import QUICK, random_weights

from wsss.cli import main
from wsss.data.modules import MaskData
from wsss.errors import UserError
from wsss.lightning_cli import run_task
from wsss.stages.config import TASKS
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


def _step(kind: str, classes: list[str], images: int, changes: dict | None = None) -> torch.Tensor:
    """The loss of one step on images of nothing, with its gradients."""
    name = {"classify": "backbone", "segment": "encoder"}[kind]
    task = TASKS[kind](classes, **{name: "glnet_nano"})
    task.log = lambda *_, **__: None
    batch = {"id": [f"photo {n}" for n in range(images)], "image": torch.zeros(images, 3, 64, 64)}
    batch["tags"] = torch.zeros(images, len(classes))
    batch["mask"] = torch.zeros(images, 64, 64, dtype=torch.uint8)
    loss = task.training_step(batch | (changes or {}), 0)
    loss.backward()
    gradients = [p.grad for p in task.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    return loss.detach()


@pytest.mark.parametrize("kind", TASKS)
def test_one_class_and_a_class_that_is_nowhere_are_learned(kind):
    assert _step(kind, ["dog"], 2) > 0


def test_a_classifier_learns_from_one_image_alone(drawn):
    assert _step("classify", ["dog"], 1) > 0
    with pytest.raises(UserError, match="a segmenter learns from two images a step or more"):
        MaskData(str(drawn)).require_parts(1)


def test_a_batch_of_void_alone_teaches_nothing():
    assert _step("segment", ["dog"], 2, {"mask": torch.full((2, 64, 64), 255)}) == 0


@pytest.mark.parametrize("kind", TASKS)
def test_a_loss_that_is_no_number_is_told(kind):
    images = torch.zeros(2, 3, 64, 64)
    images[1] = torch.inf
    with pytest.raises(UserError) as told:
        _step(kind, ["dog"], 2, {"image": images})
    said = str(told.value)
    assert said.startswith("the loss of step 1 is nan, of the images photo 0, photo 1: what was made")
    assert "lower model.lr" in said and "\n" not in said


def test_no_checkpoint_holds_weights_that_are_no_numbers(drawn, tmp_path, monkeypatch, capsys):
    words = ["segment", "fit", "--data.root", str(drawn), "--data.crop", "64", *QUICK[2:]]
    words += ["--model.encoder", "glnet_nano", "--trainer.limit_train_batches", "1"]
    words += ["--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "2"]
    step = torch.optim.AdamW.step

    def burst(self, *args, **how):  # the loss is still a number
        loss = step(self, *args, **how)
        if burst.steps:
            self.param_groups[0]["params"][0].data.fill_(torch.nan)
        burst.steps += 1
        return loss

    burst.steps = 0
    monkeypatch.setattr(torch.optim.AdamW, "step", burst)
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: weights are no numbers any more after step 2 (first: ")
    (kept,) = tmp_path.rglob("last.ckpt")
    checkpoint = read_checkpoint(kept, "segment")
    assert checkpoint["epoch"] == 0
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
