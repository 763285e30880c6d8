"""`wsss classify` and `wsss segment`: LightningCLI with a fixed task and fixed data."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from wsss.data.modules import MaskData, TagData
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask


class TaskCLI(LightningCLI):
    """Links the class names of the data to the task and keeps checkpoints self-contained."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.get("ckpt_path"):  # its weights replace the initial ones, which need not be there
            config["model"]["pretrained"], config["model"]["weights"] = False, None


class ClassifyCLI(TaskCLI):
    """fit, validate, predict (= make pseudo-masks)."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        known = LightningCLI.subcommands()
        return {name: known[name] for name in ("fit", "validate", "predict")}


class SegmentCLI(TaskCLI):
    """fit, test, predict (= write masks)."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        known = LightningCLI.subcommands()
        return {name: known[name] for name in ("fit", "test", "predict")}


def run_task(kind: str, args: list[str] | dict[str, Any]) -> pl.Trainer:
    """Run `wsss classify ...` or `wsss segment ...` in this process.

    Args:
        kind: "classify" or "segment".
        args: the words of the command line after it, or the same as a nested dictionary.

    Returns:
        The trainer, whose `callback_metrics` hold the last metrics.
    """
    classify = kind == "classify"
    # the segmenter keeps its last weights: choosing by val masks would use the truth it is judged by
    best = ModelCheckpoint(
        filename="best",
        monitor="val_mAP" if classify else None,
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    cli = (ClassifyCLI if classify else SegmentCLI)(
        ClassificationTask if classify else SegmentationTask,
        TagData if classify else MaskData,
        args=args,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"callbacks": [best], "log_every_n_steps": 10},
        parser_kwargs={"prog": f"wsss {kind}"},
    )
    return cli.trainer
