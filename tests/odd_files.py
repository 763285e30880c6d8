"""Photographs as they come: makers of every odd kind of file, by name, with what is said of them."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def photo(seed: int, height: int = 40, width: int = 56) -> Image.Image:
    """A photograph of noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, depth: int, kind: int, rows: bytes, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + pixels + chunk(b"IEND", b"")


def deep_png(values: np.ndarray, *more: bytes) -> bytes:
    """A PNG of 16 bits: (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3 or 4) colour; `more` chunks."""
    height, width, channels = (*values.shape, 1)[:3]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return _png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows, *more)


def deep_tiff(values: np.ndarray, order: str = "<", **more: int) -> bytes:
    """A TIFF of 16 bits, (H, W) grey or (H, W, 3) colour; `orientation` and `maximum` are tags."""
    height, width, channels = (*values.shape, 1)[:3]
    pixels = values.astype(f"{order}u2").tobytes()
    bits = struct.pack(f"{order}3H", 16, 16, 16)  # where three do not fit into the entry
    tags = {256: width, 257: height, 258: 16 if channels == 1 else None, 259: 1}
    tags |= {262: 1 if channels == 1 else 2, 273: 8, 277: channels, 278: height, 279: len(pixels)}
    tags |= {{"orientation": 274, "maximum": 281}[name]: value for name, value in more.items()}
    at = 8 + len(pixels)
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at + len(bits)) + pixels
    out += bits + struct.pack(f"{order}H", len(tags))
    for tag, value in sorted(tags.items()):
        if value is None:
            out += struct.pack(f"{order}HHII", tag, 3, 3, at)
        elif tag in (256, 257, 273, 278, 279):
            out += struct.pack(f"{order}HHII", tag, 4, 1, value)
        else:
            out += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    return out + b"\0\0\0\0"


def exif(*entries: bytes, behind: bytes = b"") -> bytes:
    """EXIF of the entries given, each of 12 bytes, and what lies behind them."""
    count = struct.pack("<H", len(entries))
    return b"Exif\0\0II*\0\x08\0\0\0" + count + b"".join(entries) + b"\0\0\0\0" + behind


ON_ITS_SIDE = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
"""Entry of EXIF: the camera was turned, Orientation 6."""


def _bomb() -> bytes:
    """A PNG whose header claims 60,000 x 60,000 pixels."""
    return _png(60_000, 60_000, 8, 2, b"0")


def _truncated(path: Path) -> None:
    photo(1, 200, 200).save(path)
    path.write_bytes(path.read_bytes()[:-2000])


def _rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(2).save(path, exif=exif)


def _alpha(path: Path) -> None:
    image = photo(3)
    image.putalpha(100)
    image.save(path)


def _animated(path: Path) -> None:
    photo(4).save(path, save_all=True, append_images=[photo(5)])


def _deep(path: Path) -> None:
    Image.fromarray(np.arange(40 * 56, dtype=np.uint16).reshape(40, 56) * 20).save(path)


def _deep_colour(path: Path) -> None:
    noise = np.random.default_rng(10).integers(0, 65535, (40, 56, 3), np.uint16)
    cv2.imwrite(str(path), noise)


def _blind(path: Path) -> None:
    photo(12).save(path, exif=b"Exif\0\0no tags at all")


def _real(path: Path) -> None:
    Image.fromarray(np.random.default_rng(11).random((40, 56), np.float32)).save(path)


def _whole(path: Path, end: int) -> None:
    Image.fromarray(np.linspace(0, end, 40 * 56).reshape(40, 56).astype(np.int32)).save(path)


# name -> how to make it, words of what `wsss check` says
UNREADABLE = {
    "zero.jpg": (lambda path: path.write_bytes(b""), "zero bytes"),
    "cut off.jpg": (_truncated, "truncated"),
    "text.jpg": (lambda path: path.write_text("no image"), "broken or no image"),
    "phone.heic": (lambda path: path.write_bytes(b"ftypheic"), "format that is not read"),
    "real.tif": (_real, "floating-point values"),
    "beyond.tif": (lambda path: _whole(path, 70_000), "values beyond 16 bits"),
    "below.tif": (lambda path: _whole(path, -1000), "values beyond 16 bits"),
    "bomb.png": (lambda path: path.write_bytes(_bomb()), "decompression bomb"),
}
ODD = {
    "cmyk.jpg": (lambda path: photo(6).convert("CMYK").save(path), "CMYK"),
    "deep.png": (_deep, "16-bit"),
    "deep colour.png": (_deep_colour, "16-bit"),
    "grey.png": (lambda path: photo(7).convert("L").save(path), "greyscale"),
    "alpha.png": (_alpha, "alpha"),
    "palette.png": (lambda path: photo(8).convert("P").save(path), "palette"),
    "turned.jpg": (_rotated, "EXIF-rotated"),
    "moving.webp": (_animated, "animated"),
    "moving too.gif": (_animated, "animated"),
    "huge.png": (lambda path: Image.new("L", (8000, 6500)).save(path), "enormous"),
    "blind.jpg": (_blind, "EXIF that cannot be read"),
    "saved.jfif": (lambda path: photo(13).convert("L").save(path, format="JPEG"), "greyscale"),
    "really a png.jpg": (lambda path: photo(9).save(path, format="PNG"), "wrong extension"),
}


def unreadable_uploads(folder: Path) -> tuple[Path, Path]:
    """What is no photograph, of a name that is markup, and one that is too large."""
    text, huge = folder / "holiday <b>.jpg", folder / "huge.png"
    text.write_text("this is no photograph")
    Image.new("1", (9000, 6000)).save(huge)
    return text, huge
