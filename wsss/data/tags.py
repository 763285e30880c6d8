"""Image-level tags from a table, and the split of a folder of images into train and val."""

import csv
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsss.errors import UserError


@dataclass(frozen=True)
class TagRow:
    """One line of the table: file name relative to the root, its tags, its split if given."""

    image: str
    tags: tuple[str, ...]
    split: str | None


def read_tag_table(path: str | Path) -> list[TagRow]:
    """Read `tags.csv`: columns image and tags, optionally split ("train" or "val").

    Tags are separated by `|`, `;` or `,` where any row of the table has one of these (so that class
    names may contain spaces), by white space otherwise. No tag at all means background only.

    Raises:
        UserError: the file is missing or empty, a column is missing, a row is there twice.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no table of tags {path}: write a CSV file with the columns image,tags")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from error
    lines = list(csv.DictReader(io.StringIO(text), skipinitialspace=True))
    for column in ("image", "tags"):
        if lines and column not in lines[0]:
            raise UserError(
                f"{path} has no column '{column}' (it has {', '.join(map(str, lines[0]))}): "
                "its first line must be image,tags"
            )
    if not lines:
        raise UserError(f"{path} lists no image: its first line is image,tags, then a line an image")
    separator = r"[|;,]" if any(re.search(r"[|;,]", row["tags"] or "") for row in lines) else r"\s"
    rows, seen = [], {}
    for number, line in enumerate(lines, start=2):
        image = (line["image"] or "").strip().replace("\\", "/")
        split = (line.get("split") or "").strip() or None
        if not image:
            raise UserError(f"{path} line {number} names no image")
        if image in seen:
            raise UserError(
                f"{path} lists '{image}' twice (lines {seen[image]} and {number}): keep one row"
            )
        if split not in (None, "train", "val"):
            raise UserError(f"{path} line {number}: split '{split}' must be train or val")
        seen[image] = number
        names = (name.strip() for name in re.split(separator, line["tags"] or ""))
        rows.append(TagRow(image, tuple(dict.fromkeys(name for name in names if name)), split))
    if not any(row.tags for row in rows):
        raise UserError(f"{path} has no tag at all: fill the column 'tags'")
    return rows


def split_of(rows: Sequence[TagRow], val_share: float = 0.2) -> dict[str, str]:
    """Split of every image: as the table says, else fixed by the image's name, one fifth val.

    Images are dealt out class by class, the rarest class first, in the order of a hash of their names,
    so that each class keeps its share in val and the split never changes between runs.
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
    for names in groups.values():
        names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
        held_out = round(val_share * len(names))
        splits |= {name: "val" if i < held_out else "train" for i, name in enumerate(names)}
    return splits
