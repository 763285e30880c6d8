"""`wsss import masks`: masks corrected in CVAT, Label Studio or elsewhere, back as training masks."""

import argparse
import json
import shutil
import stat
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wsss.commands.class_lists import LISTS, read_names
from wsss.commands.export import (
    VOID_NAME,
    as_named,
    class_names,
    mask_files,
    new_output,
    photo_folder,
    polygons,
)
from wsss.commands.import_names import Masks, Photos, label_of, orientation_of, shown_in, turned
from wsss.commands.import_voc import read_voc
from wsss.commands.import_yolo import read_yolo, yolo_folders
from wsss.errors import UserError, notice

UNPACKED = 8 * 2**30
"""Bytes that an archive may grow to; more is taken for a decompression bomb."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Read what other tools write."
    kinds = parser.add_subparsers(dest="kind", required=True)
    masks = kinds.add_parser(
        "masks",
        help="masks drawn or corrected in another tool",
        description="Write palette masks from COCO, VOC or YOLO-seg, for wsss segment --data.mask_dir.",
    )
    masks.add_argument(
        "file",
        type=Path,
        help="COCO .json, or a folder or .zip of COCO, VOC (CVAT: Segmentation mask 1.1) or YOLO-seg",
    )
    masks.add_argument("--photos", type=Path, required=True, help="folder of the photographs")
    masks.add_argument("--out", type=Path, required=True, help="new folder for the masks")
    masks.add_argument("--classes", type=Path, help="class names, one a line (default: found beside)")
    masks.add_argument(
        "--rest",
        type=Path,
        help="folder of masks for the photographs that the file does not hold, or without a mark",
    )


def main(args: argparse.Namespace) -> None:
    import numpy as np

    from wsss.data.catalog import mask_fault
    from wsss.data.images import image_size
    from wsss.data.masks import read_mask, tell_palettes, write_mask
    from wsss.progress import progress

    if not args.file.exists():
        raise UserError(f"there is no file or folder {args.file}")
    if args.out.suffix.lower() in (".zip", ".json", ".png"):
        raise UserError(f"masks are written into a folder: --out {args.out} looks like a file")
    folder = photo_folder(args.photos)
    photos = Photos(folder, args.file)
    classes = class_names(args.classes, args.rest, folder)
    labels = {name: label for label, name in enumerate(classes, 1)} | {VOID_NAME: 255, "background": 0}
    rest = as_named(mask_files(args.rest), photos.files) if args.rest else {}
    left, foreign = _Left(), []
    with tempfile.TemporaryDirectory() as unpacked, new_output(args.out) as aside:
        aside.mkdir()
        source = args.file
        if source.suffix.lower() == ".zip":
            source = _unpack(source, Path(unpacked))
        made, unmarked = set(), []
        try:
            found = _read(source, args.file, photos, labels, left, foreign)
            for name, mask in progress(found, "import masks", brief=True):
                if name in made or name in unmarked:
                    raise UserError(f"{args.file} holds the image '{name}' twice: keep one of them")
                if mask is None:
                    unmarked.append(name)
                    if name in rest:
                        continue
                    mask = np.zeros(image_size(photos.files[name]), np.uint8)
                write_mask(aside / f"{name}.png", mask)
                made.add(name)
            left.tell(nothing=not made and not unmarked)
        except UserError as error:  # the user knows the archive, not the place it was unpacked in
            raise UserError(str(error).replace(unpacked, str(args.file))) from error
        if not made and not unmarked:
            raise UserError(f"{args.file} holds no image")
        taken = sorted(name for name in rest if name not in made and name in photos.files)
        for name in progress(taken, "other masks", brief=True):
            if fault := mask_fault(rest[name], photos.files[name], len(classes) + 1):
                raise UserError(fault)
            write_mask(aside / f"{name}.png", read_mask(rest[name], None, foreign))
    tell_palettes([what.replace(unpacked, str(args.file)) for what in foreign])
    if unmarked:
        become = (
            "have the masks of --rest, where there are any"
            if rest
            else "become background; --rest gives those that were not worked on their masks"
        )
        notice(
            f"{len(unmarked)} photographs in {args.file} have nothing marked "
            f"(first: {unmarked[0]}), and {become}"
        )
    without = len(photos.files) - len(made) - len(taken)
    print(
        f"{len(made)} masks of {len(classes)} classes written to {args.out}"
        + (f", {len(taken)} more taken from {args.rest}" if args.rest else "")
        + (f"; {without} photographs have none" if without else "")
    )


class _Left:
    """Entries of the file that are left out: one that is broken does not refuse the others.

    Attributes:
        faults: what is wrong with each.
        marks: marks with an outline, and those that belong to nothing.
        drawn: those of them that could be used.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.marks = self.drawn = 0

    def out(self, fault: str) -> None:
        self.faults.append(fault)

    def tell(self, nothing: bool) -> None:
        """Name them; `nothing`: no image is left.

        Raises:
            UserError: no image is left, or no mark at all could be used.
        """
        if self.faults and (nothing or (self.marks and not self.drawn)):
            more = len(self.faults) - 1
            raise UserError(self.faults[0] + (f" ({more} more faults like it)" if more else ""))
        for fault in self.faults[:10]:
            notice(f"left out: {fault}")
        if len(self.faults) > 10:
            notice(f"left out: {len(self.faults) - 10} more")


def _member_name(member: zipfile.ZipInfo) -> str:
    """Its name; many packers write UTF-8 and do not say so."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode()
    except UnicodeError:
        return member.filename


_ANNOTATIONS = {".json", ".txt", ".png", *(Path(name).suffix for name in LISTS)}
"""Suffixes of what is taken out of an archive."""


def _unpack(path: Path, folder: Path) -> Path:
    """Take the annotations out of an archive; photographs in it are left there."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = 0
            for member in archive.infolist():
                target = (folder / _member_name(member).replace("\\", "/")).resolve()
                linked = stat.S_ISLNK(member.external_attr >> 16)
                if not target.is_relative_to(folder.resolve()) or linked:
                    raise UserError(f"{path} has the member '{member.filename}', which leads out of it")
                if member.is_dir() or target.suffix.lower() not in _ANNOTATIONS:
                    continue
                size += member.file_size  # zipfile gives no more than this, whatever is packed
                if size > UNPACKED:
                    raise UserError(f"{path} is refused: unpacked it is above {UNPACKED >> 30} GiB")
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} cannot be unpacked ({error}): export it again") from error
    return folder


def _read(
    source: Path,
    told: Path,
    photos: Photos,
    labels: dict[str, int],
    left: _Left,
    foreign: list[str],
) -> Masks:
    """The masks of a file or folder; `told` is its name, also where it was unpacked elsewhere."""
    if source.is_file():
        if source.suffix.lower() != ".json":
            raise UserError(f"{told} is neither a .json nor a .zip file nor a folder")
        yield from _coco(_coco_content(source, told), told, photos, labels, left, set())
        return

    def first(pattern: str) -> list[Path]:
        return sorted(shown_in(source, pattern), key=lambda path: (len(path.parts), str(path)))

    folders = yolo_folders(source)
    if marks := first("SegmentationClass") + first("SegmentationClassPNG"):
        for root in dict.fromkeys(path.parent for path in marks):
            yield from read_voc(root, source, photos, labels, foreign)
    elif any(listing for _, listing in folders):
        yield from read_yolo(folders, photos, labels, source)
    elif marks := first("labelmap.txt"):
        raise UserError(f"{told} has no folder SegmentationClass beside {marks[0].name}")
    elif cards := first("data.yaml"):
        read_names(cards[0])
        raise UserError(f"{told} has no folder labels beside {cards[0].name}")
    elif files := first("*.json"):
        contents, others = {}, []
        for file in files:
            name = told if len(files) == 1 else told / file.relative_to(source)
            try:
                contents[name] = _coco_content(file, name)
            except UserError as error:
                others.append(error)
        if not contents:
            raise others[0]
        for error in others:
            notice(f"passed over: {error}")
        taken: set[str] = set()
        for name, content in contents.items():
            yield from _coco(content, name, photos, labels, left, taken)
    else:
        raise UserError(
            f"{told} holds neither COCO (.json) nor VOC (labelmap.txt, SegmentationClass) nor YOLO "
            f"(folders labels with {', '.join(LISTS[2:])})"
        )


def _coco_content(path: Path, told: Path) -> dict:
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


def _coco_classes(found: dict, told: Path) -> dict[str, str]:
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


def _coco_images(found: dict, told: Path, photos: Photos, left: _Left) -> dict[str, _Image]:
    """Id -> image.

    Raises:
        UserError: two photographs have one id, or one is not there.
    """
    images: dict[str, _Image] = {}
    for place, one in enumerate(found["images"], 1):
        number = _id(one)
        if number is None or not isinstance(one.get("file_name"), str):
            left.out(f"image {place} in {told} has no id or no file_name: export it again")
            continue
        image = _Image(*photos.find(one["file_name"]), one)
        first = images.setdefault(number, image)
        if first.ours != image.ours:
            raise UserError(
                f"{told} gives the id {number} to two photographs, '{first.name}' and '{image.name}': "
                "which mark is on which cannot be told, give each an id of its own or export each alone"
            )
        if first is not image:
            left.out(f"{told} lists the image '{image.name}' twice (id {number}): once is enough")
    return images


def _coco(
    found: dict,
    told: Path,
    photos: Photos,
    labels: dict[str, int],
    left: _Left,
    taken: set[str],
) -> Masks:
    """The masks of a COCO file; `taken` are the photographs of those before it."""
    classes = _coco_classes(found, told)
    images = _coco_images(found, told, photos, left)
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
    frames = _frames(found, told, images, photos, left)
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
            label = label_of(classes[_id(one, "category_id")], labels, told)
            where = _segmentation(one["segmentation"], frames[chosen], what, left)
            if where is not None:
                layers.append((where.sum(), label, where))
        if layers:  # else something is there, but nobody knows where: it has no mask
            left.drawn += len(layers)
            yield ours, _layered(layers, images[chosen].size)


def _layered(layers: list, size: tuple[int, int]):
    """(H, W) uint8 of (area, label, (H, W) booleans) each.

    Large below small: what lies on top of another thing is the smaller. `iscrowd` does not matter: for
    CVAT it means painted with a brush, and a crowd is larger than what stands in it.
    """
    import numpy as np

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


def _frames(
    found: dict, told: Path, images: dict[str, _Image], photos: Photos, left: _Left
) -> dict[str, _Frame]:
    """The frame of each image but for those whose size does not fit.

    Of a photograph that EXIF turns a file may have the size before turning. Label Studio shows it
    upright, and multiplies the marks, which are shares of the sides, by the wrong ones of them
    (label-studio-sdk 2.1.2, `convert_to_coco`): they are stretched. Other tools do not turn it at all.
    """
    frames, before, upright = {}, [], False
    for number, (ours, size, one) in images.items():
        frame = _Frame(size, orientation_of(photos.files[ours]))
        given = _side(one.get("height")), _side(one.get("width"))
        tells = frame.exif >= 5 and size[0] != size[1]
        if None in given or given == size:  # Label Studio knows no size where nothing is marked
            upright |= tells and given == size
        elif tells and given == size[::-1]:
            before.append(number)
        else:
            left.out(
                f"{told} says {given[1]}x{given[0]} pixels for '{one['file_name']}', but "
                f"{photos.files[ours]} is {size[1]}x{size[0]}: give the photographs that were annotated"
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


def _segmentation(shape: object, frame: _Frame, told: str, left: _Left):
    """(H, W) booleans of COCO's polygons or run lengths, upright; None: nothing of it can be used."""
    import numpy as np

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
    for fault in faults:
        left.out(fault)
    return where if where.any() else None


def _part(shape: object, frame: _Frame, told: str):
    """(H, W) booleans of an outline or of run lengths, upright.

    Nothing unchecked reaches the C code of pycocotools, which trusts run lengths and coordinates.
    """
    import numpy as np

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
    difference to the run before the last is stored (`rleFrString` of pycocotools' maskApi.c).
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
