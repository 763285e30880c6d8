"""The report of a run: one HTML file with its pictures inside, which needs no network."""

import base64
import hashlib
import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from wsss.errors import UserError
from wsss.files import write_text
from wsss.pictures.strip import write_strip
from wsss.report.examples import chain_rows
from wsss.report.judged import judged_masks
from wsss.report.sections import gather
from wsss.run_folder import RunFolder

STRIP_ROWS = 4
"""Rows of `overview.png`, which is to be seen at a glance."""


def write_report(run: RunFolder) -> Path:
    """Write `report.html` and `overview.png` into the folder of a finished run.

    Returns:
        The report's path.

    Raises:
        UserError: the folder holds no finished run, or its photographs are gone.
    """
    run.require_finished()
    final = run.stages.get("refined_masks", run["pseudo_masks"])
    try:
        rows = chain_rows(run)
        content = gather(run, judged_masks(run, final), final)
    except UserError as error:
        raise UserError(f"{run.path} is reported on only with its data in place: {error}") from error
    write_strip(run.overview, rows[:STRIP_ROWS])
    write_text(run.report, _template().render(content, rows=rows, stamp=_stamp(run)))
    return run.report


def report_is_current(run: RunFolder) -> bool:
    """Whether the report of a finished run tells of the notes that are there now."""
    if not (run.report.is_file() and run.overview.is_file()):
        return False
    with run.report.open(encoding="utf-8", errors="replace") as file:
        return f'content="{_stamp(run)}"' in file.read(1000)


def _stamp(run: RunFolder) -> str:
    """Tells what a report is made of from what another one is: dates may be of a clock that jumped."""
    digest = hashlib.sha256()
    for path in run.notes:
        digest.update(path.read_bytes() if path.is_file() else b"")
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"jpeg": _jpeg, "shown": _shown}
    return environment.get_template("template.html.j2")


def _jpeg(picture: np.ndarray, quality: int) -> str:
    """A picture (H, W, 3) uint8 as a data URI."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _shown(value: Any) -> str:
    """A cell of a `Table` in words."""
    if value is None or value != value:  # nan
        return "–"
    if isinstance(value, str | Decimal):
        return str(value)
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:.1f}"
