"""Files by name: photographs as other tools call them, masks in a folder."""

import re
import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from wsss.data.images import image_size, look_through
from wsss.data.masks import masks_in
from wsss.data.names import as_files, inside
from wsss.data.photographs import find_photographs
from wsss.errors import UserError, notice

_UPLOADED = re.compile(r"^([0-9a-f]{8}(-|__))+")
"""What Label Studio sets before the name of a file that it was given."""


_ROBOFLOW = re.compile(r"^(?P<name>.+)_[A-Za-z]{3,4}\.rf\.[0-9A-Za-z]{6,}$")
"""A name as Roboflow makes it of `name.jpg`."""


def _as_uploaded(name: str) -> str:
    """A name as Label Studio keeps it: underscores for spaces, no other signs."""
    return re.sub(r"[^-\w.]", "", name.replace(" ", "_"))


def _as_in_roboflow(name: str) -> str:
    """A name as Roboflow keeps it: an underscore for a dot, a dash for what is no letter or digit."""
    return re.sub(r"\W", "-", name.replace(".", "_"), flags=re.ASCII)


def composed(name: str) -> str:
    """The name with each accented letter as one sign; it can be written as two, which look the same."""
    return unicodedata.normalize("NFC", name)


def _ends_alike(name: str, other: str) -> bool:
    """Whether one of two paths is the end of the other: `day 1/a` of `photos/day 1/a`."""
    pairs = zip(reversed(PurePosixPath(name).parts), reversed(PurePosixPath(other).parts), strict=False)
    return all(one == two for one, two in pairs)


class Photos:
    """The photographs, looked up by the names that another tool gives them."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder, self.source, self.files = folder, source, photo_files(folder)
        self.whole: dict[str, list[str]] = {}
        self.last: dict[str, list[str]] = {}
        self.uploaded: dict[str, list[str]] = {}
        self.in_roboflow: dict[str, list[str]] = {}
        self.copies: dict[str, str] = {}
        for name in self.files:
            last = composed(PurePosixPath(name).name)
            self.whole.setdefault(composed(name), []).append(name)
            self.last.setdefault(last, []).append(name)
            self.uploaded.setdefault(_as_uploaded(last), []).append(name)
            self.in_roboflow.setdefault(_as_in_roboflow(last), []).append(name)

    def find(self, name: str, suffix: bool = True) -> tuple[str, tuple[int, int]]:
        """Our name and (height, width) of the photograph `name`.

        Folders before it are passed over where only one photograph fits: `photos/day 1/a` is
        `day 1/a`, and so is `a`.
        """
        if "\0" in name:
            raise UserError(f"{self.source} names a photograph {name!r}: correct the name")
        if name.startswith("/data/") and "?d=" in name:  # Label Studio's address of a local file
            name = unquote(name.partition("?d=")[2])
        given = PurePosixPath(name.replace("\\", "/"))
        written = (given.with_suffix("") if suffix and given.suffix else given).as_posix()
        plain = composed(written)
        last = PurePosixPath(plain).name
        if written in self.files:
            alike = [written]
        elif plain in self.whole:
            alike = self.whole[plain]
        elif last not in self.last and _UPLOADED.match(last):
            alike = self.uploaded.get(_as_uploaded(composed(unquote(_UPLOADED.sub("", last)))), [])
        elif last not in self.last and (copy := _ROBOFLOW.match(last)):
            alike = self.in_roboflow.get(_as_in_roboflow(copy["name"]), [])
            if len(alike) == 1 and self.copies.setdefault(alike[0], last) != last:
                raise UserError(
                    f"{self.source} has two pictures of the photograph '{alike[0]}', "
                    f"'{self.copies[alike[0]]}' and '{last}': export a version without augmentation"
                )
        else:
            inside(self.folder, str(given), self.source)
            alike = [name for name in self.last.get(last, []) if _ends_alike(composed(name), plain)]
        if len(alike) != 1:
            many = f"{len(alike)} are called so" if alike else f"there is none in {self.folder}"
            raise UserError(f"{self.source} names the photograph '{name}', but {many}: check --photos")
        return alike[0], image_size(self.files[alike[0]])


def shown_in(folder: Path, pattern: str) -> list[Path]:
    """Files and folders of that pattern, in whatever case, without hidden ones and those of systems."""
    if not folder.is_dir():
        return []
    return sorted(
        here / name
        for here, folders, files in look_through(folder)
        for name in (*folders, *files)
        if fnmatch(name.lower(), pattern.lower())
    )


def name_in(folder: Path, path: Path) -> str:
    """Name of a file without suffix, relative to the folder."""
    return composed(path.relative_to(folder).with_suffix("").as_posix())


def photo_folder(photos: Path) -> Path:
    """The folder of the images: `photos`, or its JPEGImages where it is a VOC development kit."""
    if not photos.is_dir():
        raise UserError(f"there is no folder {photos}: pass the photographs' folder as --photos")
    return photos / "JPEGImages" if (photos / "JPEGImages").is_dir() else photos


def photo_files(photos: Path) -> dict[str, Path]:
    """Name without suffix, relative to the folder -> photograph."""
    return find_photographs([photos], skip_twins=True)


def mask_files(folder: Path) -> dict[str, Path]:
    """Name without suffix, relative to the folder -> mask."""
    if not folder.is_dir():
        raise UserError(f"there is no folder of masks {folder}")
    masks, others = masks_in(folder)
    if not masks:
        what = f", {others[0].name} is none: save masks as palette PNGs" if others else ""
        raise UserError(f"there is no mask (.png) in {folder}{what}")
    if others:
        notice(
            f"passed over: {len(others)} pictures in {folder} that are no PNG "
            f"(first: {others[0].name}): save masks as palette PNGs"
        )
    found: dict[str, Path] = {}
    for path in masks:
        other = found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
        if other != path:
            raise UserError(f"{other} and {path} differ by the case of .png only: remove one")
    return found


def as_named(files: dict[str, Path], names: Iterable[str]) -> dict[str, Path]:
    """Files under the ones of `names` that differ from theirs in how accents are written only.

    Raises:
        UserError: two files come to have one name.
    """
    written, found = as_files(files, set(names)), {}
    for name, path in files.items():
        other = found.setdefault(written[name], path)
        if other != path:
            raise UserError(f"{other} and {path} have the same name, written in two ways: remove one")
    return found
