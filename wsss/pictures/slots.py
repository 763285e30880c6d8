"""Pictures of slots: groups, maps, the most telling slots, and what belongs to a position."""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsss.geometry import resize_scores
from wsss.localize.slot_maps import SlotView, representative, slots_at, winners
from wsss.pictures.masks import heart, thumbnail

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


def _likeness(dispatch: np.ndarray) -> np.ndarray:
    """(K, K) cosine of every two maps, 0..1; 1 of a map with itself."""
    flat = dispatch.reshape(len(dispatch), -1).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-12)
    return np.clip(flat @ flat.T, 0, 1)


def draw_groups(image: np.ndarray, dispatch: np.ndarray, named: Sequence[int] = ()) -> np.ndarray:
    """The photograph under the colours of its hard groups, with their borders and some numbers.

    A border is the darker the less the maps on its two sides have in common.

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
    unlike = 1 - _likeness(dispatch)
    border = np.zeros((height, width), np.float32)
    border[:, 1:] = unlike[groups[:, 1:], groups[:, :-1]]
    border[1:] = np.maximum(border[1:], unlike[groups[1:], groups[:-1]])
    picture = (picture * (1 - 0.8 * border[..., None])).astype(np.uint8)
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

    Brightness alone would show nothing on a dark object, a dark colour neither, and one over the
    photograph's own could be seen as any. Of the photograph's shape.
    """
    alpha = resize_scores(score[None].astype(np.float32), *image.shape[:2])[0][..., None]
    glow = np.asarray(colour) * (255 / max(1, *(int(c) for c in colour)))
    luminance = glow @ (0.299, 0.587, 0.114)  # ITU-R BT.601
    glow += (255 - glow) * max(0.0, (150 - luminance) / max(1.0, 255 - luminance))
    grey = image.mean(2, keepdims=True)
    dim = 0.15 * 255 + 0.35 * grey
    return (alpha * (0.4 * grey + 0.6 * glow) + (1 - alpha) * dim).astype(np.uint8)


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
    level: bool = False,
) -> Image.Image:
    """Pictures with captions above them, row by row.

    Args:
        pictures: caption and (H, W, 3) uint8 each.
        columns: pictures in a row; all by default.
        side: long side in pixels of a picture.
        marks: colour (3,) of a chip before each caption, or None for none.
        level: `side` is the height of all, for rows of pictures of different shapes.
    """
    columns = columns or len(pictures)
    small = [Image.fromarray(p) for _, p in pictures]
    scale = [side / (p.height if level else max(p.size)) for p in small]
    small = [
        p.resize([max(1, round(length * s)) for length in p.size], Image.Resampling.LANCZOS)
        for p, s in zip(small, scale, strict=True)
    ]
    font = ImageFont.load_default(size=13 if side >= 140 else 11)
    marks = marks or [None] * len(pictures)
    indents = [0 if chip is None else 16 for chip in marks]
    wide = [
        max(picture.width, indent + math.ceil(font.getlength(caption)) + _GAP) + _GAP
        for (caption, _), picture, indent in zip(pictures, small, indents, strict=True)
    ]
    lefts = [_GAP]
    for column in range(columns):
        lefts.append(lefts[-1] + max(wide[column::columns], default=0))
    height = max(p.height for p in small) + _HEAD + _GAP
    rows = -(-len(small) // columns)
    canvas = Image.new("RGB", (lefts[-1], rows * height + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for index, ((caption, _), picture) in enumerate(zip(pictures, small, strict=True)):
        left, top = lefts[index % columns], _GAP + index // columns * height
        chip = marks[index]
        if chip is not None:
            draw.rectangle(
                (left, top + 3, left + 11, top + 14), tuple(int(c) for c in chip), outline="black"
            )
        draw.text((left + indents[index], top + 1), caption, "black", font)
        canvas.paste(picture, (left, top + _HEAD))
    return canvas


def describe(view: SlotView) -> str:
    """One line: name, number of slots, size of the map."""
    slots, rows, columns = view.dispatch.shape
    place = "block" if not view.name.startswith("features") else "clustered"
    return f"{place} {view.name}: {slots} slots, {columns}x{rows}"


def group_sheet(
    image: np.ndarray,
    view: SlotView,
    count: int = 5,
    at: tuple[float, float] | None = None,
    columns: int | None = None,
    side: int = CELL,
) -> Image.Image:
    """The photograph, its hard groups, and its `count` most telling slots.

    The caption says how probable a slot is where its map is brightest.

    Args:
        image: (H, W, 3) uint8 RGB.
        view: its slots.
        count: how many slots.
        at: (x, y) in pixels, marked, with the reach of its slots beside the groups; None: none.
        columns: pictures in a row; all by default.
        side: long side in pixels of a picture.

    Raises:
        UserError: the position lies outside the photograph.
    """
    few, hues = representative(view.dispatch, count), colours(view.dispatch)
    pictures = _overview(image, view, few, at)
    image = thumbnail(image, 2 * CELL)
    marks = [None] * len(pictures) + list(hues[few])
    for slot in few:
        one = view.dispatch[slot]
        lit = tint(image, stretch(one), hues[slot])
        pictures.append((f"slot {slot}: up to {100 * one.max():.0f} %", lit))
    return sheet(pictures, columns, side, marks)


def _overview(
    image: np.ndarray, view: SlotView, named: Sequence[int], at: tuple[float, float] | None
) -> list[tuple[str, np.ndarray]]:
    """Photograph and groups, with captions; with a position, marked, and the reach of its slots."""
    small = thumbnail(image, 2 * CELL)
    groups = draw_groups(small, view.dispatch, named)
    if at is None:
        return [("photograph", small), (describe(view), groups)]
    reach = draw_reach(image, view, at)
    shares = _shares(image, at)
    return [
        (f"position {at[0]:g},{at[1]:g}", _mark(small, *shares)),
        (describe(view), _mark(groups, *shares)),
        ("reach of its slots", reach),
    ]


def draw_reach(image: np.ndarray, view: SlotView, at: tuple[float, float]) -> np.ndarray:
    """The photograph, small, lit where it shares the slots of pixel (x, y), which is marked.

    Raises:
        UserError: the position lies outside the photograph.
    """
    there = slots_at(view.dispatch, *at, *image.shape[:2])
    return _mark(tint(thumbnail(image, 2 * CELL), stretch(there.reach)), *_shares(image, at))


def _shares(image: np.ndarray, at: tuple[float, float]) -> tuple[float, float]:
    """The middle of pixel (x, y) in shares of width and height."""
    height, width = image.shape[:2]
    return (at[0] + 0.5) / width, (at[1] + 0.5) / height


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
    at = slots_at(view.dispatch, x, y, *image.shape[:2])
    few, hues = at.order[:count], colours(view.dispatch)
    pictures = _overview(image, view, few, (x, y))
    shares, image = _shares(image, (x, y)), thumbnail(image, 2 * CELL)
    marks = [None] * len(pictures) + list(hues[few])
    for slot in few:
        lit = _mark(tint(image, stretch(view.dispatch[slot]), hues[slot]), *shares)
        pictures.append((f"slot {slot}: {100 * at.shares[slot]:.0f} % of it", lit))
    return sheet(pictures, columns, marks=marks)
