"""The one place that reads photographs."""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from wsss.errors import UserError, notice

# PIL warns from 89 megapixels on, which phones make, and refuses from 179 on: its refusal is enough.
# Set once: a filter for one call would be seen by the threads that read other images.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

FOREIGN_SUFFIXES = (".heic", ".heif", ".avif", ".dng", ".cr2", ".nef", ".arw", ".psd", ".jp2", ".svg")
"""Formats of pictures that are not read: to be named instead of passed over."""

RESULTS = ("settings.json", "pipeline.yaml", "metrics.json", "begun.json")
"""A folder with one of these is of wsss predict, slots, init or run: what is in it is no photograph."""


def image_files(folder: Path) -> list[Path]:
    """Files with the suffix of an image in a folder and its sub-folders, sorted.

    Hidden ones do not count; folders of results and names that are not UTF-8 are told in a notice.
    """
    found = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        if here != Path(folder) and any(name in files for name in RESULTS):
            notice(f"no photographs are looked for in {here}, which holds results of wsss")
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = (here / name for name in files if not name.startswith("."))
        found += [p for p in shown if p.suffix.lower() in (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES)]
    return sorted(path for path in found if path.is_file() and _has_a_name(path.relative_to(folder)))


def _has_a_name(path: Path) -> bool:
    told = os.fsencode(path).decode(errors="backslashreplace")
    if told != str(path):  # no table can name it
        notice(f"passed over: {told}, whose name is not UTF-8: rename it")
    return told == str(path)


def read_image(path: str | Path) -> np.ndarray:
    """Read a photograph as RGB, upright.

    The EXIF orientation is applied, transparency is laid over white, 16 bits are scaled to 8, and the
    first frame of an animation is taken.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UserError: the file is missing, unreadable, a decompression bomb or of floating-point values,
            whose range nobody knows.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no image file {path}: check the root folder and the list that names it")
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        raise UserError(
            f"image {path} is of a format that is not read ({path.suffix}): save it as JPEG or PNG"
        )
    try:
        with Image.open(path) as image:
            return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except Image.DecompressionBombError as error:
        raise UserError(
            f"image {path} is refused, it is too large to be a photograph ({error}): "
            "scale it down or remove it"
        ) from error
    except Exception as error:
        raise UserError(f"image {path} cannot be read ({error}): repair or remove it") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point values, save it with 8 bits")
    if image.mode.startswith("I"):  # 16-bit grey: PIL's own conversion clips at 255
        grey = np.asarray(image, dtype=np.float64)
        top = 65535.0 if grey.max(initial=0) > 255 else 255.0
        image = Image.fromarray(np.clip(grey * 255.0 / top, 0, 255).astype(np.uint8))
    if has_alpha(image):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def has_alpha(image: Image.Image) -> bool:
    """Whether an image is transparent anywhere; LAB has a band A that is a colour."""
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the upright photograph, from the file's header only."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except FileNotFoundError:
        raise UserError(
            f"no image file {path}: check the root folder and the list that names it"
        ) from None
    except Exception as error:
        raise UserError(f"image {path} cannot be read ({error}): repair or remove it") from error
    return (width, height) if turned else (height, width)
