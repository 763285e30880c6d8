"""`wsss report`: build a run's report.html again."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write report.html and overview.png of a finished run once more."
    parser.add_argument("run", type=Path, help="the folder of `wsss run` or `wsss demo`")


def main(args: argparse.Namespace) -> None:
    from wsss.report.page import write_report
    from wsss.run_folder import RunFolder

    print(f"report in {write_report(RunFolder(args.run))}")
