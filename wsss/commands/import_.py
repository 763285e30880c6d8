"""`wsss import masks`: masks corrected in CVAT, Label Studio or elsewhere, back as training masks."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Read what other tools write."
    kinds = parser.add_subparsers(dest="kind", required=True)
    masks = kinds.add_parser(
        "masks",
        help="masks drawn or corrected in another tool",
        description="Write palette masks from COCO, VOC or YOLO-seg, for wsss segment --data.mask_dir.",
    )
    masks.add_argument(
        "file",
        type=Path,
        help="COCO .json, or a folder or .zip of COCO, VOC (CVAT: Segmentation mask 1.1) or YOLO-seg",
    )
    masks.add_argument("--photos", type=Path, required=True, help="folder of the photographs")
    masks.add_argument("--out", type=Path, required=True, help="new folder for the masks")
    masks.add_argument("--classes", type=Path, help="class names, one a line (default: found beside)")
    masks.add_argument(
        "--rest",
        type=Path,
        help="folder of masks for the photographs that the file does not hold, or without a mark",
    )


def main(args: argparse.Namespace) -> None:
    from wsss.exchange.masks import import_masks

    print(import_masks(args.file, args.photos, args.out, args.classes, args.rest))
