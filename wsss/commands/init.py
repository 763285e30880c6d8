"""`wsss init PHOTOS`: a ready pipeline config for one's own photographs on the machine at hand."""

import argparse
from pathlib import Path

from wsss.settings import BACKBONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a pipeline config for your photographs, fitted to them and to this machine; wsss run "
        "executes it. The folder of photographs is only read."
    )
    parser.add_argument("photographs", type=Path, help="folder of the photographs, sub-folders too")
    parser.add_argument(
        "--tags",
        type=Path,
        help="CSV or .xlsx (image,tags or a 0/1 column per class), JSON, or what a tool exports "
        "(docs/how-to/own-photos.md); default: tags.csv or a tool's file in it, else a sub-folder for "
        "each class",
    )
    parser.add_argument("--out", type=Path, help="folder to write to (default: runs/<folder's name>)")
    parser.add_argument(
        "--weights",
        type=Path,
        help="weight file of the backbone (default: the published ones, which the first run downloads)",
    )
    parser.add_argument(
        "--backbone",
        default=BACKBONE,
        help=f"any timm model that gives feature maps, CNN or ViT (default: {BACKBONE})",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one epoch of small images: to see the chain run before it takes its time",
    )


def main(args: argparse.Namespace) -> None:
    from wsss.recipe_for import write_recipe

    words = (args.photographs, args.tags, args.out, args.backbone, args.weights, args.quick)
    print("\n".join(write_recipe(*words)))
