"""`wsss predict`: masks, overlays and areas for new photographs."""

import argparse
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


def main(args: argparse.Namespace) -> int:
    from wsss.predict import predict_folder

    if args.max_side is not None and args.max_side < 32:
        raise UserError(f"--max-side must be 32 or more, got {args.max_side}")
    changes = {name: getattr(args, name) for name in ("max_side", "scales", "flip", "tile", "crf")}
    faults = predict_folder(args.photographs, args.ckpt, args.out, args.device, **changes)
    return 1 if faults else 0
