"""The usable images of a folder, with their tags, classes and splits (`wsss init`)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsss import sheets
from wsss.data.catalog import read_classes
from wsss.data.cells import NOT_LOOKED_FOR
from wsss.data.folder_rules import (
    OUTSIDE,
    SAME_CONTENT,
    TWICE,
    digests,
    everywhere,
    examine,
    longest_name,
    refuse,
    repeats,
)
from wsss.data.images import look_at
from wsss.data.labels import RESERVED_CLASSES, alike, class_list, few_enough, unmatched, without_case
from wsss.data.oddities import image_oddities, white_of
from wsss.data.photographs import photographs_in
from wsss.data.splits import split_folder
from wsss.data.tags import Odd, TagRow, read_tag_table
from wsss.data.tags.sheet import KNOWN
from wsss.errors import UserError, few


@dataclass
class Found:
    """What there is to train on.

    Attributes:
        form: what the table of tags was taken for.
        examples: its first rows as they were understood.
        tags: image, relative to the photographs' folder -> its tags.
        looked_for: image -> the classes that somebody looked for; of those in which all were, nothing.
        splits: image -> "train" or "val".
        classes: names in the order of their mask labels.
        everywhere: classes that no image is said to be without.
        left_out: reason -> images.
        notes: what else the user should know.
    """

    form: str = ""
    examples: list[str] = field(default_factory=list)
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    looked_for: dict[str, tuple[str, ...]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    everywhere: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, *images: str) -> None:
        self.left_out.setdefault(reason, []).extend(images)

    def note(self, odd: Odd) -> None:
        self.notes += [f"{kind}: {few(places)}" for kind, places in odd.items()]

    def names(self, split: str) -> list[str]:
        return [name for name, its in self.splits.items() if its == split]

    def table(self) -> str:
        """The usable images with their split and one column of 0 and 1 for each class, as CSV.

        A class that nobody looked for in an image has the mark for it.
        """
        rows = (
            (name, self.splits[name], *(self._mark(name, c) for c in self.classes))
            for name in self.tags
        )
        return sheets.table(("image", "split", *self.classes), rows)

    def _mark(self, image: str, name: str) -> str:
        if name in self.looked_for.get(image, self.classes):
            return str(int(name in self.tags[image]))
        return NOT_LOOKED_FOR

    def left_out_table(self) -> str:
        """The images that are left out and why, as CSV."""
        rows = ((name, reason) for reason, names in self.left_out.items() for name in names)
        return sheets.table(("image", "reason"), rows)


def gather(photographs: Path, table: Path, out: Path) -> Found:
    """Find the usable images of a folder, their tags, classes and splits; the rest is left out.

    Args:
        photographs: the folder; it is only read.
        table: any form that `wsss.data.tags` reads, its names relative to the folder.
        out: folder of results, which is passed over if it lies in `photographs`.

    Raises:
        UserError: a name leads out of the folder, or too little is left to train on.
    """
    found = Found()
    tagged = read_tag_table(table, photographs, duplicates=(twice := []), odd=(odd := {}))
    found.form, found.examples = tagged.form, tagged.examples()
    found.note(odd)
    if twice:
        found.note({TWICE.init: sorted(set(twice))})
    rows = _usable(found, photographs, table, out, tagged.rows)
    if not rows:
        raise UserError(
            f"no image that {table} names can be used ({_reasons(found)}): "
            f"its names must be relative to {photographs}"
        )
    spelling = _classes(found, photographs, table, rows)
    rows = [_in_classes(row, spelling, found.classes) for row in rows]
    found.looked_for = {row.image: row.looked_for for row in rows if row.looked_for is not None}
    found.splits, left_out, odd = split_folder(rows, table, photographs)
    found.note(odd)
    for reason, images in left_out.items():
        found.leave_out(reason, *images)
    found.everywhere = everywhere([row for row in rows if row.image in found.splits])
    found.tags = {row.image: row.tags for row in rows if row.image in found.splits}
    _require_both_splits(found, table)
    return found


def _in_classes(row: TagRow, spelling: dict[str, str], classes: tuple[str, ...]) -> TagRow:
    """A row in the classes' own spelling and order."""
    tags = {spelling[tag] for tag in row.tags}
    asked = row.looked_for
    if asked is not None:
        alike = {without_case(name) for name in asked}
        asked = tuple(name for name in classes if without_case(name) in alike or name in tags)
    return replace(row, tags=tuple(name for name in classes if name in tags), looked_for=asked)


def _usable(
    found: Found, photographs: Path, table: Path, out: Path, rows: Sequence[TagRow]
) -> list[TagRow]:
    """One row for each image that is there, can be read, and repeats none of the others."""
    files = [
        path.relative_to(photographs).as_posix()
        for path in photographs_in(photographs)
        if not path.resolve().is_relative_to((out / "results").resolve())
    ]
    rows, findings = examine(rows, photographs, files, longest_name(out))
    for finding in findings:
        if finding.rule is OUTSIDE:
            refuse(finding, photographs, table)
    for rule, image, more in findings:
        if rule is TWICE:
            found.note({rule.init: [image]})
        else:
            found.leave_out(rule.init.format(more=more), image)
    known = {}
    for row, look in zip(rows, look_at([photographs / row.image for row in rows]), strict=True):
        if look.fault:
            found.leave_out(image_oddities(photographs / row.image)[0], row.image)
        else:
            known[row.image] = row
    if its_white := white_of(photographs / name for name in known):
        found.notes.append(f"in photographs of 16 bits, {its_white}")
    for rule, image, first in [*repeats(known, digests(photographs, known))]:
        reason = rule.init.format(more=first)
        other = rule is SAME_CONTENT and set(known[first].tags) != set(known[image].tags)
        found.leave_out(f"{reason}, but other tags" if other else reason, image)
        del known[image]
    return [*known.values()]


def _classes(found: Found, photographs: Path, table: Path, rows: Sequence[TagRow]) -> dict[str, str]:
    """Set the classes; returns for each tag the class it stands for."""
    counts = Counter(tag for row in rows for tag in row.tags)
    if not counts:
        raise UserError(f"no usable image of {table} has a tag: fill in the tags")
    listing = class_list(photographs, None if table.is_dir() else table)
    fixed = read_classes("folder", listing.parent) if listing else ()
    spelling = {tag: tag for tag in counts}
    for names in alike(dict.fromkeys([*fixed, *counts])):
        # as in classes.txt, else as most images have it
        best = max(names, key=lambda name: (name in fixed, counts[name], name))
        spelling |= dict.fromkeys((name for name in names if name not in fixed), best)
        if others := [name for name in names if spelling.get(name, name) != name]:
            quoted = ", ".join(f"'{name}'" for name in others)
            found.notes.append(f"class names joined: {quoted} counted as '{best}'")
    used = {spelling[tag] for tag in counts}
    found.classes = fixed or few_enough(tuple(sorted(used)), table)
    unknown, unused = unmatched(used, found.classes)
    if unknown:
        raise UserError(
            f"{table} has the tag '{unknown[0]}', which is not in {listing}: correct either"
        )
    if unused:
        raise UserError(f"{listing} lists '{unused[0]}', but no usable image has this tag: remove it")
    if reserved := {*KNOWN} & used:
        raise UserError(f"a class cannot be named '{min(reserved)}' (a column of the table): rename it")
    if own := [name for name in found.classes if name.lower() in RESERVED_CLASSES]:
        raise UserError(
            f"{table} has the tag '{own[0]}', a name with a meaning of its own: rename it, or leave "
            "the tags empty where there is nothing but background"
        )
    return spelling


def _require_both_splits(found: Found, table: Path) -> None:
    train, val = found.names("train"), found.names("val")
    if len(train) < 2 or not val:
        raise UserError(
            f"{len(train)} images to train on and {len(val)} to validate on are too few in {table} "
            f"({_reasons(found)}): at least 2 and 1 are needed, and dozens of each class to learn much"
        )
    missing = set(found.classes) - {tag for name in train for tag in found.tags[name]}
    if missing:
        raise UserError(
            f"no image of split train has the tag '{min(missing)}': add one to train in {table}, "
            "or leave the split to wsss by removing it there"
        )


def _reasons(found: Found) -> str:
    counted = [f"{reason}: {few(names, 2)}" for reason, names in found.left_out.items()]
    return "; ".join(counted[:3]) or "nothing was left out"
