"""What the tests of tests/exchange share: small masks, and the two commands."""

import json

import numpy as np
from PIL import Image

from wsss.cli import main
from wsss.data.masks import read_mask, write_mask
from wsss.voc import VOID

CLASSES = ("ball", "brick", "kite")
ORDER = ("kite", "ball", "brick")  # labels 1, 2, 3 of the other tool are 3, 1, 2 of ours
PLAIN, OTHER, LONG = (1, "plain.jpg", 90, 47), (2, "other.png", 30, 20), (3, "a/b 2.jpg", 48, 64)


def discs(seed: int, height: int, width: int) -> np.ndarray:
    """Overlapping discs and a ring, the ring's hole and some void: (H, W) uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    for label in (1, 2, 3, 1):
        far = np.hypot(y - random.integers(height), x - random.integers(width))
        mask[far < random.integers(6, 18)] = label
    far = np.hypot(y - height / 2, x - width / 2)
    mask[(far < 16) & (far > 7)] = 2
    mask[:2, 5:25] = VOID
    return mask


def export(data, form, out, *more, masks="masks"):
    words = ["export", "masks", data / masks, "--photos", data / "photos", "--format", form]
    return main([str(word) for word in (*words, "--out", data / out, *more)])


def import_(data, file, *more, out="back"):
    words = ["import", "masks", data / file, "--photos", data / "photos", "--out", data / out]
    return main([str(word) for word in (*words, *more)])


def pairs(data, out="back"):
    files = sorted((data / "masks").rglob("*.png"))
    assert len(list((data / out).rglob("*.png"))) == len(files) == 3
    for path in files:
        yield read_mask(path), read_mask(data / out / path.relative_to(data / "masks"))


def refused(capsys, *words):
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in said, said
    for word in words:
        assert str(word) in lines[0]


def tiny_coco(data, annotations, size=(4, 6), name="tiny.png", category="ball"):
    Image.new("RGB", size[::-1]).save(data / "photos" / "tiny.png")
    found = {
        "images": [{"id": 7, "file_name": name, "height": size[0], "width": size[1]}],
        "categories": [{"id": 3, "name": category}, {"id": 9, "name": "kite"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3} | one for one in annotations],
    }
    (data / "given.json").write_text(json.dumps(found))


def square(x, y, side=10):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def given_coco(data, images, annotations, classes=CLASSES, **more):
    """A COCO file: (id, file_name, width, height) and (image, category, segmentation) each."""
    keys = ("id", "file_name", "width", "height")
    found = {
        "images": [dict(zip(keys, one, strict=True)) for one in images],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        "annotations": [
            {"id": place, "image_id": image, "category_id": category, "segmentation": shape}
            for place, (image, category, shape) in enumerate(annotations, 1)
        ],
    }
    (data / "given.json").write_text(json.dumps(found | more))


def labels(data, name, out="back"):
    """Label -> number of its pixels."""
    return dict(zip(*np.unique(read_mask(data / out / f"{name}.png"), return_counts=True), strict=True))


def turned_photo(path, upright, orientation):
    """A photograph that EXIF turns: what is seen upright has the (height, width) `upright`."""
    height, width = upright if orientation < 5 else upright[::-1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), "gray").save(path, exif=exif)
    return width, height


def as_stored(mask, orientation):
    """What lies in the file of a photograph that is seen as `mask`."""
    one = {1: 1, 6: 8, 8: 6}.get(orientation, orientation)  # the others turn back by themselves
    mask = mask.T if one in (5, 6, 7, 8) else mask
    mask = mask[::-1] if one in (3, 4, 7, 8) else mask
    return mask[:, ::-1] if one in (2, 3, 6, 7) else mask


def masks_on_disk(folder, names, label=3):
    for name in names:
        mask = np.zeros((20, 30), np.uint8)
        mask[:5] = label
        write_mask(folder / f"{name}.png", mask)
