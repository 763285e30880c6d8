"""PASCAL VOC 2012 with the masks of SBD (trainaug), got from its servers and made ready to be read."""

import io
import re
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import numpy as np

from wsss.data.images import image_size
from wsss.data.masks import write_mask
from wsss.errors import UserError
from wsss.files import write_atomic
from wsss.locks import locked
from wsss.progress import progress
from wsss.voc import VOC_CLASSES

CHUNK = 1 << 20
"""Bytes read at once from a server."""

TIMEOUT = 60
"""Seconds without a byte after which a server counts as gone."""

COUNTS = {"train": 1464, "val": 1449, "trainaug": 10582}
"""Images of the official lists of VOC 2012; trainaug: Hariharan et al., ICCV 2011, and VOC's train."""


@dataclass(frozen=True)
class Archive:
    """A tar file: its name on disk, where it is got from, its MD5 sum in hexadecimal digits."""

    filename: str
    url: str
    md5: str


@dataclass(frozen=True)
class Source:
    """The two archives, and how many images each list must have."""

    voc: Archive
    sbd: Archive
    counts: dict[str, int]


def official() -> Source:
    """Addresses and checksums as torchvision's own data sets have them."""
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    voc = DATASET_YEAR_DICT["2012"]
    return Source(
        Archive(voc["filename"], voc["url"], voc["md5"]),
        Archive(SBDataset.filename, SBDataset.url, SBDataset.md5),
        COUNTS,
    )


def get_voc2012(root: Path, archives: Path | None = None) -> None:
    """Make VOC 2012 with SegmentationClassAug and its lists in `root`; run again to go on.

    Args:
        root: folder for it, of about 6 GB; gets JPEGImages, Annotations, SegmentationClass,
            SegmentationClassAug and ImageSets; downloaded archives lie in its folder `archives`.
        archives: folder that holds the archives already; nothing is downloaded.

    Raises:
        UserError: an archive is missing, broken or not the official one, a download breaks off, a
            list has another length than the official one, a listed file is missing, or `root` cannot
            be written.
    """
    if archives is not None and not archives.is_dir():
        raise UserError(f"--from {archives} is no folder: give the one that holds the archives")
    try:
        with locked(root, "wsss data"):
            _make(root, official(), archives)
    except OSError as error:
        raise UserError(
            f"{root} cannot be written or read ({error}): make room or mend it, then run the same "
            "command again to go on"
        ) from error


def _make(root: Path, source: Source, archives: Path | None) -> None:
    lists = root / "ImageSets" / "Segmentation"
    # written last: where it is, the conversion has come to its end
    if (lists / "trainaug.txt").is_file():
        _verify(root, source.counts)
        print(f"VOC 2012 is complete in {root}: {_numbers(source.counts)}")
        return
    folder = archives or root / "archives"
    voc, sbd = (_archive(item, folder, archives is None) for item in (source.voc, source.sbd))
    _unpack_voc(voc, root)
    train, val = _ids(lists / "train.txt"), _ids(lists / "val.txt")
    for split, ids in (("train", train), ("val", val)):
        _verify_count(lists / f"{split}.txt", len(ids), source.counts[split], lists)
    augmented = set(train) | _convert_sbd(sbd, root, {*train, *val})
    ids = sorted(augmented - set(val))
    _verify_count(f"trainaug of {sbd}", len(ids), source.counts["trainaug"], lists)
    _copy_masks(root, [*train, *val])
    _verify_files(root, "trainaug", ids)
    for split, listed in (("train", train), ("val", val)):
        _verify_files(root, split, listed)
    _write(lists / "trainaug.txt", "".join(f"{name}\n" for name in ids).encode())
    print(f"VOC 2012 is complete in {root}: {_numbers(source.counts)}")
    if archives is None:
        print(f"{folder} is no longer needed and can be removed")


def _numbers(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {number:,}" for split, number in counts.items())


def _archive(item: Archive, folder: Path, download: bool) -> Path:
    """The archive's file, with the right checksum; downloaded if it may be."""
    from torchvision.datasets.utils import check_integrity

    path = folder / item.filename
    if not path.is_file():
        if not download:
            raise UserError(
                f"there is no {item.filename} in {folder}: get it from {item.url}, or leave out --from"
            )
        _download(item, path)
        return path
    print(f"checking {path}")
    if not check_integrity(path, item.md5):
        raise UserError(
            f"{path} is broken or another file (its MD5 sum is not {item.md5}): "
            f"remove it and get it again from {item.url}"
        )
    return path


# pooch and torchvision check sums and do not go on with a part; resumable-urlretrieve knows no MD5
def _download(item: Archive, path: Path) -> None:
    """Load into `path`.part, from where an earlier try has ended, and move it when it is right."""
    from torchvision.datasets.utils import check_integrity

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    again = "run the same command again to go on, or get it by hand and give its folder as --from"
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(item.url, headers={"User-Agent": "wsss"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            if answer.status != 206:  # a server without ranges sends the whole file
                start = 0
            length = answer.headers.get("Content-Length")
            total = start + int(length) if length else None
            bar = progress(
                what=f"download {item.filename}",
                unit="B",
                total=total,
                initial=start,
                unit_scale=True,
            )
            with bar, part.open("ab" if start else "wb") as file:
                while block := answer.read(CHUNK):
                    file.write(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to be sent, the checksum tells whether rightly
            raise UserError(f"{item.url} cannot be downloaded ({error}): {again}") from error
        total = None
    except (OSError, HTTPException) as error:
        raise UserError(f"the download of {item.url} broke off ({error}): {again}") from error
    size = part.stat().st_size
    if total is not None and size < total:
        raise UserError(f"the download of {item.url} broke off at {size} of {total} bytes: {again}")
    if not check_integrity(part, item.md5):
        part.unlink()
        raise UserError(
            f"{item.url} gave a broken or another file (its MD5 sum is not {item.md5}, it is removed): "
            f"{again}"
        )
    part.replace(path)


def _members(path: Path, what: str) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """The regular files of an archive and their content, in its order, with a progress bar."""

    def fault(error: Exception) -> UserError:
        return UserError(f"{path} cannot be unpacked ({error}): get it again, then go on")

    def read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        try:
            return tar.extractfile(member).read()
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise fault(error) from error

    try:
        bar = progress(what=what, unit="B", total=path.stat().st_size, unit_scale=True)
        with bar, path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as tar:
            for member in tar:
                bar.update(raw.tell() - bar.n)
                if member.isfile():  # no links, no devices
                    yield member, partial(read, tar, member)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise fault(error) from error


_PLAIN_NAME = re.compile(r"\w[\w-]*\.\w+", re.ASCII)


def _unpack_voc(path: Path, root: Path) -> None:
    # by our own names: whatever path an archive tells, no file gets out of these four folders
    wanted = {
        "JPEGImages": ".jpg",
        "Annotations": ".xml",
        "SegmentationClass": ".png",
        "ImageSets/Segmentation": ".txt",
    }
    for member, read in _members(path, "unpack VOC 2012"):
        name = PurePosixPath(member.name)
        parts = name.parts
        if parts[:2] != ("VOCdevkit", "VOC2012") or not _PLAIN_NAME.fullmatch(name.name):
            continue
        folder = "/".join(parts[2:-1])
        if wanted.get(folder) != name.suffix:
            continue
        target = root / folder / name.name
        if not target.is_file() or target.stat().st_size != member.size:
            _write(target, read())
    if not (root / "ImageSets" / "Segmentation" / "train.txt").is_file():
        raise UserError(f"{path} holds no VOCdevkit/VOC2012: it is not the archive of VOC 2012")


def _convert_sbd(path: Path, root: Path, known: set[str]) -> set[str]:
    """Write SBD's class masks, except for `known` images; ids of its lists train and val."""
    listed: set[str] = set()
    for member, read in _members(path, "convert SBD"):
        name = PurePosixPath(member.name)
        if name.parts[:2] != ("benchmark_RELEASE", "dataset") or not _PLAIN_NAME.fullmatch(name.name):
            continue
        inner = "/".join(name.parts[2:])
        if inner in ("train.txt", "val.txt"):
            listed |= set(read().decode("ascii", "replace").split())
        elif name.parts[2:-1] == ("cls",) and name.suffix == ".mat" and name.stem not in known:
            target = root / "SegmentationClassAug" / f"{name.stem}.png"
            if not target.is_file():
                _convert_mask(read(), f"{path}: {member.name}", root, target)
    if not listed:
        raise UserError(f"{path} holds no benchmark_RELEASE/dataset: it is not the archive of SBD")
    return listed


def _convert_mask(content: bytes, where: str, root: Path, target: Path) -> None:
    """`GTcls.Segmentation` (H, W) of a MATLAB file, labels 0 to 20, as a palette PNG."""
    from scipy.io import loadmat

    try:
        # a MAT-file of version 5 is plain data: nothing in it is run
        found = loadmat(io.BytesIO(content), variable_names=["GTcls"])["GTcls"]
        mask = np.asarray(found[0]["Segmentation"][0])
    except Exception as error:
        raise UserError(f"{where} is no mask of SBD ({error}): get the archive again") from error
    image = root / "JPEGImages" / f"{target.stem}.jpg"
    if not image.is_file():
        raise UserError(f"{where} has no image {image}: remove {root} and start again")
    if mask.shape != image_size(image) or mask.min() < 0 or mask.max() > len(VOC_CLASSES):
        raise UserError(
            f"{where} has the shape {mask.shape} and labels to {mask.max()}, not the shape "
            f"{image_size(image)} of {image} and 0 to {len(VOC_CLASSES)}: get the archive again"
        )
    write_mask(target, mask)


def _copy_masks(root: Path, ids: list[str]) -> None:
    """VOC's own masks, which are finer than SBD's and have the border, go among the others."""
    for name in progress(ids, "copy VOC's masks", unit="masks"):
        own = root / "SegmentationClass" / f"{name}.png"
        target = root / "SegmentationClassAug" / f"{name}.png"
        if not own.is_file():
            raise UserError(f"there is no mask {own}, though the image is listed: get VOC again")
        if not target.is_file():
            write_atomic(target, lambda aside, own=own: shutil.copyfile(own, aside))


def _ids(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"there is no list {path}: remove {path.parents[2]} and start again")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [name for line in lines if (name := line.strip())]


def _write(path: Path, content: bytes) -> None:
    write_atomic(path, lambda aside: aside.write_bytes(content))


def _verify_count(what: Path | str, number: int, wanted: int, folder: Path) -> None:
    if number != wanted:
        raise UserError(
            f"{what} lists {number:,} images, but the official list has {wanted:,}: "
            f"remove {folder} and run the same command again with the official archives"
        )


def _verify(root: Path, counts: dict[str, int]) -> None:
    for split, wanted in counts.items():
        listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        ids = _ids(listing)
        _verify_count(listing, len(set(ids)), wanted, listing.parent)
        _verify_files(root, split, ids)


def _verify_files(root: Path, split: str, ids: list[str]) -> None:
    """Each listed image has its photograph, its annotation and its mask."""
    masks = "SegmentationClassAug" if split == "trainaug" else "SegmentationClass"
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml"), (masks, ".png")):
        there = {path.name for path in (root / folder).glob(f"*{suffix}")}
        missing = [name for name in ids if f"{name}{suffix}" not in there]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(ids)} files of {split} are missing in {root / folder}, first "
                f"{missing[0]}{suffix}: remove {root / 'ImageSets'} and run the same command again"
            )
