"""Our own forms: a CSV file or workbook, a JSON object, a folder with one sub-folder for each class."""

from itertools import chain
from pathlib import Path

from wsss.data.cells import SPLITS
from wsss.data.images import IMAGE_SUFFIXES
from wsss.data.photographs import photographs_in
from wsss.data.tags.sheet import rows_of, sheet_of
from wsss.data.tags.source import NOT_ANNOTATED, Form, Rows, Source
from wsss.errors import UserError, notice


class Table(Form):
    """A CSV file or workbook with the columns image and tags, or image and one of marks a class."""

    about = "a table with the column image, and tags or a column for each class"
    files = ("tags.csv", "tags.xlsx")
    exact = True

    def read(self, source: Source) -> Rows | None:
        sheet = sheet_of(source)
        return sheet and rows_of(source, sheet)


class Names(Form):
    """A JSON object of image names with lists of tags."""

    about = "a JSON object of images and their tags"
    files = ("tags.json",)
    exact = True

    def read(self, source: Source) -> Rows | None:
        found = source.json
        if not isinstance(found, dict):
            return None
        rows = []
        for number, (image, tags) in enumerate(found.pairs, start=1):
            place = f"entry {number}"
            tags = [tags] if tags in (None, "NaN") else tags
            if not (isinstance(tags, list) and all(isinstance(tag, str | None) for tag in tags)):
                raise UserError(f'{source.path} must be like {{"a.jpg": ["cat", "dog"], "b.jpg": []}}')
            texts = ["null" if tag is None else tag for tag in tags]
            lists = [
                [text] if (items := source.items(text, place)) is None else items for text in texts
            ]
            rows.append((place, source.row(image, chain(*lists), place)))
        return rows


class Folders(Form):
    """One sub-folder of images for each class, in a folder for each split or not.

    So do FiftyOne, Roboflow, datumaro's `imagenet` and Hugging Face's `imagefolder` lay out
    classification.
    """

    about = "sub-folders named like the classes"
    exact = True

    def read(self, source: Source) -> Rows | None:
        root = source.path
        if not root.is_dir():
            return None
        photographs = {*IMAGE_SUFFIXES} - {".png"}
        if any(path.suffix.lower() in photographs for path in (root / "masks").rglob("*")):
            notice(
                f"passed over: {root / 'masks'}, which is taken for ground-truth masks: rename it if "
                "it is a class"
            )
        inner = class_images(root)
        # a class may be called train: one of nothing but splits has folders of classes within them
        dealt = all(path.parts[0].casefold() in SPLITS and len(path.parts) > 2 for path in inner)
        rows = []
        for path in inner:
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            split = SPLITS[path.parts[0].casefold()] if dealt else None
            folder = path.parts[1] if dealt else path.parts[0]
            place = f"folder {folder}"
            if folder == UNLABELED:
                source.note(NOT_ANNOTATED, path.as_posix())
            else:
                rows.append((place, source.row(path.as_posix(), [folder], place, split)))
        return rows


UNLABELED = "_unlabeled"
"""FiftyOne's folder of what has no label."""


def class_images(root: Path) -> list[Path]:
    """The images in sub-folders, but for those in `masks`, relative to the root."""
    inner = (path.relative_to(root) for path in photographs_in(root))
    return [path for path in inner if len(path.parts) > 1]
