"""Names that tables and lists give, and the files that they mean."""

import os
import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from wsss.errors import UserError

_UPLOADED = re.compile(r"^([0-9a-f]{8}(-|__))+")
"""What Label Studio sets before the name of a file that it was given."""

_ROBOFLOW = re.compile(r"^(?P<name>.+)_[A-Za-z]{3,4}\.rf\.[0-9A-Za-z]{6,}$")
"""A name as Roboflow makes it of `name.jpg`."""


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


def relative(name: str, folders: Iterable[Path]) -> str:
    """A name that is absolute and lies in one of the folders, relative to it; others as they are."""
    for folder in folders if os.path.isabs(name) else ():
        if Path(name).is_relative_to(folder):
            return Path(name).relative_to(folder).as_posix()
    return name


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


def composed(name: str) -> str:
    """The name with each accented letter as one sign; it can be written as two, which look the same."""
    return unicodedata.normalize("NFC", name)


class Renamed:
    """Photographs, looked up by the names that other tools give them; no name has its suffix."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)
        self.whole: dict[str, list[str]] = {}
        self.last: dict[str, list[str]] = {}
        self.uploaded: dict[str, list[str]] = {}
        self.in_roboflow: dict[str, list[str]] = {}
        for name in self.names:
            last = composed(PurePosixPath(name).name)
            self.whole.setdefault(composed(name), []).append(name)
            self.last.setdefault(last, []).append(name)
            self.uploaded.setdefault(_as_uploaded(last), []).append(name)
            self.in_roboflow.setdefault(_as_in_roboflow(last), []).append(name)

    def meant(self, name: str) -> list[str] | None:
        """The photographs that a name means, as it is or as a tool makes it; None: it may be a part."""
        plain = composed(name)
        last = PurePosixPath(plain).name
        if name in self.names:
            return [name]
        if plain in self.whole:
            return self.whole[plain]
        if last not in self.last and _UPLOADED.match(last):
            return self.uploaded.get(_as_uploaded(composed(unquote(_UPLOADED.sub("", last)))), [])
        if last not in self.last and (copy := _ROBOFLOW.match(last)):
            return self.in_roboflow.get(_as_in_roboflow(copy["name"]), [])
        return None

    def ending(self, name: str) -> list[str]:
        """Those of which one is the end of the other: `day 1/a` of `photos/day 1/a`."""
        plain = composed(name)
        alike = self.last.get(PurePosixPath(plain).name, [])
        return [one for one in alike if _ends_alike(composed(one), plain)]


def is_copy_of_roboflow(last: str) -> bool:
    """Whether a photograph's last name is as Roboflow makes them."""
    return _ROBOFLOW.match(last) is not None


def _as_uploaded(name: str) -> str:
    """A name as Label Studio keeps it: underscores for spaces, no other signs."""
    return re.sub(r"[^-\w.]", "", name.replace(" ", "_"))


def _as_in_roboflow(name: str) -> str:
    """A name as Roboflow keeps it: an underscore for a dot, a dash for what is no letter or digit."""
    return re.sub(r"\W", "-", name.replace(".", "_"), flags=re.ASCII)


def _ends_alike(name: str, other: str) -> bool:
    """Whether one of two paths is the end of the other: `day 1/a` of `photos/day 1/a`."""
    pairs = zip(reversed(PurePosixPath(name).parts), reversed(PurePosixPath(other).parts), strict=False)
    return all(one == two for one, two in pairs)


def in_label_studio(name: str) -> str:
    """What Label Studio's address of a local file names; other names as they are."""
    return unquote(name.partition("?d=")[2]) if name.startswith("/data/") and "?d=" in name else name
