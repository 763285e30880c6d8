"""Lists of class names as other tools write them, and the labels that they give."""

import csv
import json
import unicodedata
from collections import Counter
from pathlib import Path

import yaml

from wsss.data.cells import clean
from wsss.data.labels import RESERVED_CLASSES
from wsss.errors import UserError, notice
from wsss.files import read_lines
from wsss.sheets import as_meant
from wsss.voc import VOC_CLASSES

VOID_NAME = "void"
"""Name under which pixels of label 255 go out, where a format can hold them."""

LISTS = (
    "labelmap.txt",  # CVAT, datumaro
    "class_names.txt",  # labelme
    "data.yaml",  # Ultralytics, Roboflow, CVAT
    "data.yml",
    "notes.json",  # Label Studio, beside its classes.txt
    "obj.names",  # Darknet, CVAT
    "classes.txt",  # wsss, labelImg
)
"""Files that tell the order of classes, the tool's own word before what users lay beside it."""

IGNORED = "__ignore__"
"""labelme's name for what is void; as the first line of a list it has no number."""

BACKGROUND = ("background", "_background_", "__background__")
"""Names of label 0; labelme and others write underscores around it."""


def find_list(*folders: Path, own: bool = False) -> Path | None:
    """The list of classes in the first folder that has one; others in it that differ are told.

    Args:
        folders: where it may lie.
        own: masks of wsss are meant, whose own list comes first.
    """
    names = sorted(LISTS, key=lambda name: name != "classes.txt") if own else LISTS
    for folder in folders:
        found: dict[Path, dict[int, str]] = {}
        for path in (folder / name for name in names):
            try:
                if path.is_file():
                    found[path] = mask_labels(read_names(path))
            except UserError:
                if path.suffix == ".txt":
                    raise
                # other programs have files of these names, too
        if found:
            first, *others = found
            for other in others:
                if found[other] != found[first]:
                    notice(
                        f"the lists of classes {first.name} and {other.name}, which lie in one folder, "
                        f"differ: {first.name} counts"
                    )
            return first
    return None


def read_names(path: Path) -> dict[int, str]:
    """Number -> class name, counted from 0 as the file counts, background among them if it is listed.

    Raises:
        UserError: it cannot be read, holds no names, or one of them twice.
    """
    kind = path.suffix.lower()
    if kind in (".yaml", ".yml"):
        names = _of_yaml(path)
    elif kind == ".json":
        names = _of_json(path)
    else:
        lines = [name for line in read_lines(path) if (name := line.strip())]
        if path.name == "labelmap.txt":  # name:red,green,blue:parts:actions
            lines = [line.partition(":")[0].strip() for line in lines if not line.startswith("#")]
        names = dict(enumerate(lines))
    names = {number: clean(name) for number, name in names.items()}
    if not any(names.values()):
        raise UserError(f"{path} holds no class name: write one a line, in the order of the labels")
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise UserError(f"{path} names the class '{twice[0]}' more than once: correct it")
    return names


def read_yaml(path: Path) -> dict:
    """A card of YOLO's, every word as it is written: no, 1e3 and 007 may be names."""
    return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)


def _of_yaml(path: Path) -> dict[int, str]:
    try:
        names = read_yaml(path)["names"]
        numbered = enumerate(names) if isinstance(names, list) else names.items()
        return {int(number): str(name) for number, name in numbered}
    except Exception as error:
        raise UserError(f"{path} has no list 'names' that can be read ({error})") from error


def _of_json(path: Path) -> dict[int, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        return {int(one["id"]): str(one["name"]) for one in found["categories"]}
    except Exception as error:
        raise UserError(f"{path} has no list 'categories' that can be read ({error})") from error


def mask_labels(names: dict[int, str]) -> dict[int, str]:
    """Label in a mask -> class name, of a list as `read_names` gives it.

    Label 0 is background: a list that does not begin with it begins with label 1.
    """
    if names.get(0) == IGNORED:
        names = {number - 1: name for number, name in names.items() if number}
    if 0 not in names or names[0].lower() in BACKGROUND:
        return names
    return {number + 1: name for number, name in names.items()}


def class_order(path: Path) -> tuple[str, ...]:
    """The class names of a list in the order of their labels 1, 2, ...; no background, no void.

    Raises:
        UserError: it cannot be read, or passes a label over.
    """
    labels = mask_labels(read_names(path))
    classes = {
        label: name
        for label, name in sorted(labels.items())
        if label and name.lower() not in ("void", IGNORED)
    }
    if list(classes) != list(range(1, len(classes) + 1)):
        raise UserError(f"{path} does not number its classes without a gap: correct it")
    return tuple(classes.values())


def class_names(
    given: Path | None,
    masks: Path | None,
    photos: Path | None,
    otherwise: tuple[str, ...] | None = None,
) -> tuple[str, ...]:
    """Class names in the order of their labels 1, 2, ...

    From the file given; else areas.csv beside the masks (`wsss predict`); else a list in or beside the
    masks (`LISTS`); else classes.txt in their run (two folders above), in or beside
    the photographs; else, for a VOC development kit, VOC's; else `otherwise`.

    Raises:
        UserError: there is none, or a name cannot be used.
    """
    if given is not None and not given.is_file():
        raise UserError(f"there is no file {given} of class names")
    masks, photos = (place and place.resolve() for place in (masks, photos))
    source = given or (find_list(masks, masks.parent, own=True) if masks else None)
    if source is None:
        folders = list(masks.parents[1:3]) if masks else []
        folders += [photos, photos.parent] if photos else []
        places = [folder / "classes.txt" for folder in folders]
        source = next((place for place in places if place.is_file()), None)
    areas = masks.parent / "areas.csv" if masks else None
    if given is None and areas and areas.is_file():  # the network's own word comes first
        source = areas
        try:
            with areas.open(newline="", encoding="utf-8-sig") as file:
                header = next(csv.reader(file), [])
        except (ValueError, csv.Error) as error:
            raise UserError(f"{areas} is no table in CSV ({error}): pass --classes") from error
        classes = tuple(unicodedata.normalize("NFC", as_meant(n)) for n in header[2:])
    elif source:
        classes = class_order(source)
    elif photos and photos.name == "JPEGImages":
        source, classes = photos, VOC_CLASSES
    elif otherwise is not None:
        return otherwise
    else:
        raise UserError(
            "the class names are not known: pass --classes, a file with one name a line in the order "
            "of the labels (wsss init writes one, classes.txt)"
        )
    if not 1 <= len(classes) <= 254 or len(set(classes)) != len(classes):
        raise UserError(f"{source} must hold 1 to 254 class names, one a line, each once")
    for name in classes:
        if name.lower() in RESERVED_CLASSES:
            raise UserError(f"{source} has a class '{name}': that name has its own meaning, rename it")
    return classes


def label_of(name: str, labels: dict[str, int], source: Path) -> int:
    """Our label of a class that a file of another tool names.

    Raises:
        UserError: it is not among ours.
    """
    name = clean(name)
    if name.lower() in BACKGROUND:
        return 0
    if name == IGNORED:
        return labels[VOID_NAME]
    if name not in labels:
        known = ", ".join(list(labels)[:8])
        raise UserError(
            f"{source} has the class '{name}', which is not among ours ({known}): "
            "rename it there, or pass --classes"
        )
    return labels[name]
