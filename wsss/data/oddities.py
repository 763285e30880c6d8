"""What is unusual about the file of a photograph."""

from collections.abc import Iterable
from pathlib import Path

from wsss.data.deep import common_white, is_deep
from wsss.data.images import FORMATS, has_alpha, look
from wsss.data.upright import open_image, orientation

ENORMOUS = 50_000_000
"""Pixels from which on a photograph is reported; PIL refuses from 179 million on."""

DEEP = "16-bit"


def image_oddities(path: Path) -> list[str]:
    """What is unusual about an image file; the first word is "unreadable" if it cannot be used."""
    try:
        if path.stat().st_size == 0:
            return ["unreadable: zero bytes"]
    except OSError:
        pass  # it is told below
    found = look(path)
    if found.fault:
        reason = found.fault.replace(str(path), "")
        if "format that is not read" in reason:
            return ["unreadable: format that is not read (save it as JPEG or PNG)"]
        if "refused" in reason:
            return ["unreadable: enormous (refused as a decompression bomb)"]
        known = ("truncated", "floating-point values", "values beyond 16 bits", "Permission denied")
        return ["unreadable: " + next((kind for kind in known if kind in reason), "broken or no image")]
    try:
        return _odd(path)
    except Exception:  # the first frame can be read, but not what comes after it
        return ["truncated after its first frame (which is used)"]


def _odd(path: Path) -> list[str]:
    with open_image(path) as image:
        odd = []
        if image.format not in FORMATS.get(path.suffix.lower(), ()):
            odd.append(f"wrong extension (content is {image.format})")
        if image.mode == "CMYK":
            odd.append("CMYK")
        elif is_deep(image):
            white = look(path).white
            odd.append(DEEP + (f", white is {white} as the file declares" if white else ""))
        elif image.mode in ("L", "1"):
            odd.append("greyscale")
        elif image.mode == "P":
            odd.append("palette")
        if has_alpha(image):
            odd.append("alpha")
        how = orientation(image)
        if how is None:
            odd.append("EXIF that cannot be read (taken for upright)")
        elif how != 1:
            odd.append("EXIF-rotated")
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            odd.append("animated or several pages (the first is used)")
        if image.width * image.height > ENORMOUS:
            odd.append("enormous")
        return odd


def white_of(paths: Iterable[Path]) -> str:
    """What is white in photographs of 16 bits that do not declare it; "" if there are none."""
    brightest = [found.brightest for found in map(look, paths) if found.brightest is not None]
    if not brightest:
        return ""
    return f"white is {common_white(brightest)} (their brightest value is {max(brightest)})"
