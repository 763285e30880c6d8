"""From a trained network to mask files: seeds, relabelled slots, pseudo-masks, refined masks.

Where nothing is learned over all images, masks are made while the network goes on with the next ones.
Where slots are relabelled, seeds come first and masks after them. Each goes on image by image.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
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
from wsss.data.masks import LEARNED, SEED, read_arrays, write_arrays, write_mask
from wsss.data.modules import MaskData, TagData
from wsss.distributed import first, processes_here, share, wait_for_all
from wsss.errors import UserError, few
from wsss.files import file_stamp, read_json, sweep
from wsss.geometry import fit_within
from wsss.localize.cam import ClassMaps, seeds_of_maps
from wsss.localize.slot_classes import learn_slots, slot_probabilities
from wsss.localize.slot_classifier import SlotClasses
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
        self.workers = workers or workers_for(largest_image(records))
        # spawned, not forked: a fork of a process whose threads hold locks can hang
        self.pool = ProcessPoolExecutor(
            self.workers, mp_context=get_context("spawn"), initializer=start_process
        )
        self.jobs: dict[Future, Path] = {}

    def __enter__(self) -> "MaskPool":
        return self

    def submit(self, make: Callable[..., None], job: Job, *args: Any) -> None:
        """Leave a mask to a process; waits where many are outstanding, so that memory stays bounded.

        Raises:
            UserError: it could not be made, or a process was killed.
        """
        try:
            self.jobs[self.pool.submit(make, job, *args)] = job.image
        except (BrokenProcessPool, OSError, ValueError) as error:
            # the others where a process dies while something is written to it, or as one starts
            of_pipe = isinstance(error, BrokenProcessPool | BrokenPipeError)
            if not of_pipe and not self.pool._broken:
                raise
            raise self._killed() from error
        self._collect(most=64)

    def _collect(self, most: int) -> None:
        while len(self.jobs) > most:
            for job in wait(self.jobs, return_when=FIRST_COMPLETED).done:
                try:
                    job.result()
                except BrokenProcessPool as error:
                    raise self._killed() from error
                del self.jobs[job]

    def _killed(self) -> UserError:
        """What to say where a process has died: it was at one of the jobs that were given out first."""
        wait(self.jobs, timeout=10)
        left = [image for job, image in self.jobs.items() if _is_broken(job)]
        at = few([str(image) for image in left[: self.workers]])
        return UserError(
            "a process that makes masks was killed (out of memory?)"
            + (f" at {at}" if at else "")
            + ": the same command goes on with what is left; fewer masks.workers take less memory"
        )

    def __exit__(self, kind: type | None, *error: Any) -> None:
        try:
            if kind is None:
                left_over = range(len(self.jobs) - 1, -1, -1)
                for left in progress(left_over, "last masks", brief=True):
                    self._collect(left)
        finally:
            if self.pool._broken:
                # the pool waits for one that was being started while another died, but does not end it
                for process in [*(self.pool._processes or {}).values()]:
                    process.terminate()
            self.pool.shutdown(cancel_futures=True)


def _is_broken(job: Future) -> bool:
    return job.done() and isinstance(job.exception(), BrokenProcessPool)


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
    files, catalog = MaskFiles(masks), data.catalog(data.predict_split)
    # without places and processes
    settings = PseudoMaskSettings.from_dict(settings.to_dict()).for_images(len(catalog.records))
    noted = settings.to_dict() | {"relabel_slots": settings.relabels}
    kept = (files.seeds, files.maps) if settings.relabels else (files.maps,)
    _claim(files, task, data.predict_size, noted, *kept)
    missing = _missing(catalog, files.mask)
    if settings.relabels:
        make_seeds(task, data, settings, files, trainer)
    if not missing:
        return
    with MaskPool(missing.values(), workers) as pool:
        if settings.relabels:
            taught = first(lambda: learn_slot_classes(catalog, settings, files))
            for record in progress(share(list(missing.values())), "make masks"):
                job, seed = _job(files, record, catalog.white), files.seed(record.id)
                pool.submit(mask_of_seed, job, settings, seed, taught.without(record.id))

        def take(maps: ClassMaps, batch: dict[str, Any]) -> None:
            for name, seed in _seeds(maps, batch, settings, missing):
                scores = seed["scores"].astype(np.float16).astype(np.float32)  # as they are kept
                job = _job(files, missing[name], catalog.white)
                pool.submit(mask_of_scores, job, settings, scores, seed["labels"])

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
            f"{count - left} of {count} images have a seed, and slots are learned from them: run again "
            "without a limit of batches"
        )


def learn_slot_classes(catalog: Catalog, settings: PseudoMaskSettings, files: MaskFiles) -> SlotClasses:
    """Learn what slots are from the seeds of a sample of the images, and keep it in a file.

    What was learned from the same images before is not learned again. Where images came to the data
    set since, the sample is another one.
    """
    names = [record.id for record in sample_images(catalog.records, settings.sample)]
    learned = read_arrays(files.slot_classes, LEARNED[0]) if files.slot_classes.is_file() else {}
    if np.array_equal(learned.get("images", []), names):
        return SlotClasses(**learned)
    found = []
    for name in progress(names, "read slots", brief=True):
        seed = {key: torch.from_numpy(a) for key, a in read_arrays(files.seed(name), SEED).items()}
        dispatch = seed["dispatch"]  # not kept: those of all images take gigabytes
        probabilities = slot_probabilities(seed["scores"], dispatch, settings.background)
        found.append((seed["slots"], dispatch.mean((1, 2)), probabilities, seed["labels"].tolist()))
    features, areas, seeds, labels = zip(*found, strict=True)
    slots = torch.stack(features)
    del found, features  # not twice in memory
    taught = learn_slots(
        names,
        slots,
        torch.stack(areas),
        seeds,
        labels,
        len(catalog.classes) + 1,
        settings,
        partial(progress, what="learn slots", unit="rounds", brief=True),
    )
    write_arrays(files.slot_classes, half=False, **taught._asdict())
    return taught


def sample_images(records: Sequence[Record], most: int | None) -> Sequence[Record]:
    """Some images that stand for all: alike many of each class, evenly over the list of those with it.

    Images without a tag are a class of their own.

    Args:
        records: all images.
        most: images to choose, at most, but one of each class; None: all.

    Returns:
        The chosen ones in the order of the list, the same ones always.
    """
    if most is None or most >= len(records):
        return records
    showing: dict[int, list[int]] = {}  # class -> places of its images
    for place, record in enumerate(records):
        for tag in record.tags or (-1,):
            showing.setdefault(tag, []).append(place)
    chosen: set[int] = set()
    for places in showing.values():
        count = min(len(places), max(1, most // len(showing)))
        chosen |= {places[index * len(places) // count] for index in range(count)}
    return [records[place] for place in sorted(chosen)]


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
        trainer.hand_on(task, data.whole_images(wanted, task.model.size_multiple), take)


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
    for folder in conflicts:
        sweep(folder)
    if not (out / NOTE).is_file() and any(not p.name.startswith(".") for p in out.rglob("*.png")):
        raise UserError(f"{out} holds masks of another origin: give another folder as out")
    claim(conflicts, noted)
