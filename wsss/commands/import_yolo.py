"""YOLO's outlines, as Ultralytics, CVAT, Roboflow and Label Studio lay them out."""

import re
from pathlib import Path, PurePosixPath

from wsss.commands.class_lists import LISTS, find_list, read_names, read_yaml
from wsss.commands.export import polygons
from wsss.commands.import_names import Masks, Photos, composed, label_of, name_in, shown_in
from wsss.errors import UserError

_SUBSET = re.compile(r"^(train|training|val|valid|validation|test|default)/", re.IGNORECASE)

_LABELS = re.compile(r"^(labels|obj_.*data)$", re.IGNORECASE)
"""Folders of YOLO's outlines; the second is Darknet's."""


def yolo_folders(source: Path) -> list[tuple[Path, Path | None]]:
    """The folders of YOLO's outlines, each with its list of classes where it has one."""
    places = [path for path in shown_in(source, "*") if path.is_dir() and _LABELS.match(path.name)]
    folders = [path for path in places if not any(other in path.parents for other in places)]
    found = []
    for folder in folders:
        # beside it, beside its subset (train/labels), or in it as labelImg has it
        near = [folder.parent, folder.parent.parent, folder]
        found.append((folder, find_list(*(place for place in near if place.is_relative_to(source)))))
    return found


def read_yolo(
    folders: list[tuple[Path, Path | None]], photos: Photos, labels: dict[str, int], source: Path
) -> Masks:
    from wsss.data.catalog import read_lines

    files: dict[str, tuple[Path | None, Path]] = {}
    for folder, listing in folders:
        if listing is None:
            raise UserError(f"{folder} has no list of its classes beside it ({', '.join(LISTS[2:])})")
        alone = folder.parent == source or not _SUBSET.match(f"{folder.parent.name}/")
        for path in shown_in(folder, "*.txt"):
            if path.name in LISTS:
                continue
            name = name_in(folder, path)
            name = _SUBSET.sub("", name) if alone and folder.name.lower() == "labels" else name
            if name in files:
                raise UserError(f"{photos.source} holds the image '{name}' twice: keep one of them")
            files[name] = path, listing
    for listing in dict.fromkeys(listing for _, listing in folders):
        for name in _yolo_listed(listing):
            files.setdefault(name, (None, listing))
    names = {listing: read_names(listing) for _, listing in folders}
    for name, (path, listing) in files.items():
        photo, size = photos.find(name, suffix=False)
        lines = [(n, line.split()) for n, line in enumerate(read_lines(path) if path else [], 1)]
        if any(words for _, words in lines):
            yield photo, _yolo_mask(path, lines, size, names[listing], listing, labels)
        else:
            yield photo, None


def _yolo_listed(card: Path) -> list[str]:
    """The images in the lists that a data.yaml names: one without a mark may have no file."""
    from wsss.data.catalog import inside, read_lines

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


def _yolo_mask(
    path: Path,
    lines: list[tuple[int, list[str]]],
    size: tuple[int, int],
    names: dict[int, str],
    listing: Path,
    labels: dict[str, int],
):
    """(H, W) uint8 labels of the outlines in a file, later ones on top."""
    import numpy as np

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
        mask[polygons([outline], size, told)] = label_of(numbers[words[0]], labels, listing)
    return mask
