"""The cells of a CSV file or a workbook, and the tags that their columns give."""

import csv
import io
import re
from dataclasses import dataclass

from wsss.data.cells import (
    NOT_LOOKED_FOR,
    SPLITS,
    clean,
    denied,
    hidden,
    mark,
    missing,
    no_mark,
    shown,
)
from wsss.data.tags.excel import is_workbook, read_workbook
from wsss.data.tags.source import HIDDEN, Line, Rows, Source
from wsss.errors import UserError
from wsss.sheets import as_meant

KNOWN = ("image", "tags", "split", "looked_for")
"""The columns of our own form, in whatever case."""

IMAGES = ("image", "filename", "file_name", "imageid")
"""What the column of images is called in one form or another, in small letters."""


@dataclass(frozen=True)
class Sheet:
    """The cells of a table.

    Attributes:
        header: the columns' names; a column without one, or that pandas calls "Unnamed: 0", has "".
        lines: what follows.
    """

    header: list[str]
    lines: list[Line]

    def column(self, name: str) -> int | None:
        """Where the column of a name in small letters is; None: there is none."""
        names = [one.casefold() for one in self.header]
        return names.index(name) if name in names else None

    def renamed(self, column: int, name: str) -> "Sheet":
        return Sheet([*self.header[:column], name, *self.header[column + 1 :]], self.lines)


def sheet_of(source: Source) -> Sheet | None:
    """The cells of a CSV file or workbook; None: it is neither.

    Raises:
        UserError: it cannot be read, a column is there twice, or there is no line but the first.
    """
    if "sheet" not in source.known:  # several forms look at it
        source.known["sheet"] = _read(source)
    return source.known["sheet"]


def _read(source: Source) -> Sheet | None:
    if source.path.is_dir() or source.xml is not None:
        return None
    if source.json is not None or source.lines is not None:
        return None
    sheet = _of_workbook(source) if is_workbook(source.head) else _of_text(source)
    if twice := next((name for name in sheet.header if name and sheet.header.count(name) > 1), None):
        raise UserError(f"{source.path} has two columns '{twice}': join them, or rename one")
    if not sheet.lines:
        raise UserError(
            f"{source.path} lists no image: its first line is image,tags, then a line an image"
        )
    return sheet


def _of_workbook(source: Source) -> Sheet:
    return _sheet(source, read_workbook(source))


def _of_text(source: Source) -> Sheet:
    text = source.text or ""
    # the first line with which Excel is told, and tells, what is between columns
    told = re.match(r"\s*\"?sep *= *([^\w\s]|\t)\"?[^\w\n]*(?:\n|$)", text, re.IGNORECASE)
    skipped = text[: told.end()].count("\n") if told else 0
    text = text[told.end() :] if told else text
    found: list[Line] = []
    end = skipped
    header: list[str] | None = None
    try:
        reader = csv.reader(io.StringIO(text), skipinitialspace=True, delimiter=_comma(text, told))
        for cells in reader:
            if header is None and any(map(clean, cells)):
                header = [_column(name) for name in cells]
            elif header is not None:
                names = header + [""] * (len(cells) - len(header))
                for name, cell in zip(names, cells, strict=False):
                    # a long list is printed on several lines
                    named = name in ("", *KNOWN) or name.casefold() in IMAGES
                    if "\n" in cell and named and cell.strip()[-1:] != "]":
                        raise csv.Error("line breaks between quotes")
            end = reader.line_num + skipped
            found.append(Line(end, cells))
    except csv.Error as error:
        raise UserError(
            f"{source.path} line {end + 1} cannot be read ({error}): a quote there is not closed, "
            "close it"
        ) from error
    if header and "image" in header:  # of our own form, which `wsss init` writes
        found = [Line(number, [*map(as_meant, cells)]) for number, cells in found]
    return _sheet(source, found)


def _sheet(source: Source, rows: list[Line]) -> Sheet:
    # rows of separators alone: spreadsheets leave them
    rows = [row for row in rows if any(map(clean, row.cells))]
    header = [_column(name) for name in rows[0].cells] if rows else []
    for name in filter(hidden, rows[0].cells if rows else ()):
        source.note(HIDDEN, f"line {rows[0].number}", name)
    for _, cells in rows[1:]:
        cells += [""] * (len(header) - len(cells))
    return Sheet(header, rows[1:])


def _comma(text: str, told: re.Match | None) -> str:
    """What is between columns: by what the first line falls into columns of which one is the image."""
    # csv.Sniffer takes the signs in printed lists for it
    first = next((line for line in text.splitlines() if clean(line)), "")
    # spreadsheets of many languages write ; between columns, or a tab
    signs = [*([told[1]] if told else []), ",", ";", "\t"]
    for sign in signs:
        cells = next(csv.reader([first], skipinitialspace=True, delimiter=sign), [])
        if {_column(cell).casefold() for cell in cells} & {*IMAGES}:
            return sign
    return next((sign for sign in signs if sign in first), ",")


def _column(name: str) -> str:
    """A column's name; `Image`, `TAGS ` and the like are the known ones."""
    name = clean(name)
    if re.fullmatch(r"Unnamed: \d+(_level_\d+)?", name):
        return ""
    return name.lower() if name.lower() in KNOWN else name


def rows_of(source: Source, sheet: Sheet, spaces: bool = True) -> Rows:
    """The rows of a table whose columns are called as in our own form.

    Args:
        source: the table.
        sheet: its cells.
        spaces: in tags without another separator every word is one.
    """
    header, lines = sheet.header, sheet.lines
    named = {name: column for column, name in enumerate(header) if name}
    classes = [name for name in named if name not in KNOWN]
    odd = ((name, no_mark([cells[named[name]] for _, cells in lines])) for name in classes)
    name, text = next(((name, text) for name, text in odd if text is not None), (None, None))
    if "image" not in named or not ("tags" in named or (classes and name is None)):
        lacking = "tags" if "image" in named else "image"
        where = f", and {shown(text)} in its column '{name}'" if name and lacking == "tags" else ""
        raise UserError(
            f"{source.path} has no column '{lacking}' (it has {', '.join(header)}{where}): "
            "its first line must be image,tags, or image and one column of 0 and 1 (or TRUE and FALSE, "
            "yes and no, x) for each class"
        )
    for name in classes if "tags" in named and "split" not in named else ():
        words = {clean(cells[named[name]]).casefold() for _, cells in lines} - {""}
        if words and words <= SPLITS.keys():
            source.note("columns that seem to be the split, not used (call it 'split')", f"'{name}'")
    read = _tags_of_columns if "tags" not in named else _tags_of_cells
    rows = []
    for (number, cells), (its, looked_for) in zip(lines, read(source, sheet, spaces), strict=True):
        place = f"line {number}"
        split = source.split(cells[named["split"]], place) if "split" in named else None
        rows.append((place, source.row(cells[named["image"]], its, place, split, looked_for)))
    return rows


Found = list[tuple[list[str], list[str] | None]]
"""The tags of each line, and what was looked for; None: all classes."""


def _tags_of_columns(source: Source, sheet: Sheet, spaces: bool) -> Found:
    """From one column of marks for each class."""
    header = sheet.header
    columns = [(c, name) for c, name in enumerate(header) if name not in ("", *KNOWN)]
    found: Found = []
    for number, cells in sheet.lines:
        if any(map(clean, cells[len(header) :])):
            raise UserError(
                f"{source.path} line {number} has more cells than its first line has columns: "
                "correct it"
            )
        for column, name in enumerate(header):
            if not name and clean(cells[column]):
                source.note("columns without a name, passed over", f"column {column + 1}")
        for column, name in columns:
            if missing(clean(cells[column])):
                source.name(cells[column], f"line {number}, column '{name}'")  # which tells it
        asked = [name for column, name in columns if clean(cells[column]) != NOT_LOOKED_FOR]
        tags = [name for column, name in columns if mark(cells[column])]
        found.append((tags, asked if len(asked) < len(columns) else None))
    for column, name in columns:
        if any(denied(cells[column]) for _, cells in sheet.lines):
            for number, cells in sheet.lines:
                if not clean(cells[column]):
                    kind = f"empty beside 0 and 1, read as 0 ({NOT_LOOKED_FOR}: nobody looked)"
                    source.note(kind, f"line {number}, column '{name}'")
    return found


def _tags_of_cells(source: Source, sheet: Sheet, spaces: bool) -> Found:
    """From a column of tags and, where they were not quoted, from what follows.

    Spreadsheets give the cells that follow a column of their own, without a name.
    """
    header, lines = sheet.header, sheet.lines
    column = header.index("tags")
    further = [c for c in range(column + 1, len(header)) if not header[c]]
    tags: list[list[str] | None] = []
    texts = []
    for number, cells in lines:
        its = [cells[column], *(cells[c] for c in further), *cells[len(header) :]]
        while len(its) > 1 and not clean(its[-1]):
            its.pop()
        texts.append(its)
        tags.append(source.items(",".join(its), f"line {number}"))
    plain = [its for its, read in zip(texts, tags, strict=True) if read is None]
    asked_for = header.index("looked_for") if "looked_for" in header else None
    asked = [(number, cells[asked_for]) for number, cells in lines] if asked_for is not None else []
    joined = "".join(text for its in (*plain, (text for _, text in asked)) for text in its)
    longer = any(len(cells) > len(header) for _, cells in lines) or any(len(its) > 1 for its in plain)
    separator = r"[|;,]" if longer or not spaces or re.search(r"[|;,]", joined) else r"\s"
    read_tags = [
        [name for text in its for name in re.split(separator, text)] if read is None else read
        for its, read in zip(texts, tags, strict=True)
    ]
    if asked_for is None:
        return [(its, None) for its in read_tags]
    names = [
        (source.items(text, f"line {number}") or re.split(separator, text)) if clean(text) else None
        for number, text in asked
    ]
    return [*zip(read_tags, names, strict=True)]
