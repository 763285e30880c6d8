"""COCO's instances in JSON: COCO 2014 and 2017, and one's own annotations in that form.

ROOT/annotations/instances_<split>.json, or what `FORMS` has instead
ROOT/<split>/<file_name>, or what `FOLDERS` has instead
ROOT/classes.txt (optional: the classes and their order; else the categories in the order of their ids)
ROOT/SemanticMasks/<split>/<id>.png (made by wsss)

An image's tags are the categories of its annotations, but for crowds (`iscrowd`); an image without tags
is left out, as in the field's lists (train2014 82,081 of 82,783, val2014 40,137 of 40,504).

Ground-truth masks are drawn when they are first read (`wsss.read_mask`) and kept as files; who needs
tags alone draws none, `wsss check` all. Smaller objects lie on larger ones, and crowds, with the label
of their category, below all else: as in the masks that the field measures against (coco2voc, which AFA
and ToCo use). Where ROOT cannot be written, masks lie in the user's cache folder (`wsss.data.cache`).
"""

import hashlib
import math
import os
from collections import Counter
from pathlib import Path

from wsss.data.cache import cache_folder
from wsss.data.catalog import Catalog, Record
from wsss.data.cells import clean
from wsss.data.coco import Document, Entry, Frame, layered, number_of, read_index, where_marked
from wsss.data.images import image_size
from wsss.data.labels import RESERVED_CLASSES, few_enough, listed_classes, tag_indices
from wsss.data.layouts import Layout, existing
from wsss.data.masks import DRAWN, SOURCE, drawn_from, write_mask
from wsss.data.names import Files, as_written, inside
from wsss.data.upright import orientation_of
from wsss.errors import UserError, few, notice
from wsss.files import write_json
from wsss.voc import VOID

FORMS = (
    "annotations/instances_{}.json",
    "annotations/{}.json",
    "{}/_annotations.coco.json",  # Roboflow
    "annotations/image_info_{}.json",  # test2014, without annotations
)
"""Where the annotations of a split are, the first that is there."""

FOLDERS = ("{}", "images/{}", "images", ".")
"""Where the images of a split are, the first that has its first one."""


class Coco(Layout):
    """A split is the name of an annotation file: train2014, val2014, ... (`FORMS`)."""

    def classes(self, root: Path, tags: Path | None) -> tuple[str, ...]:
        if listed := listed_classes(existing(root), tags):
            return listed
        known = splits(root)
        if not known:
            raise UserError(f"{root} has no annotations of COCO: {FORMS[0].format('<split>')} is read")
        # all have the same categories
        return _classes(read_index(min(known.values(), key=lambda path: path.stat().st_size)))

    def catalog(self, root: Path, split: str, tagged: bool, tags: Path | None) -> Catalog:
        document = read_index(annotations_of(root, split))
        classes, its = self.classes(root, None), _classes(document)
        if its != classes and not listed_classes(root):
            raise UserError(
                f"{document.path} has the categories {few(its)}, but another file in {root} has "
                f"{few(classes)}: give all the same ids and names, or list the classes in a classes.txt"
            )
        images = sorted(document.images, key=lambda entry: entry.name)
        if len(document.places):
            images = _labelled(images, document.path)
        elif tagged:
            raise UserError(f"{document.path} has no annotations: the images' tags are read from them")
        if not images:
            raise UserError(f"{document.path} has no image with a tag: annotate some")
        folder = _image_folder(root, split, images[0].name, document.path)
        masks = _mask_folder(root, split, folder, document, classes)
        tags_of = {
            number: tag
            for number, name in document.categories.items()
            if (tag := clean(name)).lower() not in RESERVED_CLASSES
        }
        files, records = Files(folder), []
        for entry in images:
            if os.path.basename(entry.name) != entry.name:
                inside(folder, entry.name, document.path)
            if (image := files.find(entry.name)) is None:
                lost = folder / entry.name
                raise UserError(f"{document.path} lists '{entry.name}', but there is no image {lost}")
            name = os.path.splitext(entry.name)[0]
            its = [tags_of[number] for number in entry.categories if number in tags_of]
            its = tag_indices(its, classes, f"{document.path} ({entry.name})") if tagged else ()
            mask = masks / f"{name}.png" if entry.categories and entry.marks else None
            records.append(Record(name, image, its, mask))
        ids = {record.id: record.image.name for record in records}
        if len(ids) < len(records):
            one = next(record for record in records if record.image.name != ids[record.id])
            raise UserError(
                f"{document.path} lists '{one.image.name}' and '{ids[one.id]}', which differ by suffix "
                "only, so their masks would overwrite each other: rename one"
            )
        return Catalog(classes, tuple(records))


def splits(root: Path) -> dict[str, Path]:
    """The splits of a data set and their annotations, all in one of `FORMS`; none: it is not COCO's."""
    for form in FORMS:
        before, _, after = form.partition("{}")
        found = {
            path.relative_to(root).as_posix().removeprefix(before).removesuffix(after): path
            for path in sorted(root.glob(form.format("*")))
        }
        if found:
            return found
    return {}


def annotations_of(root: Path, split: str) -> Path:
    """The annotation file of a split; a UserError tells which splits there are."""
    files = [root / form.format(split) for form in FORMS]
    for path, form in zip(files, FORMS, strict=True):
        inside(root, form.format(split), root)
        if path.is_file():
            return path
    known = ", ".join(splits(root))
    hint = f"known here: {known}" if known else f"{root} has no annotations of COCO"
    raise UserError(f"no split '{split}': {files[0]} does not exist ({hint})")


def _classes(document: Document) -> tuple[str, ...]:
    names = [clean(name) for name in document.categories.values()]
    names = [name for name in names if name.lower() not in RESERVED_CLASSES]
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if not names or count > 1 or not name:
        what = f"two categories with the name '{name}'" if names else "no category"
        raise UserError(f"{document.path} has {what}: each class needs one name of its own")
    return few_enough(tuple(names), document.path)


def _labelled(images: list[Entry], source: Path) -> list[Entry]:
    """The images with a tag; the others are told."""
    without = [entry for entry in images if not entry.categories]
    for what, names in (
        ("have no annotation", [entry.name for entry in without if not entry.crowd]),
        (
            "have crowds alone, which are no tags (iscrowd, which CVAT gives what is painted with its "
            "brush: set it to 0 there)",
            [entry.name for entry in without if entry.crowd],
        ),
    ):
        if names:
            notice(f"left out: {len(names)} of {len(images)} images in {source} {what}: {few(names)}")
    return [entry for entry in images if entry.categories]


def _image_folder(root: Path, split: str, first: str, source: Path) -> Path:
    folders = [root / form.format(split) for form in FOLDERS]
    inside(root, first, source)
    for folder in folders:
        if as_written(folder, first).is_file():
            return folder
    places = ", ".join(map(str, folders))
    raise UserError(f"{source} lists '{first}', but there is no such image in {places}")


def _mask_folder(
    root: Path, split: str, images: Path, document: Document, classes: tuple[str, ...]
) -> Path:
    """The folder of a split's ground-truth masks, with a note of what they are to be drawn from.

    Those that were drawn from other annotations are removed.
    """
    place = root / DRAWN / split.replace("/", "_")
    above = next(folder for folder in (place, *place.parents) if folder.is_dir())
    note = {
        "root": os.path.relpath(root, place),
        "annotations": document.path.relative_to(root).as_posix(),
        "images": images.relative_to(root).as_posix(),
        "classes": list(classes),
        "stamp": document.stamp,
    }
    if not os.access(above, os.W_OK) and (drawn_from(place / "x") or (0, None))[1] != note:
        note["root"] = os.path.abspath(root)
        name = hashlib.sha256(os.fsencode(note["root"])).hexdigest()[:24]
        place = cache_folder() / name / DRAWN / place.name
    _, before = drawn_from(place / "x") or (place, {})
    if before != note:
        if [before.get("stamp"), before.get("classes")] != [note["stamp"], note["classes"]]:
            for mask in place.rglob("*.png") if before else ():
                mask.unlink(missing_ok=True)
        write_json(place / SOURCE, note)
    return place


def draw(mask: Path) -> bool:
    """Draw a ground-truth mask that is not there yet; False: nothing is known of it.

    Raises:
        UserError: an annotation of its image is broken.
    """
    folder, note = drawn_from(mask) or (None, None)
    if note is None:
        return False
    root = Path(os.path.normpath(folder / note["root"]))
    document = read_index(root / note["annotations"])
    if document.stamp != note["stamp"]:
        raise UserError(
            f"{document.path} was changed after its images were listed: run the command again"
        )
    entry = document.by_stem.get(mask.relative_to(folder).with_suffix("").as_posix())
    if entry is None or entry.marks is None:
        return False
    photo = as_written(root / note["images"], entry.name)
    frame, layers = _frame(entry, photo, document.path), []
    for one in document.annotations(entry):
        told = f"{document.path}, annotation {number_of(one)},"
        # real ones have specks of two points, which mark nothing
        where, faults = where_marked(one["segmentation"], frame, told, least=6)
        if faults:
            raise UserError(faults[0])
        name = clean(document.categories[number_of(one, "category_id")])
        if name.lower() in RESERVED_CLASSES:
            label = {"background": 0, "void": VOID}[name.lower()]
        else:
            label = tag_indices([name], note["classes"], told.rstrip(","))[0] + 1
        layers.append((math.inf if one.get("iscrowd") else where.sum(), label, where))
    try:
        write_mask(mask, layered(layers, frame.size))
    except OSError as error:  # of a loader's process, whose errors keep their words alone
        raise UserError(f"{mask} cannot be drawn ({error.strerror}): make room, or allow it") from error
    return True


def _frame(entry: Entry, photo: Path, source: Path) -> Frame:
    size, exif = image_size(photo), orientation_of(photo)
    if entry.size in (None, size):
        return Frame(size, exif)
    if entry.size == size[::-1] and exif >= 5:  # annotated without turning it
        return Frame(size, exif, turn=exif)
    (height, width), (given, across) = size, entry.size
    raise UserError(
        f"{source} says {across}x{given} pixels for '{entry.name}', but {photo} is {width}x{height}: "
        "give the photographs that were annotated"
    )
