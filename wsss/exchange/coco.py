"""COCO's annotations in one JSON file, outlines or run lengths (RLE), as many tools have them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsss.data.upright import turned
from wsss.errors import UserError, notice
from wsss.exchange.classes import VOID_NAME
from wsss.exchange.format import Format, MaskFiles, Masks, Source
from wsss.exchange.names import orientation_of
from wsss.exchange.outlines import coco_tools, outlines, polygons
from wsss.voc import VOID


@dataclass(frozen=True)
class Coco(Format):
    """One JSON file.

    Args:
        polygons: write outlines, which can be dragged, instead of exact pixels.
    """

    name = "coco"
    about = "one JSON"
    signs = "COCO (.json)"
    suffixes = (".json",)

    polygons: bool = False

    def write(self, given: MaskFiles, out: Path) -> str:
        tools = coco_tools()
        images, annotations, void = [], [], 0
        for number, (_, photo, mask) in enumerate(given, 1):
            height, width = mask.shape
            images.append({"id": number, "file_name": photo, "width": width, "height": height})
            void += int((mask == VOID).sum())
            for label in np.unique(mask[mask > 0]).tolist():
                where = mask == label
                if self.polygons:
                    parts = [[line] for line in outlines(where)]
                else:
                    rle = tools.encode(np.asfortranarray(where, dtype=np.uint8))
                    parts = [rle | {"counts": rle["counts"].decode("ascii")}]
                for part in parts:
                    # polygons are as their readers will draw them
                    drawn = (
                        tools.merge(tools.frPyObjects(part, height, width)) if self.polygons else part
                    )
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": number,
                            "category_id": label,
                            "segmentation": part,
                            "area": float(tools.area(drawn)),
                            "bbox": tools.toBbox(drawn).tolist(),
                            "iscrowd": 0,
                        }
                    )
        categories = [{"id": label, "name": name} for label, name in enumerate(given.classes, 1)]
        if void:
            categories.append({"id": VOID, "name": VOID_NAME})
        found = {"images": images, "annotations": annotations, "categories": categories}
        out.write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")
        return f"; {void} void pixels are the category '{VOID_NAME}'" if void else ""

    def read(self, source: Source) -> Masks | None:
        if source.path.is_file():
            if source.path.suffix.lower() != ".json":
                return None
            contents = {source.told: _content(source.path, source.told)}
        else:
            contents = _contents(source)
        taken: set[str] = set()
        pairs = (pair for told, found in contents.items() for pair in _read(found, told, source, taken))
        return pairs if contents else None


def _contents(source: Source) -> dict[Path, dict]:
    """Name for the user -> content of the COCO files in a folder; other JSON files are told.

    Raises:
        UserError: there are JSON files, and none is of COCO.
    """
    files = source.find("*.json")
    contents, others = {}, []
    for file in files:
        name = source.told if len(files) == 1 else source.told / file.relative_to(source.path)
        try:
            contents[name] = _content(file, name)
        except UserError as error:
            others.append(error)
    if others and not contents:
        raise others[0]
    for error in others:
        notice(f"passed over: {error}")
    return contents


def _content(path: Path, told: Path) -> dict:
    """A COCO file as it is written, refused where it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        lists = [found[name] for name in ("categories", "images", "annotations")]
    except ValueError as error:
        raise UserError(f"{told} cannot be read as JSON ({error}): export it again") from error
    except (KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{told} is no COCO file ({type(error).__name__}: {error})") from error
    if not all(isinstance(one, list) for one in lists):
        raise UserError(f"{told} is no COCO file (its categories, images and annotations are no lists)")
    return found


def _id(entry: object, name: str = "id") -> str | None:
    """A number of COCO's, as text: some tools write 1, others "1" or 1.0; None where there is none."""
    value = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | str) else None


def _classes(found: dict, told: Path) -> dict[str, str]:
    """Number -> name of the classes."""
    classes: dict[str, str] = {}
    for one in found["categories"]:
        number = _id(one)
        if number is None or not isinstance(one.get("name"), str | int):
            continue  # told where a mark has it
        name = str(one["name"])
        if classes.setdefault(number, name) != name:
            raise UserError(
                f"{told} gives the id {number} to two classes, '{classes[number]}' and '{name}': which "
                "mark is of which cannot be told, give each an id of its own"
            )
    return classes


class _Image(NamedTuple):
    """An image of a COCO file: our name, the (height, width) of the photograph, and its entry."""

    ours: str
    size: tuple[int, int]
    entry: dict

    @property
    def name(self) -> str:
        return self.entry["file_name"]


def _images(found: dict, told: Path, source: Source) -> dict[str, _Image]:
    """Id -> image.

    Raises:
        UserError: two photographs have one id, or one is not there.
    """
    images: dict[str, _Image] = {}
    left = source.left
    for place, one in enumerate(found["images"], 1):
        number = _id(one)
        if number is None or not isinstance(one.get("file_name"), str):
            left.out(f"image {place} in {told} has no id or no file_name: export it again")
            continue
        image = _Image(*source.photos.find(one["file_name"]), one)
        first = images.setdefault(number, image)
        if first.ours != image.ours:
            raise UserError(
                f"{told} gives the id {number} to two photographs, '{first.name}' and '{image.name}': "
                "which mark is on which cannot be told, give each an id of its own or export each alone"
            )
        if first is not image:
            left.out(f"{told} lists the image '{image.name}' twice (id {number}): once is enough")
    return images


def _read(found: dict, told: Path, source: Source, taken: set[str]) -> Masks:
    """The masks of a COCO file; `taken` are the photographs of those before it."""
    left = source.left
    classes = _classes(found, told)
    images = _images(found, told, source)
    marks: dict[str, list[tuple[str, dict]]] = {number: [] for number in images}
    for place, one in enumerate(found["annotations"], 1):
        number, category = _id(one, "image_id"), _id(one, "category_id")
        what = f"{told}, annotation {_id(one) or f'in place {place}'},"
        if number not in images:
            left.out(f"{what} is of the image {number}, which the file does not list: remove it")
        elif category not in classes:
            left.out(f"{what} is of the category {category}, which the file does not list: correct it")
        else:
            marks[number].append((what, one))
            continue
        left.marks += 1
    outlined = {n: [mark for mark in its if mark[1].get("segmentation")] for n, its in marks.items()}
    every = sum(map(len, marks.values()))
    if boxes := every - sum(map(len, outlined.values())):
        told_boxes = f"{boxes} of {every} annotations in {told} have no outline"
        if boxes == every:
            raise UserError(f"{told_boxes}, they are boxes: export polygons or masks")
        first, number = next(
            (one.get("id"), number)
            for number, its in marks.items()
            for _, one in its
            if not one.get("segmentation")
        )
        notice(
            f"passed over: {told_boxes} (boxes or specks; first: annotation {first} of "
            f"'{images[number].name}')"
        )
    frames = _frames(found, told, images, source)
    entries: dict[str, list[str]] = {}
    for number, image in images.items():
        entries.setdefault(image.ours, []).append(number)
    for ours, numbers in entries.items():
        # of entries of one photograph the first with marks counts: what two people drew does not add up
        chosen = next((number for number in numbers if outlined[number]), numbers[0])
        for number in numbers:
            if number != chosen or ours in taken:
                left.out(
                    f"{told} lists the photograph '{images[number].name}' again (id {number}, "
                    f"{len(marks[number])} marks): give marks that belong together one id"
                )
        if ours in taken:
            continue
        taken.add(ours)
        left.marks += len(outlined[chosen])
        if chosen not in frames:
            continue
        if not marks[chosen]:
            yield ours, None
            continue
        layers = []
        for what, one in outlined[chosen]:
            label = source.label(classes[_id(one, "category_id")], told)
            where = _segmentation(one["segmentation"], frames[chosen], what, left.faults)
            if where is not None:
                layers.append((where.sum(), label, where))
        if layers:  # else something is there, but nobody knows where: it has no mask
            left.drawn += len(layers)
            yield ours, _layered(layers, images[chosen].size)


def _layered(layers: list[tuple[int, int, np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 of (area, label, (H, W) booleans) each.

    Large below small: what lies on top of another thing is the smaller. `iscrowd` does not matter: for
    CVAT it means painted with a brush, and a crowd is larger than what stands in it.
    """
    mask = np.zeros(size, np.uint8)
    for _, label, where in sorted(layers, key=lambda layer: -layer[0]):
        mask[where] = label
    return mask


@dataclass(frozen=True)
class _Frame:
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


def _frames(found: dict, told: Path, images: dict[str, _Image], source: Source) -> dict[str, _Frame]:
    """The frame of each image but for those whose size does not fit.

    Of a photograph that EXIF turns a file may have the size before turning. Label Studio shows it
    upright, and multiplies the marks, which are shares of the sides, by the wrong ones of them
    (label-studio-sdk 2.1.2, `convert_to_coco`): they are stretched. Other tools do not turn it at all.
    """
    frames, before, upright, left = {}, [], False, source.left
    for number, (ours, size, one) in images.items():
        frame = _Frame(size, orientation_of(source.photos.files[ours]))
        given = _side(one.get("height")), _side(one.get("width"))
        tells = frame.exif >= 5 and size[0] != size[1]
        if None in given or given == size:  # Label Studio knows no size where nothing is marked
            upright |= tells and given == size
        elif tells and given == size[::-1]:
            before.append(number)
        else:
            left.out(
                f"{told} says {given[1]}x{given[0]} pixels for '{one['file_name']}', but "
                f"{source.photos.files[ours]} is {size[1]}x{size[0]}: give the photographs that were "
                "annotated"
            )
            continue
        frames[number] = frame
    if not before:
        return frames
    info = found.get("info")
    stretched = isinstance(info, dict) and str(info.get("contributor")).startswith("Label Studio")
    # a tool that turns none turns those neither whose sizes do not tell it: squares, or upside down
    for number in before if stretched or upright else list(frames):
        (height, width), exif = frames[number].size, frames[number].exif
        frames[number] = (
            _Frame((height, width), exif, stretch=(width / height, height / width))
            if stretched
            else _Frame((height, width), exif, turn=exif)
        )
    notice(
        f"{told} has the sizes of {len(before)} photographs before EXIF turns them (first: "
        f"{images[before[0]].name}): their marks are "
        + ("stretched to fit, as Label Studio's have to be" if stretched else "turned with them")
    )
    return frames


def _side(value: object) -> int | None:
    """Pixels of an image's side, None if they are not told."""
    try:
        side = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return side if side > 0 else None


def _segmentation(shape: object, frame: _Frame, told: str, left: list[str]) -> np.ndarray | None:
    """(H, W) booleans of COCO's polygons or run lengths, upright; None: nothing of it can be used."""
    parts = shape if isinstance(shape, list) else [shape]
    if all(isinstance(one, list) and len(one) == 2 for one in parts):
        parts = [[value for point in parts for value in point]]  # one outline of points
    elif all(isinstance(one, int | float) for one in parts):
        parts = [parts]  # one outline without the list around it
    where, faults = np.zeros(frame.size, bool), []
    for part in parts:
        try:
            where |= _part(part, frame, told)
        except UserError as error:
            faults.append(str(error))
    if not where.any() and not faults:
        faults = [f"{told} marks no pixel: remove it"]
    left += faults
    return where if where.any() else None


def _part(shape: object, frame: _Frame, told: str) -> np.ndarray:
    """(H, W) booleans of an outline or of run lengths, upright.

    Nothing unchecked reaches the C code of pycocotools, which trusts run lengths and coordinates.
    """
    if isinstance(shape, list):
        return turned(polygons([shape], frame.drawn, told, frame.stretch), frame.turn)
    size = shape.get("size") if isinstance(shape, dict) else None
    size = tuple(size) if isinstance(size, list) else ()
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
