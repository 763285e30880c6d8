"""What the program sets for its processes."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from wsss.program import start_process


def test_ctrl_c_is_left_to_the_program():
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=start_process) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


POOL = """
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import getpid
from wsss.program import start_process
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=start_process)
    print(pool.submit(getpid).result(), flush=True)
    time.sleep(100)
"""


def test_a_process_ends_with_a_program_that_is_killed(tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    words = [sys.executable, str(tmp_path / "pool.py")]
    program = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    process = int(program.stdout.readline())
    os.kill(process, 0)
    program.kill()
    program.wait()
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"process {process} goes on")
