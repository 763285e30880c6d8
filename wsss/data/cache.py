"""What was found in files once, kept so that a data set of 100,000 images is not read at every start.

It lies in the user's cache folder (`$XDG_CACHE_HOME/wsss`, else `~/.cache/wsss` or where the system has
such folders), never beside the data, and may be removed at any time.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from wsss.files import write_text

SETTLED = 2.0
"""Seconds: a file that was changed later than that before it is read could be changed again within the
same tick of the file system's clock, which its time would not show."""

KEEP = 300.0
"""Seconds after which what was found so far is kept."""

Find = Callable[[Sequence[Path]], Iterable[Any]]
"""Files -> what is found in each, in their order, in a form that JSON keeps as it is."""


def cache_folder() -> Path:
    """The user's cache folder of wsss; it need not be there."""
    return user_cache_path("wsss", appauthor=False)


def remembered(kind: str, paths: Sequence[Path], find: Find) -> list[Any]:
    """What `find` finds in each file, from the cache while the file's size and times stay as they are.

    What it has found is kept, too, when it raises or is broken off, and every few minutes. A cache that
    is damaged or cannot be written is one that is not there. Several processes may be at it.

    Args:
        kind: what is found: to be renamed where its form or meaning changes.
        paths: the files; one that is not there is left to `find`, and not kept.
        find: gets the files of which nothing is known.
    """
    now = time.time_ns() - SETTLED * 1e9
    places = [os.path.split(path) for path in paths]
    books = {folder: _Book(kind, folder) for folder in {folder for folder, _ in places}}
    stamps = [_stamp(path) for path in paths]
    values = [
        books[folder].known(name, stamp) for (folder, name), stamp in zip(places, stamps, strict=True)
    ]
    new = [number for number, value in enumerate(values) if value is _Book]
    kept = time.monotonic()
    try:
        for number, value in zip(new, find([paths[number] for number in new]), strict=True):
            values[number] = value
            if time.monotonic() - kept > KEEP:
                for book in books.values():
                    book.save()
                kept = time.monotonic()
            (folder, name), stamp = places[number], stamps[number]
            if stamp and max(stamp[1:]) < now:
                books[folder].fresh[name] = [*stamp, value]
    finally:
        for book in books.values():
            book.save()
    return values


def _stamp(path: Path) -> list[int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    # the second time changes whenever a file is written or replaced, even with the first one kept
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


class _Book:
    """What is known of the files of one folder: name -> size, times, value."""

    def __init__(self, kind: str, folder: str) -> None:
        place = hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:24]
        self.path = cache_folder() / f"{kind}-{place}.json"
        self.entries, self.fresh = self._read(), {}

    def _read(self) -> dict[str, list]:
        try:
            digest, _, text = self.path.read_bytes().partition(b"\n")
            whole = digest.decode() == hashlib.sha256(text).hexdigest()
            return json.loads(text) if whole else {}
        except (OSError, ValueError):
            return {}

    def known(self, name: str, stamp: list[int] | None) -> Any:
        """The value of a file; the class itself where there is none."""
        entry = self.entries.get(name)
        return entry[3] if entry and entry[:3] == stamp else _Book

    def save(self) -> None:
        if not self.fresh:
            return
        # another process may have written meanwhile
        text = json.dumps(self._read() | self.fresh, separators=(",", ":"))
        with suppress(OSError):  # a home that is read only or full
            write_text(self.path, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
