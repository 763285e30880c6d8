"""Training the head alone, on features that are kept of a frozen backbone."""

import shutil
from collections import namedtuple

import pytest
import torch
import yaml
from small_pipeline import small_pipeline

from wsss.data.modules import MaskData, TagData
from wsss.errors import UserError
from wsss.lightning_cli import run_task
from wsss.pipeline import run_pipeline
from wsss.stages.config import TASKS
from wsss.tasks.checkpoints import read_checkpoint
from wsss.tasks.views import Views

SIDES = {"classify": "--data.size", "segment": "--data.crop"}
NETWORKS = {"classify": "--model.backbone", "segment": "--model.encoder"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Default folders of the trainer are relative to where one is."""
    monkeypatch.chdir(tmp_path)


def words(kind, root, *more, epochs=3):
    """Of a training with two views and three steps an epoch."""
    return [
        "fit", "--data.root", str(root), SIDES[kind], "64", NETWORKS[kind], "glnet_nano",
        "--model.pretrained", "true", "--model.freeze", "all", "--model.views", "2",
        "--trainer.accelerator", "cpu", "--trainer.max_epochs", str(epochs),
        "--trainer.limit_val_batches", "0", "--trainer.logger", "false",
        "--data.batch_size", "4", "--data.num_workers", "0", "--trainer.limit_train_batches", "3",
        *(["--model.mosaic", "0.5"] if kind == "classify" else []), *more,
    ]  # fmt: skip


@pytest.fixture
def seen(monkeypatch):
    """What the backbone is shown in training, batch by batch, and what is learned from."""
    found = namedtuple("Seen", "encoded learned")([], [])
    for task in TASKS.values():

        def encode(self, batch, plain=task.encode):
            found.encoded.append(batch["id"])
            return plain(self, batch)

        def step(self, batch, index, plain=task.training_step):
            found.learned.append((self.current_epoch, [f.clone() for f in batch["features"]]))
            return plain(self, batch, index)

        monkeypatch.setattr(task, "encode", encode)
        monkeypatch.setattr(task, "training_step", step)
    return found


def start(kind, classes):
    """The state of a backbone before its training."""
    network = {NETWORKS[kind].split(".")[1]: "glnet_nano"}
    return TASKS[kind](classes, pretrained=True, **network).backbone.state_dict()


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["classify", "segment"])
def test_the_head_alone_learns(kind, drawn, tmp_path, seen, capsys):
    task = run_task(kind, words(kind, drawn)).model
    after = task.backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in start(kind, task.classes).items())
    inside = {id(p) for p in task.backbone.parameters()}
    learning = [p for group in task.optimizers().param_groups for p in group["params"]]
    assert not inside & {id(p) for p in learning}
    assert len(learning) == len([p for p in task.parameters() if id(p) not in inside])

    assert len(seen.encoded) == 6  # three batches, two views
    epochs = [[f for epoch, f in seen.learned if epoch == number] for number in range(3)]
    alike = [[any(same(f, g) for g in epochs[0]) for f in epochs[number]] for number in (1, 2)]
    assert alike == [[False] * 3, [True] * 3]  # the third epoch goes through the first view again
    assert all(f.dtype == torch.float16 for _, features in seen.learned for f in features)
    assert "features of 2 views of the training images, " in capsys.readouterr().out
    assert not list(tmp_path.glob("views-*"))


@pytest.mark.parametrize("kind", ["classify", "segment"])
def test_what_is_kept_teaches_what_the_images_teach(kind, drawn, tmp_path):
    data = {"classify": TagData, "segment": MaskData}[kind](
        str(drawn), **{SIDES[kind].split(".")[1]: 64}, batch_size=8, num_workers=0
    )
    how = {"mosaic": 1.0} if kind == "classify" else {"decoder": "Unet"}  # which has no dropout
    how |= {NETWORKS[kind].split(".")[1]: "glnet_nano", "pretrained": True}
    task = TASKS[kind](data.classes, freeze="all", **how)
    other = TASKS[kind](data.classes, **how)
    other.load_state_dict(task.state_dict())
    task.log = other.log = lambda *_, **__: None
    task.backbone.eval()
    other.backbone.eval()
    task._trainer = namedtuple("Trainer", "precision")("32-true")
    views = Views(task, data.training_batches, tmp_path)
    for batch in data.training_batches(seed=3):
        file = tmp_path / "one.pt"
        with torch.random.fork_rng():
            views._write(file, batch)
        kept = torch.load(file, mmap=True)
        losses = task.training_step(kept, 0), other.training_step(batch, 0)
        torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)
        for loss in losses:
            loss.backward()
        names = [name for name, _ in task.named_parameters()]
        inside = {name for name in names if "encoder" in name or "backbone" in name}
        gradients = [
            torch.cat([p.grad.flatten() for name, p in one.named_parameters() if name not in inside])
            for one in (task, other)
        ]
        assert gradients[0].norm() > 1e-3
        assert (gradients[0] - gradients[1]).norm() < 0.05 * gradients[1].norm()  # float16
        assert all(p.grad is None for name, p in task.named_parameters() if name in inside)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_seed_gives_the_same_batches(workers, drawn):
    data = TagData(str(drawn), size=64, batch_size=8, num_workers=0)
    first = list(data.training_batches(seed=1))
    data.num_workers = workers
    torch.manual_seed(workers)
    again, other = list(data.training_batches(seed=1)), list(data.training_batches(seed=2))
    assert [b["id"] for b in first] == [b["id"] for b in again] != [b["id"] for b in other]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
    images = {name: image for b in other for name, image in zip(b["id"], b["image"], strict=True)}
    assert not any(
        torch.equal(images[name], image)
        for b in first
        for name, image in zip(b["id"], b["image"], strict=True)
    )


def test_a_training_that_was_killed_goes_on_to_the_same_end(drawn, tmp_path, monkeypatch, seen):
    there = ["--trainer.default_root_dir", str(tmp_path / "there")]
    whole = run_task("classify", words("classify", drawn, *there, epochs=4)).model.state_dict()
    encoded = len(seen.encoded)

    class Killed(BaseException):
        """As a kill: nothing is tidied up."""

    write, task = Views._write, TASKS["classify"]
    with monkeypatch.context() as broken:  # while features are made
        broken.setattr(
            Views, "_write", lambda self, file, batch: write(self, file, batch) and None
            if len(seen.encoded) < encoded + 4 else kill()
        )  # fmt: skip

        def kill():
            raise Killed

        with pytest.raises(Killed):
            run_task("classify", words("classify", drawn, epochs=4))
    (folder,) = tmp_path.glob("views-*")
    assert len(list(folder.glob("*.pt"))) == 4
    begin = task.on_train_epoch_start
    with monkeypatch.context() as broken:  # in the third epoch
        broken.setattr(
            task, "on_train_epoch_start", lambda self: begin(self) if self.current_epoch < 2 else kill()
        )
        with pytest.raises(Killed):
            run_task("classify", words("classify", drawn, epochs=4))
    assert len(seen.encoded) == encoded + 6  # the four were not made again
    (checkpoint,) = tmp_path.glob("checkpoints/last.ckpt")
    shutil.copy(checkpoint, tmp_path / "last.ckpt")
    again = words("classify", drawn, "--ckpt_path", str(tmp_path / "last.ckpt"), epochs=4)
    ended = run_task("classify", again).model.state_dict()
    assert len(seen.encoded) == encoded + 6 and not list(tmp_path.glob("views-*"))
    assert all(torch.equal(ended[name], value) for name, value in whole.items())

    # without what was made, it is made again
    ended = run_task("classify", again).model.state_dict()
    assert len(seen.encoded) == encoded + 12
    assert all(torch.equal(ended[name], value) for name, value in whole.items())


def test_no_views(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(Views, "make", None)
    trainer = run_task("classify", words("classify", drawn, "--model.views", "0", epochs=1))
    assert trainer.global_step == 3
    after = trainer.model.backbone.state_dict()
    before = start("classify", trainer.model.classes)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with pytest.raises(UserError, match="views must be 0 or more, got -1"):
        run_task("classify", words("classify", drawn, "--model.views", "-1"))


def test_a_disk_without_room_is_told(drawn, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 0, 10**5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"2 views .* has 0.0 GB free: give fewer model.views"):
        run_task("segment", words("segment", drawn))
    assert not list(tmp_path.glob("views-*"))


def test_features_that_float16_cannot_hold_are_told(drawn, monkeypatch):
    encode = TASKS["classify"].encode
    monkeypatch.setattr(
        TASKS["classify"],
        "encode",
        lambda self, batch: encode(self, batch) | {"features": [torch.full((4, 8, 4, 4), 1e5)]},
    )
    with pytest.raises(UserError, match=r"beyond 65,504.*model.views to 0"):
        run_task("classify", words("classify", drawn))


def test_a_pipeline_of_frozen_networks(drawn, tmp_path, seen):
    pipeline = small_pipeline(tmp_path / "configs")
    for name in ("classify", "segment"):
        path = pipeline.with_name(f"{name}.yaml")
        config = yaml.safe_load(path.read_text())
        config["model"] |= {"freeze": "all", "pretrained": True, "views": 1}
        path.write_text(yaml.safe_dump(config))
    config = yaml.safe_load(pipeline.read_text())
    del config["refine"]
    pipeline.write_text(yaml.safe_dump(config))
    out = tmp_path / "run"
    assert run_pipeline(pipeline, out, str(drawn))["seg_miou_val"] > 0
    assert len(seen.encoded) == 2 * 4 and not list(out.rglob("views-*"))
    parts = {"classify": "model.backbone.", "segment": "model.net.encoder.model.model."}
    states = [read_checkpoint(out / kind / "last.ckpt", kind)["state_dict"] for kind in parts]
    trained, started = (
        {n.removeprefix(part): v for n, v in state.items() if n.startswith(part)}
        for state, part in zip(states, parts.values(), strict=True)
    )
    assert started and all(torch.equal(trained[name], value) for name, value in started.items())
