"""The cells of an Excel workbook, read by openpyxl (the extra `excel`)."""

import datetime
import warnings
import zipfile
from typing import Any

from wsss.data.cells import clean
from wsss.data.tags.source import Line, Source
from wsss.errors import UserError, install

UNPACKED = 2**30
"""Bytes that a workbook may unpack to; more is taken for a decompression bomb."""

_NEW, _OLD = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"


def is_workbook(head: bytes) -> bool:
    """Whether a file that begins so is a workbook."""
    return head.startswith((_NEW, _OLD))


def read_workbook(source: Source) -> list[Line]:
    """The first sheet that holds anything; others are told.

    Raises:
        UserError: it cannot be read, openpyxl is not there, or a formula has no value.
    """
    path = source.path
    if source.head.startswith(_OLD):
        raise UserError(f"{path} is a workbook of an old Excel: save it as .xlsx or as CSV UTF-8")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if "xl/workbook.xml" not in archive.namelist():
                raise UserError(
                    f"{path} is an archive and no workbook: unpack it, and name the table in it"
                )
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a workbook ({error}): save it again") from error
    if size > UNPACKED:
        raise UserError(f"{path} is refused: unpacked it is above {UNPACKED >> 30} GiB")
    try:
        import openpyxl
    except ImportError:
        raise UserError(
            f"{path} is a workbook of Excel, which openpyxl reads: {install('excel')}, or "
            "save it as CSV UTF-8"
        ) from None
    try:
        with warnings.catch_warnings():  # on extensions of Excel that do not matter here
            warnings.simplefilter("ignore")
            values, formulas = (
                openpyxl.load_workbook(path, read_only=True, data_only=only) for only in (True, False)
            )
            rows = {
                one.title: _rows(one, other, path)
                for one, other in zip(values.worksheets, formulas.worksheets, strict=True)
                if one.sheet_state == "visible"
            }
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} cannot be read as a workbook ({error}): save it again") from error
    filled = [title for title, lines in rows.items() if lines]
    for title in filled[1:]:
        source.note("sheets that are not read (the first one is)", f"'{clean(title)}'")
    return rows[filled[0]] if filled else []


def _rows(values: Any, formulas: Any, path: Any) -> list[Line]:
    lines = []
    for one in (values, formulas):
        one.reset_dimensions()  # what the file says of its size need not be so
    pairs = zip(values.iter_rows(), formulas.iter_rows(), strict=True)
    for number, (cells, written) in enumerate(pairs, start=1):
        for cell, formula in zip(cells, written, strict=True):
            if cell.value is None and formula.value is not None:
                raise UserError(
                    f"{path} line {number}: the value of the formula in {formula.coordinate} is not in "
                    "the file: open and save it in Excel or LibreOffice"
                )
        texts = [_text(cell.value) for cell in cells]
        if any(map(clean, texts)):
            lines.append(Line(number, texts))
    return lines


def _text(value: Any) -> str:
    """A cell's value as Excel writes it into a CSV file."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value)
