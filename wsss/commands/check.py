"""`wsss check ROOT`: what is in a data set, what is odd about it, and what to do."""

import argparse
import hashlib
import json
import os
import posixpath
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from wsss.data.catalog import (
    Record,
    as_written,
    class_list,
    few_enough,
    leads_out,
    mask_fault,
    read_catalog,
    read_classes,
    read_lines,
)
from wsss.data.deep import common_white, is_deep
from wsss.data.images import (
    FOREIGN_SUFFIXES,
    FORMATS,
    IMAGE_SUFFIXES,
    has_alpha,
    image_files,
    look,
)
from wsss.data.masks import masks_in, read_mask
from wsss.data.names import as_files
from wsss.data.tags import (
    RESERVED_CLASSES,
    alike,
    read_tag_table,
    split_folder,
    tag_source,
    without_case,
)
from wsss.data.upright import open_image, orientation
from wsss.errors import UserError
from wsss.files import write_text
from wsss.progress import progress
from wsss.voc import VOID

MENDED = ("duplicate rows", "tags without image")
"""Errors that `wsss init` mends: it joins the rows, and leaves out those without an image."""

FEW = 10
"""A class with fewer images than this is reported."""

ENORMOUS = 50_000_000
"""Pixels from which on a photograph is reported; PIL refuses from 179 million on."""

DEEP = "16-bit"

Tagged = dict[str, tuple[tuple[str, ...], Record]]
"""Name of an image -> its tags and its record."""


@dataclass
class Report:
    """What was found.

    Attributes:
        layout: "voc" or "folder".
        images: image files in the data set.
        tagged: images with an entry in the table or an annotation, split by split together.
        classes: number of images of each class.
        tags_per_image: number of images with so many tags.
        tag_source: file or folder that the tags are from (folder layout).
        masks: usable true masks (folder layout).
        warnings: kind of oddity -> files or names; the run goes on with them.
        errors: the same, for what stops a run.
    """

    layout: str
    images: int = 0
    tagged: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    tags_per_image: dict[int, int] = field(default_factory=dict)
    tag_source: str = ""
    masks: int = 0
    warnings: dict[str, list[str]] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)

    @property
    def code(self) -> int:
        """0 clean, 1 warnings, 2 unusable."""
        return 2 if self.errors else 1 if self.warnings else 0

    def warn(self, kind: str, name: str) -> None:
        self.warnings.setdefault(kind, []).append(name)

    def fail(self, kind: str, name: str) -> None:
        self.errors.setdefault(kind, []).append(name)


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


def longest_name(folder: Path) -> int:
    """How many bytes a name can have in a folder, or where it is to be made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        return os.pathconf(there, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # other systems, and some that do not tell
        return 255


def too_long(name: str, most: int) -> bool:
    """Whether results of an image, `<name without suffix>.png`, cannot be written."""
    parts = Path(name).with_suffix(".png").parts
    return any(len(os.fsencode(part)) > most for part in parts)


def check(root: str | Path, tags: Path | None = None) -> Report:
    """Examine a data set of any layout; `tags` is the table of a folder that has none of its own.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"there is no folder {root} to check")
    layout = "voc" if (root / "JPEGImages").is_dir() else "folder"
    report = Report(layout)
    files = photographs_in(root / "JPEGImages" if layout == "voc" else root)
    report.images = len(files)
    if not files:
        report.fail("no images", str(root))
    _check_files(root, files, report)
    if layout == "voc":
        records = _voc_records(root, files, report)
    else:
        records = _folder_records(root, tags, files, report)
    if deep := report.warnings.pop(DEEP, []):
        its_white = white_of(record.image for _, record in records.values())
        report.warnings[f"{DEEP}, {its_white}" if its_white else DEEP] = deep
    counts = Counter(tag for tags, _ in records.values() for tag in tags)
    report.tagged = len(records)
    report.classes = dict(sorted(counts.items()))
    report.tags_per_image = dict(sorted(Counter(len(t) for t, _ in records.values()).items()))
    for name, count in report.classes.items():
        if count < FEW:
            report.warn(f"class with fewer than {FEW} images", f"{name} ({count})")
        if layout == "folder" and count == report.tagged:
            report.warn("class on every image: nothing shows where it is not (add some without)", name)
        if layout == "folder" and name.lower() in RESERVED_CLASSES:
            report.fail("class name with a meaning of its own (rename it)", name)
    for names in alike(report.classes):
        report.warn("class names that differ by case or spaces", " / ".join(names))
    try:
        classes = few_enough(tuple(report.classes), root)
        if layout == "voc" or class_list(root, tags):
            classes = read_classes(layout, root, tags)
    except UserError as error:
        report.fail("classes unusable", str(error))
        return report
    if layout == "folder" and (listing := class_list(root, tags)):
        _compare(report, classes, listing)
    num_labels = len(classes) + 1
    masked = [record for _, record in records.values() if record.mask is not None]
    for record in progress(masked, "look at masks", brief=True):
        _check_mask(record, num_labels, report)
    if layout == "folder":
        _compare_masks(records, classes, report)
    return report


def _compare_masks(records: Tagged, classes: tuple[str, ...], report: Report) -> None:
    """Masks whose labels mean something else: white for 1, or classes in another order."""
    names = {without_case(name) for name in classes}
    foreign: list[str] = []
    for name, (tags, record) in records.items():
        if record.mask is None or mask_fault(record.mask, record.image, len(classes) + 1):
            continue
        report.masks += 1
        tagged = {without_case(tag) for tag in tags} & names
        mask = read_mask(record.mask, None, foreign)
        labels = [label for label in np.unique(mask) if label not in (0, VOID)]
        shown = {without_case(classes[label - 1]): classes[label - 1] for label in labels}
        if others := [shown[key] for key in shown if key not in tagged]:
            what = f"{', '.join(others)} (tagged {', '.join(tags) or 'nothing'})"
            report.warn("masks show what is not tagged (order of classes?)", f"{name}: {what}")
        elif tagged and not shown:
            what = f"background and void alone (tagged {', '.join(tags)})"
            report.warn("masks without any class (1 is the first one, 255 void)", f"{name}: {what}")
    for what in foreign:
        report.warn("palette of a mask is not VOC's (indices are read, not colours)", what)


def _compare(report: Report, listed: tuple[str, ...], listing: Path) -> None:
    """The tags and the classes that a file fixes, as `wsss init` takes them for the same."""
    tags = {without_case(name): name for name in report.classes}
    classes = {without_case(name): name for name in listed}
    for name in sorted(tags.keys() - classes.keys()):
        report.fail("tags that classes.txt does not list", f"{tags[name]} ({listing})")
    for name in sorted(classes.keys() - tags.keys()):
        report.fail("classes in classes.txt without an image", f"{classes[name]} ({listing})")


def photographs_in(folder: Path) -> list[Path]:
    """Image files in a folder and its sub-folders, but for the folder `masks`."""
    return [path for path in image_files(folder) if path.relative_to(folder).parts[0] != "masks"]


def _check_files(root: Path, files: list[Path], report: Report) -> None:
    same: dict[str, list[str]] = {}
    readable, most = 0, longest_name(Path())  # results lie in the working folder, if nobody says else
    with ThreadPoolExecutor(4) as pool:  # decoders run without Python's lock
        odds = progress(
            pool.map(image_oddities, files), "look at photographs", total=len(files), brief=True
        )
        for path, odd in zip(files, odds, strict=True):
            name = path.relative_to(root).as_posix()
            if too_long(name, most):
                report.warn(
                    f"names too long for results here ({most} bytes; left out by wsss init)", name
                )
            for kind in odd:
                # a devkit's lists are fixed: there a file that cannot be read stops the run
                broken = report.layout == "voc" and kind.startswith("unreadable")
                (report.fail if broken else report.warn)(kind, name)
            readable += not any(kind.startswith("unreadable") for kind in odd)
            if path.stat().st_size and os.access(path, os.R_OK):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                same.setdefault(digest, []).append(name)
    for names in same.values():
        if len(names) > 1:
            report.warn("duplicate images (same content)", " = ".join(names))
    if files and not readable:
        report.fail("no readable image", str(root))


def _folder_records(root: Path, tags: Path | None, files: list[Path], report: Report) -> Tagged:
    source = tags or tag_source(root)
    report.tag_source = str(source)
    for name in ("tags.csv", "tags.json") if source == root else ():
        kind = "sub-folders are taken for classes, not a table beside them (--tags)"
        if (beside := root.absolute().parent / name).is_file():
            report.warn(kind, str(beside))
    try:
        rows = read_tag_table(source, root, duplicates=(twice := []), odd=report.warnings)
    except UserError as error:
        report.fail("tags unusable", str(error))
        return {}
    for name in twice:
        report.fail("duplicate rows", name)
    present = {path.relative_to(root).as_posix() for path in files}
    written = as_files((row.image for row in rows), present)
    rows = [replace(row, image=written[row.image]) for row in rows]
    meant = {_plain(name): name for name in present}
    for name, count in Counter(row.image for row in rows).items():
        if count > 1:
            report.fail("duplicate rows", name)
    for row in rows:
        if leads_out(root, row.image):
            report.fail("name leads out of the folder", row.image)
        elif not os.path.isfile(root / row.image):  # a name may be too long to be asked for
            near = meant.get(_plain(row.image))
            report.fail("tags without image", row.image + (f" (is it {near}?)" if near else ""))
    for name in sorted(present - {row.image for row in rows}):
        report.warn("images without tags (left out)", name)
    try:
        parts = split_folder(rows, source, root)
    except UserError as error:
        report.fail("split unusable", str(error))
    else:
        left_out = {f"left out, {reason}": names for reason, names in parts.left_out.items()}
        report.warnings |= parts.odd | left_out
    known, names = {}, {}
    for row in rows:
        if row.image in present:
            first = names.setdefault(Path(row.image).with_suffix(""), row.image)
            if first != row.image:
                kind = "names that differ by suffix only (the first is used)"
                report.warn(kind, f"{first}, {row.image}")
            mask = as_written(root / "masks", Path(row.image).with_suffix(".png").as_posix())
            record = Record(row.image, root / row.image, (), mask if mask.is_file() else None)
            known[row.image] = (row.tags, record)
    used = {as_written(root / "masks", Path(name).with_suffix(".png").as_posix()) for name in present}
    masks, others = masks_in(root / "masks")
    for path in masks:
        if path not in used:
            report.warn("masks without photograph (not used)", path.relative_to(root).as_posix())
    for path in others:
        report.warn("masks that are no PNG (not read)", path.relative_to(root).as_posix())
    return known


def _plain(name: str) -> Path:
    """A name in small letters and without the suffix of an image."""
    path = Path(posixpath.normpath(name.lower()))
    return path.with_suffix("") if path.suffix in (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES) else path


def _voc_records(root: Path, files: list[Path], report: Report) -> Tagged:
    known, splits = {}, {}
    lists = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
    if not lists:
        report.fail("no list in ImageSets/Segmentation", str(root))
    for path in lists:
        words = [line.split()[0] for line in read_lines(path) if line.split()]
        splits[path.stem] = set(words)
        for name, count in Counter(words).items():
            if count > 1:
                report.fail("listed twice", f"{path.name}: {name}")
        try:
            catalog = read_catalog("voc", root, path.stem, tagged=path.stem != "test")
        except UserError as error:
            report.fail(f"list {path.name} unusable", str(error))
            continue
        for record in catalog.records:
            known[record.id] = (tuple(catalog.classes[tag] for tag in record.tags), record)
    for name in ("train", "trainaug"):
        for both in sorted(splits.get(name, set()) & splits.get("val", set())):
            report.fail(f"{name} and val overlap", both)
    listed = {unicodedata.normalize("NFC", name) for names in splits.values() for name in names}
    for path in files:
        if unicodedata.normalize("NFC", path.stem) not in listed:
            report.warn("images in no list (left out)", path.name)
    return known


def _check_mask(record: Record, num_labels: int, report: Report) -> None:
    fault = mask_fault(record.mask, record.image, num_labels)
    if fault and report.layout == "voc":  # a benchmark rests on these, a folder's are an extra
        report.fail("mask does not fit", fault)
    elif fault:
        report.warn("mask does not fit (left out)", fault)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Examine a data set. Exit code: 0 clean, 1 warnings, 2 unusable."
    parser.add_argument("root", type=Path, help="folder of the data set")
    parser.add_argument("--tags", type=Path, help="table of tags, where the folder has none of its own")
    parser.add_argument("--json", type=Path, help="write the findings there, too")


def main(args: argparse.Namespace) -> int:
    report = check(args.root, args.tags)
    print(f"{args.root}: {report.layout} layout, {report.images} images, {report.tagged} tagged")
    if report.tag_source == str(args.root):
        print("  the names of the sub-folders are the tags")
    if report.masks:
        print(f"  {report.masks} true masks")
    for name, count in report.classes.items():
        print(f"  {name:24s} {count:6d} images")
    for count, images in report.tags_per_image.items():
        print(f"  {count:2d} tags per image {images:12d} images")
    for level, findings in (("error", report.errors), ("warning", report.warnings)):
        for kind, names in findings.items():
            print(f"{level}: {kind}: {len(names)}")
            for name in names[:10]:
                print(f"    {name}")
            if len(names) > 10:
                print(f"    ... and {len(names) - 10} more (--json lists all)")
    print(
        (
            "Clean: ready to run.",
            "Usable: unreadable files, images without tags and masks that do not fit are left out; "
            "mend what you need.",
            "Unusable as it is: mend the errors above, then check again"
            + (
                " (wsss init joins repeated rows and leaves out rows without an image)."
                if report.layout == "folder"
                else "."
            ),
        )[report.code]
    )
    if report.layout == "folder" and set(report.errors) <= set(MENDED):
        tags = f" --tags {shlex.quote(str(args.tags))}" if args.tags else ""
        print(f"next: wsss init {shlex.quote(str(args.root))}{tags}")
    if args.json:
        text = json.dumps(asdict(report) | {"code": report.code}, indent=2, ensure_ascii=False)
        write_text(args.json, text + "\n")
    return report.code
