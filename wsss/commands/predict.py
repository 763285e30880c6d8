"""`wsss predict`: masks, overlays and areas for new photographs."""

import argparse
import csv
import sys
from pathlib import Path

from wsss.errors import UserError

TILE = 1024
"""Side in pixels of the window slid over larger images."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write masks, overlays and areas.csv (share of each class in per cent). Run again to go on; "
        "exit code 1: some files could not be read and are named."
    )
    parser.add_argument("photographs", type=Path, nargs="+", help="image files or folders")
    parser.add_argument("--ckpt", type=Path, required=True, help="best.ckpt of wsss segment or run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")


def find_photographs(photographs: list[Path]) -> dict[str, Path]:
    """Name of the result (no suffix, relative) -> file."""
    from wsss.data.images import IMAGE_SUFFIXES

    found: dict[str, Path] = {}
    for given in photographs:
        if given.is_dir():
            paths = sorted(p for p in given.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            pairs = [(p.relative_to(given).with_suffix("").as_posix(), p) for p in paths]
        elif given.is_file():
            pairs = [(given.stem, given)]
        else:
            raise UserError(f"there is no photograph or folder {given}")
        for name, path in pairs:
            if name in found:
                raise UserError(
                    f"{found[name]} and {path} would both be written as '{name}.png': "
                    "rename one or predict them into two folders"
                )
            found[name] = path
    if not found:
        raise UserError(f"there is no photograph in {', '.join(map(str, photographs))}")
    return found


def main(args: argparse.Namespace) -> int:
    import numpy as np
    import torch
    from PIL import Image
    from tqdm import tqdm

    from wsss.data.images import read_image
    from wsss.data.masks import read_mask, write_atomic, write_mask
    from wsss.pictures import overlay
    from wsss.tasks.segmentation import SegmentationTask

    files = find_photographs(args.photographs)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        task = SegmentationTask.from_checkpoint(args.ckpt).to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{device}' cannot be used ({error}): try --device cpu") from error
    areas, faults = {}, []
    for name, path in tqdm(files.items(), unit="image", desc="predict"):
        target, picture = args.out / "masks" / f"{name}.png", args.out / "overlays" / f"{name}.jpg"
        try:
            image = read_image(path)
        except UserError as error:
            faults.append(str(error))
            continue
        # the overlay is written last: where it is, and newer than the photograph, so is the mask
        done = target.is_file() and picture.is_file()
        newest = max(path.stat().st_mtime, args.ckpt.stat().st_mtime)
        if done and picture.stat().st_mtime >= newest:
            mask = read_mask(target, len(task.classes) + 1)
        else:
            tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].to(device)
            with torch.inference_mode():
                batch = {"image": tensor, "size": torch.tensor([image.shape[:2]])}
                mask = task.predict_mask(batch, tile=TILE).cpu().numpy().astype(np.uint8)
            write_mask(target, mask)
            laid = Image.fromarray(overlay(image, mask))
            write_atomic(picture, lambda aside, laid=laid: laid.save(aside, format="JPEG"))
        labels = np.bincount(mask.ravel(), minlength=len(task.classes) + 1)
        areas[name] = 100 * labels[: len(task.classes) + 1] / mask.size

    def write(aside: Path) -> None:
        with aside.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["image", "background", *task.classes])
            table.writerows([name, *(f"{v:.3f}" for v in area)] for name, area in areas.items())

    write_atomic(args.out / "areas.csv", write)
    for fault in faults:
        print(f"left out: {fault}", file=sys.stderr)
    print(f"{len(areas)} of {len(files)} photographs predicted into {args.out}")
    return 1 if faults else 0
