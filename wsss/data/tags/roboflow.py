"""Roboflow's multi-label classification: `_classes.csv` beside the photographs of each split.

Its first column is `filename`, each other one a class; a blank stands before every name but the first.
"""

from typing import ClassVar

from wsss.data.tags.sheet import rows_of, sheet_of
from wsss.data.tags.source import Form, Rows, Source


class Roboflow(Form):
    about = "a table with the column filename, and one for each class (Roboflow)"
    files: ClassVar = ("_classes.csv",)

    def read(self, source: Source) -> Rows | None:
        sheet = sheet_of(source)
        column = sheet.column("filename") if sheet and sheet.column("image") is None else None
        return None if column is None else rows_of(source, sheet.renamed(column, "image"))
