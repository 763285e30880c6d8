"""Pictures of results: masks that can be read without their colours, and the chain in a strip."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from wsss.data.catalog import Record
from wsss.data.images import read_image
from wsss.data.masks import read_mask, read_scores
from wsss.data.modules import TagData
from wsss.files import read_json, write_atomic
from wsss.geometry import fit_long_side, resize, resize_scores
from wsss.settings import PseudoMaskSettings
from wsss.slot_pictures import borders, draw_groups, heart
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask
from wsss.voc import VOID, palette

SIDE = 240
"""Long side in pixels of a picture in the strip."""

_COLOURS = np.array(palette(), np.uint8).reshape(256, 3)
_CELL = 150  # long side of a picture in the strip's PNG
_SMALLEST = 0.01  # share of the picture below which a region gets no name


class Label(NamedTuple):
    """A name to be written on a picture; x, y are its middle in shares of width and height."""

    text: str
    x: float
    y: float


class Cell(NamedTuple):
    """A picture with its caption and the names on it.

    Attributes:
        caption: what it shows.
        picture: (H, W, 3) uint8.
        labels: names of the regions.
    """

    caption: str
    picture: np.ndarray
    labels: list[Label]


class Row(NamedTuple):
    """One photograph through the chain: its tags and a cell for each step."""

    tags: str
    cells: list[Cell]


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lay a mask (H, W) in VOC colours over an image (H, W, 3) uint8; background stays as it is."""
    laid = image.copy()
    for top in range(0, len(image), 256):  # floats of all rows would take gigabytes
        labels, rows = mask[top : top + 256], laid[top : top + 256]
        there = labels > 0
        rows[there] = 0.4 * rows[there] + 0.6 * _COLOURS[labels[there]]
    return laid


def heat(image: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Lay a score (H, W) in 0..1 over an image (H, W, 3) uint8 as a heat map."""
    colours = cv2.applyColorMap((255 * score.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return (0.4 * image + 0.6 * colours[..., ::-1]).astype(np.uint8)


def hatching(label: int, height: int, width: int) -> np.ndarray:
    """(height, width) bool: the lines of a label's own hatching; neighbours in number differ."""
    y, x = np.mgrid[:height, :width]
    if label == VOID:
        return (x % 4 == 0) & (y % 4 == 0)
    kind, spacing = (label - 1) % 6, 10 + 5 * ((label - 1) // 6 % 3)
    lines = [x + y, x - y, y, x]
    if kind < 4:
        return lines[kind] % spacing < 2
    if kind == 4:  # dots
        return (x % spacing < spacing // 3) & (y % spacing < spacing // 3)
    return (lines[0] % (2 * spacing) < 2) | (lines[1] % (2 * spacing) < 2)


def show_mask(image: np.ndarray, mask: np.ndarray, names: Sequence[str], caption: str) -> Cell:
    """A mask over its photograph, told apart by colour, hatching, border and name.

    Args:
        image: (H, W, 3) uint8, at the size of the picture.
        mask: (h, w) labels of any size; 255 is void.
        names: of the labels, background first.
        caption: what it shows.
    """
    height, width = image.shape[:2]
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    picture = overlay(image, mask)
    for label in np.unique(mask[mask > 0]).tolist():
        light = _COLOURS[label].astype(float).mean() < 110
        lines = hatching(label, height, width) & (mask == label)
        picture[lines] = (0.5 * picture[lines] + (127 if light else 0)).astype(np.uint8)
    picture[borders(mask)] = 255
    labels = []
    for label in np.unique(mask[(mask > 0) & (mask != VOID)]).tolist():
        region = mask == label
        if region.mean() >= _SMALLEST:
            x, y = heart(region)
            labels.append(Label(names[label], (x + 0.5) / width, (y + 0.5) / height))
    return Cell(caption, picture, labels)


def show_maps(image: np.ndarray, scores: np.ndarray, names: Sequence[str]) -> Cell:
    """The largest of some class maps at every pixel as heat, each one's name where it is highest.

    Args:
        image: (H, W, 3) uint8, at the size of the picture.
        scores: (n, h, w) float32 in 0..1; n may be 0.
        names: of the n classes.
    """
    height, width = image.shape[:2]
    scores = resize_scores(scores, height, width) if len(scores) else np.zeros((0, height, width))
    labels = []
    for name, score in zip(names, scores, strict=True):
        y, x = np.unravel_index(score.argmax(), score.shape)
        labels.append(Label(name, (x + 0.5) / width, (y + 0.5) / height))
    return Cell("seed", heat(image, scores.max(0, initial=0)), labels)


def write_names(cell: Cell, size: int) -> np.ndarray:
    """The cell's picture with the names of its regions written on it, `size` pixels high."""
    sheet, font = Image.fromarray(cell.picture), _font(size)
    draw = ImageDraw.Draw(sheet)
    for label in cell.labels:
        # as much of it to the left as there is of the picture, so that it stays inside
        start = label.x * max(0.0, sheet.width - font.getlength(label.text))
        middle = min(max(label.y * sheet.height, 0.7 * size), sheet.height - 0.7 * size)
        place = (start, middle)
        draw.text(place, label.text, "white", font, "lm", stroke_width=2, stroke_fill="black")
    return np.asarray(sheet)


def thumbnail(path: Path, side: int, white: int | None = None) -> np.ndarray:
    """A photograph, its long side `side` pixels; `white` as in `read_image`."""
    image = read_image(path, white)
    return resize(image, *fit_long_side(*image.shape[:2], side))


def chain_rows(data: TagData, stages: dict[str, Path], count: int = 6) -> list[Row]:
    """`count` training photographs, evenly spaced in their list, through every step of a run.

    Args:
        data: what the pseudo-masks were made of.
        stages: folder of each of the run's stages, by name.
        count: number of rows.
    """
    catalog = data.catalog(data.predict_split)
    spread = np.linspace(0, len(catalog.records) - 1, min(count, len(catalog.records)))
    names = ["background", *catalog.classes]
    masks, refined = stages["pseudo_masks"], stages.get("refined_masks")
    made_with = read_json(masks / "masks" / "settings.json")
    how = replace(PseudoMaskSettings.from_dict(made_with), scales=(1.0,), flip=False)
    classifier = ClassificationTask.from_checkpoint(stages["classify"] / "last.ckpt")
    segmenter = SegmentationTask.from_checkpoint(stages["segment"] / "last.ckpt")

    def row(record: Record) -> Row:
        image = thumbnail(record.image, SIDE, catalog.white)
        height, width = image.shape[:2]
        scores, labels = read_scores(masks / "maps" / f"{record.id}.npz")
        cells = [Cell("photograph", image, []), show_maps(image, scores, [names[i] for i in labels])]
        if how.slots != "none":
            shape = fit_long_side(height, width, data.predict_size, multiple=32)
            with torch.inference_mode():
                seen = thumbnail(record.image, max(shape), catalog.white)
                maps = classifier.maps(_batch(seen, shape), how)
            groups = draw_groups(image, maps.dispatch[0].numpy())
            cells.append(Cell("slot groups", groups, []))
        predicted = segmenter.predict(read_image(record.image, catalog.white))
        made = read_mask(masks / "masks" / f"{record.id}.png")
        cells.append(show_mask(image, made, names, "pseudo-mask"))
        if refined is not None:
            made = read_mask(refined / "masks" / f"{record.id}.png")
            cells.append(show_mask(image, made, names, "refined"))
        cells.append(show_mask(image, predicted, names, "segmenter"))
        if record.mask is not None:
            cells.append(show_mask(image, read_mask(record.mask), names, "truth"))
        return Row(", ".join(catalog.classes[tag] for tag in record.tags) or "(no tag)", cells)

    return [row(catalog.records[int(index)]) for index in spread]


def _batch(image: np.ndarray, shape: tuple[int, int] | None = None) -> torch.Tensor:
    """(H, W, 3) uint8 to (1, 3, h, w)."""
    image = resize(image, *shape) if shape else image
    return torch.from_numpy(image.transpose(2, 0, 1).copy())[None]


def write_strip(path: Path, rows: Sequence[Row]) -> None:
    """Write rows of `chain_rows` as one PNG."""
    font = _font(12)
    captions = [cell.caption for cell in max(rows, key=lambda row: len(row.cells)).cells]
    head = 20
    heights = [max(_height(cell) for cell in row.cells) for row in rows]
    sheet = Image.new("RGB", (_CELL * len(captions), head + sum(heights) + head * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, caption in enumerate(captions):
        draw.text((number * _CELL + 3, 3), caption if number else "photograph, tags", "black", font)
    top = head
    for row, height in zip(rows, heights, strict=True):
        draw.text((3, top + 3), row.tags, "black", font)
        for cell in row.cells:
            left = _CELL * captions.index(cell.caption)
            small = Image.fromarray(cell.picture).resize((_CELL - 4, _height(cell) - 4))
            named = write_names(cell._replace(picture=np.asarray(small)), 12)
            sheet.paste(Image.fromarray(named), (left + 2, top + head))
        top += head + height
    write_atomic(path, lambda aside: sheet.save(aside, format="PNG", optimize=True))


def _height(cell: Cell) -> int:
    height, width = cell.picture.shape[:2]
    return round((_CELL - 4) * height / width) + 4


def _font(size: int) -> ImageFont.FreeTypeFont:
    """A font with more than Latin letters, which Pillow's own does not have."""
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
