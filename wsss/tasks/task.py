"""What the training of the classifier and that of the segmenter have in common."""

import inspect
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import pytorch_lightning as pl
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from wsss import distributed
from wsss.errors import UserError, few
from wsss.schema import wrong_argument
from wsss.tasks.checkpoints import read_checkpoint, restore
from wsss.tasks.optim import Schedule, adamw, freeze_norm
from wsss.tasks.views import Views

T = TypeVar("T", bound="Task")


_AFTER_NAN = (
    "what was made before stays; try a lower model.lr, trainer.gradient_clip_val 1, or "
    "trainer.precision 32-true"
)


class Task(pl.LightningModule):
    """A network, `model`, that learns the classes of a data set.

    Its checkpoints hold all that it takes to use the network: `from_checkpoint`.

    Args:
        classes: foreground class names.
        given: the network starts from weights.
    """

    kind: ClassVar[Literal["classify", "segment"]]
    name: ClassVar[str]
    schedule: ClassVar[Schedule]
    model: nn.Module

    def __init__(self, classes: list[str], given: bool) -> None:
        super().__init__()
        self.classes, self.given = list(classes), given
        self.checkpoint: str | None = None  # whose weights are to take the place of these
        self.white: int | None = None  # of the photographs it was trained on (`Catalog.white`)
        self.views: Views | None = None  # what a frozen backbone saw of the training images
        self.views_seed: int | None = None

    def _check_rates(self) -> None:
        for name in ("lr", "head_lr_multiplier", "weight_decay", "warmup"):
            value, most = self.hparams[name], 1 if name == "warmup" else float("inf")
            if not 0 <= value <= most:
                raise UserError(f"{name} must be 0 {'to 1' if most == 1 else 'or more'}, got {value}")

        if self.hparams["views"] < 0:
            raise UserError(f"views must be 0 or more, got {self.hparams['views']}")

    @property
    def backbone(self) -> nn.Module:
        """The part of the network that may start from weights, and learns slowly or not at all."""
        raise NotImplementedError

    @property
    def head_alone(self) -> bool:
        """Whether nothing of the backbone learns."""
        return self.hparams["freeze"] == "all"

    def _freeze(self) -> None:
        """Stop the training of what `freeze` names."""
        if self.head_alone:
            self.backbone.requires_grad_(False)
        elif self.hparams["freeze"]:
            self.freeze_until(self.hparams["freeze"])

    def freeze_until(self, stride: int) -> None:
        """Stop the training of the backbone's layers up to a stride.

        Raises:
            UserError: it has no features there.
        """
        raise NotImplementedError

    def encode(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What `loss` takes, of a batch of images: `features`, a list, of the backbone, and targets."""
        raise NotImplementedError

    def loss(self, encoded: dict[str, Any]) -> Tensor:
        """The loss of the head's answer to what `encode` gives."""
        raise NotImplementedError

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        names = few(batch.get("id", ()))
        if "features" in batch:  # of `Views`
            batch = batch | {"features": [feature.float() for feature in batch["features"]]}
        else:
            batch = self.encode(batch)
        loss = self.loss(batch)
        if not loss.isfinite():
            raise UserError(
                f"the loss of step {self.global_step + 1} is {loss.item()}, of the images {names}: "
                f"{_AFTER_NAN}"
            )
        self.log("train_loss", loss, prog_bar=True)
        return loss

    @classmethod
    def from_checkpoint(cls: type[T], path: str | Path) -> T:
        """The trained task of a checkpoint file, in eval mode on the CPU."""
        checkpoint = read_checkpoint(path, cls.kind)
        known = inspect.signature(cls).parameters  # what was a setting once may be none now
        settings = {n: v for n, v in checkpoint["hyper_parameters"].items() if n in known}
        if words := wrong_argument(cls, settings):
            raise UserError(f"{path} is a damaged checkpoint of `wsss {cls.kind}` ({words})")
        try:
            task = cls(checkpoint["classes"], **settings)
        except UserError as error:
            raise UserError(f"{path} holds no network that can be made: {error}") from error
        task.restore(checkpoint, path)
        task.restored(checkpoint)
        return task

    def restore(self, checkpoint: dict[str, Any], path: str | Path) -> None:
        """Take the weights of a checkpoint, read from `path`, and be ready to predict."""
        restore(self, checkpoint, path)
        self.white, self.checkpoint = checkpoint.get("white"), str(path)
        self.eval()

    def load(self, path: str | Path) -> None:
        """Take the weights of a checkpoint of a network like this one, and be ready to predict."""
        checkpoint = read_checkpoint(path, self.kind)
        self.on_load_checkpoint(checkpoint)
        self.restore(checkpoint, path)

    def restored(self, checkpoint: dict[str, Any]) -> None:
        """Take what else a checkpoint tells of how its network is used."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"kind": self.kind, "classes": self.classes, "white": self.white}
        checkpoint["views_seed"] = self.views_seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get("classes") != self.classes:
            raise UserError(
                f"the checkpoint knows the classes {checkpoint.get('classes')}, the data has "
                f"{self.classes}: use the data set it was trained on, or train again"
            )
        self.views_seed = checkpoint.get("views_seed")

    def setup(self, stage: str) -> None:
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        if stage == "fit" and self.trainer.sync_batchnorm and on_gpu:
            # torch's own conversion would lose the activations that timm's layers have
            self.model = convert_sync_batchnorm(self.model)
        frozen = [name for name in ("freeze_norm", "freeze") if self.hparams[name]]
        if stage == "fit" and frozen and not self.given and self.checkpoint is None:
            raise UserError(
                f"{' and '.join(frozen)} would keep random numbers as they are: give the network "
                "weights (model.weights, or --weights of `wsss run`), or let it fetch them "
                "(model.pretrained: true)"
            )
        data = self.trainer.datamodule
        if stage == "fit" and hasattr(data, "training_batches"):
            data.views = self.views = None
            if self.head_alone and self.hparams["views"]:
                where = Path(self.trainer.default_root_dir)
                data.views = self.views = Views(self, data.training_batches, where)

    def configure_optimizers(self) -> dict[str, Any]:
        h, backbone = self.hparams, self.backbone
        inside = {id(parameter) for parameter in backbone.parameters()}
        head = [p for p in self.model.parameters() if id(p) not in inside]
        return adamw(
            self.trainer,
            backbone,
            head,
            h.lr,
            h.head_lr_multiplier,
            h.weight_decay,
            h.warmup,
            self.schedule,
        )

    def on_train_start(self) -> None:
        """Note what is white; refuse to go on beyond the steps that the rate was planned for."""
        self.white = getattr(self.trainer.datamodule, "white", None)
        for one in self.trainer.lr_scheduler_configs:
            asked = int(self.trainer.estimated_stepping_batches)
            planned = getattr(one.scheduler, "planned", asked)  # the user's own has none
            if asked > planned:
                raise UserError(
                    f"the checkpoint's training ends after {planned:,} steps, where its learning rate "
                    f"is 0, and this one would take {asked:,}: go on with the same max_epochs, data "
                    "and devices, or train anew without --ckpt_path"
                )
        if self.views_seed is None:
            self.views_seed = distributed.first(torch.initial_seed) % 2**32
        if self.views is not None:
            self.backbone.eval()
            trainer = self.trainer
            steps = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
            epochs = -(-int(steps) // trainer.num_training_batches)
            self.views.make(min(self.hparams["views"], epochs))
        if distributed.rank():  # the crops of each process are its own
            torch.manual_seed(torch.initial_seed() + distributed.rank())

    def _share_statistics(self) -> None:
        """Let all processes have the same BatchNorm statistics: the mean of theirs.

        Raises:
            UserError: a weight is no number; so no checkpoint holds such weights.
        """
        distributed.average_(b for b in self.buffers() if b.is_floating_point())
        state = self.model.state_dict()
        for name, value in state.items() if self.trainer.state.fn == "fit" else ():
            if not value.isfinite().all():
                raise UserError(
                    f"weights are no numbers any more after step {self.global_step} (first: {name}): "
                    f"{_AFTER_NAN}"
                )

    on_validation_epoch_start = on_train_epoch_end = _share_statistics

    def on_train_epoch_start(self) -> None:
        if self.head_alone:
            self.backbone.eval()
        else:
            freeze_norm(self.backbone, every=self.hparams.freeze_norm)

    def on_fit_end(self) -> None:
        if self.views is not None:
            distributed.wait_for_all()
            self.views.remove()
