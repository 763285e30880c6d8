"""Pictures opened with PIL and turned upright, as viewers do, whatever is broken beside the pixels."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

_ORIENTATION = 0x0112

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(path: Path) -> Image.Image:
    """`Image.open`, also for a JPEG whose list of further pictures (MPF) is broken."""
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        content = path.read_bytes()
        if not content.startswith(b"\xff\xd8") or b"MPF\0" not in content:
            raise
        return Image.open(io.BytesIO(content.replace(b"MPF\0", b"----", 1)))
    if image.format == "TIFF":
        image.filename = ""  # with a name PIL maps it to memory, with sides exchanged if it is turned
    return image


def orientation(image: Image.Image) -> int | None:
    """How an image is to be turned, 1 to 8 as EXIF has it; None: its EXIF cannot be read.

    1 where nothing tells, and for a TIFF that is loaded, which PIL itself has turned.
    """
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # of many kinds: what is in there may be anything
        value = None
    if value is None and "exif" in image.info:
        try:
            value = _orientation_in(image.info["exif"])
        except struct.error:
            return None
    return value if value in _TURNS else 1


def orientation_of(path: Path) -> int:
    """How EXIF turns a photograph, 1 (not at all) to 8."""
    with open_image(path) as image:
        return orientation(image) or 1


def _orientation_in(exif: bytes) -> int | None:
    """Entry by entry: PIL leaves out all behind one that is broken."""
    content = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        raise struct.error("no byte order")
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    for index in range(count):
        entry = struct.unpack_from(f"{order}HHIH", content, start + 2 + 12 * index)
        if entry[:3] == (_ORIENTATION, 3, 1):
            return entry[3]
    return None


def load_upright(image: Image.Image) -> Image.Image:
    """The decoded image, turned."""
    try:
        image.load()
    except Exception as error:
        if image.tile or isinstance(error, OSError):
            raise
        # the pixels are there, and what is broken came after them
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def turned(pixels: np.ndarray, how: int | None) -> np.ndarray:
    """Pixels (H, W, ...) with an orientation of 1 to 8, turned upright."""
    if how in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if how in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if how in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an image that is opened, not loaded, once it is turned."""
    width, height = image.size
    if hasattr(image, "tag_v2"):  # some versions of PIL have exchanged them in `size`, others not
        width, height = image.tag_v2[256], image.tag_v2[257]
    return (width, height) if orientation(image) in (5, 6, 7, 8) else (height, width)
