"""What a frozen backbone sees in some passes over the training images: the head learns from it."""

import hashlib
import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import wsss
from wsss.data.cache import remembered
from wsss.data.datasets import mixed, seeded
from wsss.data.masks import mask_stamp
from wsss.distributed import is_first, processes_here, rank, wait_for_all, world_size
from wsss.errors import UserError
from wsss.files import file_stamp, write_atomic
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
        self.count, self.folder = count, self._place()
        self.locks.enter_context(locked(self.folder, "a training"))
        try:
            self._fill()
        except UserError:
            self.remove()
            raise
        wait_for_all()

    def _fill(self) -> None:
        steps, seed = self.task.trainer.num_training_batches, self.task.views_seed
        files = [[self._file(view, index) for index in range(steps)] for view in range(self.count)]
        missing = [file for view in files for file in view if not file.is_file()]
        if not missing:
            return
        total = self.count * steps
        shown = self.task.trainer.progress_bar_callback is not None and is_first()
        how = {"initial": total - len(missing), "disable": not shown}
        with progress(None, f"features for the {self.task.name}", "batches", total, **how) as bar:
            for view, wanted in enumerate(files):
                if all(file.is_file() for file in wanted):
                    continue
                batches = self.batches(mixed(seed, view))
                for index, (file, batch) in enumerate(zip(wanted, batches, strict=False)):
                    if file.is_file():
                        continue
                    with seeded(seed, view, rank(), index):
                        self._write(file, batch)
                    if file == missing[0]:
                        self._require_room(file.stat().st_size, len(missing) - 1)
                    bar.update()

    def remove(self) -> None:
        """Take the views away: the training has ended."""
        folder = self.folder or self._place()
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
        kept = {name: _on_cpu(value) for name, value in kept.items()} | {"id": list(batch["id"])}
        content = io.BytesIO()  # torch, which writes to a file itself, does not tell why it cannot
        torch.save(kept, content)
        write_atomic(file, lambda aside: aside.write_bytes(content.getbuffer()))

    def _require_room(self, size: int, more: int) -> None:
        """See that so many more files of a size find room.

        Raises:
            UserError: they do not.
        """
        wanted = size * more * processes_here()
        free = shutil.disk_usage(self.folder).free
        if wanted > (1 - LEAST_FREE) * free:
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
        dataset = vars(loader.dataset) | {"transform": None}  # which follows from the others
        images = [record.image for record in dataset["catalog"].records]
        told = [
            wsss.__version__,
            task.views_seed,
            world_size(),
            task.trainer.precision,
            sorted((name, repr(value)) for name, value in task.hparams.items() if name != "views"),
            loader.batch_size,
            dataset,
            remembered("stamps", images, partial(map, file_stamp)),
            remembered("stamps", dataset.get("masks", ()), partial(map, mask_stamp)),
        ]
        digest = hashlib.sha256(repr(told).encode())
        _add_weights(digest, task.backbone)
        return self.parent / f"{NAME}{digest.hexdigest()[:12]}"


def remove_views(folder: Path) -> None:
    """Take away the views that a training in `folder` has left which is not gone on with."""
    for path in folder.glob(f"{NAME}*"):
        shutil.rmtree(path, ignore_errors=True)


def _add_weights(digest: Any, network: nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else [_on_cpu(one) for one in value]
