"""What a data set holds: which images, with which tags and masks, in which split.

Two layouts are read. `voc` is the layout of the PASCAL VOC development kit:

    ROOT/JPEGImages/<id>.jpg  ROOT/Annotations/<id>.xml  ROOT/ImageSets/Segmentation/<split>.txt
    ROOT/SegmentationClass/<id>.png  (ROOT/SegmentationClassAug/<id>.png for trainaug)
    ROOT/classes.txt (optional: other classes than VOC's twenty, one a line)

`folder` is a directory of images, in sub-folders or not, with a table:

    ROOT/tags.csv (columns image, tags and, if wanted, split; or the other forms of wsss.data.tags)
    ROOT/masks/<image without suffix>.png
    ROOT/classes.txt (optional: fixes the classes and their order)
    ROOT/train.txt, ROOT/val.txt (optional: fix the split where the table does not)

The table may lie elsewhere, with its classes.txt and lists beside it; ROOT is only read. Images of a
`folder` that cannot be read, and masks that do not fit, are left out with a notice that names each.
"""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from defusedxml import ElementTree

from wsss.data.cells import clean, hidden, shown
from wsss.data.deep import common_white
from wsss.data.images import FOREIGN_SUFFIXES, IMAGE_SUFFIXES, Look, image_size, look
from wsss.data.masks import read_mask
from wsss.data.tags import HIDDEN, TagRow, read_tag_table, split_folder, tag_source, tell
from wsss.errors import UserError, notice
from wsss.files import read_lines
from wsss.progress import progress
from wsss.voc import VOC_CLASSES

Layout = Literal["voc", "folder"]


@dataclass(frozen=True)
class Record:
    """One image.

    Attributes:
        id: name without suffix, relative to the image folder, with `/` between folders.
        image: the photograph's file.
        tags: sorted indices into `Catalog.classes`; empty means background only.
        mask: file of the true mask, or None.
    """

    id: str
    image: Path
    tags: tuple[int, ...]
    mask: Path | None


@dataclass(frozen=True)
class Catalog:
    """The images of one split.

    >>> catalog = wsss.read_catalog("voc", "data", "val")
    >>> len(catalog.records), catalog.classes
    (8, ('ball', 'brick', 'kite', 'star'))

    Attributes:
        classes: foreground class names; class `classes[i]` has mask label i + 1.
        records: the images, in the order of the list.
        white: the value that is white in images of 16 bits which do not declare it, for all splits;
            None: there are none, or nobody has looked.
    """

    classes: tuple[str, ...]
    records: tuple[Record, ...]
    white: int | None = None


def read_catalog(
    layout: Layout,
    root: str | Path,
    split: str,
    tagged: bool = True,
    tags: str | Path | None = None,
) -> Catalog:
    """List the images of one split.

    >>> catalog = wsss.read_catalog("voc", "data", "train")
    >>> record = catalog.records[0]
    >>> record.id, [catalog.classes[tag] for tag in record.tags]
    ('train_00000', ['brick', 'star'])

    Args:
        layout: "voc" or "folder" (module docstring).
        root: the data set's folder.
        split: name of a list in ImageSets/Segmentation ("train", "val", "trainaug", ...) for `voc`;
            "train", "val" or "all" for `folder` (`wsss.data.tags.split_folder`).
        tagged: False does not ask for tags (VOC's test split has none).
        tags: the table of a `folder` that has none of its own.

    Raises:
        UserError: anything the layout asks for is missing or contradicts itself.
    """
    if layout not in get_args(Layout):
        raise UserError(f"data layout '{layout}' is unknown: use voc or folder")
    root = _existing(root)
    return _read_voc(root, split, tagged) if layout == "voc" else _read_folder(root, split, tags)


def largest_image(records: Iterable[Record]) -> int:
    """Pixels of the largest photograph; 0 of none."""
    sizes = (image_size(record.image) for record in records)
    return max((height * width for height, width in sizes), default=0)


def read_classes(layout: Layout, root: str | Path, tags: str | Path | None = None) -> tuple[str, ...]:
    """Foreground class names of a data set, in the order of their mask labels."""
    root = _existing(root)
    if listed := class_list(root, tags):
        lines = read_lines(listed)
        if strange := [*filter(hidden, lines)]:
            tell(listed, {HIDDEN: [*map(shown, strange)]})
        classes = tuple(filter(None, map(clean, lines)))
        if not classes or len(set(classes)) != len(classes):
            raise UserError(f"{listed} must hold one class name a line, each once")
        return few_enough(classes, listed)
    if layout == "voc":
        return VOC_CLASSES
    table, rows, _ = _readable_rows(root, tags)
    return few_enough(tuple(sorted({tag for row in rows for tag in row.tags})), table)


def class_list(root: Path, tags: str | Path | None = None) -> Path | None:
    """The classes.txt that fixes the classes: beside the table or in the root; None: there is none."""
    folders = [Path(tags).parent, root] if tags else [root]
    return next((d / "classes.txt" for d in folders if (d / "classes.txt").is_file()), None)


def few_enough(classes: tuple[str, ...], source: Path) -> tuple[str, ...]:
    """The classes, refused where a mask of bytes has no label for each."""
    if len(classes) > 254:  # 0 is background, 255 void
        raise UserError(f"{source} has {len(classes)} classes, masks have labels for 254: join some")
    return classes


def _existing(root: str | Path) -> Path:
    if not Path(root).is_dir():
        raise UserError(
            f"data root {root} does not exist: pass the data set's folder as --data.root (`wsss run`: "
            "--root), or correct data.root in the config if it was moved"
        )
    return Path(root)


def leads_out(root: Path, name: str) -> bool:
    """Whether a name that a table gives leads out of a folder: by `..`, or as it is absolute.

    Links are the folder's own: who put them there wants them followed.
    """
    if Path(name).is_absolute():
        return not (root / name).resolve().is_relative_to(root.resolve())
    # the place of `..` behind a link is known to the system only
    above = root / name if Path(name).name == ".." else (root / name).parent
    return ".." in Path(name).parts and not above.resolve().is_relative_to(root.resolve())


def inside(root: Path, name: str, source: Path) -> Path:
    """`root / name`, refused when it leads out of `root` or is absolute."""
    if leads_out(root, name):
        raise UserError(f"{source} names '{name}', which lies outside {root}: correct the name")
    if Path(name).is_absolute():  # joined with another folder it would lead into this one
        raise UserError(f"{source} names '{name}': give the name relative to {root}")
    return root / name


def as_written(folder: Path, name: str) -> Path:
    """`folder / name`, or the file there that differs in how accents are written or in `.PNG` only."""
    path = folder / name
    if os.path.exists(path):
        return path
    place = folder
    for part in PurePosixPath(name).parts:
        # a Mac writes "é" in file names as two characters, most other systems as one
        accents = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        stems = ((form, *os.path.splitext(form)) for form in accents)
        forms = [one for form, stem, suffix in stems for one in (form, stem + suffix.upper())]
        # os.path: a name that the other form makes too long is not there, either
        place = next((place / form for form in forms if os.path.exists(place / form)), place / part)
    return place if os.path.isfile(place) else path


def tag_indices(tags: Iterable[str], classes: tuple[str, ...], source: str) -> tuple[int, ...]:
    """Sorted indices of tags among the classes; `source` is named when one is unknown."""
    unknown = [tag for tag in tags if tag not in classes]
    if unknown:
        raise UserError(
            f"{source} has the tag '{unknown[0]}', which is not among the {len(classes)} classes "
            f"({', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}): "
            "correct the tag or list the class in classes.txt"
        )
    return tuple(sorted({classes.index(tag) for tag in tags}))


def _read_voc(root: Path, split: str, tagged: bool) -> Catalog:
    lists = root / "ImageSets" / "Segmentation"
    listing = inside(lists, f"{split}.txt", lists)
    if not listing.is_file():
        known = sorted(path.stem for path in lists.glob("*.txt"))
        hint = f"known here: {', '.join(known)}" if known else f"{lists} holds no list"
        raise UserError(f"no split '{split}': {listing} does not exist ({hint})")
    classes = read_classes("voc", root)
    ids = [words[0] for line in read_lines(listing) if (words := line.split())]
    if not ids:
        raise UserError(f"{listing} lists no image")
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"{listing} lists '{twice}' more than once: remove the duplicate lines")
    augmented = root / "SegmentationClassAug"
    masks = augmented if split == "trainaug" and augmented.is_dir() else root / "SegmentationClass"
    records = []
    for name in ids:
        image = inside(root / "JPEGImages", f"{name}.jpg", listing)
        image = as_written(root / "JPEGImages", f"{name}.jpg")
        if not image.is_file():
            raise UserError(f"{listing} lists '{name}', but there is no image {image}")
        mask = as_written(masks, f"{name}.png")
        tags = _voc_tags(as_written(root / "Annotations", f"{name}.xml"), classes) if tagged else ()
        records.append(Record(name, image, tags, mask if mask.is_file() else None))
    return Catalog(classes, tuple(records))


def _voc_tags(path: Path, classes: tuple[str, ...]) -> tuple[int, ...]:
    if not path.is_file():
        raise UserError(f"no annotation {path}: the image's tags are read from it")
    try:
        tree = ElementTree.parse(path)
    except Exception as error:
        raise UserError(f"annotation {path} is not readable XML ({error})") from error
    names = [clean(node.text or "") for node in tree.findall("object/name")]
    if not names:
        raise UserError(f"annotation {path} names no object: its image has no tag to learn from")
    return tag_indices(names, classes, str(path))


def _readable_rows(root: Path, tags: str | Path | None) -> tuple[Path, list[TagRow], int | None]:
    """The rows whose image can be read, and what is white in all; the others are named in a notice."""
    table = Path(tags) if tags else tag_source(root)
    rows = read_tag_table(table, root)
    images = []
    for row in rows:
        image = inside(root, row.image, table)
        if not os.path.isfile(image):  # a name may be too long to be asked for
            raise UserError(f"{table} lists '{row.image}', but there is no image {image}")
        if image.suffix.lower() not in (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES):
            raise UserError(
                f"{table} lists '{row.image}', which is no image file: "
                f"known suffixes are {', '.join(IMAGE_SUFFIXES)}"
            )
        images.append(image)
    looks = look_at(images)
    for found in looks:
        if found.fault:
            notice(f"left out: {found.fault}")
    usable = [row for row, found in zip(rows, looks, strict=True) if not found.fault]
    return table, usable, common_white(found.brightest for found in looks)


def look_at(paths: Sequence[Path]) -> list[Look]:
    """What can be read of each image; all are decoded, once a process."""
    with ThreadPoolExecutor(4) as pool:  # decoders run without Python's lock
        found = pool.map(look, paths)
        return list(progress(found, "look at photographs", total=len(paths), brief=True))


def mask_fault(mask: Path, image: Path, num_labels: int) -> str | None:
    """Why a mask does not belong to its image and classes, or None."""
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


def _read_folder(root: Path, split: str, source: str | Path | None) -> Catalog:
    if split not in ("train", "val", "all"):
        raise UserError(f"split '{split}' is unknown for a folder of images: use train, val or all")
    table, rows, white = _readable_rows(root, source)
    classes = read_classes("folder", root, source)
    parts = split_folder(rows, table, root)
    if split != "all":
        left_out = {f"left out, {reason}": names for reason, names in parts.left_out.items()}
        tell(table, parts.odd | left_out)
    records, taken = [], {}
    for row in rows:
        if split not in ("all", parts.of.get(row.image)):
            continue
        image = root / row.image
        name = Path(row.image).with_suffix("").as_posix()
        if name in taken:
            raise UserError(
                f"'{taken[name]}' and '{row.image}' in {table} differ by suffix only, "
                "so their masks would overwrite each other: rename one"
            )
        taken[name] = row.image
        mask = as_written(root / "masks", f"{name}.png")
        tags = tag_indices(row.tags, classes, f"{table} ({row.image})")
        fault = mask_fault(mask, image, len(classes) + 1) if mask.is_file() else None
        if fault:
            notice(f"mask left out: {fault}")
        usable = mask.is_file() and not fault
        records.append(Record(name, image, tags, mask if usable else None))
    if not records:
        raise UserError(f"{table} has no image in split '{split}': add some or change the split")
    return Catalog(classes, tuple(records), white)
