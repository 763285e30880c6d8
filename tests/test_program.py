"""What the program sets for its processes."""

import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from wsss.program import start_process


def test_ctrl_c_is_left_to_the_program():
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=start_process) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
