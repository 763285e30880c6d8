"""Hugging Face's `imagefolder`: metadata.csv or metadata.jsonl with the column file_name.

https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""

from typing import Any, ClassVar

from wsss.data.tags.sheet import rows_of, sheet_of
from wsss.data.tags.source import Form, Rows, Source
from wsss.errors import UserError

LABELS = ("tags", "labels", "label", "categories", "category", "objects")
"""Where the tags are, the first one that is there: the format leaves it to the user."""


class ImageFolder(Form):
    about = "metadata with the column file_name (Hugging Face's imagefolder)"
    files: ClassVar = ("metadata.csv", "metadata.jsonl")

    def read(self, source: Source) -> Rows | None:
        if source.lines is not None:
            return _of_lines(source, source.lines)
        sheet = sheet_of(source)
        column = sheet.column("file_name") if sheet and sheet.column("image") is None else None
        if column is None:
            return None
        sheet = sheet.renamed(column, "image")
        label = next((c for name in LABELS if (c := sheet.column(name)) is not None), None)
        sheet = sheet if label is None else sheet.renamed(label, "tags")
        return rows_of(source, sheet, spaces=False)  # a label is one name


def _of_lines(source: Source, lines: list[tuple[int, dict[str, Any]]]) -> Rows:
    rows = []
    label = next((name for name in LABELS if any(name in one for _, one in lines)), None)
    if label is None:
        names = ", ".join(dict.fromkeys(name for _, one in lines for name in one))
        raise UserError(
            f"{source.path} has no column of tags (it has {names}): call it tags, labels or label"
        )
    for number, one in lines:
        place = f"line {number}"
        image = source.a_text(one.get("file_name"), place, "file_name")
        tags = one.get(label)
        if isinstance(tags, dict):  # of detection: {"bbox": [...], "categories": [...]}
            tags = tags.get("categories", tags.get("category"))
        split = source.split(source.a_text(one.get("split") or "", place, "split"), place)
        rows.append((place, source.row(image, source.texts(tags, place, label), place, split)))
    return rows
