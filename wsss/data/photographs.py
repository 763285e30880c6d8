"""The photographs that a user names: files, and folders of them."""

from pathlib import Path

from wsss.data.images import FOREIGN_SUFFIXES, image_files
from wsss.errors import UserError, notice


def find_photographs(
    photographs: list[Path], out: Path | None = None, skip_twins: bool = False
) -> dict[str, Path]:
    """Name of the result (no suffix, relative) -> file.

    Hidden files, results of wsss, and a data set's own masks in its folder `masks` do not count.

    Raises:
        UserError: there is no photograph, or two would have the same result, unless `skip_twins` leaves
            both out.
    """
    results = [(out / name).resolve() for name in ("masks", "overlays")] if out else []

    found: dict[str, Path] = {}
    twins: dict[str, Path] = {}
    for given in photographs:
        if given.is_dir():
            paths = [
                path
                for path in image_files(given)
                if not any(path.resolve().is_relative_to(made) for made in results)
            ]
            masks = [path for path in paths if path.is_relative_to(given / "masks")]
            if masks:
                notice(f"passed over: {given / 'masks'} ({len(masks)} files), taken for masks")
            paths = [path for path in paths if not path.is_relative_to(given / "masks")]
            paths = _without_raw(paths, given)
            pairs = [(p.relative_to(given).with_suffix("").as_posix(), p) for p in paths]
        elif given.is_file():
            pairs = [(given.stem, given)]
        else:
            raise UserError(f"there is no photograph or folder {given}")
        for name, path in pairs:
            if name in found and not skip_twins:
                raise UserError(
                    f"{found[name]} and {path} would both be written as '{name}.png': "
                    "rename one or predict them into two folders"
                )
            if name in found:
                twins[name] = path
            found.setdefault(name, path)
    for name, path in twins.items():
        notice(f"passed over: {found.pop(name)} and {path}, which share the name of a mask: rename one")
    if not found:
        raise UserError(f"there is no photograph in {', '.join(map(str, photographs))}")
    return found


def _without_raw(paths: list[Path], folder: Path) -> list[Path]:
    """The photographs without a camera's raw files (or others not read) that lie beside a copy."""
    read = {path.with_suffix("") for path in paths if path.suffix.lower() not in FOREIGN_SUFFIXES}
    extra = {p for p in paths if p.suffix.lower() in FOREIGN_SUFFIXES and p.with_suffix("") in read}
    if extra:
        notice(
            f"passed over: {len(extra)} files in {folder} that are not read and have a photograph of "
            f"the same name beside them (first: {min(extra).name})"
        )
    return [path for path in paths if path not in extra]


def photographs_in(folder: Path) -> list[Path]:
    """Image files in a folder and its sub-folders, but for the folder `masks`."""
    return [path for path in image_files(folder) if path.relative_to(folder).parts[0] != "masks"]
