"""Callbacks that write what `predict` makes: class maps, pseudo-masks, predicted masks."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor

from wsss.data.catalog import Catalog, Record, largest_image
from wsss.data.masks import read_arrays, write_arrays, write_mask
from wsss.errors import UserError
from wsss.evaluation import Counts, pixel_counts, write_counts
from wsss.files import file_stamp, read_json, write_json
from wsss.geometry import fit_within
from wsss.localize.cam import ClassMaps, seed_maps
from wsss.localize.slot_classes import SlotClassifier, classify_slots, shares_of_slots
from wsss.machine import allowed_cores, free_memory, require_locks
from wsss.progress import progress
from wsss.settings import ClassMapSettings, CRFSettings, SeedSettings
from wsss.tasks.jobs import make_pseudo_mask, make_refined_mask

SLOT_CLASSES = "slot_classes.npz"
"""File beside the masks' folder with the regressions that `classify_slots` gives."""

JOIN_SIDE = 256
"""Long side in pixels at which a segmenter's probabilities meet the first round's scores."""


class Writer(BasePredictionWriter):
    """Writes `<out>/<id>.png`; images whose file is there already are not predicted again."""

    def __init__(self, out: str, settings: dict[str, Any]) -> None:
        super().__init__(write_interval="batch")
        self.out, self.settings = Path(out), settings

    @property
    def folder(self) -> Path:
        """Where all of its files are."""
        return self.out

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        note = self.out / "settings.json"
        # what decides the masks: the writer's settings, the network and how it sees the images
        noted = self.settings | {
            "ckpt_path": pl_module.checkpoint and file_stamp(Path(pl_module.checkpoint)),
            "long_side": trainer.datamodule.predict_side,
            "network": getattr(pl_module, "test_settings", {}),
        }
        settings = json.loads(json.dumps(noted, default=asdict))
        if note.is_file() and read_json(note) != settings:
            raise UserError(
                f"{self.out} holds masks made with other settings or another network (see "
                f"{note.name} in it): give another folder as out, or remove this one"
            )
        inner = (path.relative_to(self.out) for path in self.out.rglob("*.png"))
        made = frozenset(p.with_suffix("").as_posix() for p in inner if not p.name.startswith("."))
        if made and not note.is_file():
            raise UserError(f"{self.out} holds masks of another origin: give another folder as out")
        self._note(settings)
        trainer.datamodule.skip = made

    def _note(self, settings: dict[str, Any]) -> None:
        write_json(self.out / "settings.json", settings)


PROCESS_BYTES, PIXEL_BYTES = 150e6, 16
"""Memory of a process that makes masks: its own, and for each pixel of a photograph."""


def workers_for(pixels: int) -> int:
    """Processes for masks of photographs of so many pixels: by the cores and the memory there are."""
    fitting = free_memory() / 2 / (PROCESS_BYTES + PIXEL_BYTES * pixels)
    return max(1, min(allowed_cores(), int(min(fitting, 1e6))))


class _PoolWriter(Writer):
    """Leaves the making of masks to other processes while the network goes on with the next images."""

    def __init__(
        self,
        out: str,
        settings: dict[str, Any],
        background: float,
        crf: CRFSettings | None,
        void_below: float,
        workers: int | None,
    ) -> None:
        for name, value in (("background", background), ("void_below", void_below)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} must lie in 0..1, got {value}")
        if workers is not None and workers < 1:
            raise UserError(f"workers must be 1 or more, or null to leave it to wsss, got {workers}")
        self.mask_settings = {"background": background, "crf": crf, "void_below": void_below}
        noted = {"crf": None if crf is None else asdict(crf)}
        super().__init__(out, settings | self.mask_settings | noted)
        self.workers = workers
        self.pool: ProcessPoolExecutor | None = None
        self.jobs: set[Future] = set()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        require_locks()
        # spawned, not forked: a fork of a process whose threads hold locks can hang
        workers = self.workers or workers_for(largest_image(self._to_make(trainer)))
        self.pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))

    def _to_make(self, trainer: pl.Trainer) -> Sequence[Record]:
        """The images whose masks are to be made."""
        data = trainer.datamodule
        return data.catalog(data.predict_split).records

    def _submit(self, make: Callable[..., None], *args: Any) -> None:
        self.jobs.add(self.pool.submit(make, *args, **self.mask_settings))
        self._collect(most=64)

    def _collect(self, most: int) -> None:
        """Wait until at most `most` masks are outstanding, so that memory stays bounded."""
        while len(self.jobs) > most:
            done, self.jobs = wait(self.jobs, return_when=FIRST_COMPLETED)
            for job in done:
                job.result()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        left_over = range(len(self.jobs) - 1, -1, -1)
        for left in progress(left_over, "last masks", brief=True):
            self._collect(left)
        self.pool.shutdown()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


class PseudoMaskWriter(_PoolWriter):
    """Keeps the seeds of all images, and makes pseudo-masks of them when all are there.

    Each image's seed and slots go to `<out>/../seeds/<id>.npz`, about 80 kilobytes. Before the
    masks are made the slots are classified by what those of other images teach. Beside each mask
    `<out>/<id>.png` stands `<out>/../maps/<id>.npz` with the scores it was made from (arrays
    `labels` (n,) and `scores` (n, h, w) in 0..1), some kilobytes.

    Args:
        out: folder of the masks.
        scales: image scales of the class maps.
        flip: average with the mirror image.
        slots: where the slots come from: `features` (training-free clustering, any backbone),
            `blocks` (GLNet's own), or `none`.
        sharpen: power that the shares of `blocks` are raised to, as training for tags alone leaves them
            soft (`wsss.localize.slots.sharpen_slots`); 1: as they are.
        border_prior: lower the scores of slots that run along the image's border, as sky and water do
            (`wsss.localize.slots.foreground_prior`); false where such things are among the classes.
        learn_slots: correct the seeds by what the slots of other images teach
            (`wsss.localize.slot_classes`).
        background: score of the background, 0..1; more makes objects smaller.
        crf: dense CRF, null for the plain threshold.
        void_below: pixels whose largest share lies below are void, 0..1; 0 leaves none void.
        workers: processes for the CRF; null: one for each core that may be used, fewer where large
            photographs would fill the memory.
    """

    def __init__(
        self,
        out: str,
        scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
        flip: bool = True,
        slots: Literal["none", "features", "blocks"] = "features",
        sharpen: float = 4.0,
        border_prior: bool = True,
        learn_slots: bool = True,
        background: float = 0.4,
        crf: CRFSettings | None = CRFSettings(),  # noqa: B008  (frozen)
        void_below: float = 0.0,
        workers: int | None = None,
    ) -> None:
        if not scales or min(scales) <= 0:
            raise UserError(f"scales must be positive numbers, got {list(scales)}")
        if not sharpen > 0:
            raise UserError(f"sharpen is a power above 0, got {sharpen}")
        self.map_settings = ClassMapSettings(tuple(map(float, scales)), flip, slots, float(sharpen))
        self.seed_settings = SeedSettings(border_prior)
        self.learn_slots = learn_slots and slots != "none"
        settings = self.map_settings.to_dict() | {"border_prior": border_prior}
        settings |= {"learn_slots": self.learn_slots}
        super().__init__(out, settings, background, crf, void_below, workers)
        self.seeds, self.maps = self.out.parent / "seeds", self.out.parent / "maps"
        self.catalog: Catalog | None = None
        self.missing: list[Record] = []

    @property
    def folder(self) -> Path:
        return self.out.parent  # masks, seeds and maps lie side by side

    def _note(self, settings: dict[str, Any]) -> None:
        for folder in (self.seeds, self.maps):
            note = folder / "settings.json"
            if note.is_file() and read_json(note) != settings:
                raise UserError(
                    f"{folder} holds the maps of masks made with other settings or another network: "
                    f"give an out outside {self.out.parent}, or remove the seeds, maps and masks in it"
                )
        super()._note(settings)
        for folder in (self.seeds, self.maps):
            write_json(folder / "settings.json", settings)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        data = trainer.datamodule
        made, data.skip = data.skip, frozenset()
        self.catalog = data.catalog(data.predict_split)
        records = self.catalog.records
        self.missing = [record for record in records if record.id not in made]
        seen = [r.id for r in records if not self.missing or self._seed(r.id).is_file()]
        if self.missing and len(seen) == len(records):
            seen.pop()  # without an image Lightning does not come to the end, where masks are made
        data.skip = frozenset(seen)

    def _to_make(self, trainer: pl.Trainer) -> Sequence[Record]:
        return self.missing

    def _seed(self, name: str) -> Path:
        return self.seeds / f"{name}.npz"

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: ClassMaps,
        batch_indices: Sequence[int] | None,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        scores = seed_maps(prediction, self.seed_settings)
        for index, name in enumerate(batch["id"]):
            tags = batch["tags"][index].nonzero().flatten()
            seed = {"scores": scores[index, tags], "labels": tags + 1}
            if self.learn_slots:
                seed |= {"dispatch": prediction.dispatch[index], "slots": prediction.slots[index]}
            write_arrays(self._seed(name), **{key: array.cpu().numpy() for key, array in seed.items()})

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        count = len(self.catalog.records)
        seen = sum(self._seed(record.id).is_file() for record in self.catalog.records)
        if seen < count:  # trainer.limit_predict_batches
            raise UserError(
                f"{seen} of {count} images have a seed, and slots are learned from all: run again "
                "without a limit of batches"
            )
        learned = self._learn() if self.learn_slots else {}
        for record in progress(self.missing, "make masks"):
            name = record.id
            paths = self.out / f"{name}.png", self.maps / f"{name}.npz"
            image = record.image, self.catalog.white
            self._submit(make_pseudo_mask, *image, self._seed(name), learned.get(name), *paths)
        super().on_predict_end(trainer, pl_module)

    def _learn(self) -> dict[str, np.ndarray]:
        """What the slots of each image are: shares (n + 1, K) of background and tags, by its id."""
        names, found = [record.id for record in self.catalog.records], []
        for name in progress(names, "read slots", brief=True):
            seed = {key: torch.from_numpy(a) for key, a in read_arrays(self._seed(name)).items()}
            dispatch = seed["dispatch"]  # not kept: those of all images take gigabytes
            shares = shares_of_slots(seed["scores"], dispatch, self.mask_settings["background"])
            found.append((seed["slots"], dispatch.mean((1, 2)), shares, seed["labels"].tolist()))
        features, areas, seeds, labels = zip(*found, strict=True)
        learned, taught = classify_slots(
            torch.stack(features),
            torch.stack(areas),
            seeds,
            labels,
            len(self.catalog.classes) + 1,
            along=partial(progress, what="learn slots", unit="rounds", brief=True),
        )
        of_others = {
            name: torch.stack([getattr(one, name) for one in taught]).numpy()
            for name in SlotClassifier._fields
        }
        write_arrays(self.seeds.with_name(SLOT_CLASSES), half=False, **of_others)
        return {name: shares.numpy() for name, shares in zip(names, learned, strict=True)}


class RefinedMaskWriter(_PoolWriter):
    """Pseudo-masks of a second round: what a segmenter sees, joined with the first round's scores.

    Only tagged classes: those that the maps were made for. See `wsss.localize.pseudo_masks`.

    Args:
        out: folder of the masks.
        maps: folder of the first round's maps, which `PseudoMaskWriter` wrote.
        background: score of the background beside those maps, 0..1.
        crf: dense CRF, null for none.
        void_below: pixels whose largest share lies below are void, 0..1; 0 leaves none void.
        workers: processes for the CRF; null: one for each core that may be used, fewer where large
            photographs would fill the memory.
    """

    def __init__(
        self,
        out: str,
        maps: str,
        background: float = 0.4,
        crf: CRFSettings | None = CRFSettings(),  # noqa: B008  (frozen)
        void_below: float = 0.0,
        workers: int | None = None,
    ) -> None:
        super().__init__(out, {}, background, crf, void_below, workers)
        self.maps = Path(maps)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        note = self.maps / "settings.json"  # what the maps were made with, wherever they lie
        self.settings["maps"] = file_stamp(note) if note.is_file() else None
        super().setup(trainer, pl_module, stage)

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        shape = fit_within(*prediction.shape[-2:], JOIN_SIDE)
        probabilities = F.interpolate(prediction, shape, mode="area").cpu().numpy().astype(np.float16)
        for index, name in enumerate(batch["id"]):
            self._submit(
                make_refined_mask,
                Path(batch["path"][index]),
                trainer.datamodule.white,
                probabilities[index],
                self.out / f"{name}.png",
                self.maps / f"{name}.npz",
            )


class MaskWriter(Writer):
    """Writes the segmentation network's masks.

    Args:
        out: folder of the masks.
    """

    def __init__(self, out: str) -> None:
        super().__init__(out, {})

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        for index, name in enumerate(batch["id"]):
            one = {key: batch[key][index : index + 1] for key in ("image", "size")}
            mask = pl_module.labels(one, prediction[index : index + 1], pl_module.inference.crf)
            write_mask(self.out / f"{name}.png", mask.cpu().numpy())


class EvaluationWriter(pl.Callback):
    """Keeps what a test of the segmentation network shows: every mask, and where it is right.

    Writes `<out>/test/<id>.png` and `<out>/test.json` (`wsss.evaluation.write_counts`).

    Args:
        out: folder of the stage.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
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
        mask, name = outputs.cpu().numpy(), batch["id"][0]
        write_mask(self.out / "test" / f"{name}.png", mask)
        self.counts[name] = pixel_counts(mask, batch["mask"][0].cpu().numpy())

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        write_counts(self.out / "test.json", pl_module.classes, self.counts)
