"""Files by name: photographs as other tools call them, masks in a folder."""

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from wsss.data.images import image_size, look_through
from wsss.data.masks import masks_in
from wsss.data.names import Renamed, as_files, composed, in_label_studio, inside, is_copy_of_roboflow
from wsss.data.photographs import find_photographs
from wsss.errors import UserError, notice


class Photos:
    """The photographs, looked up by the names that another tool gives them."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder, self.source, self.files = folder, source, photo_files(folder)
        self.renamed = Renamed(self.files)
        self.copies: dict[str, str] = {}

    def find(self, name: str, suffix: bool = True) -> tuple[str, tuple[int, int]]:
        """Our name and (height, width) of the photograph `name`.

        Folders before it are passed over where only one photograph fits: `photos/day 1/a` is
        `day 1/a`, and so is `a`.
        """
        if "\0" in name:
            raise UserError(f"{self.source} names a photograph {name!r}: correct the name")
        name = in_label_studio(name)
        given = PurePosixPath(name.replace("\\", "/"))
        written = (given.with_suffix("") if suffix and given.suffix else given).as_posix()
        alike = self.renamed.meant(written)
        if alike is None:
            inside(self.folder, str(given), self.source)
            alike = self.renamed.ending(written)
        last = PurePosixPath(composed(written)).name
        copied = len(alike) == 1 and composed(PurePosixPath(alike[0]).name) != last
        if copied and is_copy_of_roboflow(last) and self.copies.setdefault(alike[0], last) != last:
            raise UserError(
                f"{self.source} has two pictures of the photograph '{alike[0]}', "
                f"'{self.copies[alike[0]]}' and '{last}': export a version without augmentation"
            )
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
