"""Class names and their labels: which names are read and refused, and what tags become."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from wsss.data.cells import clean, hidden, shown
from wsss.data.tags import HIDDEN, tell
from wsss.errors import UserError
from wsss.files import read_lines

if TYPE_CHECKING:
    from torch import Tensor

    from wsss.data.catalog import Record

RESERVED_CLASSES = ("background", "void")
"""No class can have one of these names, in whatever case."""


def listed_classes(root: Path, tags: Path | None = None) -> tuple[str, ...] | None:
    """The classes that a classes.txt fixes (`class_list`); None: there is none.

    Raises:
        UserError: it holds no class, one twice, or more than there are labels.
    """
    listing = class_list(root, tags)
    if listing is None:
        return None
    lines = read_lines(listing)
    if strange := [*filter(hidden, lines)]:
        tell(listing, {HIDDEN: [*map(shown, strange)]})
    classes = tuple(filter(None, map(clean, lines)))
    if not classes or len(set(classes)) != len(classes):
        raise UserError(f"{listing} must hold one class name a line, each once")
    return few_enough(classes, listing)


def class_list(root: Path, tags: Path | None = None) -> Path | None:
    """The classes.txt that fixes the classes: beside the table or in the root; None: there is none."""
    folders = [tags.parent, root] if tags else [root]
    return next((d / "classes.txt" for d in folders if (d / "classes.txt").is_file()), None)


def few_enough(classes: tuple[str, ...], source: Path) -> tuple[str, ...]:
    """The classes, refused where a mask of bytes has no label for each."""
    if len(classes) > 254:  # 0 is background, 255 void
        raise UserError(f"{source} has {len(classes)} classes, masks have labels for 254: join some")
    return classes


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


def multi_hot(record: Record, num_classes: int) -> Tensor:
    """Tags of a record as (N,) float32 of zeros and ones."""
    import torch  # whoever only checks names needs none

    tags = torch.zeros(num_classes)
    tags[list(record.tags)] = 1
    return tags


UNKNOWN = -1.0
"""What a target says of a class that nobody looked for."""


def targets(record: Record, num_classes: int) -> Tensor:
    """What a classifier is to say: `multi_hot`, and `UNKNOWN` of classes that were not looked for."""
    tags = multi_hot(record, num_classes)
    if record.looked_for is not None:
        tags[[n for n in range(num_classes) if n not in record.looked_for]] = UNKNOWN
    return tags


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of two or more names that differ by case or spaces only."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(without_case(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def without_case(name: str) -> str:
    """The name without case and spaces."""
    return "".join(name.casefold().split())


def unmatched(tags: Iterable[str], classes: Iterable[str]) -> tuple[list[str], list[str]]:
    """Tags that are no class and classes that are no tag, whatever their case and spaces."""
    first, second = ({without_case(name): name for name in names} for names in (tags, classes))
    return (
        [first[key] for key in sorted(first.keys() - second.keys())],
        [second[key] for key in sorted(second.keys() - first.keys())],
    )
