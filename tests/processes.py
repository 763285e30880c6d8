"""Starting wsss as several processes, as users, torchrun and srun do."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WSSS = ("-m", "wsss.cli")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start(
    words: Sequence[str], folder: Path, program: Sequence[str] = WSSS, **environment: str
) -> subprocess.Popen:
    """A program in a folder, with what it says in one stream."""
    return subprocess.Popen(
        [sys.executable, *program, *words],
        cwd=folder,
        # one thread each: the machine is small
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def agents(
    words: Sequence[str], folders: Sequence[Path], each: int = 1, program: Sequence[str] = WSSS
) -> list[subprocess.Popen]:
    """Agents of torchrun as on several machines, one in each folder."""
    how = ["-m", "torch.distributed.run", "--nnodes", str(len(folders)), "--nproc-per-node", str(each)]
    how += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    return [
        start(words, folder, [*how, "--node-rank", str(number), *program])
        for number, folder in enumerate(folders)
    ]


def task_environment(count: int, number: int, port: int) -> dict[str, str]:
    """What srun sets for one of some tasks on one machine."""
    job = {"STEP_NUM_TASKS": count, "NTASKS": count, "NTASKS_PER_NODE": count}
    job |= {"STEP_NUM_NODES": 1, "NNODES": 1, "JOB_ID": 7, "JOB_NAME": "train", "NODEID": 0}
    job |= {"NODELIST": "127.0.0.1", "JOB_NODELIST": "127.0.0.1", "PROCID": number, "LOCALID": number}
    own = {f"SLURM_{name}": str(value) for name, value in job.items()}
    return own | {"MASTER_PORT": str(port)}


def tasks(
    words: Sequence[str], folders: Sequence[Path], program: Sequence[str] = WSSS
) -> list[subprocess.Popen]:
    """Tasks as srun starts them on one machine, each in its folder."""
    count, port = len(folders), free_port()
    return [
        start(words, folder, program, **task_environment(count, number, port))
        for number, folder in enumerate(folders)
    ]


def ended(processes: Sequence[subprocess.Popen], seconds: float = 300) -> tuple[list[int], str]:
    """Their exit codes, and all that they have said."""
    try:
        said = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "".join(said)


def die(job: Any, *_: Any) -> None:
    """A job in a process of its own, which is killed where its image is said to be large."""
    if "large" in str(job.image):
        os.kill(os.getpid(), signal.SIGKILL)


def children(process: subprocess.Popen) -> list[int]:
    """The processes of wsss that one has started by itself, as Lightning does."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            words = (place / "cmdline").read_bytes()
        except (OSError, ValueError):  # it has ended
            continue
        if parent == process.pid and b"wsss.cli" in words:
            found.append(int(place.name))
    return found


def until(happened: Callable[[], bool], seconds: float = 200) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)
