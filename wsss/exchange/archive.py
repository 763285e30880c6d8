"""Archives that users were given, unpacked without trust."""

import shutil
import stat
import zipfile
from collections.abc import Collection
from pathlib import Path

from wsss.errors import UserError
from wsss.exchange.classes import LISTS

UNPACKED = 8 * 2**30
"""Bytes that an archive may grow to; more is taken for a decompression bomb."""

MEMBERS = 200_000
"""Files that are taken out of one archive."""

ANNOTATIONS = {".json", ".txt", ".png", *(Path(name).suffix for name in LISTS)}
"""Suffixes of what is taken out of an archive of masks."""


def unpack(path: Path, folder: Path, suffixes: Collection[str] = ANNOTATIONS) -> int:
    """Take files out of a .zip file; returns how many.

    Args:
        path: the archive.
        folder: where they go.
        suffixes: of what is taken out, in small letters; the rest stays there.

    Raises:
        UserError: it cannot be unpacked, a member leads out of it, it has too many, or it grows too
            large.
    """
    taken = 0
    try:
        with zipfile.ZipFile(path) as archive:
            size = 0
            for member in archive.infolist():
                target = (folder / _member_name(member).replace("\\", "/")).resolve()
                linked = stat.S_ISLNK(member.external_attr >> 16)
                if not target.is_relative_to(folder.resolve()) or linked:
                    raise UserError(f"{path} has the member '{member.filename}', which leads out of it")
                if member.is_dir() or target.suffix.lower() not in suffixes:
                    continue
                taken += 1
                if taken > MEMBERS:
                    raise UserError(f"{path} is refused: it has more than {MEMBERS} files")
                size += member.file_size  # zipfile gives no more than this, whatever is packed
                if size > UNPACKED:
                    raise UserError(f"{path} is refused: unpacked it is above {UNPACKED >> 30} GiB")
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} cannot be unpacked ({error}): pack it again") from error
    return taken


def _member_name(member: zipfile.ZipInfo) -> str:
    """Its name; many packers write UTF-8 and do not say so."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode()
    except UnicodeError:
        return member.filename
