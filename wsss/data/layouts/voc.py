"""The layout of the PASCAL VOC development kit.

ROOT/JPEGImages/<id>.jpg  ROOT/Annotations/<id>.xml  ROOT/ImageSets/Segmentation/<split>.txt
ROOT/SegmentationClass/<id>.png  (ROOT/SegmentationClassAug/<id>.png for trainaug)
ROOT/classes.txt (optional: other classes than VOC's twenty, one a line)
"""

from pathlib import Path

from defusedxml import ElementTree

from wsss.data.catalog import Catalog, Record
from wsss.data.cells import clean
from wsss.data.labels import listed_classes, tag_indices
from wsss.data.layouts import Layout, existing
from wsss.data.names import as_written, inside
from wsss.errors import UserError
from wsss.files import read_lines
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
        if len(set(ids)) != len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise UserError(f"{listing} lists '{twice}' more than once: remove the duplicate lines")
        augmented = root / "SegmentationClassAug"
        masks = augmented if split == "trainaug" and augmented.is_dir() else root / "SegmentationClass"
        records = []
        for name in ids:
            inside(root / "JPEGImages", f"{name}.jpg", listing)
            image = as_written(root / "JPEGImages", f"{name}.jpg")
            if not image.is_file():
                raise UserError(f"{listing} lists '{name}', but there is no image {image}")
            mask = as_written(masks, f"{name}.png")
            xml = as_written(root / "Annotations", f"{name}.xml")
            tags_of = _tags(xml, classes) if tagged else ()
            records.append(Record(name, image, tags_of, mask if mask.is_file() else None))
        return Catalog(classes, tuple(records))


def _tags(path: Path, classes: tuple[str, ...]) -> tuple[int, ...]:
    if not path.is_file():
        raise UserError(f"no annotation {path}: the image's tags are read from it")
    try:
        tree = ElementTree.parse(path)
    except Exception as error:
        raise UserError(f"annotation {path} is not readable XML ({error})") from error
    names = [clean(node.text or "") for node in tree.findall("object/name")]
    if not names:
        raise UserError(f"annotation {path} names no object: its image has no tag to learn from")
    return tag_indices(names, classes, str(path))
