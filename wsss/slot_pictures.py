"""Slots made visible: groups, maps, the most telling slots, and what belongs to a position.

Works on dispatch maps (K, h, w) of any K and any shape, wherever they come from: the GLMix blocks of
a GLNet, or the clustering of any backbone's features (`wsss.localize.slots.cluster_slots`).
"""

import colorsys
import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from wsss.errors import UserError
from wsss.geometry import fit_long_side, resize, resize_scores
from wsss.localize.slots import cluster_slots
from wsss.models.classifier import TagClassifier

CELL = 240
"""Long side in pixels of a picture in a row."""

SMALL = 112
"""Long side in pixels of a map in the sheet of all maps."""

LIGHT = (255, 200, 0)
"""Colour of what belongs to no single slot."""

_HEAD, _GAP = 20, 4  # room for a caption, between pictures


class SlotView(NamedTuple):
    """The slots of one place in the network over one photograph.

    Attributes:
        name: "2.0" for stage 2, block 0 of a GLNet (counted from 0, as in `SlotMaps`), "features" or
            "features.1" for clustered features.
        dispatch: (K, h, w) float32 share of each pixel in each slot; sums to 1 over K.
    """

    name: str
    dispatch: np.ndarray


class SlotsAt(NamedTuple):
    """The slots that a position belongs to.

    Attributes:
        shares: (K,) float32 share of each slot, summing to 1.
        order: slots by share, largest first.
        reach: (h, w) float32 in 0..1, how much each pixel shares these slots, 1 at the most: the
            weights with which propagation averages for this position.
    """

    shares: np.ndarray
    order: list[int]
    reach: np.ndarray


def block_names(classifier: TagClassifier) -> list[str]:
    """All places that `slot_views` can show, GLMix blocks first."""
    levels = len(classifier.reductions)
    names = ["features", *(f"features.{level}" for level in range(levels))]
    if not hasattr(classifier.backbone, "forward_slots"):
        return names
    stages = enumerate(classifier.backbone.stages)
    blocks = [(s, b) for s, stage in stages for b, block in enumerate(stage.blocks) if _mixes(block)]
    return [*(f"{s}.{b}" for s, b in blocks), *names]


def _mixes(block: torch.nn.Module) -> bool:
    return hasattr(block, "forward_slots")


def default_blocks(classifier: TagClassifier) -> list[str]:
    """The first GLMix block of each stage; where there is none, the features the chain clusters."""
    first: dict[str, str] = {}
    for name in block_names(classifier):
        if not name.startswith("features"):
            first.setdefault(name.partition(".")[0], name)
    return list(first.values()) or ["features"]


def check_blocks(classifier: TagClassifier, blocks: Sequence[str]) -> list[str]:
    """`blocks`, with "all" spelt out and nothing twice; empty means the default ones.

    Raises:
        UserError: there is no such block.
    """
    known = block_names(classifier)
    if not blocks:
        return default_blocks(classifier)
    wanted = known if "all" in blocks else list(dict.fromkeys(blocks))
    for name in wanted:
        if name not in known:
            raise UserError(f"there is no block '{name}' in this network: it has {', '.join(known)}")
    return wanted


@torch.inference_mode()
def slot_views(
    classifier: TagClassifier, image: np.ndarray, blocks: Sequence[str], long_side: int = 448
) -> list[SlotView]:
    """Run the network once on a photograph of any shape and take its slots.

    Args:
        classifier: trained or not; only its backbone is used.
        image: (H, W, 3) uint8 RGB.
        blocks: names from `block_names`.
        long_side: the photograph is scaled so that its longer side is this long; both sides are
            rounded to multiples of 32.
    """
    shape = fit_long_side(*image.shape[:2], long_side, multiple=32)
    small = np.ascontiguousarray(resize(image, *shape).transpose(2, 0, 1))
    device = classifier.mean.device
    x = (torch.from_numpy(small)[None].to(device).float() - classifier.mean) / classifier.std
    found = {}
    if any(not name.startswith("features") for name in blocks):
        maps = classifier.backbone.forward_slots(x).maps
        found = {f"{m.stage}.{m.block}": m.dispatch for m in maps}
    levels = {name: _level(classifier, name) for name in blocks if name.startswith("features")}
    if levels:
        order = sorted(set(levels.values()))
        features = classifier.backbone.forward_intermediates(
            x, indices=order, output_fmt="NCHW", intermediates_only=True
        )
        by_level = dict(zip(order, features, strict=True))
        found |= {name: cluster_slots(by_level[level]).dispatch for name, level in levels.items()}
    return [SlotView(name, found[name][0].float().cpu().numpy()) for name in blocks]


def _level(classifier: TagClassifier, name: str) -> int:
    _, _, level = name.partition(".")
    return int(level) if level else classifier.slot_level


def winners(dispatch: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) index of the slot with the largest share at every pixel."""
    return resize_scores(dispatch, height, width).argmax(0)


def representative(dispatch: np.ndarray, count: int) -> list[int]:
    """The slots that together say most about the photograph, most telling first.

    Greedy facility location: each next slot is the one that raises the sum over the pixels of the
    best share among the chosen by the most. So a slot that repeats a chosen one is passed over, and
    so is one that belongs nowhere in particular: shares count above the slot's own smallest one.
    """
    flat = dispatch.reshape(len(dispatch), -1)
    flat = flat - flat.min(1, keepdims=True)
    best, chosen = np.zeros(flat.shape[1], np.float32), []
    for _ in range(min(count, len(flat))):
        gain = (np.maximum(flat, best) - best).sum(1)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        best = np.maximum(best, flat[chosen[-1]])
    return chosen


def check_inside(x: float, y: float, height: int, width: int, name: str = "the photograph") -> None:
    """Raise a UserError if pixel (x, y) lies outside an image height x width."""
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(
            f"position {x:g},{y:g} lies outside {name}, which is {width}x{height} pixels: x must be "
            f"0..{width - 1}, y 0..{height - 1}"
        )


def slots_at(dispatch: np.ndarray, x: float, y: float, height: int, width: int) -> SlotsAt:
    """The slots at pixel (x, y), counted from the upper left, of a photograph height x width.

    Raises:
        UserError: the position lies outside the photograph.
    """
    check_inside(x, y, height, width)
    rows, columns = dispatch.shape[1:]
    shares = _between(dispatch, (x + 0.5) * columns / width - 0.5, (y + 0.5) * rows / height - 0.5)
    mass = dispatch.sum((1, 2)).clip(1e-12)
    reach = np.tensordot(shares / mass, dispatch, 1)
    order = np.argsort(-shares, kind="stable")
    return SlotsAt(shares, [int(k) for k in order], (reach / reach.max()).astype(np.float32))


def _between(maps: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear value (K,) of maps (K, h, w) at map coordinates, the border extended."""
    rows, columns = maps.shape[1:]
    x, y = min(max(x, 0.0), columns - 1.0), min(max(y, 0.0), rows - 1.0)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
    u, v = x - left, y - top
    upper = (1 - u) * maps[:, top, left] + u * maps[:, top, right]
    lower = (1 - u) * maps[:, bottom, left] + u * maps[:, bottom, right]
    return (1 - v) * upper + v * lower


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
        named: slots whose number is written where their share is largest.

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


def _fit(image: np.ndarray, side: int) -> np.ndarray:
    return resize(image, *fit_long_side(*image.shape[:2], side))


def stretch(share: np.ndarray) -> np.ndarray:
    """A map (h, w) from its own smallest to its own largest value as 0..1; a constant one is 0."""
    low, high = share.min(), share.max()
    return (share - low) / max(high - low, 1e-9)


def tint(image: np.ndarray, score: np.ndarray, colour: Sequence[int] = LIGHT) -> np.ndarray:
    """The photograph in `colour` where a score (h, w) in 0..1 is high, dim and grey where it is low.

    Brightness alone would show nothing on a dark object. Of the photograph's shape.
    """
    share = resize_scores(score[None].astype(np.float32), *image.shape[:2])[0][..., None]
    glow = np.asarray(colour) * (255 / max(1, *(int(c) for c in colour)))
    dim = 0.15 * 255 + 0.35 * image.mean(2, keepdims=True)
    return (share * (0.5 * image + 0.5 * glow) + (1 - share) * dim).astype(np.uint8)


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
    image = _fit(image, 2 * CELL)
    few, won = representative(view.dispatch, count), _won(view.dispatch)
    hues = colours(view.dispatch)
    pictures = [("photograph", image)]
    pictures.append((describe(view), draw_groups(image, view.dispatch, few)))
    for slot in few:
        lit = tint(image, stretch(view.dispatch[slot]), hues[slot])
        pictures.append((f"slot {slot}: wins {won[slot]:.1f} %", lit))
    return sheet(pictures, marks=[None, None, *hues[few]])


def map_sheet(image: np.ndarray, view: SlotView) -> Image.Image:
    """All K maps, each stretched to its own range, with its largest share."""
    hues, image = colours(view.dispatch), _fit(image, 2 * SMALL)
    pictures = [
        (f"{slot}: max {share.max():.2f}", tint(image, stretch(share), hues[slot]))
        for slot, share in enumerate(view.dispatch)
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
    image = _fit(image, 2 * CELL)
    pictures = [(f"position {x:g},{y:g}", _mark(image, *shares))]
    pictures.append((describe(view), _mark(draw_groups(image, view.dispatch, few), *shares)))
    pictures.append(("reach of its slots", _mark(tint(image, stretch(at.reach)), *shares)))
    for slot in few:
        lit = _mark(tint(image, stretch(view.dispatch[slot]), hues[slot]), *shares)
        pictures.append((f"slot {slot}: {100 * at.shares[slot]:.0f} % of it", lit))
    return sheet(pictures, columns, marks=[None, None, None, *hues[few]])
