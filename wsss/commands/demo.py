"""`wsss demo`: the whole chain on synthetic images."""

import argparse
from pathlib import Path

from wsss.commands import add_run_options, run_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make a synthetic data set with tags and run the whole chain on it."
    parser.add_argument("--out", default="runs/demo", help="folder for data and results")
    add_run_options(parser)


def main(args: argparse.Namespace) -> None:
    from wsss.config_files import shipped_config
    from wsss.pipeline import run_pipeline

    root = str(Path(args.out) / "data")
    run_pipeline(shipped_config("demo/pipeline.yaml"), args.out, root, **run_options(args))
