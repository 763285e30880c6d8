"""`wsss slots`: what a network's slots hold together on photographs."""

import argparse
from pathlib import Path

from wsss.errors import UserError
from wsss.settings import SIDE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw, for each photograph and block, the hard groups with the most telling slots and a sheet "
        "of all slot maps; index.html in the folder shows them all. Run again to go on or to add "
        "photographs, blocks and positions; exit code 1: some files could not be read and are named."
    )
    parser.add_argument("photographs", type=Path, nargs="+", help="image files or folders")
    parser.add_argument("--ckpt", type=Path, help="last.ckpt of wsss classify or run")
    parser.add_argument(
        "--backbone",
        help="instead of --ckpt: glnet_nano, or another timm model or GLNet with --weights",
    )
    parser.add_argument("--weights", help="weight file of --backbone (.safetensors or .pth)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument(
        "--blocks",
        nargs="+",
        default=[],
        metavar="BLOCK",
        help="STAGE.BLOCK of a GLNet counted from 0 (2.0), features (any network: clustered without "
        "training), features.LEVEL, or all; default: each stage's first GLMix block, else features",
    )
    parser.add_argument(
        "--at", type=_position, metavar="X,Y", help="also draw the slots at this pixel, and their reach"
    )
    parser.add_argument(
        "--size", type=int, help=f"long side in pixels that the network sees (default: at most {SIDE})"
    )


def _position(text: str) -> tuple[int, int]:
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no position: give x and y in pixels, for example 120,80"
        ) from None
    return x, y


def main(args: argparse.Namespace) -> int:
    from wsss.slot_gallery import draw_gallery

    if args.size is not None and args.size < 32:
        raise UserError(f"--size {args.size} is too small for any network: give 32 or more")
    network = {"ckpt": args.ckpt, "backbone": args.backbone, "weights": args.weights}
    where = {"blocks": args.blocks, "at": args.at, "size": args.size}
    return 1 if draw_gallery(args.photographs, args.out, **network, **where) else 0
