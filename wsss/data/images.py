"""The one place that reads photographs."""

import errno
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.data.cache import remembered
from wsss.data.deep import Deep, common_white, is_deep, read_deep, to_bytes
from wsss.data.upright import load_upright, open_image, upright_size
from wsss.errors import Unavailable, UserError, notice
from wsss.progress import progress

FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi"), ("JPEG", "MPO")),
    **dict.fromkeys((".pjpeg", ".pjp", ".mpo"), ("JPEG", "MPO")),
    **dict.fromkeys((".png", ".apng"), ("PNG",)),
    ".webp": ("WEBP",),
    **dict.fromkeys((".bmp", ".dib"), ("BMP", "DIB")),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    ".gif": ("GIF",),
}
"""Suffix of an image file -> PIL's names of the formats that belong to it."""

IMAGE_SUFFIXES = tuple(FORMATS)

_FOREIGN = (
    # phones and the web, JPEG XL, XR and 2000
    "heic heif heics heifs hif avif avifs avci jxl jxr wdp hdp jp2 j2k j2c jpc jpf jpx jpm jph jhc "
    "jls jps jng bpg flif insp jpg_large jpg-large "
    # raw files: Hasselblad, ARRI, Sony, Casio, Canon, Kodak, Adobe, Epson, GoPro, Phase One, Leaf,
    # Mamiya, Minolta, Nikon, Olympus, Pentax, Fuji, Panasonic, Leica, Samsung, Sigma, Sinar, Lytro
    "3fr fff ari arw arq sr2 srf srq bay cr2 cr3 crw k25 kdc dcr dcs drf dng erf gpr iiq cap eip mos "
    "mef mdc mrw nef nrw orf ori pef ptx raf raw rw2 rwl rwz srw x3f cs1 sti lfr lfp rdc mfw pxn crm "
    # editors, renderers, science
    "psd psb xcf svg svgz tga exr hdr dds pcx qoi ppm pgm pbm pnm pam pfm dcm fits czi lif nd2 svs"
)
FOREIGN_SUFFIXES = tuple(f".{name}" for name in _FOREIGN.split())
"""Formats of pictures that are not read: to be named instead of passed over."""

RESULTS = ("settings.json", "pipeline.yaml", "metrics.json", "begun.json")
"""A folder with one of these is of wsss predict, slots, init or run: what is in it is no photograph."""

_SYSTEM = {
    # NAS
    *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "@__thumb", "@sharebin", "@appstore"),
    *("@synoresource", "#recycle", "#snapshot", "~snapshot"),
    *("__macosx", "network trash folder", "temporary items", "ipod photo cache"),
    *("$recycle.bin", "recycler", "system volume information", "lost+found"),
}
"""Folders that systems keep for themselves, in small letters: thumbnails, and what was thrown away."""


_OF_THE_MACHINE = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT)
"""Errors of the system that say nothing of a file."""

note: Callable[[Path], None] | None = None
"""Is given each photograph before it is read, in the processes of a loader (`Reading`)."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is the system's own or hidden, and nobody's photograph."""
    return name.startswith(".") or name.lower() in _SYSTEM


def look_through(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """A folder and each in it, with the names of its folders and files; hidden ones do not count.

    Links are followed, but to each folder once; this, and what cannot be looked through, is told. What
    the caller takes out of the list of folders is passed over.
    """

    def unreadable(error: OSError) -> None:
        notice(f"passed over: {error.filename}, which cannot be looked through ({error.strerror})")

    known = set()
    starts = [folder]
    for start in starts:  # links come after what lies in the folder itself
        for place, folders, files in os.walk(start, onerror=unreadable):
            here, real = Path(place), os.path.realpath(place)
            if real in known or (start != folder and Path(folder.resolve()).is_relative_to(real)):
                notice(f"passed over: {here}, a link to what is looked through already")
                folders.clear()
                continue
            known.add(real)
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            yield here, folders, sorted(name for name in files if not is_hidden(name))
            starts += [here / name for name in folders if (here / name).is_symlink()]


def image_files(folder: Path) -> list[Path]:
    """Files with the suffix of an image in a folder and its sub-folders (`look_through`), sorted.

    Links that lead nowhere, folders of results and names that are not UTF-8 are told in a notice.
    """
    folder = Path(folder)
    found, lost = [], []
    for here, folders, files in look_through(folder):
        if here != folder and any(name in files for name in RESULTS):
            notice(f"no photographs are looked for in {here}, which holds results of wsss")
            folders.clear()
            continue
        for path in (here / name for name in files):
            image = path.suffix.lower() in (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES)
            if image and path.is_file():
                found.append(path)
            elif (image or not path.suffix) and path.is_symlink() and not path.exists():
                lost.append(path)
    if lost:
        notice(f"passed over: {len(lost)} links that lead nowhere (first: {min(lost)})")
    return sorted(path for path in found if _has_a_name(path.relative_to(folder)))


def _has_a_name(path: Path) -> bool:
    told = os.fsencode(path).decode(errors="backslashreplace")
    if told != str(path):  # no table can name it
        notice(f"passed over: {told}, whose name is not UTF-8: rename it")
    return told == str(path)


@dataclass(frozen=True)
class Look:
    """What a look at an image file has found.

    Attributes:
        fault: why it cannot be read, or None.
        deep: it has more than 8 bits a channel.
        white: the value that it declares for white, if it is deep and does.
        brightest: its largest value, if it is deep and declares nothing.
    """

    fault: str | None = None
    deep: bool = False
    white: int | None = None
    brightest: int | None = None


def look(path: Path) -> Look:
    """Decode an image file; what was found is remembered until the file's size or time changes.

    Raises:
        Unavailable: the machine could not.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        return Look(f"image {path} cannot be read ({error.strerror}): repair or remove it")
    return _look(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=200_000)
def _look(path: Path, size: int, modified: int) -> Look:
    try:
        found, _ = _decoded(path)
    except Unavailable:
        raise
    except UserError as error:
        return Look(str(error))
    if not isinstance(found, Deep):
        return Look()
    return Look(None, True, found.white, None if found.white else found.brightest)


def look_at(paths: Sequence[Path]) -> list[Look]:
    """What can be read of each image; all are decoded, once while they stay as they are."""

    def find(paths: Sequence[Path]) -> Iterator[list]:
        with ThreadPoolExecutor(4) as pool:  # decoders run without Python's lock
            found = pool.map(look, paths)
            bar = progress(found, "look at photographs", total=len(paths), brief=True)
            for path, one in zip(paths, bar, strict=True):
                # the same file may be named otherwise next time
                fault = one.fault and one.fault.replace(str(path), "\0")
                yield [fault, one.deep, one.white, one.brightest]

    found = zip(paths, remembered("looks", paths, find), strict=True)
    return [Look(one[0] and one[0].replace("\0", str(path)), *one[1:]) for path, one in found]


def unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """The images that cannot be read, and why; all are decoded, once while they stay as they are."""
    looks = zip(paths, look_at(paths), strict=True)
    return {path: found.fault for path, found in looks if found.fault}


def tell_left_out(faults: Sequence[str], most: int = 20) -> None:
    """Give notice of images that are left out, as they cannot be read."""
    for fault in faults[:most]:
        notice(f"left out: {fault}")
    if (more := len(faults) - most) > 0:
        notice(f"left out: {more} more images that cannot be read")


def read_image(path: str | Path, white: int | None = None) -> np.ndarray:
    """Read a photograph as RGB, upright.

    >>> image = wsss.read_image("photo.jpg")
    >>> image.shape, image.dtype.name
    ((64, 64, 3), 'uint8')

    The EXIF orientation is applied, transparency is laid over white, 16 bits are scaled to 8, and the
    first frame of an animation is taken.

    Args:
        path: the file.
        white: the value of 16 bits that is white (`Catalog.white`), for files that do not declare it;
            None: what is white in the files of their folder (`wsss.data.deep.common_white`).

    Returns:
        (H, W, 3) uint8.

    Raises:
        UserError: the file is missing, unreadable, a decompression bomb or of floating-point values,
            whose range nobody knows.
    """
    return _read(Path(path), None, white)[0]


def read_reduced(
    path: str | Path, spare: Callable[[int, int], float], white: int | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Read a photograph as `read_image` does, a JPEG at 1/2, 1/4 or 1/8 of its sides where that does.

    For training crops: it takes a fraction of the time, and the values differ a little from those of
    the whole photograph scaled down.

    Args:
        path: the file.
        spare: (height, width) of the photograph to how many times smaller its sides may be; they are
            not made smaller than that.
        white: as in `read_image`.

    Returns:
        (H, W, 3) uint8, and the (height, width) of the photograph.

    Raises:
        UserError: as in `read_image`.
    """
    return _read(Path(path), spare, white)


def _read(
    path: Path, spare: Callable[[int, int], float] | None, white: int | None
) -> tuple[np.ndarray, tuple[int, int]]:
    found, size = _decoded(path, spare)
    if isinstance(found, Deep):
        white = found.white or white or _white_beside(path) or common_white([found.brightest])
        found = _to_rgb(Image.fromarray(to_bytes(found.values, white)))
    pixels = np.array(found)
    return pixels, size or pixels.shape[:2]


def _decoded(
    path: Path, spare: Callable[[int, int], float] | None = None
) -> tuple[Image.Image | Deep, tuple[int, int] | None]:
    """What is in a file, upright, and the (height, width) of the photograph where it may be reduced."""
    if note is not None:
        note(path)
    if not os.path.isfile(path):  # a name may be too long to be asked for
        raise UserError(f"no image file {path}: check the root folder and the list that names it")
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        raise UserError(
            f"image {path} is of a format that is not read ({path.suffix}): save it as JPEG or PNG"
        )
    try:
        with open_image(path) as image:
            if image.mode == "F":
                raise ValueError("floating-point values, save it with 8 bits")
            size = upright_size(image) if spare and image.format in ("JPEG", "MPO") else None
            if size and (times := spare(*size)) >= 2:
                image.draft(None, [math.ceil(side / times) for side in image.size])
            found = read_deep(image, path) if is_deep(image) else _to_rgb(load_upright(image))
            return found, size
    except Image.DecompressionBombError as error:
        raise UserError(
            f"image {path} is refused, it is too large to be a photograph ({error}): "
            "scale it down or remove it"
        ) from error
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _OF_THE_MACHINE:
            why = getattr(error, "strerror", None) or "the memory is full"
            raise Unavailable(
                f"image {path} could not be read this time ({why}): give the same command again"
            ) from error
        raise UserError(f"image {path} cannot be read ({error}): repair or remove it") from error


def _white_beside(path: Path) -> int | None:
    """What is white in the deep files of a folder, some of which stand for all."""
    return _white_of(path.parent, path.parent.stat().st_mtime_ns)


@lru_cache(maxsize=1000)
def _white_of(folder: Path, modified: int, most: int = 64) -> int | None:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    deep = [path for path in files if _says_deep(path)]
    return common_white(look(path).brightest for path in deep[:: -(-len(deep) // most) or 1])


def _says_deep(path: Path) -> bool:
    try:
        with open_image(path) as image:
            return is_deep(image)
    except Exception:  # it is told where it is to be read
        return False


def _to_rgb(image: Image.Image) -> Image.Image:
    if has_alpha(image):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def has_alpha(image: Image.Image) -> bool:
    """Whether an image is transparent anywhere; LAB has a band A that is a colour."""
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def image_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """`image_size` of each, read once while they stay as they are."""

    def find(paths: Sequence[Path]) -> Iterator[tuple[int, int]]:
        bar = progress(paths, "read sizes", brief=True)
        return map(image_size, bar)

    return [(height, width) for height, width in remembered("sizes", paths, find)]


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the photograph that `read_image` reads, mostly from the file's header only."""
    try:
        with open_image(Path(path)) as image:
            return upright_size(image)
    except FileNotFoundError:
        raise UserError(
            f"no image file {path}: check the root folder and the list that names it"
        ) from None
    except Exception as error:
        raise UserError(f"image {path} cannot be read ({error}): repair or remove it") from error
