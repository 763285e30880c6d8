"""The rules of a folder of images with a table: what can be used of it, and what is said of the rest.

The catalog refuses a folder that breaks a rule, `wsss check` reports all that do, `wsss init` leaves
the images out. What each says stands in one place, beside the rule.
"""

import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from wsss.data.images import FOREIGN_SUFFIXES, IMAGE_SUFFIXES
from wsss.data.names import Files, as_files, inside, leads_out
from wsss.data.tags import TagRow
from wsss.errors import UserError

FEW = 10
"""A class with fewer images than this is reported."""

_SUFFIXES = ", ".join(IMAGE_SUFFIXES)


@dataclass(frozen=True)
class Rule:
    """What an image can break, in the words of those who meet it.

    The words may hold {table}, {image}, {path} and {more}: what `Finding.more` tells.

    Attributes:
        check: the kind of finding in `wsss check`.
        init: why `wsss init` leaves the image out.
        catalog: how the catalog refuses the folder.
        severe: a run stops at it.
    """

    check: str
    init: str
    catalog: str = ""
    severe: bool = False


# both the catalog and init refuse it, in the words of `inside`
OUTSIDE = Rule("name leads out of the folder", "", severe=True)
_LOST = "{table} lists '{image}', but there is no image {path}"
ABSENT = Rule("tags without image", "tags without image", _LOST, severe=True)
_NONE = f"no image file ({_SUFFIXES} are read)"
NO_IMAGE = Rule(
    _NONE,
    _NONE,
    "{table} lists '{image}', which is no image file: known suffixes are " + _SUFFIXES,
    severe=True,
)
TOO_LONG = Rule(
    "names too long for results here ({more} bytes; left out by wsss init)",
    "name too long for results ({more} bytes)",
)
TWICE = Rule("duplicate rows", "rows joined, image listed more than once", severe=True)
UNTAGGED = Rule("images without tags (left out)", "images without tags (not listed)")
SAME_NAME = Rule(
    "names that differ by suffix only (the first is used)",
    "name differs by suffix only from {more}",
    "'{more}' and '{image}' in {table} differ by suffix only, so their masks would overwrite each "
    "other: rename one",
)
SAME_CONTENT = Rule("duplicate images (same content)", "same content as {more}")

MENDED = (TWICE, ABSENT, NO_IMAGE)
"""Severe, and mended by `wsss init`: it joins the rows, and leaves out those without an image."""


class Finding(NamedTuple):
    """An image that breaks a rule.

    Attributes:
        rule: which.
        image: its name as the file has it; as the table has it where there is no such file.
        more: the image that it repeats or is taken to mean, or how many bytes a name can have.
    """

    rule: Rule
    image: str
    more: str = ""


def examine(
    rows: Iterable[TagRow],
    root: Path,
    files: Collection[str] | None = None,
    longest: int | None = None,
) -> tuple[list[TagRow], list[Finding]]:
    """Hold the rows of a table against the files of its folder.

    Args:
        rows: as `wsss.data.tags.read_tag_table` gives them.
        root: folder that the names are relative to.
        files: names of its photographs, as which those of the rows are then read (`as_files`), and of
            which each needs a row; None: the names are taken as they are.
        longest: how many bytes the name of a result can have.

    Returns:
        the rows whose file is there, one for each, and what is wrong with the others, in their order.
    """
    rows = list(rows)
    written = [row.image for row in rows]
    names = dict(zip(written, written, strict=True)) if files is None else as_files(written, files)
    meant = {_plain(name): name for name in files or ()}
    kept: dict[str, TagRow] = {}
    findings = []
    for row in rows:
        name = names[row.image]
        if leads_out(root, name) or Path(name).is_absolute():
            findings.append(Finding(OUTSIDE, name))
        elif not os.path.isfile(root / name):  # a name may be too long to be asked for
            findings.append(Finding(ABSENT, row.image, meant.get(_plain(row.image), "")))
        elif longest is not None and too_long(name, longest):
            findings.append(Finding(TOO_LONG, name, str(longest)))
        elif Path(name).suffix.lower() not in (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES):
            findings.append(Finding(NO_IMAGE, name))
        elif name in kept:  # a/b.jpg and a/../a/b.jpg
            findings.append(Finding(TWICE, name))
            kept[name] = kept[name].joined(row)
        else:
            kept[name] = replace(row, image=name)
    listed = {*names.values()}
    findings += [Finding(UNTAGGED, name) for name in files or () if name not in listed]
    return [*kept.values()], findings


def repeats(images: Iterable[str], contents: Mapping[str, bytes] | None = None) -> Iterator[Finding]:
    """Images whose results would have the name of an earlier one's, or with its content.

    What repeats another stands for nothing that comes later.

    Args:
        images: their names.
        contents: `digests` of files, by the images' names.
    """
    stems: dict[Path, str] = {}
    known: dict[bytes, str] = {}
    for image in images:
        stem, content = Path(image).with_suffix(""), (contents or {}).get(image)
        if stem in stems:
            yield Finding(SAME_NAME, image, stems[stem])
        elif content in known:
            yield Finding(SAME_CONTENT, image, known[content])
        else:
            stems[stem] = image
            if content is not None:
                known[content] = image


def digests(root: Path, images: Collection[str]) -> dict[str, bytes]:
    """Image -> hash of its content, of those that are not alone in their size; the rest is not read."""
    sizes = {image: os.path.getsize(root / image) for image in images}
    counts = Counter(sizes.values())
    return {
        image: hashlib.sha256((root / image).read_bytes()).digest()
        for image, size in sizes.items()
        if size and counts[size] > 1 and os.access(root / image, os.R_OK)
    }


def everywhere(rows: Collection[TagRow]) -> list[str]:
    """The classes that no image is said to be without: nothing shows where they are not."""
    without: set[str] = set()
    names = {tag for row in rows for tag in row.tags}
    for row in rows:
        without |= (names if row.looked_for is None else {*row.looked_for}) - {*row.tags}
    return sorted(names - without)


def refuse(finding: Finding, root: Path, table: Path) -> None:
    """Raise the UserError with which the catalog meets a finding."""
    inside(root, finding.image, table)
    told = finding.rule.catalog.format(table=table, path=root / finding.image, **finding._asdict())
    raise UserError(told)


def masks_of(root: Path, images: Iterable[str]) -> list[Path | None]:
    """The files of images' ground-truth masks, None where there is none."""
    masks = Files(root / "masks")
    return [masks.find(Path(image).with_suffix(".png").as_posix()) for image in images]


def _plain(name: str) -> Path:
    """A name in small letters and without the suffix of an image."""
    path = Path(posixpath.normpath(name.lower()))
    return path.with_suffix("") if path.suffix in (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES) else path


def longest_name(folder: Path) -> int:
    """How many bytes a name can have in a folder, or where it is to be made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        return os.pathconf(there, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # other systems, and some that do not tell
        return 255


def too_long(name: str, most: int) -> bool:
    """Whether results of an image, `<name without suffix>.png`, cannot be written."""
    parts = Path(name).with_suffix(".png").parts
    return any(len(os.fsencode(part)) > most for part in parts)
