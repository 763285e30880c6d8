"""The command `wsss`. Heavy imports happen only inside the command that needs them."""

import argparse
import errno
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsss.errors import UserError, UserNotice, forget_notices, notice
from wsss.machine import share_cores

_PLAIN_FORMAT = warnings.formatwarning

USAGE = """usage: wsss COMMAND ...

From photographs with image-level tags to pixel masks and a trained segmenter.

  demo                               the whole chain on drawn images, in minutes
  run -c PIPELINE.yaml               the whole chain on your data; run again to go on
  classify fit|validate|predict      train the tag classifier; predict makes pseudo-masks
  segment fit|test|predict           train and use the segmentation network
  report RUN                         build a run's report.html again
  evaluate PRED TARGET               compare two folders of masks (IoU per class, mIoU)
  data voc ROOT                      VOC 2012 with its trainaug masks, in one command
  check ROOT                         what is in a data set, and what is odd about it
  init PHOTOS --tags FILE            a pipeline config fitted to your data and machine
  predict --ckpt FILE --out DIR ...  masks, overlays and areas for new photographs
  slots --ckpt FILE --out DIR ...    pictures of what the network's slots hold together
  export masks DIR --format F ...    masks for CVAT, Label Studio, YOLO or the VOC server
  export model --ckpt F --out DIR    the network as ONNX and torch.export
  import masks FILE --photos P ...   masks corrected there, back as training masks
  app RUN                            a local page: try photographs, look through the run

`wsss COMMAND --help` tells the options.
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code (2: the user has something to mend)."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if words else 2
    command, rest = words[0], words[1:]
    share_cores()
    forget_notices()
    warnings.formatwarning = _one_line
    warnings.simplefilter("always", UserNotice)  # `notice` itself says each thing once
    terminated: list[int] = []
    try:
        with _as_interrupt(signal.SIGTERM, terminated):
            code = _call(command, rest)
            sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {one_sentence(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the output goes to `head` or the like, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is not written yet
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        how = "the same command goes on with what is left"
        if command in ("classify", "segment") and "fit" in rest:
            how = f"--ckpt_path {stop} goes on" if str(stop) else "no epoch was finished"
        print(f"stopped; {how}", file=sys.stderr)
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)  # as shells have it


def _call(command: str, words: list[str]) -> int:
    if command in ("classify", "segment"):
        from wsss.lightning_cli import run_task

        run_task(command, words)
        return 0
    if command not in _COMMANDS:
        raise UserError(f"'{command}' is no command of wsss: see wsss --help")
    parser = argparse.ArgumentParser(prog=f"wsss {command}")
    add_arguments, run = _COMMANDS[command]
    add_arguments(parser)
    return run(parser.parse_args(words)) or 0


@contextmanager
def _as_interrupt(signum: int, received: list[int]) -> Iterator[None]:
    """Make a signal, as of `timeout`, `docker stop` or a cluster, end the work as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        received.append(signum)
        signal.signal(signum, signal.SIG_IGN)  # nothing is to break off the ending
        raise KeyboardInterrupt

    before = signal.signal(signum, interrupt)
    try:
        yield
    finally:
        signal.signal(signum, before)


def _one_line(message, category, *place, **more) -> str:
    """A notice for the user without the place in our code that gave it."""
    if issubclass(category, UserNotice):
        return f"note: {message}\n"
    return _PLAIN_FORMAT(message, category, *place, **more)


def _module(name: str) -> tuple:
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        importlib.import_module(f"wsss.commands.{name}").add_arguments(parser)

    def run(args: argparse.Namespace) -> int:
        return importlib.import_module(f"wsss.commands.{name}").main(args)

    return add_arguments, run


def one_sentence(error: UserError) -> str:
    """The message alone, also where a loader's process has wrapped it in its traceback."""
    return str(error).rpartition("wsss.errors.UserError: ")[2].strip()


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run all stages; finished ones are skipped, a broken-off one goes on."
    parser.add_argument("-c", "--config", required=True, help="a pipeline.yaml")
    parser.add_argument("--root", help="the data set's folder (data.root of every stage)")
    parser.add_argument("--weights", help="weight file for the backbone and the encoder")
    parser.add_argument("--out", help="folder for the results (default: as the config says)")
    _options(parser)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--upper-bound",
        action="store_true",
        help="also train the same segmenter on the true masks, to compare with",
    )
    changed = parser.add_mutually_exclusive_group()
    for name, does in (
        ("keep", "go on with finished stages that an earlier version of wsss made otherwise"),
        ("redo", "make such stages anew; the earlier results are moved aside"),
    ):
        changed.add_argument(
            f"--{name}", dest="changed", action="store_const", const=name, default="tell", help=does
        )


def _run(args: argparse.Namespace) -> None:
    from wsss.pipeline import run_pipeline

    run_pipeline(args.config, args.out, args.root, args.weights, args.upper_bound, args.changed)


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Draw a tagged data set and run the whole chain on it."
    parser.add_argument("--out", default="runs/demo", help="folder for data and results")
    _options(parser)


def _demo(args: argparse.Namespace) -> None:
    from wsss.pipeline import shipped_config

    args.config, args.root, args.weights = shipped_config("demo/pipeline.yaml"), None, None
    args.root = str(Path(args.out) / "data")
    _run(args)


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "IoU of predicted masks against true ones, from one confusion matrix."
    parser.add_argument("prediction", type=Path, help="folder of predicted masks")
    parser.add_argument("target", type=Path, help="folder of true masks")
    parser.add_argument("--list", type=Path, help="text file with the ids to compare (else: all)")
    parser.add_argument(
        "--classes", type=Path, help="class names, one a line (default: found beside, else VOC's 20)"
    )
    parser.add_argument("--json", type=Path, help="write the numbers there, too")


def _evaluate(args: argparse.Namespace) -> None:
    from wsss.commands.check import as_files
    from wsss.commands.export import as_named, class_names, mask_files
    from wsss.data.catalog import read_lines
    from wsss.evaluation import evaluate_files
    from wsss.files import write_json
    from wsss.voc import VOC_CLASSES

    for folder in (args.prediction, args.target):
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
    for file in (args.list, args.classes):
        if file is not None and not file.is_file():
            raise UserError(f"there is no file {file}")
    known = class_names(args.classes, args.target, None, ())
    if args.classes is None:
        its = class_names(None, args.prediction, None, ())
        if known and its and known != its:
            raise UserError(
                f"the classes of {args.prediction} are {', '.join(its)}, those of {args.target} "
                f"{', '.join(known)}: correct the wrong list, or pass --classes"
            )
        known = known or its
    classes = known or VOC_CLASSES
    if not known and not (args.target.resolve().parent / "JPEGImages").is_dir():
        notice("the class names are not known, VOC's are shown: pass --classes, one name a line")
    made = mask_files(args.prediction)
    true = as_named(mask_files(args.target), made)
    if args.list:
        lines = [line.strip() for line in read_lines(args.list) if line.strip()]
        present = {*made, *true}
        written = as_files((name for line in lines for name in (line, line.split()[0])), present)
        # a name may contain spaces, and a devkit's list further columns
        names = [written[line if written[line] in present else line.split()[0]] for line in lines]
    else:
        names = [name for name in made if name in true]
        for these, others, what, lack in (
            (true, made, "true masks", f"no prediction in {args.prediction}"),
            (made, true, "predictions", f"no true mask in {args.target}"),
        ):
            if without := [name for name in these if name not in others]:
                notice(
                    f"not compared: {len(without)} of {len(these)} {what} have {lack} "
                    f"(first: {without[0]}.png)"
                )
        if not names:
            raise UserError(f"{args.prediction} and {args.target} share no name of a mask")
    pairs = [
        (made.get(n, args.prediction / f"{n}.png"), true.get(n, args.target / f"{n}.png"))
        for n in names
    ]
    scores = evaluate_files(pairs, classes)
    for name, value in scores.iou.items():
        print(f"{name:16s} {'   -' if value is None else f'{value:5.1f}'}")
    print(
        f"mIoU {scores.miou:.2f}   pixel accuracy {scores.pixel_accuracy:.2f}   "
        f"void {scores.void:.2f} %   images {scores.images}"
    )
    if args.json:
        write_json(args.json, scores.to_dict())


_COMMANDS = {
    "run": (_run_arguments, _run),
    "demo": (_demo_arguments, _demo),
    "evaluate": (_evaluate_arguments, _evaluate),
    "data": _module("data"),
    "check": _module("check"),
    "init": _module("init"),
    "predict": _module("predict"),
    "slots": _module("slots"),
    "export": _module("export"),
    "import": _module("import_masks"),
    "app": _module("app"),
    "report": _module("report"),
}

if __name__ == "__main__":
    sys.exit(main())
