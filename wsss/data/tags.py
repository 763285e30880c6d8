"""Image-level tags from a table, and the split of a folder of images into train and val."""

import csv
import hashlib
import io
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsss.data.images import IMAGE_SUFFIXES, image_files
from wsss.errors import UserError, notice

RESERVED_CLASSES = ("background", "void")
"""No class can have one of these names, in whatever case."""


@dataclass(frozen=True)
class TagRow:
    """One line of the table: file name relative to the root, its tags, its split if given."""

    image: str
    tags: tuple[str, ...]
    split: str | None


def tag_source(root: str | Path) -> Path:
    """Where a folder of images has its tags: tags.csv, else tags.json, else its sub-folders."""
    root = Path(root)
    for name in ("tags.csv", "tags.json"):
        if (root / name).is_file():
            return root / name
    return root if _class_images(root) else root / "tags.csv"


def read_tag_table(
    path: str | Path, root: str | Path, duplicates: list[str] | None = None
) -> list[TagRow]:
    """Read the tags of a folder of images.

    Forms: a CSV file with the columns image and tags, optionally split ("train" or "val"); a CSV file
    with the column image and one column of 0 and 1 for each class; a JSON object of image names with
    lists of tags; a directory with one sub-folder of images for each class.

    Tags in one column are separated by `|`, `;` or `,` where any row of the table has one of these (so
    that class names may contain spaces), by white space otherwise. No tag means background only.

    Args:
        path: the CSV or JSON file, or the directory.
        root: folder that the names are relative to; absolute names that lie in it become relative.
        duplicates: names of images with a second row are added here, and the tags of all rows count
            (val, where the rows' splits differ); None: a second row is an error.

    Raises:
        UserError: the file is missing or empty, a column is missing or there twice, a row is there
            twice or, with a column for each class, too long.
    """
    path = Path(path)
    if path.is_dir():
        rows = _rows_of_folders(path)
    elif not path.is_file():
        raise UserError(f"no table of tags {path}: write a CSV file with the columns image,tags")
    elif path.suffix.lower() == ".json":
        rows = _rows_of_json(path)
    else:
        rows = _rows_of_csv(path)
    kept: dict[str, tuple[str, TagRow]] = {}
    folders = (Path(os.path.abspath(root)), Path(root).resolve())
    for place, row in rows:
        row = replace(row, image=_relative(row.image, folders))
        if not row.image:
            raise UserError(f"{path} {place} names no image")
        if row.split not in (None, "train", "val"):
            raise UserError(f"{path} {place}: split '{row.split}' must be train or val")
        if row.image not in kept:
            kept[row.image] = (place, row)
        elif duplicates is not None:
            duplicates.append(row.image)
            place, first = kept[row.image]
            split = "val" if "val" in (first.split, row.split) else first.split or row.split
            tags = tuple(dict.fromkeys(first.tags + row.tags))
            kept[row.image] = (place, TagRow(row.image, tags, split))
        else:
            first = kept[row.image][0].removeprefix("line ")
            raise UserError(
                f"{path} lists '{row.image}' twice (lines {first} and {place.removeprefix('line ')}): "
                "keep one row"
            )
    if not any(row.tags for _, row in kept.values()):
        raise UserError(f"{path} has no tag at all: fill the column 'tags'")
    return [row for _, row in kept.values()]


def _relative(name: str, folders: Iterable[Path]) -> str:
    for folder in folders:
        if Path(name).is_relative_to(folder):
            return Path(name).relative_to(folder).as_posix()
    return name


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from error


def _row(image: str, tags: Iterable[str], split: str | None = None) -> TagRow:
    # an accented letter can be written as one sign or as two, which look the same
    names = (unicodedata.normalize("NFC", name.strip()) for name in tags)
    unique = tuple(dict.fromkeys(name for name in names if name))
    return TagRow(image.strip().replace("\\", "/"), unique, split)


def _rows_of_csv(path: Path) -> list[tuple[str, TagRow]]:
    text = _text(path)
    first = text.partition("\n")[0]
    # spreadsheets of many languages write ; between columns, or a tab
    comma = next((sign for sign in ",;\t" if sign in first), ",")
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True, delimiter=comma)
    lines, numbers = [], []
    try:
        reader.fieldnames = [_column(name) for name in reader.fieldnames or ()]
        for line in reader:
            cells = [line.get("image"), line.get("tags"), *(line.get(None) or ())]
            if any("\n" in (cell or "") for cell in cells):
                raise csv.Error("line breaks between quotes")
            cells = [*(line[name] for name in line if name), *(line.get(None) or ())]
            if not any((cell or "").strip() for cell in cells):
                continue  # separators alone: spreadsheets leave such rows
            lines.append(line)
            numbers.append(reader.line_num)
    except csv.Error as error:
        begins = numbers[-1] + 1 if numbers else 2
        raise UserError(
            f"{path} line {begins} cannot be read ({error}): a quote there is not closed, close it"
        ) from error
    header = [name for name in reader.fieldnames or () if name]
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise UserError(f"{path} has two columns '{twice}': join them, or rename one")
    if not lines:
        raise UserError(f"{path} lists no image: its first line is image,tags, then a line an image")
    classes = [name for name in lines[0] if name not in (None, "image", "tags", "split")]
    one_column_each = "tags" not in lines[0] and bool(classes)
    values = {(line[name] or "").strip() for line in lines for name in classes}
    if "image" not in lines[0] or not ("tags" in lines[0] or (classes and values <= {"", "0", "1"})):
        missing = "image" if "image" not in lines[0] else "tags"
        odd = [
            f", and '{line[name]}' in its column '{name}'"
            for line in lines
            for name in classes
            if missing == "tags" and (line[name] or "").strip() not in ("", "0", "1")
        ]
        raise UserError(
            f"{path} has no column '{missing}' (it has {', '.join(map(str, lines[0]))}"
            f"{''.join(odd[:1])}): its first line must be image,tags, or image and one column of 0 and "
            "1 for each class"
        )
    for number, line in zip(numbers, lines, strict=True):
        if one_column_each and any(line.get(None) or ()):
            raise UserError(
                f"{path} line {number} has more cells than its first line has columns: correct it"
            )
    joined = "" if one_column_each else "".join(line["tags"] or "" for line in lines)
    further = any(line.get(None) for line in lines)  # cells of tags that were not quoted
    separator = r"[|;,]" if further or re.search(r"[|;,]", joined) else r"\s"
    rows = []
    for number, line in zip(numbers, lines, strict=True):
        if one_column_each:
            tags = [name for name in classes if (line[name] or "").strip() == "1"]
        else:
            tags = re.split(separator, line["tags"] or "") + list(line.get(None) or ())
        split = (line.get("split") or "").strip() or None
        rows.append((f"line {number}", _row(line["image"] or "", tags, split)))
    return rows


def _column(name: str) -> str:
    """A column's name; `Image`, `TAGS ` and the like are the known ones."""
    name = name.strip()
    return name.lower() if name.lower() in ("image", "tags", "split") else name


def _rows_of_json(path: Path) -> list[tuple[str, TagRow]]:
    try:
        pairs = json.loads(_text(path), object_pairs_hook=list)
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({error})") from error
    rows = []
    for number, pair in enumerate(pairs if isinstance(pairs, list) else [None], start=1):
        if not (
            isinstance(pair, tuple)
            and isinstance(pair[1], list)
            and all(isinstance(tag, str) for tag in pair[1])
        ):
            raise UserError(f'{path} must be like {{"a.jpg": ["cat", "dog"], "b.jpg": []}}')
        rows.append((f"entry {number}", _row(*pair)))
    return rows


def _class_images(root: Path) -> list[Path]:
    """The images in sub-folders, but for those in `masks`, relative to the root."""
    inner = (path.relative_to(root) for path in image_files(root))
    return [path for path in inner if len(path.parts) > 1 and path.parts[0] != "masks"]


def _rows_of_folders(root: Path) -> list[tuple[str, TagRow]]:
    photographs = {*IMAGE_SUFFIXES} - {".png"}
    if any(path.suffix.lower() in photographs for path in (root / "masks").rglob("*")):
        notice(
            f"passed over: {root / 'masks'}, which is taken for true masks: rename it if it is a class"
        )
    return [
        (f"folder {path.parts[0]}", _row(path.as_posix(), [path.parts[0]]))
        for path in _class_images(root)
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of two or more names that differ by case or spaces only."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(without_case(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def without_case(name: str) -> str:
    """The name without case and spaces."""
    return "".join(name.casefold().split())


def split_of(rows: Sequence[TagRow], val_share: float = 0.2) -> dict[str, str]:
    """Split of every image: as the table says, else fixed by the image's name, one fifth val.

    Images are dealt out class by class, the rarest class first, in the order of a hash of their names,
    so that each class keeps its share in val and the split never changes between runs. Every class is
    in train, and in val, too, where that takes no class out of train.
    """
    splits = {row.image: row.split for row in rows if row.split}
    if splits:
        return {row.image: splits.get(row.image, "train") for row in rows}
    counts: dict[str, int] = {}
    for row in rows:
        for tag in row.tags:
            counts[tag] = counts.get(tag, 0) + 1
    groups: dict[str, list[str]] = {}
    for row in rows:
        rarest = min(row.tags, key=lambda tag: (counts[tag], tag), default="")
        groups.setdefault(rarest, []).append(row.image)
    total = given = 0
    for tag, names in sorted(groups.items(), key=lambda group: (len(group[1]), group[0])):
        names.sort(key=_chance)
        total += len(names)
        share = val_share * len(names)
        # what rounding took from one class the next one gets
        held_out = min(max(round(val_share * total) - given, math.floor(share)), math.ceil(share))
        if tag:
            held_out = min(max(1, held_out), len(names) - 1)
        given += held_out
        splits |= {name: "val" if i < held_out else "train" for i, name in enumerate(names)}
    _mend(splits, {row.image: row.tags for row in rows}, counts)
    return splits


def _chance(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _mend(splits: dict[str, str], tags: dict[str, tuple[str, ...]], counts: dict[str, int]) -> None:
    """Move images so that every class is in train, and then in val where it can be."""
    holders = {tag: sorted((name for name in tags if tag in tags[name]), key=_chance) for tag in counts}

    def in_train(tag: str) -> int:
        return sum(splits[name] == "train" for name in holders[tag])

    for tag in counts:
        if in_train(tag) == 0:
            splits[holders[tag][0]] = "train"
    for tag, names in holders.items():
        if in_train(tag) == len(names):
            spare = (name for name in names if all(in_train(other) > 1 for other in tags[name]))
            splits |= dict.fromkeys([*spare][:1], "val")
