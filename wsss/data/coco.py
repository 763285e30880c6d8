"""COCO's JSON: what it holds, and the masks that its outlines and run lengths mark.

Two read it: the layout `wsss.data.layouts.coco`, which refuses what is broken, and `wsss import masks`,
which leaves it out.
"""

import base64
import codecs
import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from wsss.data.cache import remembered
from wsss.data.upright import turned
from wsss.errors import UserError
from wsss.progress import progress

LISTS = ("categories", "images", "annotations")


def read_document(path: Path, told: Path) -> dict:
    """A COCO file as it is written, refused where it is none."""
    found = {name: [] for name in LISTS}
    for key, value, _ in read_entries(path, told):
        if key in LISTS:
            found[key].append(value)
        else:
            found.setdefault(key, value)
    return found


def read_entries(
    path: Path, told: Path, needed: Sequence[str] = LISTS
) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """What a COCO file lists, entry by entry: all of it at once is five times as large as the file.

    Args:
        path: the file.
        told: its name for the user.
        needed: the lists that it must have.

    Yields:
        The key, an entry of its list or the value that is no list, and its first byte and length.

    Raises:
        UserError: it is no JSON, or not COCO's.
    """
    try:
        seen = yield from _entries(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{told} cannot be read as JSON ({error}): export it again") from error
    if missing := [name for name in needed if name not in seen]:
        raise UserError(f"{told} is no COCO file (it has no list '{missing[0]}')")


def _entries(content: bytes) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """As `read_entries`; returns the keys of the lists."""
    at_byte = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    text = content.decode("utf-8-sig")
    del content  # a second time as large as the file
    decode, space = json.JSONDecoder().raw_decode, re.compile(r"[ \t\r\n]*")
    lists: set[str] = set()
    known = 0  # the character that is byte `at_byte`

    def sign(at: int, signs: str) -> int:
        at = space.match(text, at).end()
        if text[at : at + 1] not in [*signs]:
            raise json.JSONDecodeError(f"expecting one of {signs}", text, at)
        return at

    def value(at: int) -> tuple[Any, tuple[int, int], int]:
        nonlocal at_byte, known
        at = space.match(text, at).end()
        found, end = decode(text, at)
        start = at_byte + at - known  # between values there are no letters
        at_byte, known = start + len(text[at:end].encode()), end
        return found, (start, at_byte - start), end

    at = space.match(text).end()
    if not text.startswith("{", at):
        decode(text, at)  # of another kind, if it is JSON at all
        return lists
    if text.startswith("}", end := space.match(text, at + 1).end()):
        at = end
    while text[at] != "}":
        key, _, at = value(at + 1)
        at = space.match(text, sign(at, ":") + 1).end()
        if not isinstance(key, str):
            raise json.JSONDecodeError("expecting a name", text, at)
        if not text.startswith("[", at):
            found, place, at = value(at)
            yield key, found, place
        else:
            lists.add(key)
            if text.startswith("]", end := space.match(text, at + 1).end()):
                at = end
            while text[at] != "]":
                found, place, at = value(at + 1)
                yield key, found, place
                at = sign(at, ",]")
            at += 1
        at = sign(at, ",}")
    if (end := space.match(text, at + 1).end()) < len(text):
        raise json.JSONDecodeError("there is more behind its end", text, end)
    return lists


def number_of(entry: object, name: str = "id") -> str | None:
    """A number of COCO's, as text: some tools write 1, others "1" or 1.0; None where there is none."""
    value = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | str) else None


def class_names(found: dict, told: Path) -> dict[str, str]:
    """Number -> name of the classes."""
    classes: dict[str, str] = {}
    for one in found["categories"]:
        number = number_of(one)
        if number is None or not isinstance(one.get("name"), str | int):
            continue  # told where a mark has it
        name = str(one["name"])
        if classes.setdefault(number, name) != name:
            raise UserError(
                f"{told} gives the id {number} to two classes, '{classes[number]}' and '{name}': which "
                "mark is of which cannot be told, give each an id of its own"
            )
    return classes


def side_of(value: object) -> int | None:
    """Pixels of an image's side, None if they are not told."""
    try:
        side = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return side if side > 0 else None


@dataclass(frozen=True)
class Frame:
    """How the marks of an image lie in its photograph.

    Attributes:
        size: (height, width) of the upright photograph.
        exif: how EXIF turns the photograph, 1 (not at all) to 8.
        turn: how the marks are still to be turned.
        stretch: factors of x and y that outlines are still to be multiplied by.
    """

    size: tuple[int, int]
    exif: int
    turn: int = 1
    stretch: tuple[float, float] = (1.0, 1.0)

    @property
    def drawn(self) -> tuple[int, int]:
        """(height, width) of what the marks were drawn on."""
        return self.size[::-1] if self.turn >= 5 else self.size


def where_marked(
    shape: object, frame: Frame, told: str, least: int = 0
) -> tuple[np.ndarray, list[str]]:
    """(H, W) booleans of COCO's polygons or run lengths, upright, and what is wrong with them.

    Args:
        shape: the segmentation of an annotation.
        frame: of its image.
        told: the annotation, for whom something is wrong with it.
        least: polygons of fewer numbers are passed over.
    """
    parts = shape if isinstance(shape, list) else [shape]
    if all(isinstance(one, list) and len(one) == 2 for one in parts):
        parts = [[value for point in parts for value in point]]  # one outline of points
    elif all(isinstance(one, int | float) for one in parts):
        parts = [parts]  # one outline without the list around it
    if parts is shape:
        parts = [one for one in parts if not isinstance(one, list) or len(one) >= least]
    where, faults = np.zeros(frame.size, bool), []
    for part in parts:
        try:
            where |= _part(part, frame, told)
        except UserError as error:
            faults.append(str(error))
    return where, faults


def _part(shape: object, frame: Frame, told: str) -> np.ndarray:
    """(H, W) booleans of an outline or of run lengths, upright.

    Nothing unchecked reaches the C code of pycocotools, which trusts run lengths and coordinates.
    """
    if isinstance(shape, list):
        return turned(polygons([shape], frame.drawn, told, frame.stretch), frame.turn)
    size = shape.get("size") if isinstance(shape, dict) else None
    size = tuple(size) if isinstance(size, list) and all(type(side) is int for side in size) else ()
    if size == frame.drawn:
        turn = frame.turn
    elif size == frame.size:
        turn = 1
    elif size == frame.size[::-1] and frame.exif >= 5:
        turn = frame.exif
    else:
        raise UserError(f"{told} has neither polygons nor run lengths (RLE) of its image's size")
    counts = shape.get("counts")
    runs = _run_lengths(counts) if isinstance(counts, str) else counts
    whole = isinstance(runs, list) and all(
        (type(run) is int or (type(run) is float and run.is_integer())) and run >= 0 for run in runs
    )
    if not whole or sum(runs) != size[0] * size[1]:
        raise UserError(f"{told} has run lengths (RLE) that do not fill its image: export it again")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, np.asarray(runs, dtype=np.int64))
    return turned(flat.reshape(size, order="F"), turn)


def _run_lengths(text: str) -> list[int] | None:
    """Run lengths from COCO's text form; None if it is broken.

    Five bits a character from 48 on, the sixth says that more follow; from the third run on the
    difference to the run before the last is stored. As `rleFrString` of pycocotools' maskApi.c, which
    does not check what it reads and would write beyond the mask that runs too long do not fit in.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs


def polygons(
    lines: list, size: tuple[int, int], told: str, stretch: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """(H, W) booleans of outlines x0, y0, x1, y1, ... in pixels, once they are multiplied by `stretch`.

    Raises:
        UserError: one of them is none, or lies far outside; `told` is named.
    """
    height, width = size
    drawn = []
    for line in lines:
        try:
            points = np.asarray(line, dtype=np.float64).reshape(-1, 2) * stretch
        except (TypeError, ValueError, OverflowError):
            points = np.zeros((0, 2))
        if len(points) < 3 or not np.isfinite(points).all():
            raise UserError(f"{told} has an outline that is not three or more points x, y")
        if (np.abs(points / (width, height) - 0.5) > 1.5).any():
            raise UserError(f"{told} has an outline far outside its image of {width}x{height} pixels")
        drawn.append(points.ravel().tolist())
    drawn = coco_mask.merge(coco_mask.frPyObjects(drawn, height, width))
    return coco_mask.decode(drawn).astype(bool)


def layered(layers: list[tuple[int, int, np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 of (area, label, (H, W) booleans) each.

    Large below small: what lies on top of another thing is the smaller. `iscrowd` does not matter: for
    CVAT it means painted with a brush, and a crowd is larger than what stands in it.
    """
    mask = np.zeros(size, np.uint8)
    for _, label, where in sorted(layers, key=lambda layer: -layer[0]):
        mask[where] = label
    return mask


class Entry(NamedTuple):
    """An image of a COCO file.

    Attributes:
        name: its file_name.
        size: (height, width) as the file tells them; None: it does not.
        categories: ids of the categories of its annotations, crowds left out.
        marks: its annotations are `Document.places[start:stop]`; None: one of them is a box alone.
        crowd: it has annotations of crowds.
    """

    name: str
    size: tuple[int, int] | None
    categories: tuple[str, ...]
    marks: tuple[int, int] | None
    crowd: bool


@dataclass(frozen=True)
class Document:
    """What is kept of a COCO file in memory: 0.2 kilobytes an image.

    Attributes:
        path: the file.
        stamp: hash of its content.
        categories: id -> name, in the order of the ids.
        images: its images by the names of their files.
        places: (n, 2) int64, first byte and length of each annotation, image by image.
    """

    path: Path
    stamp: str
    categories: dict[str, str]
    images: list[Entry]
    places: np.ndarray

    @cached_property
    def by_stem(self) -> dict[str, Entry]:
        """The images by their names without suffix."""
        return {Path(entry.name).with_suffix("").as_posix(): entry for entry in self.images}

    def annotations(self, entry: Entry) -> Iterator[dict]:
        """The annotations of an image, as they are written."""
        with self.path.open("rb") as file:
            for start, length in self.places[slice(*entry.marks)].tolist():
                file.seek(start)
                yield json.loads(file.read(length))


def read_index(path: Path) -> Document:
    """What a COCO file holds; it is read once while it stays as it is, and then its cache.

    Raises:
        UserError: it is no COCO file, or what it says does not fit together.
    """
    status = path.stat()
    return _read_index(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _read_index(path: Path, *version: int) -> Document:
    (found,) = remembered("coco", [path], lambda paths: map(_index, paths))
    images = [
        Entry(name, size and tuple(size), tuple(categories), marks and tuple(marks), crowd)
        for name, size, categories, marks, crowd in found["images"]
    ]
    places = np.frombuffer(base64.b64decode(found["places"]), np.int64).reshape(-1, 2)
    return Document(path, found["stamp"], dict(found["categories"]), images, places)


def _index(path: Path) -> dict[str, Any]:
    """The fields of `Document` in a form that JSON keeps."""
    found: dict[str, list] = {"categories": []}
    images: dict[str, tuple[str, Any]] = {}
    names: dict[str, str] = {}
    # of each annotation: image, category, whether it is a crowd and has an outline; first byte, length
    marks: list[tuple[str, str, bool, bool]] = []
    same: dict[tuple, tuple] = {}
    places = array("q")
    first: dict[str, dict[str, str]] = {"image": {}, "category": {}}
    entries = read_entries(path, path, ("images",))
    bar = progress(None, f"read {path.name}", "bytes", path.stat().st_size, brief=True, unit_scale=True)
    for key, one, place in entries:
        bar.update(sum(place) - bar.n)
        if key == "categories":
            found[key].append(one)
        elif key == "images":
            number, name = number_of(one), one.get("file_name") if isinstance(one, dict) else None
            if number is None or not isinstance(name, str) or not name:
                raise UserError(
                    f"image {len(images) + 1} in {path} has no id or no file_name: export it again"
                )
            if number in images:
                raise UserError(
                    f"{path} gives the id {number} to two images, '{images[number][0]}' and '{name}': "
                    "which mark is on which cannot be told, give each an id of its own"
                )
            if names.setdefault(name, number) != number:
                raise UserError(f"{path} lists the image '{name}' twice: keep one")
            size = side_of(one.get("height")), side_of(one.get("width"))
            images[number] = name, None if None in size else size
        elif key == "annotations":
            ids = number_of(one, "image_id"), number_of(one, "category_id")
            for what, number in zip(first, ids, strict=True):
                if number not in first[what]:
                    first[what][number] = number_of(one) or f"in place {len(marks) + 1}"
            one = one if isinstance(one, dict) else {}
            mark = (*ids, bool(one.get("iscrowd")), bool(one.get("segmentation")))
            marks.append(same.setdefault(mark, mark))
            places.extend(place)
    bar.close()
    categories = class_names(found, path)
    for what, known, mend in (("image", images, "remove it"), ("category", categories, "correct it")):
        for number, annotation in first[what].items():
            if number not in known:
                raise UserError(
                    f"{path}, annotation {annotation}, is of the {what} {number}, which the file does "
                    f"not list: {mend}"
                )
    order = {number: place for place, number in enumerate(images)}
    of = np.array([order[image] for image, *_ in marks], np.int64)
    by_image = of.argsort(kind="stable")
    ends = np.searchsorted(of[by_image], np.arange(len(images) + 1)).tolist()
    entries = []
    for (name, size), start, stop in zip(images.values(), ends, ends[1:], strict=False):
        its = [marks[place] for place in by_image[start:stop]]
        tags = sorted({category for _, category, crowd, _ in its if not crowd})
        outlined = all(outline for *_, outline in its)
        crowd = any(crowd for _, _, crowd, _ in its)
        entries.append([name, size, tags, [start, stop] if outlined else None, crowd])
    by_id = sorted(categories.items(), key=lambda one: (not one[0].isdecimal(), one[0].zfill(20)))
    sorted_places = np.frombuffer(places, np.int64).reshape(-1, 2)[by_image]
    return {
        "stamp": _hash(path),
        "categories": by_id,
        "images": entries,
        "places": base64.b64encode(sorted_places.tobytes()).decode(),
    }


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:16]
