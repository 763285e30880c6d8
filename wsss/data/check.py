"""What is in a data set, what is odd about it, and what to do (`wsss check`)."""

import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wsss.data.catalog import Record, read_catalog, read_classes
from wsss.data.coco import read_index
from wsss.data.folder_rules import (
    ABSENT,
    FEW,
    MENDED,
    SAME_CONTENT,
    TOO_LONG,
    TWICE,
    Finding,
    digests,
    everywhere,
    examine,
    longest_name,
    masks_of,
    repeats,
    too_long,
)
from wsss.data.labels import RESERVED_CLASSES, alike, class_list, few_enough, unmatched, without_case
from wsss.data.layouts import recognised
from wsss.data.layouts.coco import annotations_of, splits
from wsss.data.masks import mask_fault, masks_in, read_mask
from wsss.data.oddities import DEEP, image_oddities, white_of
from wsss.data.photographs import photographs_in
from wsss.data.splits import split_folder
from wsss.data.tags import read_tag_table, tag_source
from wsss.errors import UserError
from wsss.files import read_lines
from wsss.progress import progress
from wsss.voc import VOID

Tagged = dict[str, tuple[tuple[str, ...], Record]]
"""Name of an image -> its tags and its record."""


@dataclass
class Report:
    """What was found.

    Attributes:
        layout: "voc", "coco" or "folder".
        images: image files in the data set.
        tagged: images with an entry in the table or an annotation, split by split together.
        classes: number of images of each class.
        tags_per_image: number of images with so many tags.
        tag_source: file or folder that the tags are from (folder layout).
        tag_form: what that was taken for.
        everywhere: classes that no image is said to be without (folder layout).
        masks: usable ground-truth masks (folder layout).
        warnings: kind of oddity -> files or names; the run goes on with them.
        errors: the same, for what stops a run.
    """

    layout: str
    images: int = 0
    tagged: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    tags_per_image: dict[int, int] = field(default_factory=dict)
    tag_source: str = ""
    tag_form: str = ""
    everywhere: list[str] = field(default_factory=list)
    masks: int = 0
    warnings: dict[str, list[str]] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)

    @property
    def code(self) -> int:
        """0 clean, 1 warnings, 2 unusable."""
        return 2 if self.errors else 1 if self.warnings else 0

    def warn(self, kind: str, *names: str) -> None:
        self.warnings.setdefault(kind, []).extend(names)

    def fail(self, kind: str, *names: str) -> None:
        self.errors.setdefault(kind, []).extend(names)

    def add(self, findings: Iterable[Finding]) -> None:
        """What the rules of a folder (`wsss.data.folder_rules`) have found."""
        for rule, image, more in findings:
            if rule is ABSENT and more:
                image += f" (is it {more}?)"
            elif more and rule is not TOO_LONG:
                image = f"{more}, {image}"
            (self.fail if rule.severe else self.warn)(rule.check.format(more=more), image)


def check(root: str | Path, tags: Path | None = None, layout: str | None = None) -> Report:
    """Examine a data set.

    Args:
        root: its folder.
        tags: the table of a folder that has none of its own.
        layout: "voc", "coco" or "folder"; None: what it looks like.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"there is no folder {root} to check")
    layout = layout or recognised(root)
    report = Report(layout)
    if layout == "coco":
        records = _coco_records(root, report)
        files = [record.image for _, record in records.values()]
    else:
        files = photographs_in(root / "JPEGImages" if layout == "voc" else root)
    report.images = len(files)
    if not files:
        report.fail("no images", str(root))
    names = [path.relative_to(root).as_posix() for path in files]
    _check_files(root, names, report)
    if layout == "voc":
        records = _voc_records(root, files, report)
    elif layout == "folder":
        records = _folder_records(root, tags, names, report)
    if deep := report.warnings.pop(DEEP, []):
        its_white = white_of(record.image for _, record in records.values())
        report.warn(f"{DEEP}, {its_white}" if its_white else DEEP, *deep)
    counts = Counter(tag for tags, _ in records.values() for tag in tags)
    report.tagged = len(records)
    report.classes = dict(sorted(counts.items()))
    report.tags_per_image = dict(sorted(Counter(len(t) for t, _ in records.values()).items()))
    _check_names(report)
    try:
        listing = class_list(root, tags) if layout == "folder" else None
        classes = few_enough(tuple(report.classes), root)
        if layout != "folder" or listing:
            classes = read_classes(layout, root, tags)
    except UserError as error:
        report.fail("classes unusable", str(error))
        return report
    if listing:
        unknown, unused = unmatched(report.classes, classes)
        for kind, those in (
            ("tags that classes.txt does not list", unknown),
            ("classes in classes.txt without an image", unused),
        ):
            for name in those:
                report.fail(kind, f"{name} ({listing})")
    _check_masks(records, classes, report)
    return report


def _check_files(root: Path, names: list[str], report: Report) -> None:
    readable, most = 0, longest_name(Path())  # results lie in the working folder, if nobody says else
    with ThreadPoolExecutor(4) as pool:  # decoders run without Python's lock
        odds = pool.map(image_oddities, (root / name for name in names))
        odds = progress(odds, "look at photographs", total=len(names), brief=True)
        for name, odd in zip(names, odds, strict=True):
            if too_long(name, most):
                report.add([Finding(TOO_LONG, name, str(most))])
            for kind in odd:
                report.warn(kind, name)
            readable += not any(kind.startswith("unreadable") for kind in odd)
    same: dict[bytes, list[str]] = {}
    for name, content in digests(root, names).items():
        same.setdefault(content, []).append(name)
    for copies in same.values():
        if len(copies) > 1:
            report.warn(SAME_CONTENT.check, " = ".join(copies))
    if names and not readable:
        report.fail("no readable image", str(root))


def _folder_records(root: Path, tags: Path | None, files: list[str], report: Report) -> Tagged:
    source = tags or tag_source(root)
    report.tag_source = str(source)
    for name in ("tags.csv", "tags.json") if source == root else ():
        if (beside := root.absolute().parent / name).is_file():
            kind = "sub-folders are taken for classes, not a table beside them (--tags)"
            report.warn(kind, str(beside))
    try:
        table = read_tag_table(source, root, duplicates=(twice := []), odd=report.warnings)
    except UserError as error:
        report.fail("tags unusable", str(error))
        return {}
    report.tag_form = table.form
    rows, findings = examine(table.rows, root, files)
    report.add([*(Finding(TWICE, image) for image in twice), *findings])
    try:
        parts = split_folder(rows, source, root)
    except UserError as error:
        report.fail("split unusable", str(error))
    else:
        left_out = {f"left out, {reason}": names for reason, names in parts.left_out.items()}
        report.warnings |= parts.odd | left_out
    present = {*files}
    rows = [row for row in rows if row.image in present]
    report.everywhere = everywhere(rows)
    report.add(repeats(row.image for row in rows))
    used = {*masks_of(root, files)}
    masks, others = masks_in(root / "masks")
    for path in masks:
        if path not in used:
            report.warn("masks without photograph (not used)", path.relative_to(root).as_posix())
    for path in others:
        report.warn("masks that are no PNG (not read)", path.relative_to(root).as_posix())
    its = masks_of(root, [row.image for row in rows])
    return {
        row.image: (row.tags, Record(row.image, root / row.image, (), mask))
        for row, mask in zip(rows, its, strict=True)
    }


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


def _coco_records(root: Path, report: Report) -> Tagged:
    known = {}
    for split in splits(root):
        try:
            tagged = bool(len(read_index(annotations_of(root, split)).places))
            catalog = read_catalog("coco", root, split, tagged)
        except UserError as error:
            report.fail(f"split {split} unusable", str(error))
            continue
        for record in catalog.records:  # images of two splits may have one name
            names = tuple(catalog.classes[tag] for tag in record.tags)
            known[f"{split}/{record.id}"] = (names, record)
    if not splits(root):
        report.fail("no annotations of COCO", f"{root}/annotations/instances_<split>.json")
    return known


def _check_names(report: Report) -> None:
    """The names of the classes, and how many images each has."""
    for name, count in report.classes.items():
        if count < FEW:
            report.warn(f"class with fewer than {FEW} images", f"{name} ({count})")
        if report.layout == "folder" and name in report.everywhere:
            report.warn("class on every image: nothing shows where it is not (add some without)", name)
        if report.layout == "folder" and name.lower() in RESERVED_CLASSES:
            report.fail("class name with a meaning of its own (rename it)", name)
    for names in alike(report.classes):
        report.warn("class names that differ by case or spaces", " / ".join(names))


def _check_masks(records: Tagged, classes: tuple[str, ...], report: Report) -> None:
    """Masks that do not fit and, of a folder, those whose labels mean something else."""
    masked = [(name, *its) for name, its in records.items() if its[1].mask is not None]
    fitting = []
    for name, tags, record in progress(masked, "look at masks", brief=True):
        fault = mask_fault(record.mask, record.image, len(classes) + 1)
        if not fault:
            fitting.append((name, tags, record.mask))
        # a benchmark rests on these, a folder's are an extra; but none may be lost without a word
        elif report.layout != "folder" or fault.startswith(f"mask {record.mask} cannot"):
            report.fail("mask does not fit", fault)
        else:
            report.warn("mask does not fit (left out)", fault)
    if report.layout != "folder":
        return
    report.masks = len(fitting)
    foreign: list[str] = []
    known = {without_case(name) for name in classes}
    for name, tags, path in fitting:
        # white for 1, or classes in another order
        tagged = {without_case(tag) for tag in tags} & known
        labels = [
            label for label in np.unique(read_mask(path, None, foreign)) if label not in (0, VOID)
        ]
        shown = {without_case(classes[label - 1]): classes[label - 1] for label in labels}
        if others := [shown[key] for key in shown if key not in tagged]:
            what = f"{', '.join(others)} (tagged {', '.join(tags) or 'nothing'})"
            report.warn("masks show what is not tagged (order of classes?)", f"{name}: {what}")
        elif tagged and not shown:
            what = f"background and void alone (tagged {', '.join(tags)})"
            report.warn("masks without any class (1 is the first one, 255 void)", f"{name}: {what}")
    for what in foreign:
        report.warn("palette of a mask is not VOC's (indices are read, not colours)", what)


def summary(report: Report, root: Path, tags: Path | None) -> Iterator[str]:
    """The lines in which a user is told what `check` found in `root`, and what to do next."""
    yield f"{root}: {report.layout} layout, {report.images} images, {report.tagged} tagged"
    if report.tag_form:
        yield f"  tags read as {report.tag_form}"
    if report.masks:
        yield f"  {report.masks} ground-truth masks"
    for name, count in report.classes.items():
        yield f"  {name:24s} {count:6d} images"
    for count, images in report.tags_per_image.items():
        yield f"  {count:2d} tags per image {images:12d} images"
    for level, findings in (("error", report.errors), ("warning", report.warnings)):
        for kind, names in findings.items():
            yield f"{level}: {kind}: {len(names)}"
            yield from (f"    {name}" for name in names[:10])
            if len(names) > 10:
                yield f"    ... and {len(names) - 10} more (--json lists all)"
    folder = report.layout == "folder"
    init = " (wsss init joins repeated rows and leaves out rows without an image)" if folder else ""
    yield (
        "Clean: ready to run.",
        "Usable: unreadable files, images without tags and masks that do not fit are left out; "
        "mend what you need.",
        f"Unusable as it is: mend the errors above, then check again{init}.",
    )[report.code]
    if folder and report.errors.keys() <= {rule.check for rule in MENDED}:
        told = f" --tags {shlex.quote(str(tags))}" if tags else ""
        yield f"next: wsss init {shlex.quote(str(root))}{told}"
