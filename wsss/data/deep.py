"""Photographs with more than 8 bits a channel: their values, and which value is white.

Cameras of 10, 12 or 14 bits save their values in files of 16 bits, most of which do not tell how many
are in use. One white then holds for a whole data set: were each picture scaled by its own brightest
pixel, the darkest would be shown as bright as the others, and were all scaled by what 16 bits can hold,
those of 12 bits would be nearly black.
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from wsss.data.upright import load_upright, orientation, turned

_MAX_SAMPLE_VALUE, _BITS_PER_SAMPLE = 281, 258  # of TIFF

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Deep(NamedTuple):
    """A photograph of more than 8 bits, upright.

    Attributes:
        values: (H, W) or (H, W, 3 or 4) uint16, as the file has them; the fourth channel is alpha.
        white: the largest value that the file declares; None: it tells nothing.
    """

    values: np.ndarray
    white: int | None

    @property
    def brightest(self) -> int:
        """The largest value, but for alpha's."""
        return int(self.values[..., :3].max() if self.values.ndim == 3 else self.values.max())


def is_deep(image: Image.Image) -> bool:
    """Whether an image that is opened, not loaded, has integers of more than 8 bits."""
    raw = " ".join(str(tile[3]) for tile in image.tile)
    # BGR;16 of a BMP is 5 bits a colour, and PIL's 8 bits of CMYK are the share of ink
    return image.mode.startswith("I") or (";16" in raw and "BGR" not in raw and image.mode != "CMYK")


def read_deep(image: Image.Image, path: Path) -> Deep:
    """The photograph in a file for which `is_deep` holds."""
    tags, rawmode = getattr(image, "tag_v2", {}), str(image.tile)
    maximum, bits = (_largest(tags.get(tag)) for tag in (_MAX_SAMPLE_VALUE, _BITS_PER_SAMPLE))
    how = orientation(image) if 0x0112 not in tags else 1  # OpenCV turns TIFFs by their own tag
    content, values = path.read_bytes(), None
    loaded = load_upright(image)  # PIL tells whether the file is whole
    if not image.mode.startswith("I") and "RGBa" not in rawmode:
        values = _colours(content, how, len(image.getbands()))
    if values is None:
        values = np.asarray(loaded)
        # of colours PIL gives the upper half of each value
        values = values.astype(np.uint16) * 257 if values.dtype == np.uint8 else values
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError(f"values beyond 16 bits, {values.min()} to {values.max()}: save it with 16")
    found = Deep(values.astype(np.uint16, copy=False), None)
    if sbit := next((data for kind, data in _chunks(content) if kind == b"sBIT"), None):
        white = _white_of_png(found.values, max(sbit))
    else:  # the maximum may be that of this picture alone, which is no range
        white = maximum if maximum in _WHITES else 2**bits - 1 if 8 < bits < 16 else None
    return Deep(found.values, white) if white and found.brightest <= white else found


def _largest(value: object) -> int:
    numbers = value if isinstance(value, tuple) else (value,)
    return max((number for number in numbers if isinstance(number, int)), default=0)


def _colours(content: bytes, how: int | None, channels: int) -> np.ndarray | None:
    """The colours of a PNG or TIFF with all their bits, of which PIL keeps eight; None: of another."""
    import cv2

    # it would tell the terminal of tags that it does not know
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if content.startswith(_SIGNATURE):  # without what libpng would warn of
        critical = (chunk for kind, chunk in _chunks(content, whole=True) if kind[:1].isupper())
        content = _SIGNATURE + b"".join(critical)
    try:
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if values is None or values.dtype != np.uint16 or values.shape[2:] != (channels,):
        return None
    order = [2, 1, 0, 3][:channels]  # OpenCV's is blue, green, red
    return turned(values, how)[..., order]


def _chunks(content: bytes, whole: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of each chunk of a PNG, or kind and all of the chunk; none of another file."""
    at = len(_SIGNATURE) if content.startswith(_SIGNATURE) else len(content)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        yield kind, content[at : at + length + 12] if whole else content[at + 8 : at + 8 + length]
        at += length + 12


_WHITES = tuple(2**bits - 1 for bits in range(8, 17))


def _white_of_png(values: np.ndarray, bits: int) -> int | None:
    """White of a PNG with so many significant bits (sBIT).

    They are to be the upper ones, with zeros or their own begin below; some programs leave them below.
    """
    if not 8 <= bits < 16:
        return None
    rest = values & (2 ** (16 - bits) - 1)
    above = not rest.any() or np.array_equal(rest, values >> bits)
    return 65535 if above else 2**bits - 1


def common_white(brightest: Iterable[int | None]) -> int | None:
    """What is white in all of some files that declare nothing, from the brightest value of each.

    The largest value of 8, 10, 12, 14 or 16 bits, whichever hold all; of 12 at least where there is one
    file alone, which may be a dark one. None: there is no such file.
    """
    values = [value for value in brightest if value is not None]
    if not values:
        return None
    least = 8 if len(values) > 1 else 12
    return next(2**n - 1 for n in (8, 10, 12, 14, 16) if n >= least and max(values) < 2**n)


def to_bytes(values: np.ndarray, white: int) -> np.ndarray:
    """Values of 16 bits with 8: 0 to 0, `white` and all above it to 255."""
    return (np.minimum(values, white).astype(np.uint32) * 255 // white).astype(np.uint8)
