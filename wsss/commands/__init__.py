"""The commands of `wsss`, a module each: its arguments, and one call.

A module has `add_arguments(parser)` and `main(args)`, which returns the exit code; None is 0.
"""

import argparse


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What `wsss run` and `wsss demo` share."""
    parser.add_argument(
        "--upper-bound",
        action="store_true",
        help="also train the fully supervised baseline: the same segmenter on the ground-truth masks",
    )
    parser.add_argument(
        "--devices",
        type=int,
        help="GPUs (or CPU processes) to work on; several machines: start wsss by torchrun or srun, "
        "which say how many (docs/how-to/cluster.md)",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="log trainings for TensorBoard, too: tensorboard --logdir RESULTS "
        "(pip install tensorboard once)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop at images that cannot be read, which are otherwise left out and named in "
        "bad_images.csv",
    )
    changed = parser.add_mutually_exclusive_group()
    for name, does in (
        ("keep", "go on with finished stages that an earlier version of wsss made otherwise"),
        ("redo", "make such stages anew; the earlier results are moved aside"),
    ):
        changed.add_argument(
            f"--{name}", dest="changed", action="store_const", const=name, default="tell", help=does
        )


def run_options(args: argparse.Namespace) -> dict:
    """What they ask of `run_pipeline`."""
    names = ("upper_bound", "changed", "devices", "tensorboard", "strict")
    return {name: getattr(args, name) for name in names}
