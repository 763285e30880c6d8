"""Pictures of scores and masks that can be read without their colours."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsss.geometry import fit_long_side, resize, resize_scores
from wsss.voc import VOID, palette

_COLOURS = np.array(palette(), np.uint8).reshape(256, 3)
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


def thumbnail(image: np.ndarray, side: int) -> np.ndarray:
    """An image (H, W, 3) uint8, its long side `side` pixels."""
    return resize(image, *fit_long_side(*image.shape[:2], side))


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
    sheet, font = Image.fromarray(cell.picture), font_of_size(size)
    draw = ImageDraw.Draw(sheet)
    for label in cell.labels:
        # as much of it to the left as there is of the picture, so that it stays inside
        start = label.x * max(0.0, sheet.width - font.getlength(label.text))
        middle = min(max(label.y * sheet.height, 0.7 * size), sheet.height - 0.7 * size)
        place = (start, middle)
        draw.text(place, label.text, "white", font, "lm", stroke_width=2, stroke_fill="black")
    return np.asarray(sheet)


def borders(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose label differs from that of the pixel to the left or above."""
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    return edge


def heart(group: np.ndarray) -> tuple[int, int] | None:
    """(x, y) of the pixel deepest inside a group, or None for an empty one."""
    if not group.any():
        return None
    inside = np.pad(group, 1).astype(np.uint8)  # the photograph's border counts as a border
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), group.shape[1])
    return x, y


def font_of_size(size: int) -> ImageFont.FreeTypeFont:
    """A font with more than Latin letters, which Pillow's own does not have."""
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
