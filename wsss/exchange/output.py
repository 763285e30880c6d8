"""New files and folders that are whole or not there."""

import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wsss.errors import UserError


@contextmanager
def new_output(out: Path, pack: bool = False) -> Iterator[Path]:
    """A file or folder to write aside; it becomes `out` when all went well, and vanishes if not.

    Args:
        out: where it is to lie; an empty folder may be there.
        pack: a folder becomes a .zip file.

    Raises:
        UserError: `out` is there already: it may hold somebody's corrections.
    """
    if is_taken(out):
        raise UserError(f"{out} is there already: give another --out, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    # not from the name of `out`, which may be as long as a name can be
    aside = out.with_name(f".wsss-{os.getpid()}.part")
    packed = aside.with_name(f"{aside.name}.zip")
    try:
        yield aside
        if pack:
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
                for path in sorted(aside.rglob("*")):
                    if path.is_file():
                        file.write(path, path.relative_to(aside).as_posix())
        os.replace(packed if pack else aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for left in (aside, packed):
            if left.is_file():
                left.unlink()


def is_taken(out: Path) -> bool:
    """Whether there is something else than an empty folder."""
    return out.exists() and not (out.is_dir() and not any(out.iterdir()))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
