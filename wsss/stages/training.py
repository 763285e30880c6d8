"""Training a network, going on where it stopped, and measuring it."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from wsss.data.catalog import Catalog
from wsss.data.datasets import SPARE
from wsss.data.masks import write_mask
from wsss.data.modules import MaskData, TagData
from wsss.distributed import first, gather, in_order
from wsss.errors import UserError, notice
from wsss.evaluation import Counts, pixel_counts, write_counts
from wsss.files import read_json, write_atomic, write_json
from wsss.run_folder import StageFolder
from wsss.stages.config import TASKS, Kind, StageConfig
from wsss.stages.recipe import with_defaults
from wsss.tasks.checkpoints import read_checkpoint
from wsss.tasks.task import Task
from wsss.tasks.trainer import Trainer, measured


class _Test(pl.Callback):
    """Keeps what a test of the segmenter shows: every mask, and where it is right.

    Writes `<folder>/test/<id>.png` and `<folder>/test.json` (`wsss.evaluation.write_counts`).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: dict[str, Counts] = {}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if SPARE in batch:
            return
        mask, name = outputs.cpu().numpy(), batch["id"][0]
        write_mask(self.folder / "test" / f"{name}.png", mask)
        self.counts[name] = pixel_counts(mask, batch["mask"][0].cpu().numpy())

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        counts = in_order([list(own.items()) for own in gather(self.counts)])
        first(lambda: write_counts(self.folder / "test.json", pl_module.classes, counts))


def seed_again(random_seed: int | bool, epochs: int) -> None:
    """Set the random seed of a training that goes on; else the crops of its first epochs come again."""
    if epochs and random_seed is not False:
        pl.seed_everything(random_seed + epochs, workers=True, verbose=False)


def outputs(folder: Path, loggers: Any = None, tensorboard: bool = False) -> dict[str, Any]:
    """Where a trainer writes, as settings of it: its log and checkpoints in `log` of a folder.

    Args:
        folder: of the stage.
        loggers: the config's `trainer.logger`; those that it names log beside the folder's own.
        tensorboard: also log for TensorBoard, in `tensorboard` of the folder.
    """
    names = {"CSVLogger": "log"} | ({"TensorBoardLogger": "tensorboard"} if tensorboard else {})
    own = [
        {
            "class_path": f"pytorch_lightning.loggers.{name}",
            "init_args": {"save_dir": str(folder), "name": "", "version": version},
        }
        for name, version in names.items()
    ]
    if loggers is None or isinstance(loggers, bool):
        loggers = []
    further = loggers if isinstance(loggers, list) else [loggers]
    return {"default_root_dir": str(folder), "logger": [*own, *further]}


def train(config: StageConfig, data: TagData | MaskData, folder: Path) -> dict[str, float | None]:
    """Train a network in a folder, or go on with its training, and measure it.

    The classifier is measured by its tags on `data.val_split`, the segmenter by its masks where their
    ground truth is known.

    Args:
        config: of the stage, whose trainer has the `outputs` of the folder.
        data: the images.
        folder: of the stage; gets `last.ckpt`, and the logs and checkpoints of the training in `log`.

    Returns:
        The metrics in percent, None where there was nothing to measure with.
    """
    stage = StageFolder(folder)
    last = stage.log / "checkpoints" / "last.ckpt"
    goes_on = first(lambda: _begin(last))
    config.seed()
    if goes_on:  # its weights take the place of the initial ones, which need not be there
        seed_again(config.random_seed, 1 + read_checkpoint(last, config.kind).get("epoch", -1))
        task = config.task(data.classes, pretrained=False, weights=None)
    else:
        task = config.task(data.classes)
    task.checkpoint = goes_on
    trainer = config.trainer()
    with trainer.at_work():
        trainer.fit(task, datamodule=data, ckpt_path=goes_on)
    metrics = first(lambda: _keep(stage, last, config.kind))
    # a logger would begin the training's log anew
    trainer = config.trainer(logger=False)
    return metrics | measure(task, data, folder, trainer, stage.checkpoint)


def _begin(last: Path) -> str | None:
    """Make ready for a training; returns the checkpoint that it goes on from, if there is one."""
    _keep_log(last.parent.parent / "metrics.csv")
    return str(last) if last.is_file() else None


def _keep(stage: StageFolder, last: Path, kind: Kind) -> dict[str, float | None]:
    """Put a training's last checkpoint into the stage's folder; returns what was measured with it."""
    if not last.is_file():
        raise UserError(f"training in {stage.path} wrote no checkpoint")
    write_atomic(stage.checkpoint, lambda aside: aside.write_bytes(last.read_bytes()))
    # not the trainer's: a training that was broken off after its last step has none
    return read_checkpoint(last, kind).get("measured", {})


def measure(
    task: Task,
    data: TagData | MaskData,
    folder: Path,
    trainer: Trainer,
    checkpoint: Path | None = None,
) -> dict[str, float | None]:
    """Validate a classifier, or test a segmenter and keep its masks, on `data.val_split`.

    Args:
        task: the network.
        data: the images.
        folder: gets `test/<id>.png` and `test.json` of a segmenter.
        trainer: runs the network.
        checkpoint: weights to measure; None: those that the network has.

    Returns:
        The metrics in percent, None where there was nothing to measure with.
    """
    how = {"datamodule": data, "ckpt_path": checkpoint and str(checkpoint), "verbose": False}
    with trainer.at_work():
        if isinstance(data, TagData):
            trainer.validate(task, **how)
        elif any(record.mask for record in data.catalog(data.val_split, tagged=False).records):
            trainer.callbacks.append(_Test(folder))
            trainer.test(task, **how)
    return measured(trainer)


def _keep_log(path: Path) -> None:
    """Put the log of a training that was broken off aside: the logger begins a new one."""
    if path.is_file():
        number = len(list(path.parent.glob(f"{path.stem}.*{path.suffix}")))
        path.rename(path.with_name(f"{path.stem}.{number}{path.suffix}"))


def for_rounds(trainer: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The config of a trainer whose training takes as many steps as several would."""
    limits = [key for key in ("max_epochs", "max_steps") if trainer.get(key) not in (None, -1)]
    if not limits and rounds > 1 and trainer.get("max_epochs") is None:
        return trainer | {"max_epochs": rounds * 1000}  # Lightning's default
    return trainer | {key: rounds * trainer[key] for key in limits}


def network_of(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The timm model that a stage trains, as backbone or as encoder, and the backbone's arguments."""
    model = with_defaults(TASKS["classify"], config.get("model", {}))
    name = str(model.get("encoder") or model["backbone"]).removeprefix("tu-")
    return name, model.get("backbone_args") or {}


def leave_out_unseen(path: Path, catalog: Catalog) -> None:
    """Mend numbers of earlier versions, which counted a class without an image in val as 0."""
    metrics = read_json(path)
    seen = {catalog.classes[tag] for record in catalog.records for tag in record.tags}
    unseen = [n for n in catalog.classes if n not in seen and f"val_AP/{n}" in metrics]
    if not unseen:
        return
    for metric, mean in (("AP", "val_mAP"), ("F1", "val_F1")):
        for name in unseen:
            metrics.pop(f"val_{metric}/{name}", None)
        left = [metrics[f"val_{metric}/{name}"] for name in sorted(seen)]
        metrics[mean] = sum(left) / len(left) if left else None
    write_json(path, metrics)
    notice(
        f"an earlier version of wsss counted {', '.join(unseen)}, which no image to validate with has, "
        f"as 0 in the mAP and F1 of {path}: left out now (the curve in the training's log stays)"
    )
