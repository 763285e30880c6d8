"""COCO's instances in JSON: COCO 2014 and 2017, and one's own annotations in that form.

ROOT/annotations/instances_<split>.json, or what `FORMS` has instead
ROOT/<split>/<file_name>, or what `FOLDERS` has instead
ROOT/classes.txt (optional: the classes and their order; else the categories in the order of their ids)
ROOT/SemanticMasks/<split>/<id>.png (made by wsss)

An image's tags are the categories of its annotations, but for crowds (`iscrowd`); an image without tags
is left out, as in the field's lists (train2014 82,081 of 82,783, val2014 40,137 of 40,504).

True masks are drawn when they are first read (`wsss.read_mask`) and kept as files; tags alone draw none.
Smaller objects lie on larger ones, and crowds have the label of their category, below all else: as in
the masks that the field measures against (coco2voc, of which AFA and ToCo have theirs). Where ROOT
cannot be written, masks lie in the user's cache folder (`wsss.data.cache`).
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from wsss.data.cache import cache_folder
from wsss.data.catalog import Catalog, Record
from wsss.data.cells import clean
from wsss.data.coco import Document, Entry, Frame, layered, number_of, read_index, where_marked
from wsss.data.images import image_size
from wsss.data.labels import RESERVED_CLASSES, few_enough, listed_classes, tag_indices
from wsss.data.layouts import Layout, existing
from wsss.data.masks import DRAWN, SOURCE, write_mask
from wsss.data.names import Files, inside
from wsss.data.upright import orientation_of
from wsss.errors import UserError, few, notice
from wsss.files import read_json, write_json
from wsss.voc import VOID

FORMS = (
    "annotations/instances_{}.json",
    "annotations/{}.json",
    "{}/_annotations.coco.json",  # Roboflow
    "{}.json",
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
        document = read_index(_annotations(root, split))
        classes, its = self.classes(root, None), _classes(document)
        if its != classes and not listed_classes(root):
            raise UserError(
                f"{document.path} has the categories {few(its)}, but another file in {root} has "
                f"{few(classes)}: give all the same ids and names, or list the classes in {root}/classes.txt"
            )
        images = sorted(document.images)
        if len(document.places):
            images = [entry for entry in images if entry.categories]
            _tell_left_out(document)
        elif tagged:
            raise UserError(f"{document.path} has no annotations: the images' tags are read from them")
        if not images:
            raise UserError(f"{document.path} has no image with a tag: annotate some")
        folder = _folder(root, split, images[0].name, document.path)
        masks = _masks(root, split, folder, document, classes)
        files, records = Files(folder), []
        names = {number: clean(name) for number, name in document.categories.items()}
        for entry in images:
            if os.path.basename(entry.name) != entry.name:
                inside(folder, entry.name, document.path)
            if (image := files.find(entry.name)) is None:
                missing = folder / entry.name
                raise UserError(f"{document.path} lists '{entry.name}', but there is no image {missing}")
            name = os.path.splitext(entry.name)[0]
            found = [one for n in entry.categories if (one := names[n]).lower() not in RESERVED_CLASSES]
            its = tag_indices(found, classes, f"{document.path} ({entry.name})") if tagged else ()
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
        if found and form != "{}.json":  # any file may be called so
            return found
    return {}
