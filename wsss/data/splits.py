"""The split of a folder of images into train and val."""

import hashlib
import math
import os
import posixpath
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from wsss.data.cells import SPLITS, clean
from wsss.data.names import relative
from wsss.data.tags import Odd, TagRow
from wsss.errors import UserError
from wsss.files import read_lines

FIRST = ("test", "val", "train")
"""Of two splits that an image is given, the one that counts: what judges is not learned from."""


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
        return posixpath.normpath(clean(relative(name.strip().strip('"'), folders)).replace("\\", "/"))

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
        splits = [split for split in FIRST if keys[row.image] & named.get(split, set())]
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
