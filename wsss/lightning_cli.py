"""`wsss classify` and `wsss segment`: LightningCLI with a fixed task, fixed data and our trainer."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

from wsss.config_files import upgrade_words
from wsss.distributed import launch
from wsss.errors import UserError, notice
from wsss.locks import locked
from wsss.origin import require_alike
from wsss.settings import InferenceSettings
from wsss.stages.config import DATA, MASKS, TASKS, Kind, Parser, fill_in, one_line
from wsss.stages.masks import make_pseudo_masks, predict_masks, refine_masks
from wsss.stages.recipe import with_defaults
from wsss.stages.training import seed_again
from wsss.tasks.checkpoints import read_checkpoint
from wsss.tasks.task import Task
from wsss.tasks.trainer import Trainer, quiet

COMMANDS = {"classify": ("fit", "validate", "predict"), "segment": ("fit", "test", "predict")}


class TaskCLI(LightningCLI):
    """The command line of a kind of network.

    Args:
        kind: "classify" or "segment".
        args: the words after it.
        locks: holds the folders that are written to.
    """

    def __init__(self, kind: Kind, args: Sequence[str], locks: ExitStack) -> None:
        self.kind, self.locks = kind, locks
        self.trained_with: dict[str, Any] = {}
        super().__init__(
            TASKS[kind],
            DATA[kind],
            trainer_class=Trainer,
            args=upgrade_words(args, f"wsss {kind}"),
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            # kept is what a training began with; a test in the same folder must not lie over it
            save_config_callback=SaveConfigCallback if "fit" in args else None,
            parser_class=Parser,
            parser_kwargs={
                "prog": f"wsss {kind}",
                "description": f"Train and use the {TASKS[kind].name}.",
                "predict": {"masks": MASKS[kind]},
            },
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Those of Lightning that make sense."""
        known = LightningCLI.subcommands()
        return {name: known[name] for name in COMMANDS[self.kind]}

    def add_arguments_to_parser(self, parser: Parser) -> None:
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")
        parser.add_masks()

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        for part in ("model", "data", "trainer", "masks"):
            if part in config and not isinstance(config[part], Namespace):
                raise UserError(f"{part} must be lines of `name: value`, got {config[part]!r}")
        path = config.get("ckpt_path")
        self.epochs_done = 0
        if not path and self.config.subcommand != "fit":
            raise UserError(
                f"wsss {self.kind} {self.config.subcommand} uses a trained network: give --ckpt_path, "
                f"the last.ckpt of its training (wsss {self.kind} fit, or wsss run)"
            )
        if path and (path not in ("best", "last") or self.config.subcommand != "fit"):
            # says what is wrong, where Lightning would break off
            checkpoint = read_checkpoint(path, self.kind)
            self.trained_with = checkpoint["trained_with"]
            self.epochs_done = 1 + checkpoint.get("epoch", -1)
            if self.config.subcommand == "fit":
                self._require_same(config["model"], path)
            elif self.kind == "segment":
                fill_in(config, InferenceSettings.of_checkpoint(checkpoint))

    def _parse_ckpt_path(self) -> None:
        # Lightning's own, which is not public, takes the settings of a checkpoint as they are written,
        # also those that have another name today
        if self.trained_with:
            settings = {self.config.subcommand: {"model": self.trained_with}}
            self.config = self.parser.parse_object(settings, self.config)

    def _require_same(self, given: Any, path: str) -> None:
        """Refuse settings that the checkpoint's own will take the place of."""
        usual = with_defaults(TASKS[self.kind], {})
        others = {
            name: own
            for name, own in self.trained_with.items()
            # a run writes timm's encoders as tu-NAME
            if name in given and own not in (given[name], f"tu-{given[name]}")
        }
        for name, own in others.items():
            if given[name] != usual[name]:
                raise UserError(
                    f"{path} was trained with {name} {own}, and a training goes on as it began: leave "
                    f"out {name} {given[name]}, or train anew without --ckpt_path"
                )
        if others:  # given or not, a default looks the same
            kept = ", ".join(f"{name} {own}" for name, own in others.items())
            notice(f"the training of {path} goes on as it began, with {kept}")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        trainer = config["trainer"]
        launch(trainer["devices"], trainer["num_nodes"], trainer["accelerator"])
        require_alike("setting", config.as_dict())
        if config.get("ckpt_path"):  # its weights replace the initial ones, which need not be there
            config["model"]["pretrained"], config["model"]["weights"] = False, None
        if self.subcommand == "fit":
            seed_again(config["seed_everything"], self.epochs_done)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:  # a callback's, which jsonargparse wraps
            if "Errors:" not in str(error):
                raise
            raise UserError(one_line(str(error))) from error
        self.model.checkpoint = self.config[self.subcommand].get("ckpt_path")

    def before_fit(self) -> None:
        self._lock(self.trainer.log_dir or self.trainer.default_root_dir)

    def fit(self, model: Task, **how: Any) -> None:
        """Train."""
        with self.trainer.at_work():
            self.trainer.fit(model, **how)

    def validate(self, model: Task, **how: Any) -> None:
        """Measure a classifier."""
        with self.trainer.at_work():
            self.trainer.validate(model, **how)

    def test(self, model: Task, **how: Any) -> None:
        """Measure a segmenter."""
        with self.trainer.at_work():
            self.trainer.test(model, **how)

    def predict(self, model: Task, datamodule: Any, ckpt_path: str, **_: Any) -> None:
        """Make masks."""
        masks = self.config_init[self.subcommand]["masks"]
        if masks.out is None:
            raise UserError(
                f"wsss {self.kind} predict writes masks: give their folder as masks.out"
                + (", or use `wsss predict`" if self.kind == "segment" else "")
            )
        model.load(ckpt_path)
        out, rest = Path(masks.out), (self.trainer, masks.workers)
        if self.kind == "classify":
            self._lock(out.parent)  # masks, seeds and maps lie side by side
            make_pseudo_masks(model, datamodule, masks, out, *rest)
        elif masks.maps is None:
            self._lock(out)
            predict_masks(model, datamodule, out, self.trainer)
        else:
            self._lock(out)
            refine_masks(model, datamodule, masks, masks.maps, out, *rest)

    def _lock(self, folder: str | Path) -> None:
        self.locks.enter_context(locked(folder, f"wsss {self.kind} {self.subcommand}"))


def run_task(kind: Kind, args: Sequence[str]) -> Trainer:
    """Run `wsss classify ...` or `wsss segment ...` in this process.

    Args:
        kind: "classify" or "segment".
        args: the words of the command line after it.

    Returns:
        The trainer, whose `callback_metrics` hold the last metrics.
    """
    with quiet(), ExitStack() as locks:
        return TaskCLI(kind, args, locks).trainer
