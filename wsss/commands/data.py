"""`wsss data voc`: PASCAL VOC 2012 with the SBD masks (trainaug), ready to be read."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Get a public data set into the layout that wsss reads. voc: PASCAL VOC 2012 with the masks "
        "of the Semantic Boundaries Dataset and the list trainaug. Run again to go on."
    )
    parser.add_argument("name", choices=["voc"], help="the data set")
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder for it (about 6 GB)")
    parser.add_argument(
        "--from",
        dest="archives",
        type=Path,
        metavar="DIR",
        help="take the archives from this folder and download nothing",
    )


def main(args: argparse.Namespace) -> None:
    from wsss.data.voc2012 import get_voc2012

    get_voc2012(args.root, args.archives)
