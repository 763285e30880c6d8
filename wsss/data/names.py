"""Names that tables and lists give, and the files that they mean."""

import os
import posixpath
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from wsss.errors import UserError


def leads_out(root: Path, name: str) -> bool:
    """Whether a name that a table gives leads out of a folder: by `..`, or as it is absolute.

    Links are the folder's own: who put them there wants them followed.
    """
    if not _can_be(name):
        return True
    if Path(name).is_absolute():
        return not (root / name).resolve().is_relative_to(root.resolve())
    # the place of `..` behind a link is known to the system only
    above = root / name if Path(name).name == ".." else (root / name).parent
    return ".." in Path(name).parts and not above.resolve().is_relative_to(root.resolve())


def _can_be(name: str) -> bool:
    """Whether a file can be called so: without the character of code 0 and half characters."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def inside(root: Path, name: str, source: Path) -> Path:
    """`root / name`, refused when it leads out of `root`, is absolute, or is no file's name."""
    if not _can_be(name):
        raise UserError(f"{source} names {name!r}, which no file can be called: correct the name")
    if leads_out(root, name):
        raise UserError(f"{source} names '{name}', which lies outside {root}: correct the name")
    if Path(name).is_absolute():  # joined with another folder it would lead into this one
        raise UserError(f"{source} names '{name}': give the name relative to {root}")
    return root / name


def as_written(folder: Path, name: str) -> Path:
    """`folder / name`, or the file there that differs in how accents are written or in `.PNG` only."""
    path = folder / name
    if os.path.exists(path):
        return path
    place = folder
    for part in PurePosixPath(name).parts:
        # a Mac writes "é" in file names as two characters, most other systems as one
        accents = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        stems = ((form, *os.path.splitext(form)) for form in accents)
        forms = [one for form, stem, suffix in stems for one in (form, stem + suffix.upper())]
        # os.path: a name that the other form makes too long is not there, either
        place = next((place / form for form in forms if os.path.exists(place / form)), place / part)
    return place if os.path.isfile(place) else path


class Files:
    """The files of a folder by name, listed once, and so is each of its sub-folders, when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.there = folder, folder.is_dir()
        self.listed: dict[str, set[str]] = {}

    def find(self, name: str) -> Path | None:
        """What `as_written` finds; None: there is no such file. The name does not lead out."""
        if not self.there:
            return None
        place, _, last = name.rpartition("/")
        if place not in self.listed:
            try:
                with os.scandir(self.folder / place) as entries:
                    self.listed[place] = {entry.name for entry in entries if entry.is_file()}
            except (OSError, ValueError):  # the latter of what no file can be called
                self.listed[place] = set()
        path = self.folder / name
        if last not in self.listed[place]:
            path = as_written(self.folder, name)
        return path if last in self.listed[place] or os.path.isfile(path) else None


def as_files(names: Iterable[str], files: Collection[str]) -> dict[str, str]:
    """Names -> the same as the files have them: without `./`, and with their way to write accents."""
    # a Mac writes "é" in file names as two characters, most tables as one
    composed = {unicodedata.normalize("NFC", name): name for name in files}
    known, found = set(files), {}
    for name in names:
        plain = posixpath.normpath(name)
        if plain not in known:
            plain = composed.get(unicodedata.normalize("NFC", plain), plain)
        found[name] = plain
    return found
