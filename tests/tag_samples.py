"""The same tags in each form that is read, as the tools write them.

Compared with what they are drawn after: datumaro 1.13.12 (CVAT, VOC, COCO, Open Images, folders),
label-studio-sdk 2.1.2 (JSON-MIN, CSV) and datasets 5.2.0 (imagefolder).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from odd_files import photo

TAGS = {
    "day 1/a b.jpg": ("cat", "polar bear"),
    "é.jpg": ("polar bear",),
    "c.jpg": (),
    "d.jpg": ("cat",),
    "e.jpg": ("polar bear",),
    "f.jpg": ("cat",),
}
"""Photograph -> its tags."""

CLASSES = ("cat", "polar bear")


def photographs(root: Path) -> Path:
    """The folder of the photographs."""
    for number, name in enumerate(TAGS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photo(number, 32, 32).save(root / name)
    return root


def _marks(header: str, blank: str = "") -> str:
    """A column for each class; Roboflow sets a blank before each name and mark."""
    names = "".join(f",{blank}{name}" for name in CLASSES)
    lines = [
        image + "".join(f",{blank}{int(name in tags)}" for name in CLASSES)
        for image, tags in TAGS.items()
    ]
    return "\n".join([header + names, *lines, ""])


def roboflow(root: Path) -> Path:
    return _write(root / "_classes.csv", _marks("filename", " "))


def cvat(root: Path) -> Path:
    images = "".join(
        f'  <image id="{number}" name="{name}" width="32" height="32">\n'
        + "".join(f'    <tag label="{tag}" source="manual">\n    </tag>\n' for tag in tags)
        + "  </image>\n"
        for number, (name, tags) in enumerate(TAGS.items())
    )
    labels = "".join(f"<label><name>{name}</name><type>tag</type></label>" for name in CLASSES)
    meta = f"  <meta><task><mode>annotation</mode><labels>{labels}</labels></task></meta>\n"
    text = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
    return _write(root / "annotations.xml", f"{text}{meta}{images}</annotations>\n")


def _address(number: int, name: str) -> str:
    """Of local files, of an upload, of a store in the cloud."""
    local = "/data/local-files/?d=photos/" + name.replace(" ", "%20")
    upload = f"/data/upload/3/0a1b2c3{number}-" + name.rpartition("/")[2].replace("é", "%C3%A9")
    return (local, upload, f"s3://bucket/photos/{name}")[number % 3]


def label_studio(root: Path) -> Path:
    tasks = [_task(number, name, tags) for number, (name, tags) in enumerate(TAGS.items())]
    return _write_json(root.parent / "project-1.json", tasks)


def _task(number: int, name: str, tags: tuple[str, ...]) -> dict[str, Any]:
    chosen = {"id": "x", "from_name": "choice", "to_name": "image", "origin": "manual"}
    result = [chosen | {"type": "choices", "value": {"choices": [*tags]}}] if tags else []
    annotation = {"id": number, "result": result, "was_cancelled": False, "lead_time": 1.5}
    return {
        "id": number,
        "data": {"image": _address(number, name)},
        "annotations": [annotation],
        "predictions": [],
    }


def _entries() -> list[dict[str, Any]]:
    said = {"annotator": 1, "annotation_id": 1, "created_at": "2024-01-01T00:00:00Z", "lead_time": 1.5}
    return [
        {"image": _address(number, name), "id": number}
        | ({"choice": {"choices": [*tags]} if len(tags) > 1 else tags[0]} if tags else {})
        | said
        for number, (name, tags) in enumerate(TAGS.items())
    ]


def label_studio_min(root: Path) -> Path:
    return _write_json(root.parent / "result.json", _entries())


def label_studio_csv(root: Path) -> Path:
    header = ("annotation_id", "annotator", "choice", "id", "image", "lead_time")
    lines = [",".join(header)]
    for one in _entries():
        values = [one.get(name, "") for name in header]
        texts = [json.dumps(v) if isinstance(v, dict) else str(v) for v in values]
        lines.append(",".join('"' + text.replace('"', '""') + '"' for text in texts))
    return _write(root.parent / "result.csv", "\n".join(lines) + "\n")


def fiftyone(root: Path) -> Path:
    labels = {
        name.removesuffix(".jpg"): [CLASSES.index(tag) for tag in tags] for name, tags in TAGS.items()
    }
    return _write_json(root / "labels.json", {"classes": [*CLASSES], "labels": labels})


def coco(root: Path) -> Path:
    found = {
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)],
        "images": [
            {"id": n, "file_name": name, "width": 32, "height": 32}
            for n, name in enumerate(TAGS, start=1)
        ],
        "annotations": [
            {"image_id": n, "category_id": 1 + CLASSES.index(tag), "bbox": [1, 2, 3, 4], "iscrowd": 0}
            for n, tags in enumerate(TAGS.values(), start=1)
            for tag in tags
        ],
    }
    for number, one in enumerate(found["annotations"], start=1):
        one["id"] = number
    return _write_json(root.parent / "instances.json", found)


def image_folder_csv(root: Path) -> Path:
    lines = [f"{name},{'|'.join(tags)}" for name, tags in TAGS.items()]
    return _write(root / "metadata.csv", "\n".join(["file_name,labels", *lines, ""]))


def image_folder_lines(root: Path) -> Path:
    lines = [{"file_name": name, "labels": [*tags]} for name, tags in TAGS.items()]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return _write(root / "metadata.jsonl", text)


def voc(root: Path) -> Path:
    for name, tags in TAGS.items():
        objects = "".join(
            f"<object><name>{tag}</name><bndbox><xmin>1</xmin></bndbox></object>" for tag in tags
        )
        text = f"<annotation><filename>{name.rpartition('/')[2]}</filename>{objects}</annotation>\n"
        _write((root / name).with_suffix(".xml"), text)
    return root


def open_images(root: Path) -> Path:
    ids = {name: name.removesuffix(".jpg") for name in TAGS}
    lines = [
        f"{ids[name]},verification,/m/0{CLASSES.index(tag)},{int(tag in tags)}"
        for name, tags in TAGS.items()
        for tag in CLASSES
    ]
    _write(root.parent / "class-descriptions.csv", "/m/00,cat\n/m/01,polar bear\n/m/02,Tree\n")
    text = "\n".join(["ImageID,Source,LabelName,Confidence", *lines, ""])
    return _write(root.parent / "train-annotations-human-imagelabels.csv", text)


def excel(root: Path) -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["image", *CLASSES])
    for name, tags in TAGS.items():
        book.active.append([name, *(tag in tags for tag in CLASSES)])
    book.save(root / "tags.xlsx")
    return root / "tags.xlsx"


def table(root: Path) -> Path:
    lines = [f"{name},{'|'.join(tags)}" for name, tags in TAGS.items()]
    return _write(root / "tags.csv", "\n".join(["image,tags", *lines, ""]))


def names(root: Path) -> Path:
    return _write_json(root / "tags.json", {name: [*tags] for name, tags in TAGS.items()})


SAMPLES: dict[str, Callable[[Path], Path]] = {
    write.__name__: write
    for write in (
        *(roboflow, cvat, label_studio, label_studio_min, label_studio_csv, fiftyone, coco),
        *(image_folder_csv, image_folder_lines, voc, open_images, excel, table, names),
    )
}
"""Form -> what writes the tags in it, beside the photographs or above; gives the file or folder."""


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _write_json(path: Path, content: Any) -> Path:
    return _write(path, json.dumps(content, ensure_ascii=False, indent=1))
