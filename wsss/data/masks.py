"""The one place that reads and writes mask files: palette PNGs whose index is the label."""

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.errors import UserError
from wsss.voc import VOID, palette

_PALETTE = palette()


def write_atomic(path: Path, write) -> None:
    """Call `write(temporary_path)`, then move the file to `path`: it is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(aside)
        os.replace(aside, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk tells no name
        raise
    finally:
        aside.unlink(missing_ok=True)


def file_stamp(path: Path) -> str:
    """What tells a file from another: its size, and a hash of its first and last 64 KiB.

    Not its date, which changes when data are copied or unpacked anew; not all of it, which would take
    minutes on a large data set (PNG and checkpoint files end with check sums of their content).
    """
    span = 2**16
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(span))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - span))
        digest.update(file.read())
    return f"{size}:{digest.hexdigest()[:16]}"


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write labels as a palette PNG in VOC colours, atomically.

    Args:
        path: file to write; missing folders are made.
        mask: (H, W) integers in 0..255; 255 is void.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask must be (H, W), got shape {mask.shape}")
    if mask.size and (mask.min() < 0 or mask.max() > 255):
        raise ValueError(f"labels must lie in 0..255, got {mask.min()}..{mask.max()}")
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(_PALETTE)
    write_atomic(Path(path), lambda aside: image.save(aside, format="PNG", optimize=False))


def read_mask(path: str | Path, num_labels: int | None = None) -> np.ndarray:
    """Read a mask file as labels (H, W) uint8.

    The palette index (or the grey value of a one-channel PNG) is the label; colours are never read.

    Args:
        path: a palette ("P") or 8-bit grey ("L", "1") image.
        num_labels: labels 0..num_labels-1 and void (255) are allowed; None allows all.

    Raises:
        UserError: the file is missing, unreadable, a colour image, or holds an unknown label.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no mask file {path}: check the folder of masks and the image's name")
    try:
        with Image.open(path) as image:
            mode = image.mode
            if mode not in ("P", "L", "1"):
                raise UserError(
                    f"mask {path} is a colour image (mode {mode}), its labels cannot be told: "
                    "save it as a palette PNG (mode P) whose index is the label"
                )
            mask = np.array(image, dtype=np.uint8)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"mask {path} cannot be read ({error}): make it again") from error
    if num_labels is not None:
        unknown = np.setdiff1d(np.unique(mask), [*range(num_labels), VOID])
        if unknown.size:
            raise UserError(
                f"mask {path} has label {', '.join(map(str, unknown))}, but only 0..{num_labels - 1} "
                f"and {VOID} (void) exist: check the list of classes or correct the mask"
            )
    return mask
