"""COCO's annotations in one JSON file, outlines or run lengths (RLE), as many tools have them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from wsss.data.coco import (
    Frame,
    class_names,
    layered,
    number_of,
    read_document,
    side_of,
    where_marked,
)
from wsss.data.upright import orientation_of
from wsss.errors import UserError, notice
from wsss.exchange.classes import VOID_NAME
from wsss.exchange.format import Format, MaskFiles, Masks, Source
from wsss.exchange.outlines import outlines
from wsss.voc import VOID


@dataclass(frozen=True)
class Coco(Format):
    """One JSON file.

    Args:
        polygons: write outlines, which can be dragged, instead of exact pixels.
    """

    name = "coco"
    about = "one JSON"
    signs = "COCO (.json)"
    suffixes = (".json",)

    polygons: bool = False

    def write(self, given: MaskFiles, out: Path) -> str:
        images, annotations, void = [], [], 0
        for number, (_, photo, mask) in enumerate(given, 1):
            height, width = mask.shape
            images.append({"id": number, "file_name": photo, "width": width, "height": height})
            void += int((mask == VOID).sum())
            for label in np.unique(mask[mask > 0]).tolist():
                where = mask == label
                if self.polygons:
                    parts = [[line] for line in outlines(where)]
                else:
                    rle = coco_mask.encode(np.asfortranarray(where, dtype=np.uint8))
                    parts = [rle | {"counts": rle["counts"].decode("ascii")}]
                for part in parts:
                    # polygons are as their readers will draw them
                    drawn = part
                    if self.polygons:
                        drawn = coco_mask.merge(coco_mask.frPyObjects(part, height, width))
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": number,
                            "category_id": label,
                            "segmentation": part,
                            "area": float(coco_mask.area(drawn)),
                            "bbox": coco_mask.toBbox(drawn).tolist(),
                            "iscrowd": 0,
                        }
                    )
        categories = [{"id": label, "name": name} for label, name in enumerate(given.classes, 1)]
        if void:
            categories.append({"id": VOID, "name": VOID_NAME})
        found = {"images": images, "annotations": annotations, "categories": categories}
        out.write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")
        return f"; {void} void pixels are the category '{VOID_NAME}'" if void else ""

    def read(self, source: Source) -> Masks | None:
        if source.path.is_file():
            if source.path.suffix.lower() != ".json":
                return None
            contents = {source.told: read_document(source.path, source.told)}
        else:
            contents = _contents(source)
        taken: set[str] = set()
        pairs = (pair for told, found in contents.items() for pair in _read(found, told, source, taken))
        return pairs if contents else None


def _contents(source: Source) -> dict[Path, dict]:
    """Name for the user -> content of the COCO files in a folder; other JSON files are told.

    Raises:
        UserError: there are JSON files, and none is of COCO.
    """
    files = source.find("*.json")
    contents, others = {}, []
    for file in files:
        name = source.told if len(files) == 1 else source.told / file.relative_to(source.path)
        try:
            contents[name] = read_document(file, name)
        except UserError as error:
            others.append(error)
    if others and not contents:
        raise others[0]
    for error in others:
        notice(f"passed over: {error}")
    return contents


class _Image(NamedTuple):
    """An image of a COCO file: our name, the (height, width) of the photograph, and its entry."""

    ours: str
    size: tuple[int, int]
    entry: dict

    @property
    def name(self) -> str:
        return self.entry["file_name"]


def _images(found: dict, told: Path, source: Source) -> dict[str, _Image]:
    """Id -> image.

    Raises:
        UserError: two photographs have one id, or one is not there.
    """
    images: dict[str, _Image] = {}
    left = source.left
    for place, one in enumerate(found["images"], 1):
        number = number_of(one)
        if number is None or not isinstance(one.get("file_name"), str):
            left.out(f"image {place} in {told} has no id or no file_name: export it again")
            continue
        image = _Image(*source.photos.find(one["file_name"]), one)
        first = images.setdefault(number, image)
        if first.ours != image.ours:
            raise UserError(
                f"{told} gives the id {number} to two photographs, '{first.name}' and '{image.name}': "
                "which mark is on which cannot be told, give each an id of its own or export each alone"
            )
        if first is not image:
            left.out(f"{told} lists the image '{image.name}' twice (id {number}): once is enough")
    return images


def _read(found: dict, told: Path, source: Source, taken: set[str]) -> Masks:
    """The masks of a COCO file; `taken` are the photographs of those before it."""
    left = source.left
    classes = class_names(found, told)
    images = _images(found, told, source)
    marks: dict[str, list[tuple[str, dict]]] = {number: [] for number in images}
    for place, one in enumerate(found["annotations"], 1):
        number, category = number_of(one, "image_id"), number_of(one, "category_id")
        what = f"{told}, annotation {number_of(one) or f'in place {place}'},"
        if number not in images:
            left.out(f"{what} is of the image {number}, which the file does not list: remove it")
        elif category not in classes:
            left.out(f"{what} is of the category {category}, which the file does not list: correct it")
        else:
            marks[number].append((what, one))
            continue
        left.marks += 1
    outlined = {n: [mark for mark in its if mark[1].get("segmentation")] for n, its in marks.items()}
    every = sum(map(len, marks.values()))
    if boxes := every - sum(map(len, outlined.values())):
        told_boxes = f"{boxes} of {every} annotations in {told} have no outline"
        if boxes == every:
            raise UserError(f"{told_boxes}, they are boxes: export polygons or masks")
        first, number = next(
            (one.get("id"), number)
            for number, its in marks.items()
            for _, one in its
            if not one.get("segmentation")
        )
        notice(
            f"passed over: {told_boxes} (boxes or specks; first: annotation {first} of "
            f"'{images[number].name}')"
        )
    frames = _frames(found, told, images, source)
    entries: dict[str, list[str]] = {}
    for number, image in images.items():
        entries.setdefault(image.ours, []).append(number)
    for ours, numbers in entries.items():
        # of entries of one photograph the first with marks counts: what two people drew does not add up
        chosen = next((number for number in numbers if outlined[number]), numbers[0])
        for number in numbers:
            if number != chosen or ours in taken:
                left.out(
                    f"{told} lists the photograph '{images[number].name}' again (id {number}, "
                    f"{len(marks[number])} marks): give marks that belong together one id"
                )
        if ours in taken:
            continue
        taken.add(ours)
        left.marks += len(outlined[chosen])
        if chosen not in frames:
            continue
        if not marks[chosen]:
            yield ours, None
            continue
        layers = []
        for what, one in outlined[chosen]:
            label = source.label(classes[number_of(one, "category_id")], told)
            where, faults = where_marked(one["segmentation"], frames[chosen], what)
            if not where.any():
                faults = faults or [f"{what} marks no pixel: remove it"]
            else:
                layers.append((where.sum(), label, where))
            left.faults += faults
        if layers:  # else something is there, but nobody knows where: it has no mask
            left.drawn += len(layers)
            yield ours, layered(layers, images[chosen].size)


def _frames(found: dict, told: Path, images: dict[str, _Image], source: Source) -> dict[str, Frame]:
    """The frame of each image but for those whose size does not fit.

    Of a photograph that EXIF turns a file may have the size before turning. Label Studio shows it
    upright, and multiplies the marks, which are shares of the sides, by the wrong ones of them
    (label-studio-sdk 2.1.2, `convert_to_coco`): they are stretched. Other tools do not turn it at all.
    """
    frames, before, upright, left = {}, [], False, source.left
    for number, (ours, size, one) in images.items():
        frame = Frame(size, orientation_of(source.photos.files[ours]))
        given = side_of(one.get("height")), side_of(one.get("width"))
        tells = frame.exif >= 5 and size[0] != size[1]
        if None in given or given == size:  # Label Studio knows no size where nothing is marked
            upright |= tells and given == size
        elif tells and given == size[::-1]:
            before.append(number)
        else:
            left.out(
                f"{told} says {given[1]}x{given[0]} pixels for '{one['file_name']}', but "
                f"{source.photos.files[ours]} is {size[1]}x{size[0]}: give the photographs that were "
                "annotated"
            )
            continue
        frames[number] = frame
    if not before:
        return frames
    info = found.get("info")
    stretched = isinstance(info, dict) and str(info.get("contributor")).startswith("Label Studio")
    # a tool that turns none turns those neither whose sizes do not tell it: squares, or upside down
    for number in before if stretched or upright else list(frames):
        (height, width), exif = frames[number].size, frames[number].exif
        frames[number] = (
            Frame((height, width), exif, stretch=(width / height, height / width))
            if stretched
            else Frame((height, width), exif, turn=exif)
        )
    notice(
        f"{told} has the sizes of {len(before)} photographs before EXIF turns them (first: "
        f"{images[before[0]].name}): their marks are "
        + ("stretched to fit, as Label Studio's have to be" if stretched else "turned with them")
    )
    return frames
