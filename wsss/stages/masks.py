"""From a trained network to mask files: seeds, relabelled slots, pseudo-masks, refined masks.

Where nothing is learned over all images, masks are made while the network goes on with the next ones.
Where slots are relabelled, seeds come first and masks after them. Each goes on image by image.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.data.catalog import Catalog, Record, largest_image
from wsss.data.masks import read_arrays, write_arrays, write_mask
from wsss.data.modules import MaskData, TagData
from wsss.distributed import first, processes_here, share, wait_for_all
from wsss.errors import UserError
from wsss.files import file_stamp, read_json
from wsss.geometry import fit_within
from wsss.localize.cam import ClassMaps, seeds_of_maps
from wsss.localize.slot_classes import SlotClassifier, classify_slots, slot_probabilities
from wsss.machine import allowed_cores, free_memory, require_locks
from wsss.origin import NOTE, claim
from wsss.program import start_process
from wsss.progress import progress
from wsss.run_folder import MaskFiles
from wsss.settings import PseudoMaskSettings, RefinementSettings
from wsss.stages.jobs import Job, mask_of_scores, mask_of_seed, mask_of_segmenter
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.task import Task
from wsss.tasks.trainer import Trainer

JOIN_SIDE = 256
"""Long side in pixels at which a segmenter's probabilities meet the first round's scores."""

PROCESS_BYTES, PIXEL_BYTES = 150e6, 16
"""Memory of a process that makes masks: its own, and for each pixel of a photograph."""


def workers_for(pixels: int) -> int:
    """Processes for masks of photographs of so many pixels: by the cores and the memory there are."""
    fitting = free_memory() / 2 / (PROCESS_BYTES + PIXEL_BYTES * pixels)
    return max(1, min(allowed_cores(), int(min(fitting, 1e6))) // processes_here())


class MaskPool:
    """Processes that make masks while the network goes on with the next images.

    Args:
        records: the images whose masks are to be made.
        workers: processes; None: as many as cores and memory allow.
    """

    def __init__(self, records: Iterable[Record], workers: int | None) -> None:
        require_locks()
        workers = workers or workers_for(largest_image(records))
        # spawned, not forked: a fork of a process whose threads hold locks can hang
        self.pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=start_process
        )
        self.jobs: set[Future] = set()

    def __enter__(self) -> "MaskPool":
        return self

    def submit(self, make: Callable[..., None], *args: Any) -> None:
        """Leave a mask to a process; waits where many are outstanding, so that memory stays bounded."""
        self.jobs.add(self.pool.submit(make, *args))
        self._collect(most=64)

    def _collect(self, most: int) -> None:
        while len(self.jobs) > most:
            done, self.jobs = wait(self.jobs, return_when=FIRST_COMPLETED)
            for job in done:
                job.result()

    def __exit__(self, kind: type | None, *error: Any) -> None:
        try:
            if kind is None:
                left_over = range(len(self.jobs) - 1, -1, -1)
                for left in progress(left_over, "last masks", brief=True):
                    self._collect(left)
        finally:
            self.pool.shutdown(cancel_futures=True)


def make_pseudo_masks(
    task: ClassificationTask,
    data: TagData,
    settings: PseudoMaskSettings,
    masks: str | Path,
    trainer: Trainer,
    workers: int | None = None,
) -> None:
    """Make the pseudo-masks of `data.predict_split` that are not there yet.

    Args:
        task: the trained classifier.
        data: the images and tags.
        settings: of all steps.
        masks: folder for the masks; what they are made from is kept beside it (`MaskFiles`).
        trainer: runs the network.
        workers: processes for the masks; None: as many as cores and memory allow.

    Raises:
        UserError: the folder holds masks of other settings or of another network, or an image cannot
            be read.
    """
    settings = PseudoMaskSettings.from_dict(settings.to_dict())  # without places and processes
    files, catalog = MaskFiles(masks), data.catalog(data.predict_split)
    noted = settings.to_dict() | {"relabel_slots": settings.relabels}
    kept = (files.seeds, files.maps) if settings.relabels else (files.maps,)
    _claim(files, task, data.predict_size, noted, *kept)
    missing = _missing(catalog, files.mask)
    if settings.relabels:
        make_seeds(task, data, settings, files, trainer)
        slot_labels = first(lambda: label_slots(catalog, settings, files)) if missing else {}
    if not missing:
        return
    with MaskPool(missing.values(), workers) as pool:
        jobs = {name: _job(files, r, catalog.white) for name, r in missing.items()}
        if settings.relabels:
            for name in progress(share(list(jobs)), "make masks"):
                pool.submit(mask_of_seed, jobs[name], settings, files.seed(name), slot_labels[name])

        def take(maps: ClassMaps, batch: dict[str, Any]) -> None:
            for name, seed in _seeds(maps, batch, settings, missing):
                scores = seed["scores"].astype(np.float16).astype(np.float32)  # as they are kept
                pool.submit(mask_of_scores, jobs[name], settings, scores, seed["labels"])

        if not settings.relabels:
            _class_maps(task, data, missing, settings, trainer, take)
    _require_all(catalog, files)


def make_seeds(
    task: ClassificationTask,
    data: TagData,
    settings: PseudoMaskSettings,
    files: MaskFiles,
    trainer: Trainer,
) -> None:
    """Make the seeds of `data.predict_split` that are not there yet.

    Raises:
        UserError: a limit of the trainer has left images out.
    """
    catalog = data.catalog(data.predict_split)
    missing = _missing(catalog, files.seed)
    if not _missing(catalog, files.mask):
        return

    def take(maps: ClassMaps, batch: dict[str, Any]) -> None:
        for name, seed in _seeds(maps, batch, settings, missing):
            write_arrays(files.seed(name), **seed)

    _class_maps(task, data, missing, settings, trainer, take)
    if left := len(_missing(catalog, files.seed)):  # trainer.limit_predict_batches
        count = len(catalog.records)
        raise UserError(
            f"{count - left} of {count} images have a seed, and slots are learned from all: run again "
            "without a limit of batches"
        )


def label_slots(
    catalog: Catalog, settings: PseudoMaskSettings, files: MaskFiles
) -> dict[str, np.ndarray]:
    """Relabel the slots of all images by what those of others teach.

    Returns:
        For each image, by its id, the probabilities (n + 1, K) of background and tags in its slots.
    """
    names, found = [record.id for record in catalog.records], []
    for name in progress(names, "read slots", brief=True):
        seed = {key: torch.from_numpy(a) for key, a in read_arrays(files.seed(name)).items()}
        dispatch = seed["dispatch"]  # not kept: those of all images take gigabytes
        shares = slot_probabilities(seed["scores"], dispatch, settings.background)
        found.append((seed["slots"], dispatch.mean((1, 2)), shares, seed["labels"].tolist()))
    features, areas, seeds, labels = zip(*found, strict=True)
    learned, taught = classify_slots(
        torch.stack(features),
        torch.stack(areas),
        seeds,
        labels,
        len(catalog.classes) + 1,
        settings,
        partial(progress, what="learn slots", unit="rounds", brief=True),
    )
    of_others = {
        name: torch.stack([getattr(one, name) for one in taught]).numpy()
        for name in SlotClassifier._fields
    }
    write_arrays(files.slot_classes, half=False, **of_others)
    return {name: shares.numpy() for name, shares in zip(names, learned, strict=True)}


def refine_masks(
    task: SegmentationTask,
    data: MaskData,
    settings: RefinementSettings,
    maps: str | Path,
    masks: str | Path,
    trainer: Trainer,
    workers: int | None = None,
) -> None:
    """Make the masks of the second round of `data.predict_split` that are not there yet.

    Args:
        task: the trained segmenter.
        data: the images.
        settings: of the refinement.
        maps: folder of the first round's scores.
        masks: folder for the masks.
        trainer: runs the network.
        workers: as for `make_pseudo_masks`.

    Raises:
        UserError: the folder holds masks of other settings, of another network or of other scores, or
            the scores of an image are not there.
    """
    settings = RefinementSettings.from_dict(settings.to_dict())  # without places and processes
    files, catalog = MaskFiles(masks), data.catalog(data.predict_split, tagged=False)
    files.maps = Path(maps)
    note = files.maps / NOTE  # what the maps were made with, wherever they lie
    first = read_json(note) if note.is_file() else {}
    if settings.background is None:
        usual = PseudoMaskSettings().background
        settings = replace(settings, background=first.get("background", usual))
    stamp = {"maps": file_stamp(note) if note.is_file() else None}
    _claim(files, task, data.max_side, settings.to_dict() | stamp)
    missing = _missing(catalog, files.mask)
    if not missing:
        return
    with MaskPool(missing.values(), workers) as pool:

        def take(prediction: Tensor, batch: dict[str, Any]) -> None:
            shape = fit_within(*prediction.shape[-2:], JOIN_SIDE)
            seen = F.interpolate(prediction, shape, mode="area").cpu().numpy().astype(np.float16)
            for index, name in enumerate(batch["id"]):
                if name in missing:
                    job = _job(files, missing[name], catalog.white)
                    pool.submit(mask_of_segmenter, job, settings, seen[index])

        trainer.hand_on(task, data.whole_images(missing), take)
    _require_all(catalog, files)


def predict_masks(task: SegmentationTask, data: MaskData, masks: str | Path, trainer: Trainer) -> None:
    """Write the segmenter's masks of `data.predict_split` that are not there yet."""
    files, catalog = MaskFiles(masks), data.catalog(data.predict_split, tagged=False)
    _claim(files, task, data.max_side, {})
    missing = _missing(catalog, files.mask)

    def take(prediction: Tensor, batch: dict[str, Any]) -> None:
        for index, name in enumerate(batch["id"]):
            if name not in missing:
                continue
            one = {key: batch[key][index : index + 1] for key in ("image", "size")}
            mask = task.labels(one, prediction[index : index + 1], task.inference.crf)
            write_mask(files.mask(name), mask.cpu().numpy())

    if missing:
        trainer.hand_on(task, data.whole_images(missing), take)
        _require_all(catalog, files)


def _class_maps(
    task: ClassificationTask,
    data: TagData,
    wanted: Collection[str],
    settings: PseudoMaskSettings,
    trainer: Trainer,
    take: Callable[[ClassMaps, dict[str, Any]], None],
) -> None:
    if wanted:
        task.map_settings = settings
        trainer.hand_on(task, data.whole_images(wanted), take)


def _seeds(
    maps: ClassMaps, batch: dict[str, Any], settings: PseudoMaskSettings, wanted: Collection[str]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The seed of each wanted image: scores (n, h, w) of its tags, their labels, its slots."""
    scores = seeds_of_maps(maps, settings)
    for index, name in enumerate(batch["id"]):
        if name not in wanted:
            continue
        tags = batch["tags"][index].nonzero().flatten()
        seed = {"scores": scores[index, tags], "labels": tags + 1}
        if settings.relabels:
            seed |= {"dispatch": maps.dispatch[index], "slots": maps.slots[index]}
        yield name, {key: array.cpu().numpy() for key, array in seed.items()}


def _job(files: MaskFiles, record: Record, white: int | None) -> Job:
    return Job(record.image, white, files.mask(record.id), files.scores(record.id))


def _missing(catalog: Catalog, file: Callable[[str], Path]) -> dict[str, Record]:
    """The images whose file is not there yet, by their ids, when all processes have come here."""
    wait_for_all()
    names = first(lambda: {r.id for r in catalog.records if not file(r.id).is_file()})
    return {record.id: record for record in catalog.records if record.id in names}


def _require_all(catalog: Catalog, files: MaskFiles) -> None:
    """Refuse to end without the masks of all images, as a limit of the trainer would have it."""
    if left := _missing(catalog, files.mask):  # trainer.limit_predict_batches
        raise UserError(
            f"{len(left)} of {len(catalog.records)} images have no mask: run again without a limit of "
            "batches"
        )


def _claim(files: MaskFiles, task: Task, side: int, settings: dict[str, Any], *kept: Path) -> None:
    """Note beside masks, and in folders of what is kept of them, what decides them; or refuse."""
    first(lambda: _claim_first(files, task, side, settings, *kept))


def _claim_first(
    files: MaskFiles, task: Task, side: int, settings: dict[str, Any], *kept: Path
) -> None:
    out = files.masks
    noted = settings | {
        "ckpt_path": task.checkpoint and file_stamp(Path(task.checkpoint)),
        "long_side": side,
        "network": getattr(task, "test_settings", {}),
    }
    conflicts = {
        out: f"{out} holds masks made with other settings or another network (see {NOTE} in it): give "
        "another folder as out, or remove this one"
    } | {
        folder: f"{folder} holds the maps of masks made with other settings or another network: give "
        f"an out outside {out.parent}, or remove the seeds, maps and masks in it"
        for folder in kept
    }
    if not (out / NOTE).is_file() and any(not p.name.startswith(".") for p in out.rglob("*.png")):
        raise UserError(f"{out} holds masks of another origin: give another folder as out")
    claim(conflicts, noted)
