"""`wsss run`: the whole chain on the user's data."""

import argparse

from wsss.commands import add_run_options, run_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run all stages; finished ones are skipped, a broken-off one goes on."
    parser.add_argument("-c", "--config", required=True, help="a pipeline.yaml")
    parser.add_argument("--root", help="the data set's folder (data.root of every stage)")
    parser.add_argument("--weights", help="weight file for the backbone and the encoder")
    parser.add_argument("--out", help="folder for the results (default: as the config says)")
    add_run_options(parser)


def main(args: argparse.Namespace) -> None:
    from wsss.pipeline import run_pipeline

    run_pipeline(args.config, args.out, args.root, args.weights, **run_options(args))
