"""What a data set holds: which images, with which tags and masks, in which split.

How it lies on the disk is its layout's affair: `wsss.data.layouts` has one file for each.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsss.data.images import image_sizes, tell_left_out, unreadable
from wsss.data.layouts import existing, layout_of
from wsss.errors import UserError


@dataclass(frozen=True)
class Record:
    """One image.

    Attributes:
        id: name without suffix, relative to the image folder, with `/` between folders.
        image: the photograph's file.
        tags: sorted indices into `Catalog.classes`; empty means background only.
        mask: file of the ground-truth mask, or None. The layout `coco` draws it when `wsss.read_mask`
            reads it.
        looked_for: sorted indices of the classes that somebody looked for, the tags among them; None:
            all. Whether others are on the image is not known: the classifier does not learn from it.
    """

    id: str
    image: Path
    tags: tuple[int, ...]
    mask: Path | None
    looked_for: tuple[int, ...] | None = None


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
        left_out: images of the list that cannot be read, and why; None: nobody has looked.
    """

    classes: tuple[str, ...]
    records: tuple[Record, ...]
    white: int | None = None
    left_out: Mapping[Path, str] | None = field(default=None, compare=False)


def read_catalog(
    layout: str,
    root: str | Path,
    split: str,
    tagged: bool = True,
    tags: str | Path | None = None,
) -> Catalog:
    """List the images of one split.

    All are decoded once while they stay as they are (`wsss.data.cache`). Those that cannot be read are
    left out with a notice.

    >>> catalog = wsss.read_catalog("voc", "data", "train")
    >>> record = catalog.records[0]
    >>> record.id, [catalog.classes[tag] for tag in record.tags]
    ('train_00000', ['brick', 'star'])

    Args:
        layout: one of `wsss.data.layouts.LAYOUTS`, or the import path of a class of one's own.
        root: the data set's folder.
        split: a name that the layout knows: of a list in ImageSets/Segmentation ("train", "val",
            "trainaug", ...) for `voc`; of annotations/instances_<split>.json ("train2014", ...) for
            `coco`; "train", "val" or "all" for `folder`.
        tagged: False does not ask for tags (VOC's test split has none).
        tags: the table of a `folder` that has none of its own.

    Raises:
        UserError: anything the layout asks for is missing or contradicts itself, or no image can be
            read.
    """
    found = layout_of(layout).catalog(existing(root), split, tagged, Path(tags) if tags else None)
    if not isinstance(found, Catalog):
        raise UserError(
            f"data layout {layout} gives a {type(found).__name__} as the images of split '{split}': "
            "it must give a wsss.Catalog (docs/how-to/extend.md)"
        )
    return found if found.left_out is not None else _readable(found)


def _readable(catalog: Catalog) -> Catalog:
    """A catalog without the images that cannot be read."""
    faults = unreadable([record.image for record in catalog.records])
    tell_left_out([*faults.values()])
    records = tuple(record for record in catalog.records if record.image not in faults)
    if not records and faults:
        raise UserError(f"none of {len(faults)} images can be read: {next(iter(faults.values()))}")
    return replace(catalog, records=records, left_out=faults)


def read_classes(layout: str, root: str | Path, tags: str | Path | None = None) -> tuple[str, ...]:
    """Foreground class names of a data set, in the order of their mask labels."""
    return layout_of(layout).classes(Path(root), Path(tags) if tags else None)


def largest_image(records: Iterable[Record]) -> int:
    """Pixels of the largest photograph; 0 of none."""
    sizes = image_sizes([record.image for record in records])
    return max((height * width for height, width in sizes), default=0)
