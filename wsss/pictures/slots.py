"""Pictures of slots: groups, maps, the most telling slots, and what belongs to a position."""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsss.geometry import resize_scores
from wsss.localize.slot_maps import SlotView, representative, slots_at, winners
from wsss.pictures.masks import borders, heart, thumbnail

CELL = 240
"""Long side in pixels of a picture in a row."""

SMALL = 112
"""Long side in pixels of a map in the sheet of all maps."""

LIGHT = (255, 200, 0)
"""Colour of what belongs to no single slot."""

_HEAD, _GAP = 20, 4  # room for a caption, between pictures


def colours(dispatch: np.ndarray) -> np.ndarray:
    """(K, 3) uint8: slots with like maps get like hues, so that what belongs together looks so.

    The hue follows the angle in the plane of the two main components of the maps, each map scaled to
    unit length; brightness changes from slot to slot, to tell slots of one hue apart.
    """
    flat = dispatch.reshape(len(dispatch), -1).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-12)
    flat -= flat.mean(0)
    u, spread, _ = np.linalg.svd(flat, full_matrices=False)
    plane = np.zeros((len(dispatch), 2))
    plane[:, : min(2, len(spread))] = (u * spread)[:, :2]
    hues = np.arctan2(plane[:, 1], plane[:, 0]) / (2 * math.pi) % 1
    # half by rank: where slots hardly overlap, most angles would be one
    hues = (hues + hues.argsort().argsort() / len(hues)) / 2
    golden = (math.sqrt(5) - 1) / 2
    return np.array(
        [
            [round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.75, 0.6 + 0.4 * (i * golden % 1))]
            for i, hue in enumerate(hues)
        ],
        np.uint8,
    )


def draw_groups(image: np.ndarray, dispatch: np.ndarray, named: Sequence[int] = ()) -> np.ndarray:
    """The photograph under the colours of its hard groups, with their borders and some numbers.

    Args:
        image: (H, W, 3) uint8 RGB.
        dispatch: (K, h, w).
        named: slots whose number is written where their probability is largest.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = image.shape[:2]
    groups = winners(dispatch, height, width)
    grey = image.mean(2, keepdims=True)
    picture = (0.35 * grey + 0.65 * colours(dispatch)[groups]).astype(np.uint8)
    edge = borders(groups)
    picture[edge] = (picture[edge] * 0.25).astype(np.uint8)
    sheet = Image.fromarray(picture)
    draw = ImageDraw.Draw(sheet)
    tall = max(10, round(max(height, width) / 17))
    font = ImageFont.load_default(size=tall)
    for slot in named:
        place = heart(groups == slot)
        if place is not None:
            # whole, also where the group lies at the border
            x, y = (
                min(max(p, tall), side - tall) for p, side in zip(place, (width, height), strict=True)
            )
            draw.text(
                (x, y), str(slot), "white", font, anchor="mm", stroke_width=2, stroke_fill="black"
            )
    return np.asarray(sheet)


def stretch(probability: np.ndarray) -> np.ndarray:
    """A map (h, w) from its own smallest to its own largest value as 0..1; a constant one is 0."""
    low, high = probability.min(), probability.max()
    return (probability - low) / max(high - low, 1e-9)


def tint(image: np.ndarray, score: np.ndarray, colour: Sequence[int] = LIGHT) -> np.ndarray:
    """The photograph in `colour` where a score (h, w) in 0..1 is high, dim and grey where it is low.

    Brightness alone would show nothing on a dark object. Of the photograph's shape.
    """
    alpha = resize_scores(score[None].astype(np.float32), *image.shape[:2])[0][..., None]
    glow = np.asarray(colour) * (255 / max(1, *(int(c) for c in colour)))
    dim = 0.15 * 255 + 0.35 * image.mean(2, keepdims=True)
    return (alpha * (0.5 * image + 0.5 * glow) + (1 - alpha) * dim).astype(np.uint8)


def _mark(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    """A cross at (x, y), in shares of width and height."""
    sheet = Image.fromarray(picture)
    draw = ImageDraw.Draw(sheet)
    x, y, arm = x * sheet.width, y * sheet.height, max(sheet.size) / 22
    for colour, thick in (("black", 5), ("white", 2)):
        draw.line((x - arm, y, x + arm, y), colour, thick)
        draw.line((x, y - arm, x, y + arm), colour, thick)
    return np.asarray(sheet)


def sheet(
    pictures: Sequence[tuple[str, np.ndarray]],
    columns: int | None = None,
    side: int = CELL,
    marks: Sequence[np.ndarray | None] | None = None,
) -> Image.Image:
    """Pictures of one shape with captions above them, row by row.

    Args:
        pictures: caption and (H, W, 3) uint8 each.
        columns: pictures in a row; all by default.
        side: long side in pixels of a picture.
        marks: colour (3,) of a chip before each caption, or None for none.
    """
    columns = columns or len(pictures)
    small = [Image.fromarray(p) for _, p in pictures]
    scale = [side / max(p.size) for p in small]
    small = [
        p.resize([max(1, round(length * s)) for length in p.size], Image.Resampling.LANCZOS)
        for p, s in zip(small, scale, strict=True)
    ]
    font = ImageFont.load_default(size=13 if side >= 160 else 11)
    words = max(font.getlength(caption) for caption, _ in pictures) + 20
    width = max(max(p.width for p in small), math.ceil(words)) + _GAP
    height = max(p.height for p in small) + _HEAD + _GAP
    rows = -(-len(small) // columns)
    canvas = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for index, ((caption, _), picture) in enumerate(zip(pictures, small, strict=True)):
        left, top = _GAP + index % columns * width, _GAP + index // columns * height
        chip = marks[index] if marks else None
        if chip is not None:
            draw.rectangle(
                (left, top + 3, left + 11, top + 14), tuple(int(c) for c in chip), outline="black"
            )
        draw.text((left + (16 if chip is not None else 0), top + 1), caption, "black", font)
        canvas.paste(picture, (left, top + _HEAD))
    return canvas


def _won(dispatch: np.ndarray) -> np.ndarray:
    """(K,) share of the photograph's pixels in per cent in which each slot is the largest."""
    rows, columns = dispatch.shape[1:]
    groups = winners(dispatch, 4 * rows, 4 * columns)
    return 100 * np.bincount(groups.ravel(), minlength=len(dispatch)) / groups.size


def describe(view: SlotView) -> str:
    """One line: name, number of slots, size of the map."""
    slots, rows, columns = view.dispatch.shape
    place = "block" if not view.name.startswith("features") else "clustered"
    return f"{place} {view.name}: {slots} slots, {columns}x{rows}"


def group_sheet(image: np.ndarray, view: SlotView, count: int = 5) -> Image.Image:
    """A row: the photograph, its hard groups, and its `count` most telling slots."""
    image = thumbnail(image, 2 * CELL)
    few, won = representative(view.dispatch, count), _won(view.dispatch)
    hues = colours(view.dispatch)
    pictures = [("photograph", image)]
    pictures.append((describe(view), draw_groups(image, view.dispatch, few)))
    for slot in few:
        lit = tint(image, stretch(view.dispatch[slot]), hues[slot])
        pictures.append((f"slot {slot}: wins {won[slot]:.1f} %", lit))
    return sheet(pictures, marks=[None, None, *hues[few]])


def map_sheet(image: np.ndarray, view: SlotView) -> Image.Image:
    """All K maps, each stretched to its own range, with its largest probability."""
    hues, image = colours(view.dispatch), thumbnail(image, 2 * SMALL)
    pictures = [
        (f"{slot}: max {one.max():.2f}", tint(image, stretch(one), hues[slot]))
        for slot, one in enumerate(view.dispatch)
    ]
    return sheet(pictures, math.ceil(math.sqrt(len(pictures))), SMALL, list(hues))


def position_sheet(
    image: np.ndarray,
    view: SlotView,
    x: float,
    y: float,
    count: int = 4,
    columns: int | None = None,
) -> Image.Image:
    """The photograph with the position, the groups, the reach of its slots, its `count` main slots.

    Raises:
        UserError: the position lies outside the photograph.
    """
    height, width = image.shape[:2]
    at = slots_at(view.dispatch, x, y, height, width)
    few, hues = at.order[:count], colours(view.dispatch)
    shares = (x + 0.5) / width, (y + 0.5) / height
    image = thumbnail(image, 2 * CELL)
    pictures = [(f"position {x:g},{y:g}", _mark(image, *shares))]
    pictures.append((describe(view), _mark(draw_groups(image, view.dispatch, few), *shares)))
    pictures.append(("reach of its slots", _mark(tint(image, stretch(at.reach)), *shares)))
    for slot in few:
        lit = _mark(tint(image, stretch(view.dispatch[slot]), hues[slot]), *shares)
        pictures.append((f"slot {slot}: {100 * at.shares[slot]:.0f} % of it", lit))
    return sheet(pictures, columns, marks=[None, None, None, *hues[few]])
