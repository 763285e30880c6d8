"""Photographs through the chain, one step beside the other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from wsss.files import write_atomic
from wsss.pictures.masks import Cell, font_of_size, show_maps, show_mask, thumbnail, write_names
from wsss.pictures.slots import draw_groups

SIDE = 240
"""Long side in pixels of a picture in a row."""

_CELL = 150  # of a picture in the strip's PNG


class Row(NamedTuple):
    """One photograph through the chain: its tags and a cell for each step."""

    tags: str
    cells: list[Cell]


def chain_row(
    photograph: np.ndarray,
    tags: Sequence[str],
    seed: np.ndarray,
    labels: Sequence[str],
    dispatch: np.ndarray | None,
    masks: Mapping[str, np.ndarray],
    names: Sequence[str],
) -> Row:
    """One photograph through every step of a run.

    Args:
        photograph: (H, W, 3) uint8 RGB.
        tags: names of its classes.
        seed: (n, h, w) float32 in 0..1, the class maps that the masks are made of.
        labels: names of their n classes.
        dispatch: (K, h, w) float32 slots that the maps were averaged over, or None without slots.
        masks: caption -> (h, w) uint8 labels, in the order in which they are shown.
        names: of the labels, background first.
    """
    image = thumbnail(photograph, SIDE)
    cells = [Cell("photograph", image, []), show_maps(image, seed, labels)]
    if dispatch is not None:
        cells.append(Cell("slot groups", draw_groups(image, dispatch), []))
    cells += [show_mask(image, mask, names, caption) for caption, mask in masks.items()]
    return Row(", ".join(tags) or "(no tag)", cells)


def write_strip(path: Path, rows: Sequence[Row]) -> None:
    """Write rows of `chain_row` as one PNG."""
    font = font_of_size(12)
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
