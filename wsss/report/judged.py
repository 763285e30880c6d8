"""Masks held against the ground truth, image by image: the errors of each class, its best and worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from wsss.data.catalog import Record
from wsss.errors import UserError, few
from wsss.evaluation import Counts, confusion_matrix, iou_of
from wsss.run_folder import RunFolder, StageFolder
from wsss.voc import VOID


@dataclass(frozen=True)
class Judged:
    """Masks whose ground truth is known.

    Attributes:
        what: the masks in words.
        masks: their folder.
        names: of the labels, background first.
        images: pixel counts of each image.
        records: the images, with their ground truth.
        white: as in `read_image`.
    """

    what: str
    masks: Path
    names: list[str]
    images: Mapping[str, Counts]
    records: Mapping[str, Record]
    white: int | None = None

    @cached_property
    def matrix(self) -> np.ndarray:
        """Confusion matrix (L, L), a row for each label of the ground truth."""
        return confusion_matrix(self.images.values(), len(self.names))

    @cached_property
    def iou(self) -> np.ndarray:
        """(L,) in percent; nan for a label that is nowhere."""
        return iou_of(self.matrix)


def judged_masks(run: RunFolder, final: StageFolder) -> Judged | None:
    """The segmenter's test, or the masks it learned from where only they can be judged, or None.

    Args:
        run: a finished run.
        final: the stage whose masks the segmenter learned from.
    """
    segment, made = run["segment"], run["pseudo_masks"].data()
    for what, stage, masks, data, split in (
        ("segmenter", segment, segment.test, segment.data(), segment.data().val_split),
        ("pseudo-masks", final, final.masks, made, made.predict_split),
    ):
        if (counted := stage.counts(masks)) is None:
            continue
        (classes, images), catalog = counted, data.catalog(split, tagged=False)
        if classes != [*catalog.classes]:
            raise UserError(
                f"{masks.with_suffix('.json')} counts the classes {few(classes)}, but the data have "
                f"{few(catalog.classes)}: run the command again that made the masks"
            )
        # ground truth may have been taken away since
        records = {record.id: record for record in catalog.records if record.mask is not None}
        images = {name: counts for name, counts in images.items() if name in records}
        names = ["background", *classes]
        judged = Judged(f"{what} on {split}", masks, names, images, records, catalog.white)
        if judged.matrix.any():
            return judged
    return None


def kinds_of_error(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Kinds of error per label (L,), in percent of the union of ground truth and prediction."""
    hits = matrix.diagonal()
    every = matrix.sum(0) + matrix.sum(1)
    union = np.maximum(every - hits, 1)
    missed, taken = matrix[:, 0].copy(), matrix[0].copy()
    missed[0], taken[0] = matrix[1:, 0].sum(), matrix[0, 1:].sum()
    confused = np.where(every == 0, 0, union - hits - missed - taken)
    pixels = {"missed": missed, "background taken": taken, "confused": confused}
    return {name: 100 * values / union for name, values in pixels.items()}


def best_and_worst(images: Mapping[str, Counts], label: int, count: int) -> dict[str, list[str]]:
    """At most `count` images each with the best and the worst masks of a label.

    Best: the highest IoU among images in which the label fills at least 1 %. Worst: the most wrong
    pixels of it. No image is both.
    """
    best, worst = [], []
    for name, counts in images.items():
        true = sum(n for t, _, n in counts if t == label)
        hit = sum(n for t, p, n in counts if t == p == label)
        wrong = sum(n for t, p, n in counts if (t == label) != (p == label) and VOID not in (t, p))
        every = sum(n for _, _, n in counts)
        if true >= 0.01 * every and hit:
            best.append((hit / (hit + wrong), name))
        if wrong:
            worst.append((wrong / every, name))
    # of few images, half are the best ones
    few = min(count, max(1, len({name for _, name in best + worst}) // 2))
    best = [name for _, name in sorted(best, reverse=True)[:few]]
    worst = [name for _, name in sorted(worst, reverse=True) if name not in best]
    return {"best": best, "worst": worst[:count]}


def what_went_wrong(counts: Counts, label: int, names: Sequence[str]) -> str:
    """The IoU of a class in an image and the kind of error that cost it the most pixels."""
    matrix = confusion_matrix([counts], len(names))
    hits, true, predicted = matrix[label, label], matrix[label].sum(), matrix[:, label].sum()
    union = true + predicted - hits
    says = f"IoU {100 * hits / max(1, union):.0f} %."
    name = names[label]
    out, into = matrix[label].copy(), matrix[:, label].copy()
    out[label] = into[label] = 0
    if not out.any() and not into.any():
        return f"{says} Every pixel is right."
    if out.max() >= into.max():
        other, share = int(out.argmax()), 100 * out.max() / true
        kind = "Missed" if other == 0 else "Class confused"
        return f"{says} {kind}: {share:.0f} % of the ground-truth {name} taken for {names[other]}."
    other, share = int(into.argmax()), 100 * into.max() / predicted
    kind = "Background taken" if other == 0 else "Class confused"
    return f"{says} {kind}: {share:.0f} % of the predicted {name} is {names[other]}."
