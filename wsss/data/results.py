"""Which photograph a picture was made of: noted in the picture itself."""

import hashlib
from pathlib import Path

from PIL import Image

from wsss.errors import UserError
from wsss.files import file_stamp

_NOTE = "wsss result of "


def result_note(photograph: Path) -> str:
    """The comment of a picture made of a photograph."""
    return f"{_NOTE}{_stamp(photograph)}"


def is_result_of(photograph: Path, result: Path) -> bool:
    """Whether a picture is there, and made of a photograph as it is now.

    Raises:
        UserError: it is of another photograph of the same name.
    """
    noted = _noted_in(result)
    if noted is None:
        return False
    stamp = _stamp(photograph)
    (place, content), (its_place, its_content) = stamp.split(), noted.split()
    if content == its_content:
        return True  # perhaps moved
    if place == its_place:
        return False  # changed since
    raise UserError(
        f"{result} is of another photograph of the same name as {photograph}: give another --out"
    )


def _stamp(photograph: Path) -> str:
    """Which photograph a result is of: a hash of its place, and its content's stamp."""
    place = hashlib.sha256(str(photograph.resolve()).encode()).hexdigest()[:16]
    return f"{place} {file_stamp(photograph)}"


def _noted_in(picture: Path) -> str | None:
    """The stamp in a picture's comment, if it is there."""
    try:
        with Image.open(picture) as image:
            comment = image.info.get("comment", "")
    except OSError:  # not there, or no picture
        return None
    comment = comment.decode(errors="replace") if isinstance(comment, bytes) else comment
    return comment.removeprefix(_NOTE) if comment.startswith(_NOTE) else None
