"""A finished run to look around in: what its networks see in a photograph, and how its masks are.

What the page of `wsss app` shows, without the page.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from wsss.api import Classifier, Segmenter, SlotView, seeds_of, tag_indices
from wsss.data.catalog import Record
from wsss.data.images import image_size, read_image
from wsss.data.masks import LEARNED, read_arrays, read_mask, read_scores
from wsss.errors import UserError
from wsss.evaluation import Counts, confusion_matrix, iou_of
from wsss.geometry import fit_long_side, resize, resize_scores
from wsss.localize.cam import ClassMaps
from wsss.localize.pseudo_masks import corrected_scores, pseudo_mask
from wsss.localize.slot_classifier import SlotClasses
from wsss.pictures.masks import heat, overlay, show_mask, write_names
from wsss.pictures.slots import position_sheet
from wsss.progress import progress
from wsss.run_folder import RunFolder, StageFolder
from wsss.settings import CRFSettings

LARGEST = 50_000_000
"""Pixels above which a photograph is refused: its masks at full size would fill the memory."""

SHOWN_SIDE = 640
"""Long side in pixels of the pictures for the page."""


@dataclass
class Analysis:
    """What the networks of a run see in one photograph.

    Attributes:
        name: of the photograph, without suffix.
        image: (H, W, 3) uint8 RGB.
        probabilities: (N,) float32 in 0..1, one per class.
        scores: (N, h, w) float32 in 0..1, seed of every class.
        maps: what the seed was made from.
        predicted: (H, W) uint8 mask of the segmenter, or None in a run without one.
        id: of the photograph if it is one of those that have taught about slots, or None.
    """

    name: str
    image: np.ndarray
    probabilities: np.ndarray
    scores: np.ndarray
    maps: ClassMaps
    predicted: np.ndarray | None
    id: str | None = None


ORDERS = {
    "segmenter": "segmenter's masks, worst IoU first",
    "masks": "pseudo-masks, worst IoU first",
    "unsure": "pseudo-masks, least certain first",
}
"""How the images of a run can be listed; the segmenter's masks are those of its test."""


class Entry(NamedTuple):
    """One image in a list of a run's images.

    Attributes:
        record: the image.
        mask: file of the mask that the list is about.
        value: what the list is sorted by: mean IoU of the mask in percent over the labels of the
            ground truth and the mask, or `uncertainty`, 0..1.
    """

    record: Record
    mask: Path
    value: float


class Run:
    """A finished `wsss run` or `wsss demo`: its data, settings, networks and masks.

    >>> run = wsss.Run("runs/demo")
    >>> record = run.data.catalog("train").records[0]
    >>> found = run.analyse_file(record.image)
    >>> mask = run.pseudo_mask(found, list(record.tags), run.background, crf=True)
    >>> theirs = wsss.read_mask(run.masks / f"{record.id}.png")
    >>> bool((mask == theirs).mean() > 0.999)
    True

    Args:
        folder: as given by `--out`.

    Raises:
        UserError: the folder is not that of a run, or the run has made no pseudo-masks yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = RunFolder(folder)
        classify, made = self.folder["classify"], self.folder["pseudo_masks"]
        for needed in (classify.checkpoint, made.path / "config.yaml"):
            if not needed.is_file():
                place = self.folder.path
                raise UserError(
                    f"{place} is not the folder of a finished run, it has no "
                    f"{needed.relative_to(place)}: give the --out of wsss run or wsss demo"
                )
        self.made, self.data, self.masks, self.maps = made, made.data(), made.masks, made.maps
        self.made_with = made.made_with
        self.crf = self.made_with.crf or CRFSettings()
        self.taught = self._taught() if self.made_with.relabel_slots else None
        self.classifier = Classifier.load(classify.checkpoint)
        self.classifier.precision = (made.config.get("trainer") or {}).get("precision") or "32-true"
        self.classes = self.classifier.classes
        trained = self.folder["segment"]
        self.segmenter = None
        if trained.checkpoint.is_file():
            self.segmenter, self.mask_data = Segmenter.load(trained.checkpoint), trained.data()
        refined = self.folder["refined_masks"]
        self.refined = refined.masks if refined.is_done else None
        self._lists: dict[str, list[Entry]] = {}

    @property
    def learnt(self) -> Path:
        """The masks that the segmenter learns from."""
        return self.refined or self.masks

    @property
    def background(self) -> float:
        """Background score that the run's pseudo-masks were made with."""
        return self.made_with.background

    def analyse_file(self, path: str | Path) -> Analysis:
        """Read a photograph and analyse it.

        Raises:
            UserError: the file is no photograph, or too large a one.
        """
        path = Path(path)
        try:
            height, width = image_size(path)
            if height * width > LARGEST:
                raise UserError(
                    f"{path.name} has {width}x{height} pixels, more than {LARGEST // 10**6} million: "
                    "scale it down"
                )
            image = read_image(path, self.classifier.white)
            return self.analyse(image, path.stem, self._ids.get(path.resolve()))
        except UserError as error:  # the page's user knows the name, not the place it went to
            raise UserError(str(error).replace(str(path), path.name)) from error

    @cached_property
    def _ids(self) -> dict[Path, str]:
        """File of each image that has taught about slots -> its id."""
        if self.taught is None:
            return {}
        known = set(self.taught.images.tolist())
        return {record.image.resolve(): record.id for record in self._made_of() if record.id in known}

    def _made_of(self) -> Sequence[Record]:
        """The images that pseudo-masks were made of."""
        try:
            return self.data.catalog(self.data.predict_split).records
        except UserError:  # the data are gone, and what is asked about is another photograph
            return ()

    def _taught(self) -> SlotClasses:
        """What the run's images have taught about slots."""
        learned = read_arrays(self.made.slot_classes, *LEARNED)
        weight, bias, factors, images = (learned.get(name) for name in SlotClasses._fields)
        if factors is None:  # of an earlier version
            factors = np.ones(bias.shape[-1], np.float32)
        if weight.ndim == 2:  # of an earlier version: the mean alone
            return SlotClasses(weight[None], bias[None], factors, np.array([], str))
        if images is None:  # of an earlier version: of all images
            images = np.array([record.id for record in self._made_of()], str)
        return SlotClasses(weight, bias, factors, images)

    def analyse(self, image: np.ndarray, name: str, id: str | None = None) -> Analysis:
        """Run both networks on a photograph (H, W, 3) uint8, with the run's own settings.

        `id` is that of `Analysis`.
        """
        maps = self.classifier.class_maps(image, self.made_with, self.data.predict_size)
        predicted = None if self.segmenter is None else self.segmenter.predict(image)
        scores = seeds_of(maps, self.made_with)
        return Analysis(name, image, maps.probabilities[0].numpy(), scores, maps, predicted, id)

    def slots(self, found: Analysis, block: str) -> SlotView:
        """The slots of one of the classifier's `blocks`, as the run's masks were made with."""
        return self.classifier.slots(found.image, [block], self.data.predict_size)[0]

    def scores(self, found: Analysis, tags: Sequence[str | int], background: float) -> np.ndarray:
        """(n, h, w) float32 in 0..1, scores of the given classes as the pseudo-masks are made from.

        The slots of the run's own images are classified without what these images taught, as in the
        run; those of other photographs by what all have taught.

        Args:
            found: of the photograph.
            tags: names, or indices into `classes`.
            background: score of the background, 0..1.

        Raises:
            UserError: the network does not know a tag.
        """
        tags = tag_indices(tags, self.classes)
        seed, labels = _as_kept(found.scores[tags]), [tag + 1 for tag in tags]
        if self.taught is None:
            return seed
        slots, dispatch = (
            _as_kept(part[0].numpy()) for part in (found.maps.slots, found.maps.dispatch)
        )
        probabilities = self.taught.without(found.id).probabilities(slots, labels)
        return corrected_scores(seed, dispatch, probabilities, background)

    def pseudo_mask(
        self, found: Analysis, tags: Sequence[str | int], background: float, crf: bool
    ) -> np.ndarray:
        """(H, W) uint8 pseudo-mask of the given classes, made as the run's own are.

        Args:
            found: of the photograph.
            tags: names, or indices into `classes`, of what is in it.
            background: score of the background, 0..1.
            crf: sharpen by the dense CRF.

        Raises:
            UserError: the network does not know a tag.
        """
        tags = sorted(set(tag_indices(tags, self.classes)))
        return pseudo_mask(
            found.image,
            self.scores(found, tags, background),
            [tag + 1 for tag in tags],
            background=background,
            crf=self.crf if crf else None,
        )

    def likely_tags(self, found: Analysis) -> list[int]:
        """Classes with a probability of at least one half, or else the likeliest one."""
        tags = np.flatnonzero(found.probabilities >= 0.5)
        return [int(t) for t in tags] if len(tags) else [int(found.probabilities.argmax())]

    @property
    def orders(self) -> list[str]:
        """Those of `ORDERS` that can be had: an IoU takes ground truth."""
        judged = [order for order in self._judged if self._counts(order)]
        return [order for order in ORDERS if order == "unsure" or order in judged]

    @property
    def _judged(self) -> dict[str, tuple[StageFolder, Path, str]]:
        """Masks whose ground truth may be known: their stage, folder, and split of images."""
        judged = {"masks": (self.folder.final_masks, self.learnt, self.data.predict_split)}
        if self.segmenter is not None:
            stage = self.folder["segment"]
            judged["segmenter"] = (stage, stage.test, self.mask_data.val_split)
        return judged

    def _counts(self, order: str) -> dict[str, Counts]:
        """Pixel counts of each image whose ground truth is known, by its id."""
        stage, masks, _ = self._judged[order]
        return (stage.counts(masks) or ([], {}))[1]

    def listed(self, order: str, tag: int | None = None) -> list[Entry]:
        """The run's images in one of its `orders`: all, or those with a tag.

        Raises:
            UserError: the data set is not where it was.
        """
        unsure = order == "unsure"
        if order not in self._lists:
            entries = self._unsure() if unsure else self._wrong(order)
            self._lists[order] = sorted(entries, key=lambda entry: entry.value, reverse=unsure)
        return [entry for entry in self._lists[order] if tag is None or tag in entry.record.tags]

    def _wrong(self, order: str) -> Iterator[Entry]:
        _, masks, split = self._judged[order]
        records = {record.id: record for record in self.data.catalog(split).records}
        for name, counts in self._counts(order).items():
            iou = iou_of(confusion_matrix([counts], len(self.classes) + 1))
            if name in records and not np.isnan(iou).all():
                yield Entry(records[name], masks / f"{name}.png", float(np.nanmean(iou)))

    def _unsure(self) -> Iterator[Entry]:
        records = self.data.catalog(self.data.predict_split).records
        made = [(record, self.learnt / f"{record.id}.png") for record in records]
        made = [(record, mask) for record, mask in made if mask.is_file()]
        for record, mask in progress(made, "look at the maps", brief=True):
            scores, _ = read_scores(self.made.scores(record.id))
            yield Entry(record, mask, uncertainty(scores, self.background))

    def thumbnail(self, entry: Entry) -> np.ndarray:
        """The mask of one of the run's images in colours over it, half the page's size."""
        mask = read_mask(entry.mask)
        image = read_image(entry.record.image, self.classifier.white)
        image = resize(image, *fit_long_side(*image.shape[:2], SHOWN_SIDE // 2))
        return overlay(image, cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST))

    def pictures(self, entry: Entry) -> list[tuple[np.ndarray, str]]:
        """The stages of one of the run's images side by side, with captions."""
        record = entry.record
        image = read_image(record.image, self.classifier.white)
        found, made = self.analyse(image, record.id), self.made.scores(record.id)
        if made.is_file():
            scores, _ = read_scores(made)
        else:  # of another split
            scores = self.scores(found, list(record.tags), self.background)
        best = scores.max(0) if len(scores) else np.zeros((1, 1), np.float32)
        pictures = [(shown(image), "photograph"), (heat_picture(image, best), "seed")]
        files = {
            "pseudo-mask": self.made.mask(record.id),
            "refined": self.refined and self.refined / f"{record.id}.png",
            "segmenter": self.folder["segment"].test / f"{record.id}.png",
            "ground truth": record.mask,
        }
        masks = {what: read_mask(file) for what, file in files.items() if file and file.is_file()}
        if found.predicted is not None:
            masks.setdefault("segmenter", found.predicted)
        for what in [what for what in files if what in masks]:
            pictures.append((mask_picture(image, masks[what], self.classes), what))
        return pictures


def _as_kept(array: np.ndarray) -> np.ndarray:
    """An array as a run keeps it in its files (`wsss.data.masks.write_arrays`)."""
    return array.astype(np.float16).astype(np.float32)


def uncertainty(scores: np.ndarray, background: float) -> float:
    """How undecided the labels of an image are: mean entropy of its pixels, 0 (sure) to 1.

    Args:
        scores: (n, h, w) in 0..1, one map per tag; none gives 0.
        background: score of the background everywhere.
    """
    if not len(scores):
        return 0.0
    floor = np.full((1, *scores.shape[1:]), background, np.float32)
    probabilities = np.concatenate([floor, scores])
    probabilities = probabilities / probabilities.sum(0).clip(1e-6)
    entropy = -(probabilities * np.log(probabilities.clip(1e-12))).sum(0)
    return float(entropy.mean() / np.log(len(probabilities)))


def shown(image: np.ndarray) -> np.ndarray:
    """An image at the size for the page, `SHOWN_SIDE` long, small ones enlarged."""
    return resize(image, *fit_long_side(*image.shape[:2], SHOWN_SIDE))


def heat_picture(image: np.ndarray, score: np.ndarray) -> np.ndarray:
    """A score (h, w) in 0..1 as heat over the photograph, at the page's size."""
    image = shown(image)
    return heat(image, resize_scores(score[None].astype(np.float32), *image.shape[:2])[0])


def mask_picture(image: np.ndarray, mask: np.ndarray, classes: list[str]) -> np.ndarray:
    """A mask over the photograph with the names of its classes, at the page's size."""
    return write_names(show_mask(shown(image), mask, ["background", *classes], "mask"), 20)


def slots_picture(image: np.ndarray, view: SlotView, x: int, y: int) -> np.ndarray:
    """The slots that pixel (x, y) of a photograph belongs to, and their reach."""
    return np.asarray(position_sheet(image, view, x, y, count=3, columns=3))


def areas(mask: np.ndarray, classes: list[str]) -> dict[str, float]:
    """Share of each label that occurs in a mask, in per cent, largest first."""
    counts = np.bincount(mask.ravel(), minlength=256)
    names = dict(enumerate(["background", *classes])) | {255: "void"}
    found = {names.get(int(i), f"label {i}"): 100 * counts[i] / mask.size for i in counts.nonzero()[0]}
    return dict(sorted(found.items(), key=lambda item: -item[1]))
