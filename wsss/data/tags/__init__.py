"""Image-level tags as people have them; one file for each form in which they are written down.

A form is found by looking at the file, whatever it is called. A new one is a file here and a line in
`FORMS`.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from wsss.data.cells import SPLITS
from wsss.data.tags.coco import Coco
from wsss.data.tags.cvat import Cvat
from wsss.data.tags.fiftyone import FiftyOne
from wsss.data.tags.image_folder import ImageFolder
from wsss.data.tags.label_studio import LabelStudio, LabelStudioMin
from wsss.data.tags.open_images import OpenImages
from wsss.data.tags.own import Folders, Names, Table, class_images
from wsss.data.tags.roboflow import Roboflow
from wsss.data.tags.source import FIRST, HIDDEN, Form, Odd, Rows, Source, TagRow, tell
from wsss.data.tags.voc import Voc, xml_files
from wsss.errors import UserError, few

__all__ = [
    "FIRST",
    "FORMS",
    "HIDDEN",
    "Odd",
    "TagRow",
    "TagTable",
    "read_tag_table",
    "tag_source",
    "tell",
]

FORMS: tuple[Form, ...] = (
    Cvat(),
    Voc(),
    LabelStudio(),
    LabelStudioMin(),
    Coco(),
    FiftyOne(),
    OpenImages(),
    Roboflow(),
    ImageFolder(),
    Names(),
    Table(),
    Folders(),
)
"""The forms, in the order in which they look at a file."""

OWN = ("tags.csv", "tags.json", "tags.xlsx")
"""Our own names of a table, which come first."""


class TagTable(NamedTuple):
    """What a table says.

    Attributes:
        form: what it was taken for, in some words.
        rows: its rows, one for each image.
    """

    form: str
    rows: list[TagRow]

    def examples(self, most: int = 3) -> list[str]:
        """The first rows as they were understood."""
        return [_told(row) for row in self.rows[:most]]


def _told(row: TagRow) -> str:
    told = f"{row.image}: {', '.join(row.tags) or 'none of the classes'}"
    if row.looked_for is not None:
        others = [name for name in row.looked_for if name not in row.tags]
        told += f" (not on it: {few(others)}" if others else " ("
        told += f"{'; ' * bool(others)}nobody looked for the other classes)"
    return told + (f" [{row.split}]" if row.split else "")


def tag_source(root: str | Path) -> Path:
    """Where a folder of images has its tags: tags.csv, tags.json, the file of a tool, or the folder."""
    root = Path(root)
    for name in OWN:
        if (root / name).is_file():
            return root / name
    for form in FORMS:
        for path in (root / name for name in form.files):
            if path.is_file() and _is_of(form, path, root):
                return path
    return root if class_images(root) or xml_files(root) else root / "tags.csv"


def _is_of(form: Form, path: Path, root: Path) -> bool:
    """Whether a file is of a form; one that is broken is, unless there are folders of classes."""
    try:
        return form.read(Source(path, root)) is not None
    except UserError:
        return not class_images(root)


def read_tag_table(
    path: str | Path,
    root: str | Path,
    duplicates: list[str] | None = None,
    odd: Odd | None = None,
) -> TagTable:
    """Read the tags of a folder of images, in whatever of `FORMS` they are.

    Our own forms: a CSV file or workbook with the columns image and tags, optionally split ("train",
    "val" or "test", or what `wsss.data.cells.SPLITS` knows them by) and looked_for; one with the column
    image and one column of marks (0 and 1, or what `wsss.data.cells.mark` reads) for each class; a JSON
    object of image names with lists of tags; a directory with one sub-folder of images for each class.

    Tags in one column are separated by `|`, `;` or `,` where any row of the table has one of these (so
    that class names may contain spaces), by white space otherwise; a printed list is read as the list.
    No tag means background only, and so does what programs write for an empty cell (nan, None).

    The classes that somebody looked for are listed in looked_for, an empty cell there means all; in
    a column of marks `?` means that nobody did.

    Args:
        path: the file, or the directory.
        root: folder that the names are relative to; absolute names that lie in it become relative.
        duplicates: names of images with a second row are added here, and the tags of all rows count
            (test, else val, where the rows' splits differ); None: a second row is an error.
        odd: what was read otherwise than it is written is added here; None: it is told in notices.

    Raises:
        UserError: the file is missing or empty, a column is missing or there twice, a row is there
            twice or, with a column for each class, too long.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no table of tags {path}: write a CSV file with the columns image,tags")
    sources = [(Source(part, Path(root)), split) for part, split in _parts(path).items()]
    forms, kept = [], {}
    for source, split in sources:
        form, rows = _read(source)
        forms.append(form)
        for place, row in rows:
            _keep(kept, source, form, place, row, split, duplicates)
    found: Odd = {}
    for source, _ in sources:
        for kind, places in source.odd.items():
            found.setdefault(kind, []).extend(places)
    rows = [row for _, row in kept.values()]
    if not any(row.tags for row in rows):
        raise UserError(f"{path} has no tag at all: fill the column 'tags'")
    tags = {tag for row in rows for tag in row.tags}
    asked = dict.fromkeys(name for row in rows for name in row.looked_for or () if name not in tags)
    if asked:
        found.setdefault("looked for, and on no image: no class", []).extend(asked)
    if odd is None:
        tell(path, found)
    else:
        odd |= found
    return TagTable(" and ".join(dict.fromkeys(form.about for form in forms)), rows)


def _parts(path: Path) -> dict[Path, str | None]:
    """The tables in the folders of the splits, and their splits; if there are none, what is given."""
    found: dict[Path, str | None] = {}
    names = [name for form in FORMS for name in form.files if name not in OWN]
    for folder in sorted(path.iterdir()) if path.is_dir() else ():
        if folder.name.casefold() in SPLITS and folder.is_dir():
            its = [folder / name for name in names if (folder / name).is_file()]
            found |= dict.fromkeys(its[:1], SPLITS[folder.name.casefold()])
    return found or {path: None}


def _read(source: Source) -> tuple[Form, Rows]:
    for form in FORMS:
        if (rows := form.read(source)) is not None:
            return form, rows
    wanted = "it is of no form that is read: write a CSV file with the columns image,tags"
    if source.json is not None:
        wanted = 'it must be like {"a.jpg": ["cat", "dog"], "b.jpg": []}, or as a tool exports it'
    raise UserError(f"{source.path} cannot be read as tags: {wanted}")


def _keep(
    kept: dict[str, tuple[str, TagRow]],
    source: Source,
    form: Form,
    place: str,
    row: TagRow,
    split: str | None,
    duplicates: list[str] | None,
) -> None:
    """Add a row to those that are kept, or to the one of the same image."""
    image = source.image(row.image, place, form.exact)
    row = replace(row, image=image, split=row.split or split)
    if not row.image:
        raise UserError(f"{source.path} {place} names no image")
    if row.image not in kept:
        kept[row.image] = (place, row)
    elif duplicates is not None:
        duplicates.append(row.image)
        kept[row.image] = (place, kept[row.image][1].joined(row))
    else:
        first, second = (where.removeprefix("line ") for where in (kept[row.image][0], place))
        raise UserError(
            f"{source.path} lists '{row.image}' twice (lines {first} and {second}): keep one row"
        )
