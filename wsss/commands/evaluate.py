"""`wsss evaluate`: two folders of masks compared."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "IoU of predicted masks against the ground truth, from one confusion matrix."
    parser.add_argument("prediction", type=Path, help="folder of predicted masks")
    parser.add_argument("target", type=Path, help="folder of ground-truth masks")
    parser.add_argument("--list", type=Path, help="text file with the ids to compare (else: all)")
    parser.add_argument(
        "--classes", type=Path, help="class names, one a line (default: found beside, else VOC's 20)"
    )
    parser.add_argument("--json", type=Path, help="write the numbers there, too")


def main(args: argparse.Namespace) -> None:
    from wsss.exchange.evaluate import evaluate_folders
    from wsss.files import write_json

    scores = evaluate_folders(args.prediction, args.target, args.list, args.classes)
    for name, value in scores.iou.items():
        print(f"{name:16s} {'   -' if value is None else f'{value:5.1f}'}")
    print(
        f"mIoU {scores.miou:.2f}   pixel accuracy {scores.pixel_accuracy:.2f}   "
        f"void {scores.void:.2f} %   images {scores.images}"
    )
    if args.json:
        write_json(args.json, scores.to_dict())
