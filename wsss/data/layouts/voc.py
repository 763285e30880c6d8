"""The layout of the PASCAL VOC development kit.

ROOT/JPEGImages/<id>.jpg  ROOT/Annotations/<id>.xml  ROOT/ImageSets/Segmentation/<split>.txt
ROOT/SegmentationClass/<id>.png  (ROOT/SegmentationClassAug/<id>.png for trainaug)
ROOT/classes.txt (optional: other classes than VOC's twenty, one a line)
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from defusedxml import ElementTree

from wsss.data.cache import remembered
from wsss.data.catalog import Catalog, Record
from wsss.data.cells import clean
from wsss.data.labels import listed_classes, tag_indices
from wsss.data.layouts import Layout, existing
from wsss.data.names import Files, inside
from wsss.errors import UserError
from wsss.files import read_lines
from wsss.progress import progress
from wsss.voc import VOC_CLASSES


class VOC(Layout):
    """A split is the name of a list in ImageSets/Segmentation: train, val, trainaug, ..."""

    def classes(self, root: Path, tags: Path | None) -> tuple[str, ...]:
        return listed_classes(existing(root), tags) or VOC_CLASSES

    def catalog(self, root: Path, split: str, tagged: bool, tags: Path | None) -> Catalog:
        lists = root / "ImageSets" / "Segmentation"
        listing = inside(lists, f"{split}.txt", lists)
        if not listing.is_file():
            known = sorted(path.stem for path in lists.glob("*.txt"))
            hint = f"known here: {', '.join(known)}" if known else f"{lists} holds no list"
            raise UserError(f"no split '{split}': {listing} does not exist ({hint})")
        classes = self.classes(root, None)
        ids = [words[0] for line in read_lines(listing) if (words := line.split())]
        if not ids:
            raise UserError(f"{listing} lists no image")
        name, count = Counter(ids).most_common(1)[0]
        if count > 1:
            raise UserError(f"{listing} lists '{name}' more than once: remove the duplicate lines")
        augmented = root / "SegmentationClassAug"
        masks = augmented if split == "trainaug" and augmented.is_dir() else root / "SegmentationClass"
        photos, masks, notes = map(Files, (root / "JPEGImages", masks, root / "Annotations"))
        images = []
        for name in ids:
            if os.path.basename(name) != name:
                inside(root / "JPEGImages", f"{name}.jpg", listing)
            if (image := photos.find(f"{name}.jpg")) is None:
                missing = root / "JPEGImages" / f"{name}.jpg"
                raise UserError(f"{listing} lists '{name}', but there is no image {missing}")
            images.append(image)
        tags = [()] * len(ids)
        if tagged:
            files = [notes.find(f"{n}.xml") or root / "Annotations" / f"{n}.xml" for n in ids]
            found = zip(files, remembered("voc", files, _objects), strict=True)
            tags = [tag_indices(names, classes, str(path)) for path, names in found]
        its = [masks.find(f"{name}.png") for name in ids]
        return Catalog(classes, tuple(map(Record, ids, images, tags, its)))


def _objects(paths: Sequence[Path]) -> Iterator[list[str]]:
    """The names of the objects in each annotation."""
    for path in progress(paths, "read annotations", brief=True):
        if not path.is_file():
            raise UserError(f"no annotation {path}: the image's tags are read from it")
        try:
            tree = ElementTree.parse(path)
        except Exception as error:
            raise UserError(f"annotation {path} is not readable XML ({error})") from error
        names = [clean(node.text or "") for node in tree.findall("object/name")]
        if not names:
            raise UserError(f"annotation {path} names no object: its image has no tag to learn from")
        yield names
