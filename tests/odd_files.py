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


def _bomb() -> bytes:
    """A PNG whose header claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


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


def _real(path: Path) -> None:
    Image.fromarray(np.random.default_rng(11).random((40, 56), np.float32)).save(path)


# name -> how to make it, words of what `wsss check` says
UNREADABLE = {
    "zero.jpg": (lambda path: path.write_bytes(b""), "zero bytes"),
    "cut off.jpg": (_truncated, "truncated"),
    "text.jpg": (lambda path: path.write_text("no image"), "broken or no image"),
    "phone.heic": (lambda path: path.write_bytes(b"ftypheic"), "format that is not read"),
    "real.tif": (_real, "floating-point values"),
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
    "really a png.jpg": (lambda path: photo(9).save(path, format="PNG"), "wrong extension"),
}
