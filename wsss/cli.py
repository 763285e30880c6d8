"""The command `wsss`. Heavy imports happen only inside the command that needs them."""

import argparse
import errno
import importlib
import keyword
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from wsss.distributed import await_end, is_first, leave, world_size
from wsss.errors import UserError, UserNotice, forget_notices
from wsss.machine import share_cores
from wsss.program import quiet_libraries

_PLAIN_FORMAT = warnings.formatwarning

USAGE = """usage: wsss COMMAND ...

From photographs with image-level tags to pixel masks and a trained segmenter.

  demo                               the whole chain on synthetic images, in minutes
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
  app [RUN]                          a local page: photographs and tags to a run; look through a run

`wsss COMMAND --help` tells the options.
"""

_COMMANDS = ("run", "demo", "report", "evaluate", "data", "check", "init", "predict", "slots")
_COMMANDS += ("export", "import", "app")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code (2: the user has something to mend)."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if words else 2
    command, rest = words[0], words[1:]
    share_cores()
    quiet_libraries()
    forget_notices()
    warnings.formatwarning = _one_line
    # `notice` itself says each thing once, and one of several processes is enough
    warnings.simplefilter("always" if is_first() else "ignore", UserNotice)
    code = 1
    try:
        code = _run(command, rest)
    finally:
        leave(code)
    if code and argv is None and world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # threads of torch may abort a process that is taken down while others end
    return code


def _run(command: str, rest: list[str]) -> int:
    terminated: list[int] = []
    try:
        with _as_interrupt(signal.SIGTERM, terminated):
            code = _call(command, rest)
            sys.stdout.flush()
        return code
    except UserError as error:
        if not is_first():  # which says it, where all have found the same
            await_end()
        if is_first() or world_size() > 1:  # before they know of each other, all find the same
            print(f"error: {one_sentence(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the output goes to `head` or the like, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is not written yet
        return 128 + signal.SIGPIPE
    except OSError as error:
        if (told := _of_the_system(error)) is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        how = "the same command goes on with what is left"
        if command in ("classify", "segment") and "fit" in rest:
            how = f"--ckpt_path {stop} goes on" if str(stop) else "no epoch was finished"
        if is_first():
            print(f"stopped; {how}", file=sys.stderr)
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)  # as shells have it
    except Exception:
        await_end()
        raise


def _call(command: str, words: list[str]) -> int:
    if command in ("classify", "segment"):
        from wsss.lightning_cli import run_task

        run_task(command, words)
        return 0
    if command not in _COMMANDS:
        raise UserError(f"'{command}' is no command of wsss: see wsss --help")
    name = f"{command}_" if keyword.iskeyword(command) else command
    module = importlib.import_module(f"wsss.commands.{name}")
    parser = argparse.ArgumentParser(prog=f"wsss {command}")
    module.add_arguments(parser)
    return module.main(parser.parse_args(words)) or 0


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def _of_the_system(error: OSError) -> str | None:
    """What to say of an error of the system; None: it tells nothing that a user could mend."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "the working folder is gone: go to one that is there, and give the same command again"
    if error.filename is None and error.errno not in _FULL:
        return None
    told = f"{error.filename}: " if error.filename else ""
    told += error.strerror or str(error)
    if error.errno in _FULL:
        return f"{told}: make room, the same command goes on with what is left"
    return f"{told}: allow it, or give another place" if error.errno in _REFUSED else told


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


def one_sentence(error: UserError) -> str:
    """The message alone, also where a loader's process has wrapped it in its traceback."""
    return str(error).rpartition("wsss.errors.UserError: ")[2].strip()


if __name__ == "__main__":
    sys.exit(main())
