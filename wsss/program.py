"""What the program `wsss` sets for its processes; an import of the package sets nothing."""

import os
import signal
import threading
import warnings
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess


def quiet_libraries() -> None:
    """Leave out what libraries warn of and wsss copes with; in each process of the program.

    PIL warns of damaged EXIF, of palettes, and of images from 89 megapixels on, which phones make: all
    are read all the same, and what cannot be read is refused. Once for the whole process, as a filter
    for one call would be seen by the threads that read other images.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def start_process() -> None:
    """Set what a process needs that loads images or makes masks, besides the program's own.

    Ctrl-C, which all get, is left to the program. The process ends when the program does, also when
    that was killed.
    """
    quiet_libraries()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (program := parent_process()) is not None:
        threading.Thread(target=_end_with, args=[program], daemon=True).start()


def _end_with(program: BaseProcess) -> None:
    program.join()
    os._exit(1)
