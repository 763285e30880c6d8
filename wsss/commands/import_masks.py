"""`wsss import masks`: masks corrected in CVAT, Label Studio or elsewhere, back as training masks."""

import argparse
import json
import re
import shutil
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from wsss.commands.export import (
    VOID_NAME,
    class_names,
    coco_tools,
    mask_files,
    new_output,
    photo_files,
    photo_folder,
)
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
    from wsss.data.masks import read_mask, write_mask
    from wsss.progress import progress

    if not args.file.exists():
        raise UserError(f"there is no file or folder {args.file}")
    if args.out.suffix.lower() in (".zip", ".json", ".png"):
        raise UserError(f"masks are written into a folder: --out {args.out} looks like a file")
    folder = photo_folder(args.photos)
    photos = _Photos(folder, args.file)
    classes = class_names(args.classes, args.rest, folder)
    labels = {name: label for label, name in enumerate(classes, 1)} | {VOID_NAME: 255, "background": 0}
    rest = mask_files(args.rest) if args.rest else {}
    with tempfile.TemporaryDirectory() as unpacked, new_output(args.out) as aside:
        aside.mkdir()
        source = args.file
        if source.suffix.lower() == ".zip":
            source = _unpack(source, Path(unpacked))
        made, unmarked = set(), []
        try:
            found = _read(source, args.file, photos, labels)
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
        except UserError as error:  # the user knows the archive, not the place it was unpacked in
            raise UserError(str(error).replace(unpacked, str(args.file))) from error
        if not made and not unmarked:
            raise UserError(f"{args.file} holds no image")
        taken = sorted(name for name in rest if name not in made and name in photos.files)
        for name in progress(taken, "other masks", brief=True):
            if fault := mask_fault(rest[name], photos.files[name], len(classes) + 1):
                raise UserError(fault)
            write_mask(aside / f"{name}.png", read_mask(rest[name]))
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


_UPLOADED = re.compile(r"^([0-9a-f]{8}(-|__))+")
"""What Label Studio sets before the name of a file that it was given."""


def _as_uploaded(name: str) -> str:
    """A name as Label Studio keeps it: underscores for spaces, no other signs."""
    return re.sub(r"[^-\w.]", "", name.replace(" ", "_"))


def _ends_alike(name: str, other: str) -> bool:
    """Whether one of two paths is the end of the other: `day 1/a` of `photos/day 1/a`."""
    pairs = zip(reversed(PurePosixPath(name).parts), reversed(PurePosixPath(other).parts), strict=False)
    return all(one == two for one, two in pairs)


class _Photos:
    """The photographs, looked up by the names that another tool gives them."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder, self.source, self.files = folder, source, photo_files(folder)
        self.last: dict[str, list[str]] = {}
        self.uploaded: dict[str, list[str]] = {}
        for name in self.files:
            last = PurePosixPath(name).name
            self.last.setdefault(last, []).append(name)
            self.uploaded.setdefault(_as_uploaded(last), []).append(name)

    def find(self, name: str, suffix: bool = True) -> tuple[str, tuple[int, int]]:
        """Our name and (height, width) of the photograph `name`.

        Folders before it are passed over where only one photograph fits: `photos/day 1/a` is
        `day 1/a`, and so is `a`.
        """
        from wsss.data.catalog import inside
        from wsss.data.images import image_size

        if "\0" in name:
            raise UserError(f"{self.source} names a photograph {name!r}: correct the name")
        if name.startswith("/data/") and "?d=" in name:  # Label Studio's address of a local file
            name = unquote(name.partition("?d=")[2])
        given = PurePosixPath(name.replace("\\", "/"))
        plain = (given.with_suffix("") if suffix and given.suffix else given).as_posix()
        last = PurePosixPath(plain).name
        if plain in self.files:
            alike = [plain]
        elif last not in self.last and _UPLOADED.match(last):
            alike = self.uploaded.get(_as_uploaded(unquote(_UPLOADED.sub("", last))), [])
        else:
            inside(self.folder, str(given), self.source)
            alike = [name for name in self.last.get(last, []) if _ends_alike(name, plain)]
        if len(alike) != 1:
            many = f"{len(alike)} are called so" if alike else f"there is none in {self.folder}"
            raise UserError(f"{self.source} names the photograph '{name}', but {many}: check --photos")
        return alike[0], image_size(self.files[alike[0]])


def _member_name(member: zipfile.ZipInfo) -> str:
    """Its name; many packers write UTF-8 and do not say so."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode()
    except UnicodeError:
        return member.filename


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
                if member.is_dir() or target.suffix.lower() not in (".json", ".txt", ".png", ".yaml"):
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


Masks = Iterator[tuple[str, "np.ndarray | None"]]  # noqa: F821  (numpy comes with the command)
"""Name of a photograph -> its mask (H, W) uint8, None if nothing is marked in it."""


def _shown(folder: Path, pattern: str) -> list[Path]:
    """Files and folders of that pattern, without hidden ones and what a Mac adds to archives."""
    return [
        path
        for path in sorted(folder.rglob(pattern))
        if not any(p.startswith(".") or p == "__MACOSX" for p in path.relative_to(folder).parts)
    ]


def _read(source: Path, told: Path, photos: _Photos, labels: dict[str, int]) -> Masks:
    if source.is_file():
        if source.suffix.lower() != ".json":
            raise UserError(f"{told} is neither a .json nor a .zip file nor a folder")
        yield from _coco(source, told, photos, labels)
        return

    def first(pattern: str) -> list[Path]:
        return sorted(_shown(source, pattern), key=lambda path: (len(path.parts), str(path)))

    if marks := first("labelmap.txt") or first("SegmentationClass"):
        yield from _voc(marks[0].parent, photos, labels)
    elif cards := first("data.yaml"):
        yield from _yolo(cards[0], photos, labels)
    elif files := first("*.json"):
        for file in files:
            yield from _coco(file, told if len(files) == 1 else file, photos, labels)
    else:
        raise UserError(
            f"{told} holds neither COCO (.json) nor VOC (labelmap.txt, SegmentationClass) nor YOLO "
            "(data.yaml)"
        )


def _label(name: str, labels: dict[str, int], source: Path) -> int:
    if name not in labels:
        known = ", ".join(list(labels)[:8])
        raise UserError(
            f"{source} has the class '{name}', which is not among ours ({known}): "
            "rename it there, or pass --classes"
        )
    return labels[name]


def _coco(path: Path, told: Path, photos: _Photos, labels: dict[str, int]) -> Masks:
    import numpy as np

    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        categories = {one["id"]: str(one["name"]) for one in found["categories"]}
        images = {one["id"]: one for one in found["images"]}
        shapes: dict = {number: [] for number in images}
        for one in found["annotations"]:
            shapes[one["image_id"]].append((categories[one["category_id"]], one))
        # Label Studio does not know the size of an image in which nothing is marked
        sizes = {
            number: one["height"] is not None and (int(one["height"]), int(one["width"]))
            for number, one in images.items()
        }
        names = {number: str(one["file_name"]) for number, one in images.items()}
    except ValueError as error:
        raise UserError(f"{told} cannot be read as JSON ({error}): export it again") from error
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{told} is no COCO file ({type(error).__name__}: {error})") from error
    every = [one for found in shapes.values() for _, one in found]
    if boxes := [one for one in every if not one.get("segmentation")]:
        told_boxes = f"{len(boxes)} of {len(every)} annotations in {told} have no outline"
        if len(boxes) == len(every):
            raise UserError(f"{told_boxes}, they are boxes: export polygons or masks")
        first = boxes[0]
        notice(
            f"passed over: {told_boxes} (boxes or specks; first: annotation {first.get('id')} of "
            f"'{names[first['image_id']]}')"
        )
    for number, name in names.items():
        ours, size = photos.find(name)
        if sizes[number] and sizes[number] != size:
            raise UserError(
                f"{told} says {sizes[number][1]}x{sizes[number][0]} pixels for '{name}', but "
                f"{photos.files[ours]} is {size[1]}x{size[0]}: give the photographs that were annotated"
            )
        if not shapes[number]:
            yield ours, None
            continue
        if not any(one.get("segmentation") for _, one in shapes[number]):
            continue  # boxes alone, which were told of: something is there
        layers = []
        for name, one in shapes[number]:
            if not one.get("segmentation"):
                continue
            label = _label(name, labels, told)
            where = _segmentation(one.get("segmentation"), size, f"{told}, annotation {one.get('id')}")
            layers.append((one.get("iscrowd") == 1, where.sum(), label, where))
        mask = np.zeros(size, np.uint8)
        # crowds below single things, large below small: what lies on top of another is the smaller
        for _, _, label, where in sorted(layers, key=lambda layer: (not layer[0], -layer[1])):
            mask[where] = label
        yield ours, mask


def _segmentation(shape: object, size: tuple[int, int], told: str):
    """(H, W) booleans of COCO's polygons or run lengths.

    Nothing unchecked reaches the C code of pycocotools, which trusts run lengths and coordinates.
    """
    import numpy as np

    if isinstance(shape, list) and shape:
        return polygons(shape, size, told)
    if not isinstance(shape, dict) or list(shape.get("size", ())) != list(size):
        raise UserError(f"{told} has neither polygons nor run lengths (RLE) of its image's size")
    counts = shape.get("counts")
    runs = _run_lengths(counts) if isinstance(counts, str) else counts
    whole = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    if not whole or sum(runs) != size[0] * size[1]:
        raise UserError(f"{told} has run lengths (RLE) that do not fill its image: export it again")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size, order="F")


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


def polygons(lines: list, size: tuple[int, int], told: str):
    """(H, W) booleans of outlines x0, y0, x1, y1, ... in pixels; `told` is named in errors."""
    import numpy as np

    height, width = size
    drawn = []
    for line in lines:
        try:
            points = np.asarray(line, dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError):
            points = np.zeros((0, 2))
        if len(points) < 3 or not np.isfinite(points).all():
            raise UserError(f"{told} has an outline that is not three or more points x, y")
        if (np.abs(points / (width, height) - 0.5) > 1.5).any():
            raise UserError(f"{told} has an outline far outside its image of {width}x{height} pixels")
        drawn.append(points.ravel().tolist())
    tools = coco_tools()
    return tools.decode(tools.merge(tools.frPyObjects(drawn, height, width))).astype(bool)


def _voc(root: Path, photos: _Photos, labels: dict[str, int]) -> Masks:
    from wsss.data.catalog import read_lines
    from wsss.data.masks import read_mask
    from wsss.voc import VOID, palette

    standard = palette()
    colours: dict[int, int] = {}  # colour as one number -> label
    order: list[int] = []
    labelmap = root / "labelmap.txt"
    if labelmap.is_file():
        for line in read_lines(labelmap):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, colour = line.strip().partition(":")
            label = _label(name, labels, labelmap)
            words = colour.split(":")[0].split(",")
            if words == [""]:  # no colour: VOC's, by place
                rgb = standard[3 * len(order) : 3 * len(order) + 3]
            elif len(words) == 3 and all(w.strip().isdecimal() and int(w) < 256 for w in words):
                rgb = [int(word) for word in words]
            else:
                raise UserError(f"{labelmap} has the line '{line}': it must be name:red,green,blue::")
            colours[rgb[0] << 16 | rgb[1] << 8 | rgb[2]] = label
            order.append(label)
        colours.setdefault(0, 0)
        colours.setdefault(224 << 16 | 224 << 8 | 192, VOID)
    folder = root / "SegmentationClass"
    if not folder.is_dir():
        raise UserError(f"{photos.source} has no folder SegmentationClass beside {labelmap.name}")
    files = {p.relative_to(folder).with_suffix("").as_posix(): p for p in _shown(folder, "*.png")}
    lists = _shown(root / "ImageSets" / "Segmentation", "*.txt")
    # a line is a name, with spaces or not
    listed = [name for path in lists for line in read_lines(path) if (name := line.strip(' "'))]
    for name in dict.fromkeys([*files, *listed]):
        ours, size = photos.find(name, suffix=False)
        path = files.get(name)
        if path is None:  # CVAT writes no mask of an image in which nothing is marked
            yield ours, None
            continue
        if colours:
            mask = _by_colour(path, colours, order, labelmap)
        else:
            mask = read_mask(path, len(labels) - 1)  # void is no number of its own there
        if mask.shape != size:
            raise UserError(
                f"mask {path} is {mask.shape[1]}x{mask.shape[0]} pixels, but {photos.files[ours]} is "
                f"{size[1]}x{size[0]}: give the photographs that were annotated"
            )
        yield ours, mask


def _by_colour(path: Path, colours: dict[int, int], order: list[int], labelmap: Path):
    """(H, W) uint8 labels of a mask in the colours of a labelmap, or grey with its indices."""
    import numpy as np
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.mode == "L":
                    values, table = np.array(image), dict(enumerate(order)) | {255: 255}
                else:
                    rgb = np.array(image.convert("RGB"), dtype=np.int32)
                    values = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
                    table = colours
    except Exception as error:
        raise UserError(f"mask {path} cannot be read ({error}): export it again") from error
    found, inverse = np.unique(values, return_inverse=True)
    for value in found.tolist():
        if value not in table:
            rgb = f"{value >> 16},{value >> 8 & 255},{value & 255}" if table is colours else value
            raise UserError(f"mask {path} has the colour {rgb}, which is not in {labelmap.name}")
    return np.array([table[v] for v in found.tolist()], np.uint8)[inverse].reshape(values.shape)


_SUBSET = re.compile(r"^(train|val|test|default)/")


def _yolo(card: Path, photos: _Photos, labels: dict[str, int]) -> Masks:
    import numpy as np
    import yaml

    from wsss.data.catalog import inside, read_lines

    try:
        found = yaml.safe_load(card.read_text(encoding="utf-8-sig"))
        names = found["names"]
        numbered = dict(enumerate(names) if isinstance(names, list) else names)
    except Exception as error:
        raise UserError(f"{card} has no list 'names' that can be read ({error})") from error
    ours = {str(number): _label(str(name), labels, card) for number, name in numbered.items()}
    folder = card.parent / "labels"
    if not folder.is_dir():
        raise UserError(f"{photos.source} has no folder labels beside {card.name}")
    files = {}
    for path in _shown(folder, "*.txt"):
        name = _SUBSET.sub("", path.relative_to(folder).with_suffix("").as_posix())
        if name in files:
            raise UserError(f"{photos.source} holds the image '{name}' twice: keep one of them")
        files[name] = path
    for subset in ("train", "val", "test"):
        listing = inside(card.parent, str(found.get(subset)), card)
        for line in read_lines(listing) if listing.suffix == ".txt" and listing.is_file() else ():
            if name := line.strip().replace("\\", "/"):
                # ./images/train/name.jpg: an image in which nothing is marked may have no file
                name = name.partition("images/")[2] or name
                files.setdefault(PurePosixPath(_SUBSET.sub("", name)).with_suffix("").as_posix(), None)
    for name, path in files.items():
        photo, size = photos.find(name, suffix=False)
        lines = [(n, line.split()) for n, line in enumerate(read_lines(path) if path else [], 1)]
        if not any(words for _, words in lines):
            yield photo, None
            continue
        mask = np.zeros(size, np.uint8)
        for number, words in lines:
            told = f"{path}, line {number},"
            if not words:
                continue
            if words[0] not in ours:
                raise UserError(f"{told} has the class {words[0]}, which {card.name} does not name")
            if len(words) == 5:
                raise UserError(f"{told} is a box: export segments (YOLO segmentation) instead")
            try:
                points = np.array([float(word) for word in words[1:]]).reshape(-1, 2)
            except ValueError as error:
                raise UserError(f"{told} is not a class and pairs of numbers ({error})") from error
            outline = (points * (size[1], size[0])).ravel().tolist()
            mask[polygons([outline], size, told)] = ours[words[0]]
        yield photo, mask
