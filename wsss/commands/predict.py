"""`wsss predict`: masks, overlays and areas for new photographs."""

import argparse
import csv
import errno
import hashlib
import sys
from pathlib import Path

from wsss.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write masks, overlays and areas.csv (share of each class in per cent). Run again to go on; "
        "exit code 1: some files could not be read, or their results not be written, and are named."
    )
    parser.add_argument("photographs", type=Path, nargs="+", help="image files or folders")
    parser.add_argument("--ckpt", type=Path, required=True, help="last.ckpt of wsss segment or run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    how = parser.add_argument_group(
        "inference", "by default as in the test that the network's mIoU was measured by"
    )
    how.add_argument(
        "--max-side",
        type=int,
        help="long side that photographs are scaled down to for the network; masks have the "
        "photograph's size",
    )
    how.add_argument("--scales", type=float, nargs="+", help="image scales to average over")
    how.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="average with the horizontal flip"
    )
    how.add_argument(
        "--tile", type=int, help="side in pixels of a window slid over larger images; 0: whole images"
    )
    how.add_argument("--crf", action=argparse.BooleanOptionalAction, help="sharpen by the dense CRF")


def _settings(args: argparse.Namespace, tested):  # -> InferenceSettings, whose import takes seconds
    """The checkpoint's inference settings, with what the command line gives instead."""
    from dataclasses import replace

    from wsss.settings import TILE, CRFSettings

    given = {name: getattr(args, name) for name in ("max_side", "flip")}
    given["scales"] = None if args.scales is None else tuple(args.scales)
    given = {name: value for name, value in given.items() if value is not None}
    if args.tile is not None:
        given["tile"] = args.tile or None
    elif args.max_side is not None and tested.tile is None and args.max_side > TILE:
        given["tile"] = TILE  # larger than it was tested: whole images may not fit into the memory
    if args.crf is not None:
        given["crf"] = (tested.crf or CRFSettings()) if args.crf else None
    return replace(tested, **given)


def _same_settings(out: Path, ckpt: Path, inference) -> None:
    """Note in `out` what its masks are made with, so that no two networks' masks are mixed."""
    from wsss.files import file_stamp, read_json, write_json

    settings = {"ckpt": file_stamp(ckpt), "inference": inference.to_dict()}
    note = out / "settings.json"
    if not note.is_file() and any((out / "masks").rglob("*.png")):
        raise UserError(f"{out / 'masks'} holds masks of another origin: give another --out")
    if not note.is_file():
        write_json(note, settings)
    elif read_json(note) != settings:
        raise UserError(
            f"{out} holds masks of another network or of other settings, such as --max-side: give "
            "another --out, or remove it"
        )


def source_stamp(photograph: Path) -> str:
    """Which photograph a result is of: a hash of its place, and its content's stamp."""
    from wsss.files import file_stamp

    place = hashlib.sha256(str(photograph.resolve()).encode()).hexdigest()[:16]
    return f"{place} {file_stamp(photograph)}"


def is_result_of(photograph: Path, result: Path) -> bool:
    """Whether a picture is there, and made of a photograph as it is now.

    Raises:
        UserError: it is of another photograph of the same name.
    """
    noted = noted_in(result)
    if noted is None:
        return False
    stamp = source_stamp(photograph)
    (place, content), (its_place, its_content) = stamp.split(), noted.split()
    if content == its_content:
        return True  # perhaps moved
    if place == its_place:
        return False  # changed since
    raise UserError(
        f"{result} is of another photograph of the same name as {photograph}: give another --out"
    )


def noted_in(picture: Path) -> str | None:
    """The `source_stamp` in a picture's comment, if it is there."""
    from PIL import Image

    try:
        with Image.open(picture) as image:
            comment = image.info.get("comment", "")
    except OSError:  # not there, or no picture
        return None
    comment = comment.decode(errors="replace") if isinstance(comment, bytes) else comment
    return comment.removeprefix(NOTE) if comment.startswith(NOTE) else None


NOTE = "wsss result of "

OF_ITS_NAME = (
    errno.ENAMETOOLONG,
    errno.EILSEQ,
    errno.EINVAL,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
)
"""What a system says where one file's name cannot be written; the next one's may."""


def _areas_so_far(out: Path, classes: list[str]) -> dict[str, list[float]]:
    """Areas of the masks that are there: as areas.csv has them, else counted in the mask."""
    from wsss.data.images import is_hidden
    from wsss.data.masks import read_mask

    rows = {}
    try:
        with (out / "areas.csv").open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        if header == ["image", "background", *classes]:
            rows = {name: [float(v) for v in values] for name, *values in lines}
    except (FileNotFoundError, ValueError, csv.Error):
        pass  # a spreadsheet may have saved its own form
    areas = {}
    for path in sorted((out / "masks").rglob("*.png")):
        name = path.relative_to(out / "masks").with_suffix("").as_posix()
        if any(map(is_hidden, path.relative_to(out).parts)):
            continue
        whole = len(rows.get(name, ())) == len(classes) + 1
        areas[name] = rows[name] if whole else _shares(read_mask(path, len(classes) + 1), classes)
    return areas


def _shares(mask, classes: list[str]) -> list[float]:
    """Background and classes in per cent of a mask (H, W)."""
    import numpy as np

    return (100 * np.bincount(mask.ravel(), minlength=256)[: len(classes) + 1] / mask.size).tolist()


def main(args: argparse.Namespace) -> int:
    from wsss.data.photographs import find_photographs
    from wsss.locks import locked

    for given in args.photographs:
        if given.is_dir() and given.resolve() == args.out.resolve():
            raise UserError(
                f"--out {args.out} is the folder of the photographs, and masks in it are taken for "
                "true ones: give another --out"
            )
    files = find_photographs(args.photographs, args.out)
    with locked(args.out, "wsss predict"):
        return _predict(args, files)


def _predict(args: argparse.Namespace, files: dict[str, Path]) -> int:
    import torch
    from PIL import Image

    from wsss.data.images import read_image
    from wsss.data.masks import read_mask, write_mask
    from wsss.files import write_atomic
    from wsss.pictures.masks import overlay
    from wsss.progress import progress
    from wsss.tasks.segmentation import SegmentationTask

    if args.max_side is not None and args.max_side < 32:
        raise UserError(f"--max-side must be 32 or more, got {args.max_side}")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    task = SegmentationTask.from_checkpoint(args.ckpt)
    try:
        task = task.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{device}' cannot be used ({error}): try --device cpu") from error
    task.inference = _settings(args, task.inference)
    _same_settings(args.out, args.ckpt, task.inference)
    results = {name: args.out / "overlays" / f"{name}.jpg" for name in files}
    kept = {n for n, path in files.items() if is_result_of(path, results[n])}
    areas, faults = _areas_so_far(args.out, task.classes), []
    for name, path in progress(files.items(), "predict"):
        target, picture = args.out / "masks" / f"{name}.png", results[name]
        try:
            image = read_image(path, task.white)
        except UserError as error:
            faults.append(str(error))
            continue
        if name in kept and target.is_file():  # the overlay is written last
            mask = read_mask(target, len(task.classes) + 1)
        else:
            try:
                mask = task.predict(image)
            except torch.OutOfMemoryError:
                faults.append(
                    f"image {path} does not fit into the memory of {device} at a long side of "
                    f"{task.inference.max_side} pixels: give a smaller --max-side or --device cpu"
                )
                continue
            laid, note = Image.fromarray(overlay(image, mask)), f"{NOTE}{source_stamp(path)}".encode()
            try:
                write_mask(target, mask)
                write_atomic(
                    picture,
                    lambda aside, laid=laid, note=note: laid.save(aside, format="JPEG", comment=note),
                )
            except OSError as error:
                if error.errno not in OF_ITS_NAME:
                    raise
                faults.append(
                    f"image {path}: {target} or {picture} cannot be written ({error.strerror}): rename "
                    "the photograph"
                )
                continue
        areas[name] = _shares(mask, task.classes)

    def write(aside: Path) -> None:
        with aside.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["image", "background", *task.classes])
            table.writerows([name, *(f"{v:.3f}" for v in area)] for name, area in areas.items())

    write_atomic(args.out / "areas.csv", write)
    for fault in faults:
        print(f"left out: {fault}", file=sys.stderr)
    print(f"{len(files) - len(faults)} of {len(files)} photographs predicted into {args.out}")
    return 1 if faults else 0
