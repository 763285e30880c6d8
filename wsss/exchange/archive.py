"""Archives that users were given, unpacked without trust."""

import shutil
import stat
import zipfile
from pathlib import Path

from wsss.errors import UserError
from wsss.exchange.classes import LISTS

UNPACKED = 8 * 2**30
"""Bytes that an archive may grow to; more is taken for a decompression bomb."""

_ANNOTATIONS = {".json", ".txt", ".png", *(Path(name).suffix for name in LISTS)}
"""Suffixes of what is taken out of an archive."""


def unpack(path: Path, folder: Path) -> None:
    """Take the annotations out of a .zip file; photographs in it are left there.

    Raises:
        UserError: it cannot be unpacked, a member leads out of it, or it grows too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = 0
            for member in archive.infolist():
                target = (folder / _member_name(member).replace("\\", "/")).resolve()
                linked = stat.S_ISLNK(member.external_attr >> 16)
                if not target.is_relative_to(folder.resolve()) or linked:
                    raise UserError(f"{path} has the member '{member.filename}', which leads out of it")
                if member.is_dir() or target.suffix.lower() not in _ANNOTATIONS:
                    continue
                size += member.file_size  # zipfile gives no more than this, whatever is packed
                if size > UNPACKED:
                    raise UserError(f"{path} is refused: unpacked it is above {UNPACKED >> 30} GiB")
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} cannot be unpacked ({error}): export it again") from error


def _member_name(member: zipfile.ZipInfo) -> str:
    """Its name; many packers write UTF-8 and do not say so."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode()
    except UnicodeError:
        return member.filename
