"""`wsss export`: out into the tools that people use."""

import argparse
import csv
import json
import os
import shutil
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wsss.commands import export_model
from wsss.errors import UserError, notice

VOID_NAME = "void"
"""Name under which pixels of label 255 go out, where a format can hold them."""

TOLERANCE = 0.7
"""Pixels that an outline may leave the mask's border: what takes the steps off a slanted line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write masks or a network in the formats of other tools."
    kinds = parser.add_subparsers(dest="kind", required=True)
    masks = kinds.add_parser(
        "masks",
        help="masks for CVAT, Label Studio, Ultralytics or the VOC evaluation server",
        description="Write masks so that other tools read them. wsss import masks reads them back.",
    )
    masks.add_argument("masks", type=Path, help="folder of masks, as of wsss run or wsss predict")
    masks.add_argument("--photos", type=Path, help="folder of their photographs (voc-server: optional)")
    masks.add_argument(
        "--format",
        required=True,
        choices=("voc", "coco", "yolo-seg", "voc-server"),
        help="voc: palette PNGs, lists and labelmap.txt (CVAT: Segmentation mask 1.1); "
        "coco: one JSON; yolo-seg: data.yaml and outlines; voc-server: .tgz for the VOC 2012 server",
    )
    masks.add_argument(
        "--out", type=Path, required=True, help="new folder or .zip (voc, yolo-seg), .json or .tgz"
    )
    masks.add_argument("--classes", type=Path, help="class names, one a line (default: found beside)")
    masks.add_argument(
        "--polygons", action="store_true", help="coco: outlines to drag instead of exact pixels (RLE)"
    )
    masks.add_argument(
        "--competition",
        choices=("comp5", "comp6"),
        default="comp6",
        help="voc-server: comp6 (default) allows training data beyond VOC's, as ImageNet weights are",
    )
    masks.set_defaults(run=export_masks)
    model = kinds.add_parser("model", help="the network as ONNX and torch.export, with a card")
    export_model.add_arguments(model)
    model.set_defaults(run=export_model.export_model)


def main(args: argparse.Namespace) -> int:
    return args.run(args) or 0


def export_masks(args: argparse.Namespace) -> None:
    """Write the masks of a folder in another tool's format.

    Raises:
        UserError: a mask without photograph, of another size or with unknown labels; `out` is there.
    """
    masks = mask_files(args.masks)
    suffixes = {"coco": (".json",), "voc-server": (".tgz",)}.get(args.format, ("", ".zip"))
    if args.out.suffix.lower() not in suffixes:
        wanted = {"coco": "a .json file", "voc-server": "a .tgz file"}.get(
            args.format, "a folder or a .zip file"
        )
        raise UserError(f"--format {args.format} writes {wanted}, got --out {args.out}")
    if args.polygons and args.format != "coco":
        raise UserError(f"--polygons is for --format coco, not {args.format}")
    photos = {}
    if args.photos is not None:
        args.photos = photo_folder(args.photos)
        photos = photo_files(args.photos)
        masks = as_named(masks, photos)
    elif args.format != "voc-server":
        raise UserError(f"--format {args.format} needs --photos, the folder of the photographs")
    if args.format == "voc-server":
        from wsss.voc import VOC_CLASSES

        classes = VOC_CLASSES
    else:
        classes = class_names(args.classes, args.masks, args.photos)
    write = {"voc": _voc, "coco": _coco, "yolo-seg": _yolo, "voc-server": _voc_server}[args.format]
    with new_output(args.out) as aside:
        said = write(masks, photos, classes, aside, args)
    print(f"{len(masks)} masks of {len(classes)} classes written to {args.out}{said}")


def photo_folder(photos: Path) -> Path:
    """The folder of the images: `photos`, or its JPEGImages where it is a VOC development kit."""
    if not photos.is_dir():
        raise UserError(f"there is no folder {photos}: pass the photographs' folder as --photos")
    return photos / "JPEGImages" if (photos / "JPEGImages").is_dir() else photos


def photo_files(photos: Path) -> dict[str, Path]:
    """Name without suffix, relative to the folder -> photograph."""
    from wsss.commands.predict import find_photographs

    return find_photographs([photos], skip_twins=True)


def mask_files(folder: Path) -> dict[str, Path]:
    """Name without suffix, relative to the folder -> mask."""
    from wsss.data.masks import masks_in

    if not folder.is_dir():
        raise UserError(f"there is no folder of masks {folder}")
    masks, others = masks_in(folder)
    if not masks:
        what = f", {others[0].name} is none: save masks as palette PNGs" if others else ""
        raise UserError(f"there is no mask (.png) in {folder}{what}")
    if others:
        notice(
            f"passed over: {len(others)} pictures in {folder} that are no PNG "
            f"(first: {others[0].name}): save masks as palette PNGs"
        )
    found: dict[str, Path] = {}
    for path in masks:
        other = found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
        if other != path:
            raise UserError(f"{other} and {path} differ by the case of .png only: remove one")
    return found


def as_named(files: dict[str, Path], names: Iterable[str]) -> dict[str, Path]:
    """Files under the ones of `names` that differ from theirs in how accents are written only.

    Raises:
        UserError: two files come to have one name.
    """
    from wsss.commands.check import as_files

    written, found = as_files(files, set(names)), {}
    for name, path in files.items():
        other = found.setdefault(written[name], path)
        if other != path:
            raise UserError(f"{other} and {path} have the same name, written in two ways: remove one")
    return found


def class_names(
    given: Path | None,
    masks: Path | None,
    photos: Path | None,
    otherwise: tuple[str, ...] | None = None,
) -> tuple[str, ...]:
    """Class names in the order of their labels 1, 2, ...

    From the file given; else areas.csv beside the masks (`wsss predict`); else a list in or beside the
    masks (`wsss.commands.class_lists`); else classes.txt in their run (two folders above), in or beside
    the photographs; else, for a VOC development kit, VOC's; else `otherwise`.

    Raises:
        UserError: there is none, or a name cannot be used.
    """
    from wsss.commands.class_lists import class_order, find_list
    from wsss.data.tags import RESERVED_CLASSES
    from wsss.voc import VOC_CLASSES

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
        with areas.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
            classes = tuple(unicodedata.normalize("NFC", name) for name in header[2:])
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


@contextmanager
def new_output(out: Path) -> Iterator[Path]:
    """A file or folder to write aside; it becomes `out` when all went well, and vanishes if not.

    A folder is packed where `out` ends in .zip.

    Raises:
        UserError: `out` is there already: it may hold somebody's corrections.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there already: give another --out, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    # not from the name of `out`, which may be as long as a name can be
    aside = out.with_name(f".wsss-{os.getpid()}.part")
    packed = aside.with_name(f"{aside.name}.zip")
    try:
        yield aside
        if out.suffix.lower() == ".zip":
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
                for path in sorted(aside.rglob("*")):
                    if path.is_file():
                        file.write(path, path.relative_to(aside).as_posix())
            os.replace(packed, out)
        else:
            os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for left in (aside, packed):
            if left.is_file():
                left.unlink()


def coco_tools():
    """pycocotools.mask, or a word on how to get it."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError(
            "COCO and YOLO files need pycocotools, which is not installed: "
            "pip install -e '.[export]' in the folder of wsss"
        ) from error
    return mask


def _each(masks: dict[str, Path], photos: dict[str, Path], classes: tuple[str, ...], what: str):
    """Yield (name, photograph or None, mask (H, W) uint8); every fault is told by name."""
    from wsss.data.catalog import mask_fault
    from wsss.data.masks import read_mask, tell_palettes
    from wsss.progress import progress

    missing = [name for name in masks if photos and name not in photos]
    if missing:
        raise UserError(
            f"{len(missing)} masks have no photograph (first: {masks[missing[0]]}): check --photos; of "
            "photographs that share the name of a mask, move away those that were not used"
        )
    foreign: list[str] = []
    for name, path in progress(masks.items(), what, brief=True):
        photo = photos.get(name)
        fault = mask_fault(path, photo, len(classes) + 1) if photo else None
        if fault:
            raise UserError(fault)
        yield name, photo, read_mask(path, len(classes) + 1, foreign)
    tell_palettes(foreign)


def _voc(masks, photos, classes, aside: Path, args) -> str:
    from wsss.data.masks import write_mask
    from wsss.voc import VOID, palette

    wrong = next((name for name in classes if ":" in name or "#" in name), None)
    if wrong:
        raise UserError(f"class '{wrong}' cannot stand in labelmap.txt: rename it without ':' and '#'")
    void = 0
    for name, _, mask in _each(masks, photos, classes, "export masks"):
        void += int((mask == VOID).sum())
        write_mask(aside / "SegmentationClass" / f"{name}.png", mask)
    colours = palette()
    labels = [(0, "background"), *enumerate(classes, 1), *([(VOID, VOID_NAME)] if void else [])]
    lines = ["# label:color_rgb:parts:actions"]
    for label, name in labels:
        lines.append(f"{name}:{','.join(map(str, colours[3 * label : 3 * label + 3]))}::")
    _write(aside / "labelmap.txt", lines)
    _write(aside / "ImageSets" / "Segmentation" / "default.txt", masks)
    return f"; {void} void pixels are the label '{VOID_NAME}'" if void else ""


def _write(path: Path, lines) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _coco(masks, photos, classes, aside: Path, args) -> str:
    import numpy as np

    from wsss.voc import VOID

    tools = coco_tools()
    images, annotations, void = [], [], 0
    for number, (_, photo, mask) in enumerate(_each(masks, photos, classes, "export masks"), 1):
        height, width = mask.shape
        file_name = photo.relative_to(args.photos).as_posix()
        images.append({"id": number, "file_name": file_name, "width": width, "height": height})
        void += int((mask == VOID).sum())
        for label in np.unique(mask[mask > 0]).tolist():
            where = mask == label
            if args.polygons:
                parts = [[line] for line in outlines(where)]
            else:
                rle = tools.encode(np.asfortranarray(where, dtype=np.uint8))
                parts = [rle | {"counts": rle["counts"].decode("ascii")}]
            for part in parts:
                # polygons are as their readers will draw them
                drawn = tools.merge(tools.frPyObjects(part, height, width)) if args.polygons else part
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": label,
                        "segmentation": part,
                        "area": float(tools.area(drawn)),
                        "bbox": tools.toBbox(drawn).tolist(),
                        "iscrowd": 0,
                    }
                )
    categories = [{"id": label, "name": name} for label, name in enumerate(classes, 1)]
    if void:
        categories.append({"id": VOID, "name": VOID_NAME})
    found = {"images": images, "annotations": annotations, "categories": categories}
    aside.write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")
    return f"; {void} void pixels are the category '{VOID_NAME}'" if void else ""


def _yolo(masks, photos, classes, aside: Path, args) -> str:
    import numpy as np
    import yaml

    from wsss.voc import VOID

    void, listed = 0, []
    for name, photo, mask in _each(masks, photos, classes, "export masks"):
        height, width = mask.shape
        void += int((mask == VOID).sum())
        lines = []
        for label in (int(label) for label in np.unique(mask) if label not in (0, VOID)):
            for line in outlines(mask == label):
                sides = (width, height)
                places = " ".join(f"{value / sides[i % 2]:.6f}" for i, value in enumerate(line))
                lines.append(f"{label - 1} {places}")
        _write(aside / "labels" / "train" / f"{name}.txt", lines)
        # Ultralytics looks from the list's folder for what begins with a dot, else from where it runs
        listed.append(f"./images/train/{photo.relative_to(args.photos).as_posix()}")
    _write(aside / "train.txt", listed)
    card = {"train": "train.txt", "names": dict(enumerate(classes))}
    text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True)
    (aside / "data.yaml").write_text(text, encoding="utf-8")
    return f"; {void} void pixels became background, which YOLO cannot tell apart" if void else ""


def _voc_server(masks, photos, classes, aside: Path, args) -> str:
    import io

    from PIL import Image

    from wsss.voc import VOID, palette

    colours = palette()
    with tarfile.open(aside, "w:gz") as archive:
        for name, _, mask in _each(masks, photos, classes, "export masks"):
            if (mask == VOID).any():
                raise UserError(
                    f"mask {masks[name]} has void pixels (255), which the VOC server does not take: "
                    "give masks of wsss segment predict, or those of a writer without void"
                )
            if "/" in name:
                raise UserError(f"mask {masks[name]} lies in a sub-folder: VOC's image ids have none")
            image, buffer = Image.fromarray(mask), io.BytesIO()
            image.putpalette(colours)
            image.save(buffer, format="PNG")
            member = tarfile.TarInfo(
                f"results/VOC2012/Segmentation/{args.competition}_test_cls/{name}.png"
            )
            member.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(member, buffer)
    return f" ({args.competition})"


def outlines(where) -> list[list[float]]:
    """Outlines of the connected regions of a mask; holes hang on them by a bridge of no width.

    Args:
        where: (H, W) booleans.

    Returns:
        For each region x0, y0, x1, y1, ... in pixels, with pixel (0, 0) reaching from 0 to 1 on both
        axes (as pycocotools draws them).
    """
    import cv2
    import numpy as np

    # traced at twice the size, contours run a quarter of a pixel inside a region's border instead of
    # through the middle of its pixels, so that one-pixel regions have an area and nothing shrinks
    double = np.repeat(np.repeat(where.astype(np.uint8), 2, 0), 2, 1)
    contours, tree = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for index, contour in enumerate(contours):
        if tree[0][index][3] >= 0:  # a hole: its region brings it in
            continue
        line = _smooth(contour)
        hole = tree[0][index][2]
        while hole >= 0:
            line = _bridge(line, _smooth(contours[hole]))
            hole = tree[0][hole][0]
        found.append(((line + 0.5) / 2).ravel().tolist())
    return found


def polygons(lines: list, size: tuple[int, int], told: str, stretch: tuple[float, float] = (1.0, 1.0)):
    """(H, W) booleans of outlines x0, y0, x1, y1, ... in pixels, once they are multiplied by `stretch`.

    `told` is named in errors.
    """
    import numpy as np

    height, width = size
    drawn = []
    for line in lines:
        try:
            points = np.asarray(line, dtype=np.float64).reshape(-1, 2) * stretch
        except (TypeError, ValueError):
            points = np.zeros((0, 2))
        if len(points) < 3 or not np.isfinite(points).all():
            raise UserError(f"{told} has an outline that is not three or more points x, y")
        if (np.abs(points / (width, height) - 0.5) > 1.5).any():
            raise UserError(f"{told} has an outline far outside its image of {width}x{height} pixels")
        drawn.append(points.ravel().tolist())
    tools = coco_tools()
    return tools.decode(tools.merge(tools.frPyObjects(drawn, height, width))).astype(bool)


def _smooth(contour):
    """(n, 2) points of a contour at double size, with fewer of them where enough remain."""
    import cv2

    smooth = cv2.approxPolyDP(contour, 2 * TOLERANCE, closed=True)
    return (smooth if len(smooth) >= 3 else contour).reshape(-1, 2).astype(float)


def _bridge(line, hole):
    """One closed line around both: to the hole at the shortest way between points, and back."""
    import numpy as np

    apart = ((line[:, None] - hole[None]) ** 2).sum(-1)
    at, to = np.unravel_index(apart.argmin(), apart.shape)
    around = np.concatenate([hole[to:], hole[: to + 1]])
    return np.concatenate([line[: at + 1], around, line[at:]])
