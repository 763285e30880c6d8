"""`wsss classify` and `wsss segment`: LightningCLI with a fixed task and fixed data."""

import contextlib
import difflib
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from wsss.data.modules import MaskData, TagData
from wsss.errors import UserError, notice
from wsss.locks import locked
from wsss.models.fast import kept_memory, release_memory
from wsss.settings import InferenceSettings
from wsss.tasks.bars import Bars
from wsss.tasks.checkpoints import WholeCheckpoints, read_checkpoint
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.writers import Writer

# said by the libraries of what is as it should be; whatever else they warn of is shown
_NOT_A_WARNING = (
    "LightningCLI's args parameter",  # the stages of a run are given their words from Python
    ".*isinstance.treespec, LeafSpec",  # Lightning's own use of torch
    "Starting from v1.9.0, `tensorboardX`",  # without it logs are CSV, which the report reads
    "The dirpath has changed",  # pseudo-masks have a folder of their own
    "Couldn't infer the batch indices",  # batches of one shape are made by the data set
    ".*does not have many workers",  # data.num_workers is the user's choice
    "The number of training batches .* is smaller than the logging interval",
    "Experiment logs directory",  # a run keeps earlier logs under another name
    "Checkpoint directory .* exists and is not empty",  # a training that goes on
    "For 'tu-' .timm universal. encoders",  # weights are given as a file
    "Total length of .* across ranks is zero",  # of what is left to do, or of who has tags only
    "No positive samples found in target",  # a class that a batch does not show
)


def _no_unexpected_keys(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Unexpected keys")


def _one_line(message: str) -> str:
    """What jsonargparse says of a setting, without its own terms and all but the first reason."""
    text = " ".join(message.split())
    if of_union := re.search(r"Errors: - (?!Does not validate)(.*?)(?= - |: *- | Given value|$)", text):
        text = re.match(r'(Parser key "[^"]*": )?', text)[0] + of_union[1]
    text = re.sub(r'Parser key "([^"]*)":', r"\1:", text)
    text = re.sub(r"a <class '(?:[\w.]+\.)?(\w+)'>", r"\1", text)
    return text.replace("a typing.Literal", "one of ")


class _Parser(LightningArgumentParser):
    """Says in one line what is wrong with a setting, instead of listing all there are."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        text = _one_line(message)
        if unknown := re.search(r"does not accept option '([^']*)'", text):
            above, _, name = unknown[1].rpartition(".")
            split = [action.dest.rpartition(".") for action in parser._actions]
            known = [known for group, _, known in split if group == above]
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            text = f"there is no setting '{unknown[1]}': {hint}"
        raise UserError(text)


class _Checked(Exception):
    """All parts could be made, and no more was asked; holds the command line."""


class TaskCLI(LightningCLI):
    """Links the class names of the data to the task and keeps checkpoints self-contained."""

    kind: str

    def __init__(
        self, *args: Any, check_only: bool = False, locks: ExitStack | None = None, **kwargs: Any
    ) -> None:
        self.check_only, self.locks = check_only, locks
        super().__init__(*args, **kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        path = config.get("ckpt_path")
        self.epochs_done = 0
        if not path and self.config.subcommand != "fit" and not self.check_only:
            raise UserError(
                f"wsss {self.kind} {self.config.subcommand} uses a trained network: give --ckpt_path, "
                f"the last.ckpt of its training (wsss {self.kind} fit, or wsss run)"
            )
        if path and (path not in ("best", "last") or self.config.subcommand != "fit"):
            # says what is wrong, where Lightning would break off
            checkpoint = read_checkpoint(path, self.kind)
            self.epochs_done = 1 + checkpoint.get("epoch", -1)
            if self.config.subcommand == "fit":
                self._require_same(config["model"], checkpoint["trained_with"], path)
            elif self.kind == "segment":
                self._as_tested(config, InferenceSettings.of_checkpoint(checkpoint))

    @staticmethod
    def _as_tested(config: Any, how: InferenceSettings) -> None:
        """Fill in the checkpoint's inference settings where the command line gives none."""
        for part, name in (
            *(("model", name) for name in ("scales", "flip", "tile", "crf")),
            ("data", "max_side"),
            ("trainer", "precision"),
        ):
            if config[part][name] is None:
                value = getattr(how, name)
                config[part][name] = Namespace(**asdict(value)) if name == "crf" and value else value

    def _require_same(self, given: Any, trained_with: dict[str, Any], path: str) -> None:
        """Refuse settings that the checkpoint's own will take the place of."""
        usual = self._parser(self.config.subcommand).get_defaults()["model"]
        others = {n: own for n, own in trained_with.items() if n in given and given[n] != own}
        for name, own in others.items():
            if given[name] != usual[name]:
                raise UserError(
                    f"{path} was trained with {name} {own}, and a training goes on as it began: leave "
                    f"out {name} {given[name]}, or train anew without --ckpt_path"
                )
        if others:  # given or not, a default looks the same
            kept = ", ".join(f"{name} {own}" for name, own in others.items())
            notice(f"the training of {path} goes on as it began, with {kept}")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if self.subcommand == "predict":
            config["return_predictions"] = False  # the writers have them; all would fill the memory
        if config.get("ckpt_path"):  # its weights replace the initial ones, which need not be there
            config["model"]["pretrained"], config["model"]["weights"] = False, None
        seed = config["seed_everything"]
        if self.subcommand == "fit" and self.epochs_done and seed is not False:
            # else the crops of the first epochs come again
            pl.seed_everything(seed + self.epochs_done, workers=True, verbose=False)
        if config["trainer"]["enable_progress_bar"] is not False:
            self.trainer_defaults["callbacks"].append(Bars())

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ModuleNotFoundError as error:  # an accelerator's
            raise UserError(_one_line(str(error))) from error
        except ValueError as error:  # a callback's, which jsonargparse wraps
            if "Errors:" not in str(error):
                raise
            raise UserError(_one_line(str(error))) from error
        self.model.checkpoint = self.config[self.subcommand].get("ckpt_path")
        if self.trainer.world_size > 1:  # every process would write the masks and scores of its share
            nodes = self.trainer.num_nodes
            setting = f"num_nodes {nodes}" if nodes > 1 else f"devices {self.trainer.world_size}"
            raise UserError(
                f"trainer.{setting} is not supported: wsss works on one device, take trainer.devices "
                "1 and trainer.num_nodes 1"
            )
        precision = self.trainer.precision
        if precision.endswith("-true") and precision != "32-true":
            raise UserError(
                f"trainer.precision {precision} is not supported: take bf16-mixed or 32-true"
            )
        if self.check_only:
            raise _Checked(self)

    def before_fit(self) -> None:
        self._lock(self.trainer.log_dir or self.trainer.default_root_dir)

    def before_predict(self) -> None:
        for callback in self.trainer.callbacks:
            if isinstance(callback, Writer):
                self._lock(callback.folder)

    def _lock(self, folder: str | Path) -> None:
        self.locks.enter_context(locked(folder, f"wsss {self.kind} {self.subcommand}"))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        plugins = self._get(self.config_init, "trainer").get("plugins") or []
        # one process: not the tasks of a Slurm job, nor what another launcher has set
        own = [*(plugins if isinstance(plugins, list) else [plugins]), WholeCheckpoints()]
        own.append(LightningEnvironment())
        try:
            return super().instantiate_trainer(**kwargs | {"plugins": own})
        except TypeError as error:  # of devices that the accelerator cannot have
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error


class ClassifyCLI(TaskCLI):
    """fit, validate, predict (= make pseudo-masks)."""

    kind = "classify"

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        known = LightningCLI.subcommands()
        return {name: known[name] for name in ("fit", "validate", "predict")}


class SegmentCLI(TaskCLI):
    """fit, test, predict (= write masks)."""

    kind = "segment"

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        known = LightningCLI.subcommands()
        return {name: known[name] for name in ("fit", "test", "predict")}


class _Memory(pl.Callback):
    """Lets no memory add up where images of one shape give way to those of another."""

    shape: torch.Size | None = None

    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict[str, Any], *index: int
    ) -> None:
        if batch["image"].shape != self.shape:
            release_memory()
            self.shape = batch["image"].shape

    on_test_batch_start = on_validation_batch_start = on_predict_batch_start


class _Stopped(pl.Callback):
    """Notes that the user stopped the work, of which Lightning makes an exit without a word."""

    by_user = False
    checkpoint = ""

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.by_user = isinstance(exception, KeyboardInterrupt)
        if trainer.checkpoint_callback is not None:
            self.checkpoint = trainer.checkpoint_callback.best_model_path  # of the last epoch, here


@contextlib.contextmanager
def _interrupted(stopped: _Stopped) -> Iterator[None]:
    try:
        yield
    except SystemExit:
        if stopped.by_user:
            raise KeyboardInterrupt(stopped.checkpoint) from None
        raise


@contextlib.contextmanager
def _told_by_lightning() -> Iterator[None]:
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error


def run_task(
    kind: str, args: list[str] | dict[str, Any], callbacks: Sequence[pl.Callback] = ()
) -> pl.Trainer:
    """Run `wsss classify ...` or `wsss segment ...` in this process.

    Args:
        kind: "classify" or "segment".
        args: the words of the command line after it, or the same as a nested dictionary.
        callbacks: more callbacks for the trainer.

    Returns:
        The trainer, whose `callback_metrics` hold the last metrics.
    """
    stopped = _Stopped()
    rank_zero_only.rank = 0  # what Lightning read from a launcher's environment is not asked for
    with kept_memory(), _interrupted(stopped), ExitStack() as locks:
        return _command_line(kind, args, [stopped, *callbacks], locks=locks).trainer


def check_settings(kind: str, command: str, config: dict[str, Any]) -> TaskCLI:
    """Refuse a config that `wsss KIND COMMAND` would refuse: make all parts of it, and run nothing.

    Returns:
        The command line, with its `model`, `datamodule` and `trainer`.

    Raises:
        UserError: a setting is unknown, or its value cannot be used.
    """
    try:
        return _command_line(kind, {"subcommand": command, command: config}, check_only=True)
    except _Checked as done:
        return done.args[0]


def _command_line(
    kind: str,
    args: list[str] | dict[str, Any],
    callbacks: Sequence[pl.Callback] = (),
    check_only: bool = False,
    locks: ExitStack | None = None,
) -> TaskCLI:
    classify = kind == "classify"
    # the last weights, not those that are best on val: the numbers of val are what is reported
    last = ModelCheckpoint(filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
    for library in ("pytorch_lightning", "lightning_fabric"):  # hints, seeds, tables of layers
        logging.getLogger(library).setLevel(logging.WARNING)
    # an encoder has no use for the class head that is in its weight file
    logging.getLogger("timm.models._builder").addFilter(_no_unexpected_keys)
    fit = "fit" in args
    with warnings.catch_warnings(), _told_by_lightning():
        for message in _NOT_A_WARNING:
            warnings.filterwarnings("ignore", message)
        return (ClassifyCLI if classify else SegmentCLI)(
            ClassificationTask if classify else SegmentationTask,
            TagData if classify else MaskData,
            args=args,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            # kept is what a training began with; a test in the same folder must not lie over it
            save_config_callback=SaveConfigCallback if fit else None,
            trainer_defaults={
                "callbacks": [last, _Memory(), *callbacks],
                "log_every_n_steps": 10,
                "devices": 1,
                # where rich is installed, Lightning prints its table of layers past the log
                "enable_model_summary": False,
            },
            parser_class=_Parser,
            parser_kwargs={"prog": f"wsss {kind}"},
            check_only=check_only,
            locks=locks,
        )
