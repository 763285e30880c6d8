"""The one place that reads and writes masks (palette PNGs whose index is the label) and scores."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsss.data.cache import remembered
from wsss.data.images import (
    FOREIGN_SUFFIXES,
    IMAGE_SUFFIXES,
    image_size,
    image_sizes,
    look_through,
)
from wsss.errors import Damaged, UserError, notice
from wsss.files import file_stamp, read_json, write_atomic
from wsss.progress import progress
from wsss.voc import VOID, palette

DRAWN, SOURCE = "SemanticMasks", ".drawn_from.json"
"""Folder of masks that are drawn when they are first read, and the note of what they are drawn from."""

_PALETTE = palette()
_LABELS = {tuple(_PALETTE[3 * label : 3 * label + 3]): label for label in range(256)}


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write labels as a palette PNG in VOC colours, atomically.

    >>> mask = wsss.Segmenter.load("runs/demo/segment/last.ckpt").predict(wsss.read_image("photo.jpg"))
    >>> wsss.write_mask("masks/photo.png", mask)

    Args:
        path: file to write; missing folders are made.
        mask: (H, W) integers in 0..255; 255 is void.

    Raises:
        UserError: the mask has another shape or type, or other labels.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "iub":
        raise UserError(f"a mask is an array (H, W) of integers, got {mask.shape} of {mask.dtype}")
    if mask.size and (mask.min() < 0 or mask.max() > 255):
        raise UserError(f"labels of a mask are 0 to 255, got {mask.min()} to {mask.max()}")
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(_PALETTE)
    write_atomic(Path(path), lambda aside: image.save(aside, format="PNG", optimize=False))


def read_mask(
    path: str | Path, num_labels: int | None = None, foreign: list[str] | None = None
) -> np.ndarray:
    """Read a mask file as labels (H, W) uint8.

    The palette index (or the grey value of a one-channel PNG) is the label; colours are never read.

    >>> mask = wsss.read_mask("data/SegmentationClass/train_00000.png")
    >>> mask.shape, sorted(set(mask.flatten().tolist()))
    ((64, 64), [0, 2, 4])

    Args:
        path: a palette ("P") or grey image; of 16 bits, too, while its labels are below 256.
        num_labels: labels 0..num_labels-1 and void (255) are allowed; None allows all.
        foreign: where its palette is not VOC's, a word on it is added here (for `tell_palettes`).

    Raises:
        UserError: the file is missing, a colour image, or holds an unknown label; `Damaged` where it
            cannot be read.
    """
    path = Path(path)
    if not _is_there(path):
        raise UserError(f"no mask file {path}: check the folder of masks and the image's name")
    try:
        with Image.open(path) as image:
            mode = image.mode
            if mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
                raise UserError(
                    f"mask {path} is a colour image (mode {mode}), its labels cannot be told: "
                    "save it as a palette PNG (mode P) whose index is the label"
                )
            mask = np.array(image)
            if mask.size and (mask.min() < 0 or mask.max() > 255):
                raise UserError(
                    f"mask {path} has the label {mask.max()}, labels are 0 to 255: correct the mask"
                )
            mask = mask.astype(np.uint8)
            colours = image.getpalette("RGB") if mode == "P" else None
    except UserError:
        raise
    except Exception as error:
        raise Damaged(f"mask {path} cannot be read ({error}): make it again") from error
    if num_labels is None and foreign is None:
        return mask
    import cv2

    # ten times as fast as np.unique, which shows at a phone's photographs
    used = np.flatnonzero(cv2.calcHist([mask], [0], None, [256], [0, 256]))
    unknown = np.setdiff1d(used, [*range(256 if num_labels is None else num_labels), VOID])
    if unknown.size or foreign is not None:
        odd = _odd_colour(used.tolist(), colours) if colours else None
        if unknown.size:
            raise UserError(
                f"mask {path} has label {', '.join(map(str, unknown))}, but only 0..{num_labels - 1} "
                f"and {VOID} (void) exist: check the list of classes or correct the mask"
                + (f" (its palette is not VOC's: {odd})" if odd else "")
            )
        if odd:
            foreign.append(f"{path}: {odd}")
    return mask


def drawn_from(mask: Path) -> tuple[Path, dict[str, Any]] | None:
    """The folder of a ground-truth mask that is drawn when it is first read, and of what it is drawn.

    None: it is a file like any other.
    """
    if DRAWN not in mask.parts:
        return None
    above = len(mask.parts) - 1 - mask.parts[::-1].index(DRAWN)
    folder = Path(*mask.parts[: above + 2])
    try:
        return folder, _note(folder / SOURCE, os.stat(folder / SOURCE).st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=16)
def _note(path: Path, modified: int) -> dict[str, Any]:
    return read_json(path)


def mask_stamp(mask: Path) -> str:
    """Tells one ground-truth mask from another, as `file_stamp`; one not yet drawn has it, too."""
    folder, note = drawn_from(mask) or (None, None)
    return f"{note['stamp']} {mask.relative_to(folder)} {note['classes']}" if note else file_stamp(mask)


def _is_there(path: Path) -> bool:
    """Whether there is a mask file, which is drawn where it is to be."""
    if path.is_file() or DRAWN not in path.parts:
        return path.is_file()
    from wsss.data.layouts.coco import draw  # it writes masks itself

    return draw(path)


def _odd_colour(labels: list[int], colours: list[int]) -> str | None:
    """The first of the labels that has not VOC's colour, in words; None: all have, or all are grey."""
    found = {label: colours[3 * label : 3 * label + 3] for label in labels}
    if all(colour == [label] * 3 for label, colour in found.items()):
        return None  # a grey picture saved with a palette
    for label, colour in found.items():
        meant = _LABELS.get(tuple(colour))
        if meant != label:
            said = ",".join(map(str, colour)) or "without a colour"
            return f"index {label} is {said}" + (f", VOC's label {meant}" if meant is not None else "")
    return None


def mask_fault(mask: Path, image: Path, num_labels: int) -> str | None:
    """Why a mask does not belong to its image and classes, or None."""
    try:
        _is_there(mask)
    except UserError as error:
        return str(error)
    return _mask_fault(mask, image, num_labels, *_version(mask), *_version(image))


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=200_000)
def _mask_fault(mask: Path, image: Path, num_labels: int, *version: int) -> str | None:
    try:
        height, width = read_mask(mask, num_labels).shape
        wanted = image_size(image)
    except UserError as error:
        return str(error)
    if (height, width) == wanted:
        return None
    return (
        f"mask {mask} is {width}x{height} pixels, but its image {image} is {wanted[1]}x{wanted[0]}: "
        "make the mask again at the image's size"
    )


def mask_faults(pairs: Sequence[tuple[Path, Path]], num_labels: int) -> list[str | None]:
    """`mask_fault` of each mask and its image, read once while they stay as they are.

    Raises:
        UserError: an image cannot be read.
    """

    def find(masks: Sequence[Path]) -> Iterator[list | None]:
        return map(_content, progress(masks, "look at masks", brief=True))

    contents = remembered("labels", [mask for mask, _ in pairs], find)
    sizes = image_sizes([image for _, image in pairs])
    known = {*range(num_labels), VOID}
    return [
        None if found and found[0] == [*size] and known.issuperset(found[1])
        # it is read again to tell what is wrong
        else mask_fault(*pair, num_labels)
        for pair, found, size in zip(pairs, contents, sizes, strict=True)
    ]  # fmt: skip


def _content(mask: Path) -> list | None:
    """Height and width of a mask, and its labels; None: it cannot be read."""
    try:
        found = read_mask(mask)
    except UserError:
        return None
    return [[*found.shape], np.unique(found).tolist()]


def masks_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The mask files (.png) in a folder and its sub-folders, and pictures that could be meant as masks.

    The latter have another suffix, and no mask of their name lies beside them.
    """
    masks, others = [], []
    for here, _, files in look_through(folder) if folder.is_dir() else ():
        for path in (here / name for name in files if (here / name).is_file()):
            suffix = path.suffix.lower()
            if suffix == ".png":
                masks.append(path)
            elif suffix in (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES):
                others.append(path)
    names = {path.with_suffix("") for path in masks}
    return sorted(masks), sorted(path for path in others if path.with_suffix("") not in names)


def tell_palettes(foreign: list[str]) -> None:
    """Give notice of masks whose palettes `read_mask` found not to be VOC's."""
    if foreign:
        notice(
            f"the palette of {len(foreign)} masks is not VOC's (first: {foreign[0]}): their indices "
            "were read, not their colours; where a picture editor changed the palette, take the masks "
            "from before that"
        )


def write_arrays(path: Path, half: bool = True, **arrays: np.ndarray) -> None:
    """Write arrays as a NPZ file, atomically, floats with 16 bits unless `half` is off."""
    if half:
        arrays = {n: a.astype(np.float16) if a.dtype.kind == "f" else a for n, a in arrays.items()}

    def save(aside: Path) -> None:
        with aside.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomic(path, save)


Form = Mapping[str, tuple[str, str]]
"""Names of arrays, each with the kinds of its dtype and a letter for each dimension; dimensions of one
letter are alike long."""

SCORES: Form = {"scores": ("f", "nhw"), "labels": ("iu", "n")}
"""Scores of an image's n tags in 0..1, and their labels."""

SEED: Form = SCORES | {"slots": ("f", "kc"), "dispatch": ("f", "kxy")}
"""Scores, and the slots of the image with what pixels they hold."""

_LEARNED: Form = {"weight": ("f", "flc"), "bias": ("f", "fl")}
LEARNED: tuple[Form, ...] = (
    _LEARNED | {"factors": ("f", "l"), "images": ("U", "n")},
    # of earlier versions: without factors, of all images, and the mean alone
    _LEARNED | {"images": ("U", "n")},
    {"weight": ("f", "lc"), "bias": ("f", "l")},
    _LEARNED,
)
"""What slots of many images have taught."""


def read_arrays(path: Path, *forms: Form) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote, floats as float32.

    Args:
        path: the file.
        forms: what it must hold, in one of several ways; further arrays do not matter.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"there are no class maps {path}: make the first round's pseudo-masks first")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:
        raise _damaged(path, error) from error
    wrong = [_unlike(arrays, form) for form in forms]
    if wrong and all(wrong):
        raise _damaged(path, wrong[0])
    return {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in arrays.items()}


def _damaged(path: Path, why: object) -> UserError:
    return UserError(
        f"class maps {path} are damaged ({why}): make the pseudo-masks again in an empty folder "
        "(wsss run: remove its folder pseudo_masks first)"
    )


def _unlike(arrays: Mapping[str, np.ndarray], form: Form) -> str | None:
    """How arrays differ from a form, in words; None: they do not."""
    sides: dict[str, int] = {}
    for name, (kinds, letters) in form.items():
        if name not in arrays:
            return f"{name} is missing"
        array = arrays[name]
        if array.dtype.kind not in kinds or array.ndim != len(letters):
            return f"{name} is an array {array.shape} of {array.dtype}"
        for letter, side in zip(letters, array.shape, strict=True):
            if sides.setdefault(letter, side) != side or (side == 0 and letter != "n"):
                return f"{name} is an array {array.shape}"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"{name} has values that are no numbers"
        if name == "labels" and not ((array > 0) & (array < VOID)).all():
            return "there are labels of no class"
    return None


def read_scores(path: Path) -> tuple[np.ndarray, list[int]]:
    """Scores (n, h, w) float32 of an image's n tags and their labels; errors as `read_arrays`."""
    arrays = read_arrays(path, SCORES)
    return arrays["scores"], arrays["labels"].tolist()
