"""Lightning's trainer by the rules of wsss: how several devices work, whole checkpoints, few words."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from wsss import distributed
from wsss.data.datasets import SPARE, killed_loader
from wsss.errors import UserError
from wsss.models.fast import kept_memory, release_memory
from wsss.tasks.bars import Bars
from wsss.tasks.checkpoints import WholeCheckpoints

# said by the libraries of what is as it should be; whatever else they warn of is shown
_NOT_A_WARNING = (
    "LightningCLI's args parameter",  # `wsss classify` is given its words from Python
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
    "It is recommended to use .*sync_dist=True",  # all processes log the same
    "The `srun` command is available",  # who wants it starts wsss by it
    "`broadcast_buffers` is deprecated",  # its new name is not in older torch
)
_TALKATIVE = ("pytorch_lightning", "lightning_fabric")  # hints, seeds, tables of layers


def _no_unexpected_keys(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Unexpected keys")


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, libraries do not tell what is as it should be; what Lightning refuses is a UserError."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    # an encoder has no use for the class head that is in its weight file
    builder = logging.getLogger("timm.models._builder")
    builder.addFilter(_no_unexpected_keys)
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _NOT_A_WARNING:
                warnings.filterwarnings("ignore", message)
            yield
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
    finally:
        builder.removeFilter(_no_unexpected_keys)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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


def measured(trainer: pl.Trainer) -> dict[str, float | None]:
    """The metrics of a trainer by their names, None for one that is no number."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


class _Measured(pl.Callback):
    """Keeps in each checkpoint what was measured with its weights."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["measured"] = measured(trainer)


class _HandOn(BasePredictionWriter):
    """Hands each batch's prediction on."""

    def __init__(self, take: Callable[[Any, dict[str, Any]], None]) -> None:
        super().__init__(write_interval="batch")
        self.take = take

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        if SPARE not in batch:
            self.take(prediction, batch)


class Trainer(pl.Trainer):
    """Lightning's trainer; its arguments are Lightning's, with other defaults.

    Args:
        callbacks: further ones beside those of wsss.
        plugins: further ones beside those of wsss.
        devices: how many, which, or "auto"; under torchrun or srun as many as these have started.
        num_nodes: machines; 1, or as many as torchrun or srun have started on.
        accelerator: "auto", "gpu" or "cpu".
        strategy: "auto" or "ddp": each device has the whole network and its part of each batch.
        sync_batchnorm: take BatchNorm's statistics over all GPUs; on CPUs each process takes its own.
        log_every_n_steps: how often losses are logged.
        enable_progress_bar: show progress; None: yes.
        enable_model_summary: show Lightning's table of layers.
        more: Lightning's other arguments.

    Raises:
        UserError: Lightning refuses the arguments, or they ask for a strategy or a precision that is
            not supported.
    """

    def __init__(
        self,
        *,
        callbacks: list[pl.Callback] | pl.Callback | None = None,
        plugins: Any = None,
        devices: list[int] | str | int = 1,
        num_nodes: int = 1,
        accelerator: str = "auto",
        strategy: str = "auto",
        sync_batchnorm: bool = True,
        log_every_n_steps: int | None = 10,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = False,
        **more: Any,
    ) -> None:
        self.stopped = _Stopped()
        # the last weights, not those that are best on val: the numbers of val are what is reported
        last = ModelCheckpoint(
            filename="last", enable_version_counter=False, save_on_train_epoch_end=True
        )
        bars = [Bars()] if enable_progress_bar is not False else []
        if strategy not in ("auto", "ddp"):
            raise UserError(f"trainer.strategy {strategy} is not supported: take auto")
        distributed.launch(devices, num_nodes, accelerator)
        place = {"devices": devices, "num_nodes": num_nodes} | distributed.placement()
        several = distributed.world_size() > 1
        self.sync_batchnorm = several and sync_batchnorm
        # Lightning has read it from a launcher's environment, also where there is one process
        rank_zero_only.rank = distributed.rank()
        try:
            super().__init__(
                callbacks=[*_listed(callbacks), last, _Measured(), _Memory(), self.stopped, *bars],
                plugins=[*_listed(plugins), WholeCheckpoints(), distributed.environment()],
                **place,
                accelerator=accelerator,
                # a network may have layers that the loss does not know; `Task` shares statistics
                strategy=DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
                if several
                else "auto",
                use_distributed_sampler=False,  # `wsss.data.modules` deals images out
                log_every_n_steps=log_every_n_steps,
                enable_progress_bar=enable_progress_bar,
                enable_model_summary=enable_model_summary,
                **more,
            )
        # of values that Lightning does not know, and of devices that the accelerator cannot have
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        except ModuleNotFoundError as error:  # an accelerator's
            raise UserError(" ".join(str(error).split())) from error
        if self.precision.endswith("-true") and self.precision != "32-true":
            raise UserError(
                f"trainer.precision {self.precision} is not supported: take bf16-mixed or 32-true"
            )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around `fit` and the like: few words, kept memory, and Ctrl-C as KeyboardInterrupt."""
        try:
            with kept_memory(), quiet():
                yield
        except SystemExit:
            if self.stopped.by_user:
                raise KeyboardInterrupt(self.stopped.checkpoint) from None
            raise
        except Exception as error:
            told = _told(error)
            if told is None or told is error:
                raise
            raise told from error

    def hand_on(
        self, task: pl.LightningModule, loader: Any, take: Callable[[Any, dict[str, Any]], None]
    ) -> None:
        """Predict batch by batch, handing each prediction to `take(prediction, batch)`."""
        hand = _HandOn(take)
        self.callbacks.append(hand)
        try:
            with self.at_work():
                self.predict(task, loader, return_predictions=False)  # all would fill the memory
        finally:
            self.callbacks.remove(hand)


def _told(error: BaseException | None) -> UserError | None:
    """What a user is to be told of an error: of Lightning, which ends what it had begun, it is a later
    one that comes out; None: nothing."""
    while error is not None:
        told = error if isinstance(error, UserError) else killed_loader(error)
        if told is not None:
            return told
        error = error.__cause__ or error.__context__
    return None


def _listed(values: Any) -> list:
    return list(values) if isinstance(values, list | tuple) else [] if values is None else [values]
