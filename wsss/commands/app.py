"""`wsss app`: a local page to look around in a run."""

import argparse
import signal
import sys
from pathlib import Path

from wsss.errors import install


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Serve a page on this machine alone (127.0.0.1): upload a photograph and see its tags, class "
        "maps, slots and masks; browse the run's images by quality. Needs once: "
        f"{install('app')}."
    )
    parser.add_argument("run", type=Path, help="folder of a finished run (the --out of run or demo)")
    parser.add_argument("--port", type=int, default=7860, help="port on 127.0.0.1 (default: 7860)")


def main(args: argparse.Namespace) -> None:
    from wsss.app import serve
    from wsss.explore import Run

    # ended from outside, too, the uploads are removed
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        serve(Run(args.run), args.port)
    finally:
        signal.signal(signal.SIGTERM, before)
