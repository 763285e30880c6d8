"""Progress of trainings and predictions: one bar for the whole of a training, not one an epoch."""

import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from wsss.progress import progress


class Bars(ProgressBar):
    """Shows what is done, its rate, the time left and the metrics so far.

    A task may have a `name` and a method `metrics_so_far()`, for evaluations that are under way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.training: tqdm | None = None
        self.evaluation: tqdm | None = None

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def _open(self, what: str, module: pl.LightningModule, total: float, **more: Any) -> tqdm:
        count = int(total) if math.isfinite(total) else None
        what = f"{what} {getattr(module, 'name', type(module).__name__)}"
        return progress(None, what, "batches", count, disable=not self.enabled, **more)

    @staticmethod
    def _show(bar: tqdm, metrics: dict[str, Any]) -> None:
        bar.set_postfix({name: f"{value:.3g}" for name, value in metrics.items()}, refresh=False)

    def _evaluated(self, module: pl.LightningModule) -> None:
        if self.evaluation is not None:
            if hasattr(module, "metrics_so_far"):
                self._show(self.evaluation, module.metrics_so_far())
            self.evaluation.update()

    def _close(self) -> None:
        if self.evaluation is not None:
            self.evaluation.close()
            self.evaluation = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.training is not None:
            return
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        total = trainer.num_training_batches * epochs
        if trainer.max_steps != -1:
            total = min(total, trainer.max_steps * trainer.accumulate_grad_batches)
        done = trainer.fit_loop.total_batch_idx + 1  # a training that goes on
        self.training = self._open("train", pl_module, total, initial=done)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        self._show(self.training, {"epoch": trainer.current_epoch + 1} | trainer.progress_bar_metrics)
        self.training.update()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.training is not None:
            self._show(self.training, trainer.progress_bar_metrics)
            self.training.close()
            self.training = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            inside = self.training is not None
            total = sum(trainer.num_val_batches)
            self.evaluation = self._open("validate", pl_module, total, leave=not inside, brief=inside)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        self._evaluated(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.evaluation = self._open("test", pl_module, sum(trainer.num_test_batches))

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        self._evaluated(pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.evaluation = self._open("make masks with", pl_module, sum(trainer.num_predict_batches))

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        if self.evaluation is not None:
            self.evaluation.update()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._close()
        if self.training is not None:
            self.training.close()
            self.training = None
