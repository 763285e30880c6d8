"""`wsss app`: a local page to make a run, and to look around in one."""

import argparse
import signal
import sys
from pathlib import Path

from wsss.errors import install


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Serve a page on this machine alone (127.0.0.1). Without RUN: upload photographs and tags, "
        "check them, run, open the report. With RUN: upload a photograph and see its tags, class maps, "
        f"slots and masks; browse the run's images by quality. Needs once: {install('app')}."
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "run", type=Path, nargs="?", help="folder of a finished run (the --out of run or demo)"
    )
    what.add_argument(
        "--projects",
        type=Path,
        default=Path("projects"),
        help="folder to keep projects in, as plain files (default: projects)",
    )
    parser.add_argument("--port", type=int, default=7860, help="port on 127.0.0.1 (default: 7860)")


def main(args: argparse.Namespace) -> None:
    from wsss.app import build, serve
    from wsss.explore import Run
    from wsss.project_page import serve_projects

    # ended from outside, too, the uploads are removed and runs are stopped
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heard = [one for one in signals if signal.getsignal(one) != signal.SIG_IGN]  # not those of nohup
    before = {one: signal.signal(one, lambda *_: sys.exit(0)) for one in heard}
    try:
        if args.run is None:
            serve_projects(args.projects, args.port)
        else:
            run = Run(args.run)
            serve(lambda folder: build(run, folder), args.port)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
