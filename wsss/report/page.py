"""The report of a run: one HTML file with its pictures inside, which needs no network."""

import base64
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
    write_text(run.report, _template().render(content, rows=rows))
    return run.report


def report_is_current(run: RunFolder) -> bool:
    """Whether the report of a finished run is newer than all that it tells of."""
    made, told = ([p.stat().st_mtime_ns for p in paths if p.is_file()]
                  for paths in ((run.report, run.overview), run.notes))  # fmt: skip
    return len(made) == 2 and min(made) >= max(told, default=0)


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
