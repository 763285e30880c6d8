"""A folder of images, in sub-folders or not, with a table.

    ROOT/tags.csv (columns image, tags and, if wanted, split; or the other forms of wsss.data.tags)
    ROOT/masks/<image without suffix>.png
    ROOT/classes.txt (optional: fixes the classes and their order)
    ROOT/train.txt, ROOT/val.txt (optional: fix the split where the table does not)

The table may lie elsewhere, with its classes.txt and lists beside it; ROOT is only read. Images that
cannot be read, and masks that do not fit, are left out with a notice that names each; a mask that
cannot be read is refused.
"""

from collections.abc import Iterator
from pathlib import Path

from wsss.data.catalog import Catalog, Record
from wsss.data.deep import common_white
from wsss.data.folder_rules import examine, masks_of, refuse, repeats
from wsss.data.images import look_at, tell_left_out
from wsss.data.labels import few_enough, listed_classes, tag_indices
from wsss.data.layouts import Layout, existing
from wsss.data.masks import mask_faults, read_mask
from wsss.data.splits import split_folder
from wsss.data.tags import TagRow, read_tag_table, tag_source, tell
from wsss.errors import Damaged, UserError, notice


class Folder(Layout):
    """The splits are train, val and all (`wsss.data.tags.split_folder`)."""

    def classes(self, root: Path, tags: Path | None) -> tuple[str, ...]:
        return listed_classes(existing(root), tags) or _classes(*_readable_rows(root, tags)[:2])

    def catalog(self, root: Path, split: str, tagged: bool, tags: Path | None) -> Catalog:
        if split not in ("train", "val", "all"):
            raise UserError(f"split '{split}' is unknown for a folder of images: use train, val or all")
        table, rows, white, faults = _readable_rows(root, tags)
        classes = listed_classes(root, tags) or _classes(table, rows)
        parts = split_folder(rows, table, root)
        if split != "all":
            left_out = {f"left out, {reason}": names for reason, names in parts.left_out.items()}
            tell(table, parts.odd | left_out)
            rows = [row for row in rows if parts.of.get(row.image) == split]
        for finding in repeats(row.image for row in rows):
            refuse(finding, root, table)
        if not rows:
            raise UserError(f"{table} has no image in split '{split}': add some or change the split")
        return Catalog(classes, tuple(_records(rows, root, classes, table)), white, faults)


def _classes(table: Path, rows: list[TagRow]) -> tuple[str, ...]:
    return few_enough(tuple(sorted({tag for row in rows for tag in row.tags})), table)


def _readable_rows(
    root: Path, tags: Path | None
) -> tuple[Path, list[TagRow], int | None, dict[Path, str]]:
    """The table, its rows whose image can be read, what is white in all, and the others, with why."""
    table = tags or tag_source(root)
    rows, findings = examine(read_tag_table(table, root).rows, root)
    for finding in findings:
        refuse(finding, root, table)
    looks = look_at([root / row.image for row in rows])
    faults = {root / r.image: found.fault for r, found in zip(rows, looks, strict=True) if found.fault}
    tell_left_out([*faults.values()])
    usable = [row for row in rows if root / row.image not in faults]
    return table, usable, common_white(found.brightest for found in looks), faults


def _require_whole(mask: Path) -> None:
    """Refuse a mask that is damaged: without it numbers would be those of fewer images."""
    try:
        read_mask(mask)
    except Damaged:
        raise
    except UserError:
        pass  # it is no mask of labels, or is not there any more


def _records(rows: list[TagRow], root: Path, classes: tuple[str, ...], table: Path) -> Iterator[Record]:
    images, masks = [root / row.image for row in rows], masks_of(root, [row.image for row in rows])
    pairs = [(mask, image) for mask, image in zip(masks, images, strict=True) if mask]
    faults = dict(zip(pairs, mask_faults(pairs, len(classes) + 1), strict=True))
    for row, image, mask in zip(rows, images, masks, strict=True):
        tags = tag_indices(row.tags, classes, f"{table} ({row.image})")
        if fault := faults.get((mask, image)):
            _require_whole(mask)
            notice(f"mask left out: {fault}")
            mask = None
        asked = row.looked_for
        if asked is not None:
            asked = tuple(n for n, name in enumerate(classes) if name in asked)
        yield Record(Path(row.image).with_suffix("").as_posix(), image, tags, mask, asked)
