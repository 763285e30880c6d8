"""Evaluation by the VOC protocol: one confusion matrix over the whole set of images."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Len
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix
from typing_extensions import TypedDict

from wsss.data.masks import read_mask, tell_palettes
from wsss.distributed import gather, in_order, share, world_size
from wsss.errors import NotMeasurable, UserError
from wsss.files import damaged, read_json, write_atomic
from wsss.geometry import resize_scores
from wsss.progress import progress
from wsss.voc import VOID

BLOCK = 256
"""Images whose pixel counts a process keeps before they are handed on."""


@dataclass(frozen=True)
class Scores:
    """Numbers of one evaluation, in percent (0..100).

    >>> scores = wsss.evaluate_folders("runs/demo/pseudo_masks/masks", "data/SegmentationClass")
    >>> list(scores.iou), round(scores.iou["ball"])
    (['background', 'ball', 'brick', 'kite', 'star'], 100)

    Attributes:
        miou: mean of the IoU over the classes that occur in ground truth or prediction; void pixels of
            either are left out.
        iou: IoU per class, background first; None for a class that occurs in neither.
        pixel_accuracy: share of the compared pixels with the right label.
        void: share of the pixels with a ground-truth label that the prediction leaves void. Read
            `miou` with it: leaving out the hard pixels raises it.
        images: number of images.
    """

    miou: float
    iou: dict[str, float | None]
    pixel_accuracy: float
    void: float
    images: int

    def to_dict(self) -> dict:
        """As plain types, for JSON."""
        return asdict(self)


class Evaluator:
    """Collects masks, then gives the scores.

    Args:
        classes: foreground class names.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.names = ["background", *classes]
        count = len(self.names)
        self.confusion = torch.zeros(count, count, dtype=torch.int64)  # row true, column predicted
        self.void = self.labelled = self.images = 0

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one image: (H, W) integer labels each, 255 is void in both."""
        if prediction.shape != target.shape:
            raise ValueError(f"shapes differ: {tuple(prediction.shape)}, {tuple(target.shape)}")
        prediction, target = prediction.long().cpu(), target.long().cpu()
        labelled = target != VOID
        unsure = labelled & (prediction == VOID)
        self.labelled += int(labelled.sum())
        self.void += int(unsure.sum())
        self.images += 1
        known = labelled & ~unsure
        if known.any():
            pair = prediction[known], target[known]
            self.confusion += multiclass_confusion_matrix(*pair, num_classes=len(self.names))

    @property
    def state(self) -> tuple[Tensor, int, int, int]:
        """All that it has counted."""
        return self.confusion, self.void, self.labelled, self.images

    def merge(self, states: Sequence[tuple[Tensor, int, int, int]]) -> None:
        """Take what several have counted, of images of their own, instead of what it has."""
        matrices, void, labelled, images = zip(*states, strict=True)
        self.confusion = torch.stack(matrices).sum(0)
        self.void, self.labelled, self.images = sum(void), sum(labelled), sum(images)

    @property
    def measurable(self) -> bool:
        """Whether any pixel so far has both a ground-truth and a predicted label."""
        return self.labelled > self.void

    def so_far(self) -> dict[str, float]:
        """The mIoU of the images so far, in percent, to be shown; nothing before the first."""
        return {"mIoU": self.compute().miou} if self.measurable else {}

    def compute(self) -> Scores:
        """The scores of all images so far.

        Raises:
            NotMeasurable: no pixel has both a ground-truth and a predicted label.
        """
        if not self.measurable:
            raise NotMeasurable(
                "no pixel has a ground-truth and a predicted label: nothing to evaluate"
            )
        matrix = self.confusion.double()
        hits = matrix.diag()
        union = matrix.sum(0) + matrix.sum(1) - hits
        values = [None if union[i] == 0 else 100 * float(hits[i] / union[i]) for i in range(len(union))]
        present = [value for value in values if value is not None]
        return Scores(
            miou=sum(present) / len(present),
            iou=dict(zip(self.names, values, strict=True)),
            pixel_accuracy=100 * float(hits.sum() / matrix.sum()),
            void=100 * self.void / self.labelled,
            images=self.images,
        )


def evaluate_files(pairs: Iterable[tuple[Path, Path]], classes: Sequence[str]) -> Scores:
    """Compare mask files, (prediction, target) each.

    Args:
        pairs: the files.
        classes: foreground class names.

    Raises:
        UserError: a file is missing, has an unknown label, or the sizes of a pair differ.
        NotMeasurable: no pixel has both a ground-truth and a predicted label.
    """
    evaluator = Evaluator(classes)
    for _ in compare_files(list(pairs), evaluator):
        pass
    return evaluator.compute()


def compare_files(pairs: Sequence[tuple[Path, Path]], evaluator: Evaluator) -> Iterator["Counts"]:
    """Add mask files, (prediction, target) each, to an evaluator; gives the `pixel_counts` of each.

    Several processes share the work, and each is given all counts.

    Raises:
        UserError: as `evaluate_files`.
        NotMeasurable: as `evaluate_files`, after the last pair.
    """
    foreign: list[str] = []
    num_labels = len(evaluator.names)

    def compare(prediction_path: Path, target_path: Path) -> Counts:
        prediction = read_mask(prediction_path, num_labels, foreign)
        target = read_mask(target_path, num_labels, foreign)
        if prediction.shape != target.shape:
            sizes = [f"{mask.shape[1]}x{mask.shape[0]}" for mask in (prediction, target)]
            raise UserError(
                f"{prediction_path} is {sizes[0]} pixels, {target_path} is {sizes[1]}: "
                "predictions must have the target's size"
            )
        evaluator.update(torch.from_numpy(prediction), torch.from_numpy(target))
        bar.set_postfix(evaluator.so_far(), refresh=False)
        return pixel_counts(prediction, target)

    with progress(share(pairs), "evaluate masks") as bar:
        own = iter(bar)
        for _ in range(0, len(pairs), BLOCK * world_size()):  # as many blocks in each process
            yield from in_order(gather([compare(*pair) for pair in islice(own, BLOCK)]))
    tell_palettes(foreign)
    evaluator.merge(gather(evaluator.state))
    if evaluator.images == 0:
        raise UserError("there is no mask to evaluate")
    evaluator.compute()


Counts = list[tuple[int, int, int]]
"""(ground-truth label, predicted label, pixels) for each pair of labels that occurs in an image."""


def pixel_counts(prediction: np.ndarray, target: np.ndarray) -> Counts:
    """Count the pairs of labels of one image, void (255) among them; masks (H, W) uint8 each."""
    counts = np.bincount(target.astype(np.int64).ravel() * 256 + prediction.ravel(), minlength=65536)
    return [(int(i) // 256, int(i) % 256, int(counts[i])) for i in counts.nonzero()[0]]


def write_counts(path: Path, classes: Sequence[str], images: Iterable[tuple[str, Counts]]) -> None:
    """Keep the pixel counts of each image, by its id, as JSON: a line and about 100 bytes an image.

    They are written as they come, and are there once all have come.
    """

    def write(aside: Path) -> None:
        with aside.open("w", encoding="utf-8") as file:
            file.write(f'{{"classes": {json.dumps(list(classes))}, "images": {{')
            for index, (name, counts) in enumerate(images):
                line = f"{json.dumps(name)}:{json.dumps(counts, separators=(',', ':'))}"
                file.write(f"{',' if index else ''}\n{line}")
            file.write("\n}}\n")

    write_atomic(path, write)


class WrittenCounts(TypedDict):
    """What `write_counts` writes."""

    classes: list[str]
    images: dict[str, list[Annotated[list[Annotated[int, Ge(0)]], Len(3, 3)]]]


def read_counts(path: Path) -> tuple[list[str], dict[str, Counts]]:
    """What `write_counts` wrote: the classes, and the pixel counts of each image by its id.

    Raises:
        UserError: the file is damaged.
    """
    written = read_json(path, WrittenCounts)
    known = {*range(len(written["classes"]) + 1), VOID}
    for name, counts in written["images"].items():
        if any(true not in known or predicted not in known for true, predicted, _ in counts):
            raise damaged(path, f"{name} has labels of no class")
    return written["classes"], written["images"]


def confusion_matrix(counts: Iterable[Counts], num_labels: int) -> np.ndarray:
    """Sum pixel counts to (num_labels, num_labels) int64: row target, column predicted; no void."""
    matrix = np.zeros((num_labels, num_labels), np.int64)
    for image in counts:
        for true, predicted, pixels in image:
            if true != VOID and predicted != VOID:
                matrix[true, predicted] += pixels
    return matrix


def iou_of(matrix: np.ndarray) -> np.ndarray:
    """IoU per label in percent of a confusion matrix (L, L); nan for one that does not occur."""
    hits = matrix.diagonal().astype(float)
    union = matrix.sum(0) + matrix.sum(1) - hits
    return np.divide(100 * hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def threshold_curve(
    maps: Iterable[tuple[np.ndarray, Sequence[int], np.ndarray]],
    num_labels: int,
    steps: int = 50,
    also: Sequence[float] = (),
) -> list[tuple[float, float]]:
    """Seed mIoU for background scores 0, 1/steps, ..., 1 and those in `also`, in rising order.

    Args:
        maps: per image the scores (n, h, w) in 0..1, which are resized to the mask's size, their
            labels, and the ground-truth mask (H, W). Each of several processes gives those of its
            share.
        num_labels: number of labels with background.
        steps: number of steps.
        also: further thresholds, 0..1.

    Returns:
        (threshold, mIoU in percent) per step; choosing the best one uses the ground truth.
    """
    # bin = number of thresholds that the pixel's best score beats, so one pass serves all of them
    thresholds = np.linspace(0, 1, steps + 1)
    off_grid = [value for value in also if not np.isclose(thresholds, value).any()]
    thresholds = np.unique([*thresholds, *off_grid])
    counts = np.zeros((len(thresholds) + 1, num_labels, num_labels))
    for scores, labels, target in maps:
        best, winner = np.zeros(target.shape, np.float32), np.zeros(target.shape, np.uint8)
        for label, score in zip(labels, scores, strict=True):  # all at once would fill the memory
            one = resize_scores(score[None].astype(np.float32), *target.shape)[0]
            winner[one > best] = label
            np.maximum(best, one, out=best)
        rows = max(1, 2**20 // target.shape[1])  # in bands: the indices of a large mask fill the memory
        for band in (slice(top, top + rows) for top in range(0, len(target), rows)):
            known = target[band] != VOID
            level = np.searchsorted(thresholds, best[band][known], side="left")
            index = (level * num_labels + winner[band][known]) * num_labels + target[band][known]
            counts += np.bincount(index, minlength=counts.size).reshape(counts.shape)
    counts = sum(gather(counts))
    curve = []
    for number, threshold in enumerate(thresholds):
        matrix = counts[number + 1 :].sum(0)
        matrix[0] += counts[: number + 1].sum((0, 1))
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        present = union > 0
        iou = matrix.diagonal()[present] / union[present]
        curve.append((float(threshold), 100 * float(iou.mean())))
    return curve
