"""Label Studio's JSON and JSON-MIN: choices, and the labels of regions.

https://labelstud.io/guide/export
"""

from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from wsss.data.cells import shown
from wsss.data.images import FOREIGN_SUFFIXES, IMAGE_SUFFIXES
from wsss.data.names import in_label_studio
from wsss.data.tags.sheet import sheet_of
from wsss.data.tags.source import NOT_ANNOTATED, Form, Rows, Source, TagRow
from wsss.errors import UserError

OWN = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
"""What JSON-MIN says of the annotation itself."""

CHOICES = ("choice", "choices", "tag", "tags", "label", "labels", "class", "classes", "category")
"""What the choices are called, where their form does not tell; the first one is Label Studio's own."""


class LabelStudio(Form):
    about: ClassVar = "tasks with their annotations (Label Studio's JSON)"

    def read(self, source: Source) -> Rows | None:
        tasks = source.json
        if not (isinstance(tasks, list) and tasks and _is_task(tasks[0])):
            return None
        rows = []
        for number, task in enumerate(tasks, start=1):
            place = f"task {number}"
            if not _is_task(task):
                raise UserError(f"{source.path} {place} has no data and annotations: export it again")
            image = _image(source, task["data"], place)
            done = [_result(source, one, place) for one in _annotations(source, task, place)]
            if not done:
                source.note(NOT_ANNOTATED, image)
                continue
            if any({*one} != {*done[0]} for one in done):
                source.note("annotations that differ, what any says counts", f"{place}: {image}")
            rows.append((place, source.row(image, [tag for one in done for tag in one], place)))
        return rows


class LabelStudioMin(Form):
    """JSON-MIN, and CSV, which has the same columns."""

    about: ClassVar = "one entry for each annotation (Label Studio's JSON-MIN or CSV)"

    def read(self, source: Source) -> Rows | None:
        rows = _entries(source) or []
        if not any({"annotation_id", "lead_time"} <= one.keys() for _, one in rows):
            return None
        columns = _columns(source, rows)
        known: dict[str, tuple[str, TagRow]] = {}
        for place, one in rows:
            image = _image(source, one, place)
            if one.get("annotation_id", "") is None:
                source.note(NOT_ANNOTATED, image)
                continue
            tags = _choices(source, one, columns, place)
            row = source.row(image, tags, place)
            if image in known:  # of another annotator
                if {*known[image][1].tags} != {*row.tags}:
                    kind = "annotations that differ, what any says counts"
                    source.note(kind, f"{place}: {image}")
                row = known[image][1].joined(row)
            known[image] = (known[image][0] if image in known else place, row)
        return [*known.values()]


def _entries(source: Source) -> list[tuple[str, dict[str, Any]]] | None:
    """Place -> entry; None: there are none."""
    found = source.json
    if isinstance(found, list) and all(isinstance(one, dict) for one in found):
        return [(f"entry {number}", one) for number, one in enumerate(found, start=1)]
    sheet = sheet_of(source)
    if sheet is None or not {"annotation_id", "lead_time"} <= {*sheet.header}:
        return None
    entries = []
    for number, cells in sheet.lines:
        place = f"line {number}"
        values = [
            source.parsed(cell, f" {place}") if cell.startswith(("{", "[")) else cell or None
            for cell in map(str.strip, cells)
        ]
        entries.append((place, dict(zip(sheet.header, values, strict=False))))
    return entries


def _is_task(task: Any) -> bool:
    return (
        isinstance(task, dict)
        and isinstance(task.get("data"), dict)
        and bool({"annotations", "completions"} & task.keys())
    )


def _annotations(source: Source, task: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """Those that count: a skipped task has one that was cancelled."""
    found = task.get("annotations", task.get("completions"))
    if not (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
        raise UserError(
            f"{source.path} {place} has annotations that are no list of objects: export it as JSON"
        )
    return [one for one in found if not (one.get("was_cancelled") or one.get("skipped"))]


def _result(source: Source, annotation: dict[str, Any], place: str) -> list[str]:
    """What an annotation has chosen."""
    results = annotation.get("result")
    if not (isinstance(results, list) and all(isinstance(one, dict) for one in results)):
        raise UserError(f"{source.path} {place} has no list of results: export it again")
    tags = []
    for one in results:
        kind, value = one.get("type"), one.get("value")
        if isinstance(kind, str) and (kind == "choices" or kind.endswith("labels")):
            chosen = value.get(kind) if isinstance(value, dict) else value
            tags += source.texts(chosen, place, kind)
    return tags


def _image(source: Source, data: dict[str, Any], place: str) -> str:
    """The name of the image among a task's data."""
    named = {key: value for key, value in data.items() if isinstance(value, str) and _is_image(value)}
    text = named.get("image") or next(iter(named.values()), None)
    if text is None:
        told = shown(", ".join(map(str, data)))
        raise UserError(f"{source.path} {place} names no image (it has {told}): export it again")
    return _local(text)


def _is_image(text: str) -> bool:
    return _local(text).lower().endswith((*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES))


def _local(text: str) -> str:
    """The name of a file in an address: of an upload, of local files, of a store in the cloud."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    if parts.scheme in ("http", "https", "s3", "gs", "azure-blob"):
        text = parts.path + (f"?{parts.query}" if parts.query else "")
        if not text.startswith("/data/"):
            return unquote(parts.path).lstrip("/")
    text = in_label_studio(text)
    if text.startswith("/data/upload/"):
        text = unquote(text.removeprefix("/data/upload/"))
        project, _, name = text.partition("/")
        return name if project.isdecimal() else text
    return text


def _columns(source: Source, rows: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Where JSON-MIN has what was chosen: it does not say."""
    names = dict.fromkeys(name for _, one in rows for name in one if name not in OWN)
    sure = [name for name in names if any(_is_choice(one.get(name)) for _, one in rows)]
    known = [name for name in CHOICES if name in names]
    texts = [
        name
        for name in names
        if all(isinstance(v := one.get(name) or "", str) and not _is_image(v) for _, one in rows)
    ]
    found = sure or known[:1] or (texts if len(texts) == 1 else [])
    if not found:
        raise UserError(
            f"{source.path} does not tell which of {', '.join(names)} is the choice: export it as JSON"
        )
    return found


def _is_choice(value: Any) -> bool:
    if isinstance(value, dict):
        return "choices" in value
    return isinstance(value, list) and any(
        isinstance(one, dict) and any(key.endswith("labels") for key in one) for one in value
    )


def _choices(source: Source, one: dict[str, Any], columns: list[str], place: str) -> list[str]:
    tags = []
    for name in columns:
        value = one.get(name)
        if isinstance(value, dict):
            tags += source.texts(value.get("choices"), place, name)
        elif isinstance(value, list):
            for region in value:
                if isinstance(region, dict):
                    for key, its in region.items():
                        tags += source.texts(its, place, name) if key.endswith("labels") else []
                else:
                    tags.append(source.a_text(region, place, name))
        else:
            tags += source.texts(value, place, name)
    return tags
