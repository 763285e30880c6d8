"""What a frozen backbone sees in some passes over the training images: the head learns from it."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import wsss
from wsss.data.datasets import mixed, seeded
from wsss.distributed import is_first, processes_here, rank, wait_for_all, world_size
from wsss.errors import UserError
from wsss.files import write_atomic
from wsss.locks import locked
from wsss.models.fast import autocast
from wsss.progress import progress

NAME = "views-"
"""The beginning of the names of their folders."""

LEAST_FREE = 0.1
"""Share of the free space that is left to others."""


class Views:
    """Training batches of features instead of images: what Lightning takes for a loader.

    A view is a pass over the training images, augmented as always. `make` shows the views to the
    backbone, once, and keeps its features in float16, a file for each batch. Epoch e then goes through
    view e modulo their number, batch by batch in random order. A file depends on the seed, the view and
    its place in it alone: where some are there, of a training that was broken off, the others are made.
    Of several processes each has its own share.

    Args:
        task: the network; `task.encode` makes what is kept of a batch of images.
        batches: seed -> batches of images of an epoch, the same of the same seed; without a seed any.
        parent: gets the folder of the views.
    """

    def __init__(self, task: Any, batches: Callable[..., DataLoader], parent: Path) -> None:
        self.task, self.batches, self.parent = task, batches, parent
        self.length = len(batches())
        self.count = 0
        self.folder: Path | None = None
        self.locks = ExitStack()

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, steps = self.task.current_epoch, self.task.trainer.num_training_batches
        generator = torch.Generator().manual_seed(mixed(self.task.views_seed, self.count, epoch))
        for index in torch.randperm(steps, generator=generator).tolist():
            file = self._file(epoch % self.count, index)
            yield torch.load(file, map_location="cpu", weights_only=True, mmap=True)

    def make(self, count: int) -> None:
        """Make what is not there yet.

        Args:
            count: of views.

        Raises:
            UserError: the disk has no room for them, or float16 is too narrow for the features.
        """
        self.count, steps = count, self.task.trainer.num_training_batches
        self.folder = self._place()
        self.locks.enter_context(locked(self.folder, "a training"))
        files = [self._file(view, index) for view in range(count) for index in range(steps)]
        missing = [file for file in files if not file.is_file()]
        bar = progress(
            None, f"features for the {self.task.name}", "batches", len(files), disable=not missing,
            initial=len(files) - len(missing),
        )  # fmt: skip
        with bar:
            for view in range(count):
                wanted = [self._file(view, index) for index in range(steps)]
                if all(file.is_file() for file in wanted):
                    continue
                seed = mixed(self.task.views_seed, view)
                for index, (file, batch) in enumerate(zip(wanted, self.batches(seed), strict=False)):
                    if file.is_file():
                        continue
                    with seeded(self.task.views_seed, view, rank(), index):
                        self._write(file, batch)
                    if file == missing[0]:
                        self._require_room(file.stat().st_size, len(missing) - 1)
                    bar.update()
        wait_for_all()

    def remove(self) -> None:
        """Take the views away: the training has ended."""
        folder = self.folder or self._place()
        wait_for_all()
        self.locks.close()
        shutil.rmtree(folder, ignore_errors=True)

    def _write(self, file: Path, batch: dict[str, Any]) -> None:
        task = self.task
        with torch.no_grad(), autocast(task.trainer.precision, task.device):
            kept = task.encode(task.transfer_batch_to_device(batch, task.device, 0))
        kept["features"] = [feature.to(torch.float16) for feature in kept["features"]]
        if not all(feature.isfinite().all() for feature in kept["features"]):
            raise UserError(
                "the backbone gives features beyond 65,504, which float16 cannot hold: set model.views "
                "to 0, which keeps no features"
            )
        kept = {name: _on_cpu(value) for name, value in kept.items()}
        write_atomic(file, lambda aside: torch.save(kept, aside))

    def _require_room(self, size: int, more: int) -> None:
        """See that so many more files of a size find room.

        Raises:
            UserError: they do not.
        """
        wanted = size * more * processes_here()
        free = shutil.disk_usage(self.folder).free
        if wanted > (1 - LEAST_FREE) * free:
            self.locks.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise UserError(
                f"features of {self.count} views of the training images take "
                f"{wanted / 1e9:.1f} GB more while the head is trained, and {self.parent} has "
                f"{free / 1e9:.1f} GB free: give fewer model.views (0 keeps none, and takes "
                "longer), or a trainer.default_root_dir on another disk"
            )
        if is_first():
            total = size * self.count * self.task.trainer.num_training_batches * processes_here()
            print(
                f"features of {self.count} views of the training images, {total / 1e6:,.0f} MB, lie in "
                f"{self.folder} until the training has ended",
                flush=True,
            )

    def _file(self, view: int, index: int) -> Path:
        return self.folder / f"{view}-{rank()}-{index}.pt"

    def _place(self) -> Path:
        """The folder of the views, named after all that decides what is in it."""
        task, loader = self.task, self.batches()
        data = {k: v for k, v in vars(loader.dataset).items() if k not in ("catalog", "transform")}
        catalog = loader.dataset.catalog
        files = [f for r in catalog.records for f in (r.image, r.mask) if f is not None]
        told = [
            wsss.__version__, task.views_seed, world_size(), task.trainer.precision,
            sorted((k, repr(v)) for k, v in task.hparams.items() if k != "views"),
            loader.batch_size, data, catalog, [_stamp(f) for f in [*files, *data.get("masks", ())]],
        ]  # fmt: skip
        digest = hashlib.sha256(repr(told).encode())
        _add_weights(digest, task.backbone)
        return self.parent / f"{NAME}{digest.hexdigest()[:12]}"


def remove_views(folder: Path) -> None:
    """Take away the views that a training in `folder` has left which is not gone on with."""
    for path in folder.glob(f"{NAME}*"):
        shutil.rmtree(path, ignore_errors=True)


def _stamp(file: Path) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns


def _add_weights(digest: Any, network: nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else [_on_cpu(one) for one in value]
