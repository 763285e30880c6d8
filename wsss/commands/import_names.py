"""What the readers of other tools' files share: photographs and classes by name, marks turned."""

import re
import unicodedata
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from wsss.commands.class_lists import BACKGROUND, IGNORED
from wsss.commands.export import VOID_NAME, photo_files
from wsss.data.cells import clean
from wsss.errors import UserError

Masks = Iterator[tuple[str, "np.ndarray | None"]]  # noqa: F821  (numpy comes with the command)
"""Name of a photograph -> its mask (H, W) uint8, None if nothing is marked in it."""

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
        from wsss.data.catalog import inside
        from wsss.data.images import image_size

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


def label_of(name: str, labels: dict[str, int], source: Path) -> int:
    name = clean(name)
    if name.lower() in BACKGROUND:
        return 0
    if name == IGNORED:
        return labels[VOID_NAME]
    if name not in labels:
        known = ", ".join(list(labels)[:8])
        raise UserError(
            f"{source} has the class '{name}', which is not among ours ({known}): "
            "rename it there, or pass --classes"
        )
    return labels[name]


def shown_in(folder: Path, pattern: str) -> list[Path]:
    """Files and folders of that pattern, in whatever case, without hidden ones and those of systems."""
    from wsss.data.images import look_through

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


def orientation_of(photo: Path) -> int:
    """How EXIF turns a photograph, 1 (not at all) to 8."""
    from wsss.data.upright import open_image, orientation

    with open_image(photo) as image:
        return orientation(image) or 1


def turned(mask, how: int):
    """A mask (H, W) turned as EXIF turns a photograph."""
    from wsss.data import upright

    return upright.turned(mask, how)
