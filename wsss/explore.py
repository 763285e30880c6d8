"""A finished run to look around in: what its networks see in a photograph, and how its masks are.

What the page of `wsss app` shows, without the page.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from wsss.data.catalog import Record
from wsss.data.datasets import fit_long_side, resize
from wsss.data.images import image_size, read_image
from wsss.data.masks import read_mask
from wsss.data.modules import MaskData, TagData
from wsss.errors import UserError
from wsss.evaluation import confusion_matrix, iou_of, pixel_counts
from wsss.localize.cam import seed_maps
from wsss.localize.crf import CRFSettings, resize_scores
from wsss.localize.pseudo_masks import pseudo_mask
from wsss.models.classifier import TagClassifier
from wsss.pictures import heat, overlay, show_mask, write_names
from wsss.pipeline import find_writer, read_config
from wsss.progress import progress
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.writers import PseudoMaskWriter

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
        scores: (N, h, w) float32 in 0..1, foreground scores as the pseudo-masks are made from.
        predicted: (H, W) uint8 mask of the segmenter, or None in a run without one.
    """

    name: str
    image: np.ndarray
    probabilities: np.ndarray
    scores: np.ndarray
    predicted: np.ndarray | None


class Entry(NamedTuple):
    """One image of a run.

    Attributes:
        record: the image.
        iou: mean IoU of its pseudo-mask in per cent over the labels of truth and mask, or None where
            the truth is not known.
        uncertainty: 0..1, see `uncertainty`.
    """

    record: Record
    iou: float | None
    uncertainty: float


class Run:
    """The folder of a finished `wsss run` or `wsss demo`.

    Args:
        folder: as given by `--out`.

    Raises:
        UserError: the folder is not that of a run, or the run has made no pseudo-masks yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        stage = self.folder / "pseudo_masks"
        for needed in (self.folder / "classify" / "best.ckpt", stage / "config.yaml"):
            if not needed.is_file():
                raise UserError(
                    f"{self.folder} is not the folder of a finished run, it has no "
                    f"{needed.relative_to(self.folder)}: give the --out of wsss run or wsss demo"
                )
        config = read_config(stage / "config.yaml")
        self.data = TagData(**config["data"])
        self.masks, self.maps = stage / "masks", stage / "maps"
        writer = _writer(config, stage / "config.yaml")
        self.map_settings, self.mask_settings = writer.map_settings, writer.mask_settings
        self.crf = self.mask_settings["crf"] or CRFSettings()
        self.classifier = ClassificationTask.from_checkpoint(self.folder / "classify" / "best.ckpt")
        self.classes = self.classifier.classes
        trained = self.folder / "segment" / "best.ckpt"
        self.segmenter = SegmentationTask.from_checkpoint(trained) if trained.is_file() else None
        self.max_side = None
        if self.segmenter:
            self.max_side = MaskData(**read_config(trained.with_name("config.yaml"))["data"]).max_side

    @property
    def network(self) -> TagClassifier:
        """The classifier's network."""
        return self.classifier.model

    @property
    def background(self) -> float:
        """Background score that the run's pseudo-masks were made with."""
        return self.mask_settings["background"]

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
            return self.analyse(read_image(path), path.stem)
        except UserError as error:  # the page's user knows the name, not the place it went to
            raise UserError(str(error).replace(str(path), path.name)) from error

    @torch.inference_mode()
    def analyse(self, image: np.ndarray, name: str) -> Analysis:
        """Run both networks on a photograph (H, W, 3) uint8, with the run's own settings."""
        shape = fit_long_side(*image.shape[:2], self.data.predict_size, multiple=32)
        maps = self.classifier.maps(_tensor(resize(image, *shape)), **self.map_settings)
        predicted = None
        if self.segmenter is not None:
            shown = image
            if max(image.shape[:2]) > self.max_side:
                shown = resize(image, *fit_long_side(*image.shape[:2], self.max_side))
            batch = {"image": _tensor(shown), "size": torch.tensor([image.shape[:2]])}
            predicted = self.segmenter.predict_mask(batch).numpy().astype(np.uint8)
        return Analysis(
            name, image, maps.probabilities[0].numpy(), seed_maps(maps)[0].numpy(), predicted
        )

    def pseudo_mask(self, found: Analysis, tags: list[int], background: float, crf: bool) -> np.ndarray:
        """(H, W) uint8 pseudo-mask of the given classes, made as the run's own are."""
        return pseudo_mask(
            found.image,
            found.scores[tags],
            [tag + 1 for tag in tags],
            background=background,
            crf=self.crf if crf else None,
            void_below=self.mask_settings["void_below"],
        )

    def likely_tags(self, found: Analysis) -> list[int]:
        """Classes with a probability of at least one half, or else the likeliest one."""
        tags = np.flatnonzero(found.probabilities >= 0.5)
        return [int(t) for t in tags] if len(tags) else [int(found.probabilities.argmax())]

    @cached_property
    def entries(self) -> list[Entry]:
        """All images that the run has made a pseudo-mask for, in the order of the data set.

        Raises:
            UserError: the data set is not where it was.
        """
        catalog = self.data.catalog(self.data.predict_split)
        made = [r for r in catalog.records if (self.masks / f"{r.id}.png").is_file()]
        return [self._entry(record) for record in progress(made, "look at the masks", brief=True)]

    def _entry(self, record: Record) -> Entry:
        labels = len(self.classes) + 1
        iou = None
        if record.mask is not None:
            made = read_mask(self.masks / f"{record.id}.png", labels)
            truth = read_mask(record.mask, labels)
            iou = float(np.nanmean(iou_of(confusion_matrix([pixel_counts(made, truth)], labels))))
        return Entry(record, iou, uncertainty(self.scores(record)[0], self.background))

    def scores(self, record: Record) -> tuple[np.ndarray, list[int]]:
        """Scores (n, h, w) float32 that the pseudo-mask of an image was made from, their labels."""
        with np.load(self.maps / f"{record.id}.npz") as file:
            return file["scores"].astype(np.float32), file["labels"].tolist()

    def worst_first(self, by: str, tag: int | None = None) -> list[Entry]:
        """Images sorted by `iou` (smallest first; those without truth left out) or `uncertainty`."""
        chosen = [e for e in self.entries if tag is None or tag in e.record.tags]
        if by == "iou":
            return sorted((e for e in chosen if e.iou is not None), key=lambda e: e.iou)
        return sorted(chosen, key=lambda e: -e.uncertainty)

    def thumbnail(self, entry: Entry) -> np.ndarray:
        """The pseudo-mask of one of the run's images in colours over it, half the page's size."""
        mask = read_mask(self.masks / f"{entry.record.id}.png")
        image = read_image(entry.record.image)
        image = resize(image, *fit_long_side(*image.shape[:2], SHOWN_SIDE // 2))
        return overlay(image, cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST))

    def pictures(self, entry: Entry) -> list[tuple[np.ndarray, str]]:
        """The stages of one of the run's images side by side, with captions."""
        record = entry.record
        image = read_image(record.image)
        scores, _ = self.scores(record)
        best = scores.max(0) if len(scores) else np.zeros((1, 1), np.float32)
        rows = [(shown(image), "photograph"), (heat_picture(image, best), "class map")]
        masks = [(read_mask(self.masks / f"{record.id}.png"), "pseudo-mask")]
        refined = self.folder / "refined_masks" / "masks" / f"{record.id}.png"
        if refined.is_file():
            masks.append((read_mask(refined), "refined"))
        predicted = self.analyse(image, record.id).predicted
        if predicted is not None:
            masks.append((predicted, "segmenter"))
        if record.mask is not None:
            masks.append((read_mask(record.mask), "truth"))
        for mask, caption in masks:
            rows.append((mask_picture(image, mask, self.classes), caption))
        return rows


def _writer(config: dict[str, Any], path: Path) -> PseudoMaskWriter:
    given = dict(find_writer(config, path, "PseudoMaskWriter"))
    if isinstance(given.get("crf"), dict):
        given["crf"] = CRFSettings(**given["crf"])
    return PseudoMaskWriter(**given)


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


def uncertainty(scores: np.ndarray, background: float) -> float:
    """How undecided the labels of an image are: mean entropy of its pixels, 0 (sure) to 1.

    Args:
        scores: (n, h, w) in 0..1, one map per tag; none gives 0.
        background: score of the background everywhere.
    """
    if not len(scores):
        return 0.0
    shares = np.concatenate([np.full((1, *scores.shape[1:]), background, np.float32), scores])
    shares = shares / shares.sum(0).clip(1e-6)
    entropy = -(shares * np.log(shares.clip(1e-12))).sum(0)
    return float(entropy.mean() / np.log(len(shares)))


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


def areas(mask: np.ndarray, classes: list[str]) -> dict[str, float]:
    """Share of each label that occurs in a mask, in per cent, largest first."""
    counts = np.bincount(mask.ravel(), minlength=256)
    names = dict(enumerate(["background", *classes])) | {255: "void"}
    found = {names.get(int(i), f"label {i}"): 100 * counts[i] / mask.size for i in counts.nonzero()[0]}
    return dict(sorted(found.items(), key=lambda item: -item[1]))
