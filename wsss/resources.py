"""What a stage of a run cost, and on what it ran."""

import platform
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import wsss
from wsss.machine import Machine, allowed_cores

LIBRARIES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "timm",
    "segmentation-models-pytorch",
    "albumentations",
    "torchmetrics",
    "opencv-python-headless",
    "numpy",
    "scipy",
)
"""Whose versions can change the numbers."""


def versions() -> dict[str, str]:
    """Name -> version of wsss, Python and `LIBRARIES`, and wsss's commit where it lies in git."""
    found = {"wsss": wsss.__version__} | _commit() | {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def _commit() -> dict[str, str]:
    """The commit that wsss is of, and whether it was changed since; nothing where none is told."""
    place = Path(wsss.__file__).parent
    if not (place.parent / ".git").exists():  # another project's may be further above
        return {}
    git = ["git", "-C", str(place)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], **_QUIETLY)
        changed = subprocess.check_output([*git, "status", "--porcelain", "."], **_QUIETLY)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit.strip() + (" and changes" if changed.strip() else "")}


_QUIETLY: dict[str, Any] = {"text": True, "stderr": subprocess.DEVNULL, "timeout": 10}


def device() -> str:
    """What the networks run on, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {allowed_cores()} cores)"


def find_machine() -> Machine:
    """The machine that this process runs on."""
    cores = allowed_cores()
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return Machine(card.name, True, cores, card.total_memory / 2**30, card.major >= 8)
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").split())
    except OSError:
        flags = set()
    name = f"CPU, {cores} core{'s' if cores > 1 else ''}"
    return Machine(name, False, cores, 0.0, bool(flags & {"amx_bf16", "avx512_bf16"}))


class Cost:
    """Time and peak memory from its making on.

    Args:
        minutes: spent before, which count as well.

    Memory is that of this process, without the loaders' and the CRF's. Linux alone can forget an
    earlier peak; elsewhere the largest one since the process began is given.
    """

    def __init__(self, minutes: float = 0.0) -> None:
        self.before, self.start = minutes, time.monotonic()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # forgets the high-water mark, see proc(5)
        except OSError:
            pass

    def so_far(self) -> dict[str, Any]:
        """minutes, memory_gb (RAM; None where unknown), gpu_memory_gb, device, versions."""
        gpu = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
        return {
            "minutes": self.before + (time.monotonic() - self.start) / 60,
            "memory_gb": _peak(),
            "gpu_memory_gb": gpu,
            "device": device(),
            "versions": versions(),
        }


def _peak() -> float | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
