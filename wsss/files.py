"""Files that are whole or not there, text and notes in JSON, and what tells a file from another."""

import codecs
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsss.errors import UserError


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary_path)`, then move the file to `path`: it is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # without the file's own name, which may fill what file systems allow
    aside = path.with_name(f".{os.getpid():x}-{secrets.token_hex(4)}.part")
    try:
        write(aside)
        os.replace(aside, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk tells no name
        raise
    finally:
        aside.unlink(missing_ok=True)


_ASIDE = re.compile(r"\.[0-9a-f]+-[0-9a-f]*\.part")


def old_name(path: Path) -> Path:
    """The first free name, `<path>.old1` and so on, for what is moved aside."""
    number = 1
    while (aside := path.with_name(f"{path.name}.old{number}")).exists():
        number += 1
    return aside


def sweep(folder: Path) -> None:
    """Remove what processes that were killed have written half; nobody else may write there."""
    for path in folder.rglob(".*-*.part"):
        if _ASIDE.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, atomically."""
    write_atomic(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def read_text(path: Path) -> str:
    """The text of a file that a user made: UTF-8, or UTF-16 as Excel and Windows write it.

    Byte-order marks are dropped where they begin a line, as joining files leaves them; lines end with
    "\\n".

    Raises:
        UserError: it is no such text.
    """
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8")
        if (zero := text.find("\0")) >= 0:
            line = text[:zero].count("\n") + 1
            raise ValueError(f"line {line}: it has a character of code 0")
    except ValueError as error:  # UnicodeDecodeError is one, too
        told = str(error)
        if isinstance(error, UnicodeDecodeError):
            before = content[: error.start].decode("utf-16" if wide else "utf-8", "ignore")
            told = f"line {before.count(chr(10)) + 1}: {error.reason}"
        raise UserError(f"{path} is not UTF-8 text ({told}): save it as UTF-8") from error
    return re.sub("^\ufeff+", "", text.replace("\r\n", "\n").replace("\r", "\n"), flags=re.MULTILINE)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that a user made."""
    return read_text(path).splitlines()


def write_json(path: Path, content: Any) -> None:
    """Write what JSON can hold, atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def damaged(path: Path, why: object) -> UserError:
    """What to say of a file of wsss's own that cannot be used."""
    return UserError(f"{path} is damaged ({why}): remove it, and run the command again that wrote it")


def read_json(path: Path, schema: Any = Any) -> Any:
    """What a file of wsss's own holds.

    Args:
        path: the file.
        schema: what it must hold (`wsss.schema`).

    Raises:
        UserError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    # UnicodeDecodeError is a ValueError, too; what is nested too deeply is none
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    if schema is not Any:
        from wsss.schema import fault  # what it imports takes a while

        if words := fault(content, schema):
            raise damaged(path, words)
    return content


def file_stamp(path: Path) -> str:
    """What tells a file from another: its size, and a hash of its first and last 64 KiB.

    Not its date, which changes when data are copied or unpacked anew; not all of it, which would take
    minutes on a large data set (PNG and checkpoint files end with check sums of their content).
    """
    span = 2**16
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(span))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - span))
        digest.update(file.read())
    return f"{size}:{digest.hexdigest()[:16]}"
