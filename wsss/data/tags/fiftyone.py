"""FiftyOne's image classification: `labels.json` beside the folder `data`.

{"classes": [...], "labels": {"name without suffix": target}}; a target is a class or its number, a list
of these, or {"label": target, ...}. That of an image without label is null.
https://docs.voxel51.com/user_guide/import_datasets.html
"""

from typing import Any, ClassVar

from wsss.data.tags.source import NOT_ANNOTATED, Form, Rows, Source
from wsss.errors import UserError


class FiftyOne(Form):
    about = "labels of images (FiftyOne's image classification)"
    files: ClassVar = ("labels.json",)

    def read(self, source: Source) -> Rows | None:
        found = source.json
        if not (isinstance(found, dict) and isinstance(found.get("labels"), dict)):
            return None
        classes = found.get("classes")
        if classes is not None and not isinstance(classes, list):
            raise UserError(f"{source.path} has classes that are no list: export it again")
        rows = []
        for number, (image, target) in enumerate(found["labels"].pairs, start=1):
            place = f"label {number}"
            if target is None:
                source.note(NOT_ANNOTATED, image)
                continue
            targets = target if isinstance(target, list) else [target]
            tags = [_name(source, one, classes, place) for one in targets]
            rows.append((place, source.row(image, tags, place)))
        return rows


def _name(source: Source, target: Any, classes: list | None, place: str) -> str:
    if isinstance(target, dict):
        target = target.get("label")
    if isinstance(target, int) and not isinstance(target, bool) and classes is not None:
        if not 0 <= target < len(classes):
            raise UserError(
                f"{source.path} {place} is the class {target}, and {len(classes)} are listed, counted "
                "from 0: export it again"
            )
        target = classes[target]
    return source.a_text(target, place, "a label")
