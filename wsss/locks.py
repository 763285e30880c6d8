"""One process at a time in a folder of results."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from wsss.distributed import first
from wsss.errors import UserError
from wsss.files import write_text

LOCK, HOLDER = ".wsss.lock", ".wsss.holder"
"""Files in the folder: what is locked, and who holds it."""

_held: set[Path] = set()


@contextmanager
def locked(folder: str | Path, what: str) -> Iterator[None]:
    """Keep other processes of wsss out of a folder, and of those in and around it that have a lock.

    The system releases the lock when the process ends, however it ends. A process may enter a folder
    again that it holds, or one inside. Of several processes at one work the first holds it for all.

    Args:
        folder: is made where it is missing.
        what: what is done in it, for whom it keeps out.

    Raises:
        UserError: another process is at work there; it is named.
    """
    with ExitStack() as stack:
        first(lambda: stack.enter_context(_locked(Path(folder).resolve(), what)))
        yield


@contextmanager
def _locked(folder: Path, what: str) -> Iterator[None]:
    if not _held.isdisjoint([folder, *folder.parents]):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    around = [place for place in folder.parents if (place / LOCK).is_file()]
    inside = [path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{LOCK}")]
    with ExitStack() as stack:
        for place in [*around, folder, *inside]:
            stack.enter_context(_hold(place, what, keep=place == folder))
        yield


@contextmanager
def _hold(folder: Path, what: str, keep: bool) -> Iterator[None]:
    """Hold one folder's lock, or, unless `keep`, see that nobody does."""
    lock, new = FileLock(folder / LOCK), not (folder / LOCK).exists()
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder} is in use by {_holder(folder)}: wait until it has ended, or end it, or give "
            "another folder for the results"
        ) from None
    except OSError:  # a file system without locks, or one that is only read
        yield
        return
    if not keep:
        lock.release()
        yield
        return
    host = socket.gethostname()
    note = {
        "process": os.getpid(),
        "host": host,
        "since": time.strftime("%Y-%m-%d %H:%M"),
        "what": what,
    }
    write_text(folder / HOLDER, json.dumps(note) + "\n")
    _held.add(folder)
    try:
        yield
    except UserError:
        if new:  # nothing was begun: the folder is left as it was
            (folder / LOCK).unlink(missing_ok=True)
        raise
    finally:
        _held.discard(folder)
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    try:
        note = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"{note['what']} (process {note['process']} on {note['host']}, since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process of wsss"


def holding(folder: Path) -> int | None:
    """The process of this machine that has noted that it holds a folder; None: none has."""
    try:
        note = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return int(note["process"]) if note["host"] == socket.gethostname() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def require_unlocked(folder: Path) -> None:
    """See that nobody is at work in a folder.

    Raises:
        UserError: a process is; it is named.
    """
    if (folder / HOLDER).is_file():  # there while somebody holds it, or left by one that was killed
        with _hold(folder, "", keep=False):
            pass
