"""The drawn data in COCO's form, and small files of it to be broken."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from wsss.data.masks import read_mask

NUMBERS = {1: 5, 2: 90, 3: 1, 4: 17}
"""Label of the drawn data -> id of its category, with gaps and in another order, as COCO has them."""


def drawn_as_coco(drawn: Path, root: Path) -> Path:
    """train2014 and val2014 of the drawn train and val, each class of an image in run lengths."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        names = (drawn / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
        (root / f"{split}2014").mkdir()
        images, annotations = [], []
        for number, name in enumerate(names, 400):
            shutil.copy(drawn / "JPEGImages" / f"{name}.jpg", root / f"{split}2014")
            mask = read_mask(drawn / "SegmentationClass" / f"{name}.png")
            size = {"height": mask.shape[0], "width": mask.shape[1]}
            images.append({"id": number, "file_name": f"{name}.jpg"} | size)
            for label in set(np.unique(mask).tolist()) - {0, 255}:
                runs = coco_mask.encode(np.asfortranarray(mask == label, dtype=np.uint8))
                runs["counts"] = runs["counts"].decode()
                one = {"id": len(annotations), "image_id": number, "category_id": NUMBERS[label]}
                annotations.append(one | {"segmentation": runs, "iscrowd": 0})
        write_instances(root / "annotations" / f"instances_{split}2014.json", images, annotations)
    return root


def write_instances(path: Path, images: list, annotations: list, names=None, **more) -> None:
    names = names or {90: "brick", 5: "ball", 1: "kite", 17: "star"}
    categories = [{"id": number, "name": name} for number, name in names.items()]
    # in COCO's own order
    found = {"info": {"description": "Größe"}, "images": images, "licenses": []}
    found |= {"annotations": annotations, "categories": categories} | more
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")


def small_coco(root: Path, annotations: list, images=((7, "a.jpg"), (9, "b.jpg")), **more) -> Path:
    """Split `s` with images of 40x60 pixels, and annotations completed where they lack keys."""
    (root / "s").mkdir(parents=True)
    entries = []
    for number, name in images:
        Image.new("RGB", (60, 40), "gray").save(root / "s" / name)
        entries.append({"id": number, "file_name": name, "height": 40, "width": 60})
    plain = {"image_id": 7, "category_id": 5, "iscrowd": 0, "segmentation": [box(0, 0, 10, 10)]}
    marks = [{"id": 100 + n} | plain | one for n, one in enumerate(annotations)]
    write_instances(root / "annotations" / "instances_s.json", entries, marks, **more)
    return root


def box(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]
