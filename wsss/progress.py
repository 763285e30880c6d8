"""Progress of long work: a bar on a terminal, a line a minute in a log file or in CI."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from wsss.distributed import is_first

MINUTE = 60.0
"""Seconds between two lines of a log, where the environment variable `OFTEN` does not say."""

OFTEN = "WSSS_LOG_SECONDS"
"""Names the variable by which whoever starts wsss and reads its lines asks for more of them."""

_LINE = "{desc}: {n_fmt} of {total_fmt} ({percentage:.0f} %) in {elapsed}, {remaining} left, "


class _Lines:
    """What tqdm redraws in place, written line below line."""

    encoding = "utf-8"

    def write(self, text: str) -> None:
        text = " ".join(text.replace("\x1b[A", "").split())
        if ", ? left" in text:  # the start: nothing is known of the speed
            text = text.partition(" (")[0]
        if text:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def flush(self) -> None:
        pass


def on_terminal() -> bool:
    """Whether somebody watches: standard error is a terminal, and not that of a CI machine."""
    try:
        seen = os.get_terminal_size(sys.stderr.fileno()).columns > 0  # some are nobody's window
    except (OSError, ValueError):
        seen = True
    return seen and sys.stderr.isatty() and not os.environ.get("CI")


def _between_lines() -> float:
    given = os.environ.get(OFTEN, "")
    return float(given) if given.isdecimal() else MINUTE


def progress(
    items: Iterable | None = None,
    what: str = "",
    unit: str = "images",
    total: int | None = None,
    brief: bool = False,
    **more: Any,
) -> tqdm:
    """Show how far a long work is: what it does, how fast, how much is left, the numbers so far.

    Args:
        items: what is worked through; None: the caller calls `update()` and `close()`.
        what: what is being done.
        unit: what is counted, in the plural.
        total: how many there are, where `items` does not tell.
        brief: say nothing of work that is done within seconds (in a log file: within a minute).
        more: for tqdm.

    Returns:
        A tqdm bar; give its numbers by `set_postfix(..., refresh=False)`.
    """
    how = {"desc": what, "unit": f" {unit}", "total": total, "disable": not is_first()} | more
    if on_terminal():
        how |= {"dynamic_ncols": True, "delay": 2.0 if brief else 0.0}
    else:
        seconds = _between_lines()
        how |= {
            "file": _Lines(),
            "bar_format": _LINE + "{rate_noinv_fmt}{postfix}",
            "mininterval": seconds,
            "maxinterval": seconds,
            "miniters": 1,
            "leave": True,
            "delay": 1e-3 if brief else 0.0,  # nothing at the start, nor at the end of a short one
        }
    return tqdm(items, **how)
