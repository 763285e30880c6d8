"""Tables of CSV that spreadsheets open: a name is never taken for a formula.

A cell that begins with =, +, -, @, a tab or a line break is computed by Excel, LibreOffice and others
(CSV injection, https://owasp.org/www-community/attacks/CSV_Injection). An apostrophe is put before it,
by which they know text. So it is before a name that begins with an apostrophe and one of these signs:
else reading could not tell the two apart.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_MARKED = re.compile(r"'+[=+\-@\t\r\n]")


def as_text(cell: Any) -> Any:
    """A cell as it is written: text that could be a formula with an apostrophe; numbers as they are.

    >>> as_text("=1+1"), as_text("cat"), as_text(-0.5)
    ("'=1+1", 'cat', -0.5)
    """
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def as_meant(cell: str) -> str:
    """A cell as it was before `as_text`."""
    return cell[1:] if _MARKED.match(cell) else cell


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV, each cell `as_text`; lines end with "\\n"."""
    lines = []
    for row in (header, *rows):
        line = io.StringIO()
        # writers before Python 3.13 quote a line break if it is one of these signs
        csv.writer(line, lineterminator="\r\n").writerow(map(as_text, row))
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)
