"""Open Images' labels of whole images, verified by people: present (1) or absent (0).

A class of which a file says neither was not looked for. https://storage.googleapis.com/openimages/web
"""

import csv
from pathlib import Path

from wsss.data.cells import clean
from wsss.data.tags.sheet import sheet_of
from wsss.data.tags.source import Form, Rows, Source
from wsss.errors import UserError
from wsss.files import read_lines


class OpenImages(Form):
    about = "labels that are present or absent (Open Images)"

    def read(self, source: Source) -> Rows | None:
        sheet = sheet_of(source)
        columns = [sheet and sheet.column(name) for name in ("imageid", "labelname", "confidence")]
        if None in columns:
            return None
        names = _display_names(source.path.parent)
        present: dict[str, dict[str, bool]] = {}
        places: dict[str, str] = {}
        for number, cells in sheet.lines:
            place = f"line {number}"
            image, label, confidence = (clean(cells[column]) for column in columns)
            try:
                there = {0.0: False, 1.0: True}[float(confidence)]
            except (KeyError, ValueError):
                raise UserError(
                    f"{source.path} {place}: the confidence of '{label}' is '{confidence}', neither 1 "
                    "(present) nor 0 (absent): take the labels that people have verified"
                ) from None
            if not label:
                raise UserError(f"{source.path} {place} names no label: correct it")
            if names and label not in names:
                source.note("labels without a name in class-descriptions", label)
            tag = names.get(label, label)
            its = present.setdefault(image, {})
            if its.get(tag, there) != there:
                source.note("said to be present and absent, taken for present", f"{place}: {tag}")
            its[tag] = its.get(tag, False) or there
            places.setdefault(image, place)
        return [
            (
                places[image],
                source.row(image, [t for t, v in its.items() if v], places[image], None, its),
            )
            for image, its in present.items()
        ]


def _display_names(folder: Path) -> dict[str, str]:
    """Label -> name, of the file `...class-descriptions...csv` in a folder, if there is one."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*class-descriptions*.csv")):
        for cells in csv.reader(read_lines(path)):
            if len(cells) > 1 and cells[0] != "LabelName":
                found.setdefault(clean(cells[0]), clean(cells[1]))
    return found
