"""Image-level tags from a table, and the split of a folder of images into train and val."""

import csv
import hashlib
import io
import json
import math
import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from wsss.data.cells import SPLITS, clean, hidden, listed, mark, missing, no_mark, shown, unquoted
from wsss.data.images import IMAGE_SUFFIXES, image_files
from wsss.errors import UserError, few, notice
from wsss.files import read_lines, read_text

HIDDEN = "characters that cannot be seen, dropped from names or read as a space"

_FIRST = ("test", "val", "train")
"""Of two splits that an image is given, the one that counts: what judges is not learned from."""

Odd = dict[str, list[str]]
"""What was read otherwise than it is written: kind -> where."""


@dataclass(frozen=True)
class TagRow:
    """One line of the table: file name relative to the root, its tags, its split if given.

    The split is "train", "val", or "test" for what is neither trained on nor validated with.
    """

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
    path: str | Path,
    root: str | Path,
    duplicates: list[str] | None = None,
    odd: Odd | None = None,
) -> list[TagRow]:
    """Read the tags of a folder of images.

    Forms: a CSV file with the columns image and tags, optionally split ("train", "val" or "test", or
    what `wsss.data.cells.SPLITS` knows them by); a CSV file with the column image and one column of
    marks (0 and 1, or what `wsss.data.cells.mark` reads) for each class; a JSON object of image names
    with lists of tags; a directory with one sub-folder of images for each class.

    Tags in one column are separated by `|`, `;` or `,` where any row of the table has one of these (so
    that class names may contain spaces), by white space otherwise; a printed list is read as the list.
    No tag means background only, and so does what programs write for an empty cell (nan, None).

    Args:
        path: the CSV or JSON file, or the directory.
        root: folder that the names are relative to; absolute names that lie in it become relative.
        duplicates: names of images with a second row are added here, and the tags of all rows count
            (test, else val, where the rows' splits differ); None: a second row is an error.
        odd: what was read otherwise than it is written is added here; None: it is told in notices.

    Raises:
        UserError: the file is missing or empty, a column is missing or there twice, a row is there
            twice or, with a column for each class, too long.
    """
    path = Path(path)
    table = _Table(path)
    if path.is_dir():
        rows = _rows_of_folders(table)
    elif not path.is_file():
        raise UserError(f"no table of tags {path}: write a CSV file with the columns image,tags")
    elif path.suffix.lower() == ".json":
        rows = _rows_of_json(table)
    else:
        rows = _rows_of_csv(table)
    kept: dict[str, tuple[str, TagRow]] = {}
    folders = (Path(os.path.abspath(root)), Path(root).resolve())
    for place, row in rows:
        row = replace(row, image=table.image(_relative(row.image, folders), Path(root), place))
        if not row.image:
            raise UserError(f"{path} {place} names no image")
        if row.image not in kept:
            kept[row.image] = (place, row)
        elif duplicates is not None:
            duplicates.append(row.image)
            place, first = kept[row.image]
            split = next((name for name in _FIRST if name in (first.split, row.split)), None)
            tags = tuple(dict.fromkeys(first.tags + row.tags))
            kept[row.image] = (place, TagRow(row.image, tags, split))
        else:
            first = kept[row.image][0].removeprefix("line ")
            raise UserError(
                f"{path} lists '{row.image}' twice (lines {first} and {place.removeprefix('line ')}): "
                "keep one row"
            )
    found = {kind: list(places) for kind, places in table.odd.items()}
    if odd is None:
        tell(path, found)
    else:
        odd |= found
    if not any(row.tags for _, row in kept.values()):
        raise UserError(f"{path} has no tag at all: fill the column 'tags'")
    return [row for _, row in kept.values()]


def tell(table: Path, odd: Odd) -> None:
    """A notice for each kind of oddity of a table."""
    for kind, places in odd.items():
        notice(f"{table}: {kind}: {few(places)}")


def _relative(name: str, folders: Iterable[Path]) -> str:
    for folder in folders if os.path.isabs(name) else ():
        if Path(name).is_relative_to(folder):
            return Path(name).relative_to(folder).as_posix()
    return name


@dataclass
class _Table:
    """A table while it is read.

    Attributes:
        path: the file or folder.
        odd: kind of oddity -> where, each once.
    """

    path: Path
    odd: dict[str, dict[str, None]] = field(default_factory=dict)

    def note(self, kind: str, place: str, text: str | None = None) -> None:
        where = place if text is None else f"{place}: {shown(text)}"
        self.odd.setdefault(kind, {})[where] = None

    def name(self, text: str, place: str) -> str:
        """A name as it is meant; empty where a program wrote that there is none."""
        name = clean(text)
        if hidden(text):
            self.note(HIDDEN, place, text)
        if inner := unquoted(name):
            self.note("read without the quotes around it", place, name)
            name = inner
        if missing(name):
            self.note("read as an empty cell", place, name)
            return ""
        return name

    def items(self, text: str, place: str) -> list[str] | None:
        """The items of a printed list; None: the text is none."""
        try:
            items = listed(clean(text))
        except ValueError:
            raise UserError(
                f"{self.path} {place}: {shown(text)} begins as a list and cannot be read as one: "
                "separate the tags with |, without brackets and quotes"
            ) from None
        if items is not None:
            self.note("read as a list of tags", place, text)
            if hidden(text):
                self.note(HIDDEN, place, text)
        return items

    def split(self, text: str, place: str) -> str | None:
        name = self.name(text, place)
        if name and name.casefold() not in SPLITS:
            raise UserError(
                f"{self.path} {place}: split '{name}' must be train or val (or test, which is "
                "neither trained on nor validated with)"
            )
        return SPLITS[name.casefold()] if name else None

    def image(self, name: str, root: Path, place: str) -> str:
        """The name of a file; its own hidden characters are kept, others dropped."""
        if hidden(name) and not os.path.isfile(root / name) and os.path.isfile(root / clean(name)):
            self.note(HIDDEN, place, name)
            return clean(name)
        return name

    def row(self, image: str, texts: Iterable[str], place: str, split: str | None = None) -> TagRow:
        names = (self.name(text, place) for text in texts)
        unique = tuple(dict.fromkeys(name for name in names if name))
        return TagRow(image.strip().replace("\\", "/"), unique, split)


def _rows_of_csv(table: _Table) -> list[tuple[str, TagRow]]:
    header, lines = _cells(table)
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise UserError(f"{table.path} has two columns '{twice}': join them, or rename one")
    if not lines:
        raise UserError(
            f"{table.path} lists no image: its first line is image,tags, then a line an image"
        )
    named = {name: column for column, name in enumerate(header) if name}
    classes = [name for name in named if name not in ("image", "tags", "split")]
    odd = ((name, no_mark([cells[named[name]] for _, cells in lines])) for name in classes)
    name, text = next(((name, text) for name, text in odd if text is not None), (None, None))
    if "image" not in named or not ("tags" in named or (classes and name is None)):
        lacking = "tags" if "image" in named else "image"
        where = f", and '{text.strip()}' in its column '{name}'" if name and lacking == "tags" else ""
        raise UserError(
            f"{table.path} has no column '{lacking}' (it has {', '.join(header)}{where}): "
            "its first line must be image,tags, or image and one column of 0 and 1 (or TRUE and FALSE, "
            "yes and no, x) for each class"
        )
    for name in classes if "tags" in named and "split" not in named else ():
        words = {clean(cells[named[name]]).casefold() for _, cells in lines} - {""}
        if words and words <= SPLITS.keys():
            table.note("columns that seem to be the split, not used (call it 'split')", f"'{name}'")
    read = _tags_of_columns if "tags" not in named else _tags_of_cells
    tags = read(table, header, lines)
    rows = []
    for (number, cells), its in zip(lines, tags, strict=True):
        place = f"line {number}"
        split = table.split(cells[named["split"]], place) if "split" in named else None
        rows.append((place, table.row(cells[named["image"]], its, place, split)))
    return rows


def _cells(table: _Table) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The columns' names and, with their numbers, the lines, none shorter than the first.

    A column without a name, or one that pandas calls "Unnamed: 0", has the name "".
    """
    text = read_text(table.path)
    # the first line with which Excel is told, and tells, what is between columns
    told = re.match(r"\s*\"?sep *= *([^\w\s]|\t)\"?[^\w\n]*(?:\n|$)", text, re.IGNORECASE)
    skipped = text[: told.end()].count("\n") if told else 0
    text = text[told.end() :] if told else text
    header: list[str] = []
    lines: list[tuple[int, list[str]]] = []
    end = skipped
    try:
        reader = csv.reader(io.StringIO(text), skipinitialspace=True, delimiter=_comma(text, told))
        for cells in reader:
            number = reader.line_num + skipped
            if not any(map(clean, cells)):
                pass  # separators alone: spreadsheets leave such rows
            elif not header:
                header = [_column(name) for name in cells]
                for name in filter(hidden, cells):
                    table.note(HIDDEN, f"line {number}", name)
            else:
                cells += [""] * (len(header) - len(cells))
                names = header + [""] * (len(cells) - len(header))
                for name, cell in zip(names, cells, strict=True):
                    # a long list is printed on several lines
                    if "\n" in cell and name in ("image", "tags", "") and cell.strip()[-1:] != "]":
                        raise csv.Error("line breaks between quotes")
                lines.append((number, cells))
            end = number
    except csv.Error as error:
        raise UserError(
            f"{table.path} line {end + 1} cannot be read ({error}): a quote there is not closed, "
            "close it"
        ) from error
    return header, lines


def _comma(text: str, told: re.Match | None) -> str:
    """What is between columns: by what the first line falls into columns of which one is `image`."""
    # csv.Sniffer takes the signs in printed lists for it
    first = next((line for line in text.splitlines() if clean(line)), "")
    # spreadsheets of many languages write ; between columns, or a tab
    signs = [*([told[1]] if told else []), ",", ";", "\t"]
    for sign in signs:
        cells = next(csv.reader([first], skipinitialspace=True, delimiter=sign), [])
        if "image" in map(_column, cells):
            return sign
    return next((sign for sign in signs if sign in first), ",")


def _column(name: str) -> str:
    """A column's name; `Image`, `TAGS ` and the like are the known ones."""
    name = clean(name)
    if re.fullmatch(r"Unnamed: \d+(_level_\d+)?", name):
        return ""
    return name.lower() if name.lower() in ("image", "tags", "split") else name


def _tags_of_columns(
    table: _Table, header: list[str], lines: list[tuple[int, list[str]]]
) -> list[list[str]]:
    """The tags of each line from one column of marks for each class."""
    columns = [(c, name) for c, name in enumerate(header) if name not in ("", "image", "split")]
    tags = []
    for number, cells in lines:
        if any(map(clean, cells[len(header) :])):
            raise UserError(
                f"{table.path} line {number} has more cells than its first line has columns: correct it"
            )
        for column, name in enumerate(header):
            if not name and clean(cells[column]):
                table.note("columns without a name, passed over", f"column {column + 1}")
        for column, name in columns:
            if missing(clean(cells[column])):
                table.name(cells[column], f"line {number}, column '{name}'")  # which tells it
        tags.append([name for column, name in columns if mark(cells[column])])
    return tags


def _tags_of_cells(
    table: _Table, header: list[str], lines: list[tuple[int, list[str]]]
) -> list[list[str]]:
    """The tags of each line from its column of tags and, where they were not quoted, from what follows.

    Spreadsheets give the cells that follow a column of their own, without a name.
    """
    column = header.index("tags")
    further = [c for c in range(column + 1, len(header)) if not header[c]]
    tags: list[list[str] | None] = []
    texts = []
    for number, cells in lines:
        its = [cells[column], *(cells[c] for c in further), *cells[len(header) :]]
        while len(its) > 1 and not clean(its[-1]):
            its.pop()
        texts.append(its)
        tags.append(table.items(",".join(its), f"line {number}"))
    plain = [its for its, read in zip(texts, tags, strict=True) if read is None]
    joined = "".join(text for its in plain for text in its)
    longer = any(len(cells) > len(header) for _, cells in lines) or any(len(its) > 1 for its in plain)
    separator = r"[|;,]" if longer or re.search(r"[|;,]", joined) else r"\s"
    return [
        [name for text in its for name in re.split(separator, text)] if read is None else read
        for its, read in zip(texts, tags, strict=True)
    ]


def _rows_of_json(table: _Table) -> list[tuple[str, TagRow]]:
    try:
        pairs = json.loads(read_text(table.path), object_pairs_hook=list, parse_constant=str)
    except ValueError as error:
        raise UserError(f"{table.path} is not readable JSON ({error})") from error
    rows = []
    for number, pair in enumerate(pairs if isinstance(pairs, list) else [None], start=1):
        place = f"entry {number}"
        tags = pair[1] if isinstance(pair, tuple) else ""
        tags = [tags] if tags in (None, "NaN") else tags
        if not (isinstance(tags, list) and all(isinstance(tag, str | None) for tag in tags)):
            raise UserError(f'{table.path} must be like {{"a.jpg": ["cat", "dog"], "b.jpg": []}}')
        texts = ["null" if tag is None else tag for tag in tags]
        lists = [[text] if (items := table.items(text, place)) is None else items for text in texts]
        rows.append((place, table.row(pair[0], chain(*lists), place)))
    return rows


def _class_images(root: Path) -> list[Path]:
    """The images in sub-folders, but for those in `masks`, relative to the root."""
    inner = (path.relative_to(root) for path in image_files(root))
    return [path for path in inner if len(path.parts) > 1 and path.parts[0] != "masks"]


def _rows_of_folders(table: _Table) -> list[tuple[str, TagRow]]:
    root = table.path
    photographs = {*IMAGE_SUFFIXES} - {".png"}
    if any(path.suffix.lower() in photographs for path in (root / "masks").rglob("*")):
        notice(
            f"passed over: {root / 'masks'}, which is taken for ground-truth masks: rename it if "
            "it is a class"
        )
    return [
        (place, table.row(path.as_posix(), [path.parts[0]], place))
        for path in _class_images(root)
        if path.suffix.lower() in IMAGE_SUFFIXES and (place := f"folder {path.parts[0]}")
    ]


class FolderSplit(NamedTuple):
    """How a folder of images is split.

    Attributes:
        of: image -> "train" or "val"; what is in neither is missing.
        left_out: why images are in neither -> the images.
        odd: what is odd about the lists that fix the split -> where.
    """

    of: dict[str, str]
    left_out: Odd
    odd: Odd


def split_folder(rows: Sequence[TagRow], table: str | Path, root: str | Path) -> FolderSplit:
    """Split the images of a folder: by its table, else by lists, else as `split_of` deals them out.

    Lists are text files with the name of a split (train.txt, val.txt or valid.txt, test.txt and what
    else `wsss.data.cells.SPLITS` knows) beside the table, or else in the folder of images. They hold an
    image a line, with or without its suffix. train and val count together only, and leave out what
    neither names; test counts by itself, too.

    Args:
        rows: the images.
        table: where their tags are from.
        root: folder that their names are relative to.

    Raises:
        UserError: a list of train or val names none of the images.
    """
    table, root = Path(table), Path(root)
    beside = table.parent if table.is_file() else root
    left_out: Odd = {}
    odd: Odd = {}
    if any(row.split for row in rows):
        if unused := [*chain(*_lists(beside).values())]:
            odd["lists that are not used, as the table has a column split"] = [*map(str, unused)]
    else:
        lists: dict[str, list[Path]] = {}
        for found in map(_lists, dict.fromkeys((beside, root))):
            if len(alone := {"train", "val"} & found.keys()) == 1:
                kind = "lists that are not used, as only train and val together fix the split"
                odd.setdefault(kind, []).extend(map(str, found.pop(alone.pop())))
            lists = lists or found
        rows = _listed(rows, lists, table, root, left_out, odd) if lists else rows
    splits = split_of(rows)
    if test := [image for image, split in splits.items() if split == "test"]:
        left_out["of split test, neither trained on nor validated with"] = test
    return FolderSplit({i: split for i, split in splits.items() if split != "test"}, left_out, odd)


def _lists(folder: Path) -> dict[str, list[Path]]:
    """The lists in a folder, by the split that each is named as."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        split = SPLITS.get(path.stem.casefold()) if path.suffix.lower() == ".txt" else None
        if split and path.is_file():
            found.setdefault(split, []).append(path)
    return found


def _listed(
    rows: Sequence[TagRow],
    lists: dict[str, list[Path]],
    table: Path,
    root: Path,
    left_out: Odd,
    odd: Odd,
) -> list[TagRow]:
    """The rows with the splits that lists give them; what is odd and who is left out is added."""
    folders = (Path(os.path.abspath(root)), root.resolve())

    def key(name: str) -> str:
        return posixpath.normpath(clean(_relative(name.strip().strip('"'), folders)).replace("\\", "/"))

    keys = {row.image: {*map(key, (row.image, str(Path(row.image).with_suffix(""))))} for row in rows}
    known = set().union(*keys.values())
    named: dict[str, set[str]] = {}
    for split, paths in lists.items():
        for path in paths:
            lines = {key(line): line.strip() for line in read_lines(path) if clean(line)}
            if strange := [line for name, line in lines.items() if name not in known]:
                odd[f"named in {path.name}, but no usable image with tags"] = strange
            named.setdefault(split, set()).update(lines)
        if split != "test" and not named[split] & known:
            example = f"'{strange[0]}' is none" if strange else "it is empty"
            raise UserError(
                f"{path} names no usable image of {table} ({example}): write the names as they are "
                "there, or give the list another name if it is none of the split"
            )
    names = [path.name for split in ("train", "val", "test") for path in lists.get(split, ())]
    nowhere = "in neither " + " nor ".join(names)
    kept = []
    for row in rows:
        splits = [split for split in _FIRST if keys[row.image] & named.get(split, set())]
        for other in splits[1:]:
            kind = f"{other} and {splits[0]} overlap (used for {splits[0]} only)"
            odd.setdefault(kind, []).append(row.image)
        if splits:
            kept.append(replace(row, split=splits[0]))
        elif "train" in named:
            left_out.setdefault(nowhere, []).append(row.image)
        else:
            kept.append(row)
    return kept


def split_of(rows: Sequence[TagRow], val_share: float = 0.2) -> dict[str, str]:
    """Split of every image: as the table says, else fixed by the image's name, one fifth val.

    Images are dealt out class by class, the rarest class first, in the order of a hash of their names,
    so that each class keeps its share in val and the split never changes between runs. Every class is
    in train, and in val, too, where that takes no class out of train. What the table gives to test
    stays there.
    """
    fixed = {row.image: row.split for row in rows if row.split}
    if not {*fixed.values()} <= {"test"}:
        return {row.image: fixed.get(row.image, "train") for row in rows}
    return fixed | _dealt([row for row in rows if row.image not in fixed], val_share)


def _dealt(rows: Sequence[TagRow], val_share: float) -> dict[str, str]:
    splits: dict[str, str] = {}
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
