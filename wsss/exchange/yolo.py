"""YOLO's outlines, as Ultralytics, CVAT, Roboflow and Label Studio lay them out."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from wsss.data.coco import polygons
from wsss.data.names import inside
from wsss.errors import UserError
from wsss.exchange.classes import LISTS, find_list, read_names, read_yaml
from wsss.exchange.format import Format, MaskFiles, Masks, Source
from wsss.exchange.names import composed, name_in, shown_in
from wsss.exchange.outlines import outlines
from wsss.exchange.output import write_lines
from wsss.files import read_lines
from wsss.voc import VOID

_SUBSET = re.compile(r"^(train|training|val|valid|validation|test|default)/", re.IGNORECASE)

_LABELS = re.compile(r"^(labels|obj_.*data)$", re.IGNORECASE)
"""Folders of YOLO's outlines; the second is Darknet's."""


@dataclass(frozen=True)
class YoloSeg(Format):
    """data.yaml and a file of outlines for each photograph, as Ultralytics has them."""

    name = "yolo-seg"
    about = "data.yaml and outlines"
    signs = f"YOLO (folders labels with {', '.join(LISTS[2:])})"

    def write(self, given: MaskFiles, out: Path) -> str:
        void, listed = 0, []
        for name, photo, mask in given:
            height, width = mask.shape
            void += int((mask == VOID).sum())
            lines = []
            for label in (int(label) for label in np.unique(mask) if label not in (0, VOID)):
                for line in outlines(mask == label):
                    sides = (width, height)
                    places = " ".join(f"{value / sides[i % 2]:.6f}" for i, value in enumerate(line))
                    lines.append(f"{label - 1} {places}")
            write_lines(out / "labels" / "train" / f"{name}.txt", lines)
            # Ultralytics looks from the list's folder for what begins with a dot, else from where it
            # runs
            listed.append(f"./images/train/{photo}")
        write_lines(out / "train.txt", listed)
        card = {"train": "train.txt", "names": dict(enumerate(given.classes))}
        text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True)
        (out / "data.yaml").write_text(text, encoding="utf-8")
        return f"; {void} void pixels became background, which YOLO cannot tell apart" if void else ""

    def read(self, source: Source) -> Masks | None:
        folders = _folders(source.path)
        return _read(folders, source) if any(listing for _, listing in folders) else None

    def lacks(self, source: Source) -> str | None:
        if not (cards := source.find("data.yaml")):
            return None
        read_names(cards[0])
        return f"{source.told} has no folder labels beside {cards[0].name}"


def _folders(source: Path) -> list[tuple[Path, Path | None]]:
    """The folders of YOLO's outlines, each with its list of classes where it has one."""
    places = [path for path in shown_in(source, "*") if path.is_dir() and _LABELS.match(path.name)]
    folders = [path for path in places if not any(other in path.parents for other in places)]
    found = []
    for folder in folders:
        # beside it, beside its subset (train/labels), or in it as labelImg has it
        near = [folder.parent, folder.parent.parent, folder]
        found.append((folder, find_list(*(place for place in near if place.is_relative_to(source)))))
    return found


def _read(folders: list[tuple[Path, Path | None]], source: Source) -> Masks:
    files: dict[str, tuple[Path | None, Path]] = {}
    for folder, listing in folders:
        if listing is None:
            raise UserError(f"{folder} has no list of its classes beside it ({', '.join(LISTS[2:])})")
        alone = folder.parent == source.path or not _SUBSET.match(f"{folder.parent.name}/")
        for path in shown_in(folder, "*.txt"):
            if path.name in LISTS:
                continue
            name = name_in(folder, path)
            name = _SUBSET.sub("", name) if alone and folder.name.lower() == "labels" else name
            if name in files:
                raise UserError(f"{source.told} holds the image '{name}' twice: keep one of them")
            files[name] = path, listing
    for listing in dict.fromkeys(listing for _, listing in folders):
        for name in _listed(listing):
            files.setdefault(name, (None, listing))
    names = {listing: read_names(listing) for _, listing in folders}
    for name, (path, listing) in files.items():
        photo, size = source.photos.find(name, suffix=False)
        lines = [(n, line.split()) for n, line in enumerate(read_lines(path) if path else [], 1)]
        if any(words for _, words in lines):
            yield photo, _mask(path, lines, size, names[listing], listing, source)
        else:
            yield photo, None


def _listed(card: Path) -> list[str]:
    """The images in the lists that a data.yaml names: one without a mark may have no file."""
    found = read_yaml(card) if card.suffix in (".yaml", ".yml") else {}
    names = []
    for subset in ("train", "val", "test"):
        given = found.get(subset)
        if not isinstance(given, str) or not given.endswith(".txt"):
            continue  # a folder, as Roboflow has it
        listing = inside(card.parent, given, card)
        for line in read_lines(listing) if listing.is_file() else ():
            if name := composed(line.strip().replace("\\", "/")):
                name = name.partition("images/")[2] or name  # ./images/train/name.jpg
                names.append(PurePosixPath(_SUBSET.sub("", name)).with_suffix("").as_posix())
    return names


def _mask(
    path: Path,
    lines: list[tuple[int, list[str]]],
    size: tuple[int, int],
    names: dict[int, str],
    listing: Path,
    source: Source,
) -> np.ndarray:
    """(H, W) uint8 labels of the outlines in a file, later ones on top."""
    mask = np.zeros(size, np.uint8)
    numbers = {str(number): name for number, name in names.items()}
    for number, words in lines:
        told = f"{path}, line {number},"
        if not words:
            continue
        if words[0] not in numbers:
            raise UserError(f"{told} has the class {words[0]}, which {listing.name} does not name")
        if len(words) == 5:
            raise UserError(f"{told} is a box: export segments (YOLO segmentation) instead")
        try:
            points = np.array([float(word) for word in words[1:]]).reshape(-1, 2)
        except ValueError as error:
            raise UserError(f"{told} is not a class and pairs of numbers ({error})") from error
        outline = (points * (size[1], size[0])).ravel().tolist()
        mask[polygons([outline], size, told)] = source.label(numbers[words[0]], listing)
    return mask
