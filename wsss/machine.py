"""What this process may use of the machine: cores, memory, shared memory. Imports no torch."""

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsss.errors import UserError

SPIN = 4000
"""How often a thread of libgomp looks whether the others have come before it sleeps.

Measured with `benchmarks/threads.py` (experiments/2026-11-29-threads.md): as fast as the runtime's own
300,000 on idle cores, and a third of that beside another program, where threads that spin take the time
of those that they wait for.
"""

_CGROUPS = Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Machine:
    """What trains (`wsss.resources.find_machine`).

    Attributes:
        name: for the user.
        gpu: a CUDA GPU is there.
        cores: CPU cores that may be used.
        memory: of the GPU in GiB; 0 without one.
        bf16: bfloat16 arithmetic in hardware.
    """

    name: str
    gpu: bool
    cores: int
    memory: float
    bf16: bool


def allowed_cores() -> int:
    """CPU cores that this process may use: those of its affinity, and its share in a container."""
    # Slurm, taskset and cpusets set the affinity
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups():
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal():
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def share_cores() -> None:
    """Tell OpenMP how to wait, and it and OpenCV how many threads to start; before these are imported.

    What the user has set stays.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPIN)
    if hasattr(os, "sched_getaffinity") and allowed_cores() < len(os.sched_getaffinity(0)):
        # the runtime does not know a container's share, and would start threads that wait for it
        os.environ.setdefault("OMP_NUM_THREADS", str(allowed_cores()))
    # of several processes each would tell that its network may have layers without a gradient
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # loaders and the CRF are processes already
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")


def free_memory() -> float:
    """Bytes of memory that this process can still take; infinity where the system does not say."""
    free = float("inf")
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = 1024.0 * int(line.split()[1])
    for folder in _groups():
        most, used = _read(folder / "memory.max"), _read(folder / "memory.current")
        if most.isdecimal() and used.isdecimal():
            free = min(free, float(int(most) - int(used)))
    return max(0.0, free)


def free_shared_memory() -> float:
    """Bytes free in /dev/shm, through which loader processes hand over images; else infinity."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):  # not Linux
        return float("inf")
    if not os.access(SHARED_MEMORY, os.W_OK):
        return 0.0
    return float(status.f_bavail * status.f_frsize)


def require_locks() -> None:
    """See that processes which make masks can have their locks, some kilobytes of /dev/shm.

    Raises:
        UserError: /dev/shm has no room, or cannot be written to.
    """
    try:
        [multiprocessing.Lock() for _ in range(16)]
    except OSError as error:
        raise UserError(
            f"{SHARED_MEMORY} cannot be used ({error.strerror}), and the processes that make masks "
            "need some kilobytes of it: make room in it, or mount it so that it can be written to "
            "(docker run --shm-size=64m)"
        ) from error


def _groups() -> Iterator[Path]:
    """Folders of this process's control group (version 2) and of those around it."""
    inner = next(
        (line[3:] for line in _read("/proc/self/cgroup").splitlines() if line[:3] == "0::"), ""
    )
    folder = _CGROUPS / inner.lstrip("/")
    yield folder
    while folder != _CGROUPS and folder.is_relative_to(_CGROUPS):
        folder = folder.parent
        yield folder


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
