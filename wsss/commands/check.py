"""`wsss check ROOT`: what is in a data set, what is odd about it, and what to do."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Examine a data set. Exit code: 0 clean, 1 warnings, 2 unusable."
    parser.add_argument("root", type=Path, help="folder of the data set")
    parser.add_argument("--tags", type=Path, help="table of tags, where the folder has none of its own")
    parser.add_argument(
        "--layout",
        choices=["voc", "coco", "folder"],
        help="how the data lie (default: what they look like)",
    )
    parser.add_argument("--json", type=Path, help="write the findings there, too")


def main(args: argparse.Namespace) -> int:
    from wsss.data.check import check, summary
    from wsss.files import write_text

    report = check(args.root, args.tags, args.layout)
    print("\n".join(summary(report, args.root, args.tags)))
    if args.json:
        text = json.dumps(asdict(report) | {"code": report.code}, indent=2, ensure_ascii=False)
        write_text(args.json, text + "\n")
    return report.code
