"""Several processes at one work, one for each device: who starts them, and what they tell each other.

They are started by torchrun, by SLURM's `srun`, or by Lightning where a number of devices is asked
for. Each runs the same program from its first line and comes to the same places in the same order.
What is to happen once is done by the first process in `first`; what can be dealt out is dealt out by
`share`, without images twice or missing. Where one process ends, the others end, too. Alone, a process
is the first of one, and all of this costs nothing. Imports no torch before there are several.
"""

import logging
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from wsss.errors import UserError
from wsss.machine import allowed_cores

T = TypeVar("T")

PATIENCE = timedelta(days=30)
"""How long a process waits for what another one does alone, as measuring a million masks; that one has
died is noticed at once (`_Lifeline`)."""

GRACE = 10.0
"""Seconds that a process has to come to its end when another one was told to stop."""

_group: Any = None  # of all processes, on the CPU, for what they tell each other
_here = 1  # processes on this machine
_placement: dict[str, Any] = {}
_alone = 0  # depth of `first`, in which the others are not asked
_lifeline: "_Lifeline | None" = None


def _started() -> tuple[int, int] | None:
    """Processes on this machine, and machines, where a launcher has started this process."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return _evenly(int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"]))
    # variables of a step, which `srun` sets: in a job's script the others tell what was asked for
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks > 1:
        nodes = int(env.get("SLURM_STEP_NUM_NODES", 1))
        return _evenly(tasks, tasks // nodes)
    return None


def _evenly(processes: int, here: int) -> tuple[int, int]:
    """Processes on each machine, and machines.

    Raises:
        UserError: not all machines can have as many.
    """
    if processes % here:
        raise UserError(
            f"the launcher has started {processes} processes, {here} of them on this machine: start as "
            "many on each machine"
        )
    return here, processes // here


def environment() -> Any:
    """Lightning's environment of the launcher at work."""
    from lightning_fabric.plugins import environments

    if "TORCHELASTIC_RUN_ID" in os.environ:
        return environments.TorchElasticEnvironment()
    if _started():
        return environments.SLURMEnvironment(auto_requeue=False)
    return environments.LightningEnvironment()


def is_first() -> bool:
    """Whether this process is the one that tells, writes and decides."""
    if _group is not None:
        return rank() == 0
    if "TORCHELASTIC_RUN_ID" in os.environ:  # before they have found each other
        return os.environ.get("RANK", "0") == "0"
    if _started():
        return os.environ.get("SLURM_PROCID", "0") == "0"
    # as Lightning starts the others
    return os.environ.get("LOCAL_RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def rank() -> int:
    """The number of this process, from 0."""
    return _group.rank() if _group is not None else 0


def world_size() -> int:
    """How many processes there are."""
    return _group.size() if _group is not None else 1


def processes_here() -> int:
    """How many of them share this machine."""
    return _here


ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
"""Kinds of devices, as Lightning calls them."""


def placement() -> dict[str, Any]:
    """`devices` and `num_nodes` as Lightning has them; nothing where this process is alone."""
    return dict(_placement)


def _check_place(devices: Any, num_nodes: Any, accelerator: Any) -> None:
    """Refuse what names no devices, before Lightning meets it, which raises many kinds of errors."""
    if accelerator not in ACCELERATORS:
        known = ", ".join(ACCELERATORS)
        raise UserError(f"trainer.accelerator must be one of {known}, got {accelerator!r}")
    asked: Any = devices
    if isinstance(devices, str):
        words = [word.strip() for word in devices.split(",") if word.strip()]
        listed = [int(word) if word.removeprefix("-").isdecimal() else word for word in words]
        asked = listed if "," in devices or not listed else listed[0]
    if isinstance(asked, list | tuple):
        good = all(type(one) is int and one >= 0 for one in asked) and 0 < len(set(asked)) == len(asked)
    else:
        good = asked == "auto" or (type(asked) is int and (asked == -1 or asked > 0))
    if not good:
        raise UserError(
            f"trainer.devices must be how many, which of them as a list, or auto, got {devices!r}"
        )
    if type(num_nodes) is not int or num_nodes < 1:
        raise UserError(f"trainer.num_nodes must be 1 or more, got {num_nodes!r}")


def launch(devices: Any = 1, num_nodes: int = 1, accelerator: str = "auto") -> bool:
    """Start the other processes, or find those that a launcher has started; once in a program.

    Args:
        devices: as Lightning has it: a number, a list, "auto" or -1; under a launcher, as many as it
            has started.
        num_nodes: machines; 1, or as many as a launcher has started on.
        accelerator: as Lightning has it.

    Returns:
        Whether there are several.

    Raises:
        UserError: there are fewer devices, or none can be asked for so, or the processes do not find
            each other.
    """
    global _here, _placement
    _check_place(devices, num_nodes, accelerator)
    if _group is not None:
        return True
    asked, started = (devices, num_nodes), _started()
    devices, num_nodes = started or asked
    if started is not None and asked not in ((1, 1), started) and asked[0] not in ("auto", -1):
        raise UserError(
            f"{asked[0]} devices on {asked[1]} machines are asked for, and the launcher has started "
            f"{devices} processes on each of {num_nodes}: leave out the devices, or start as many"
        )
    if (devices, num_nodes) == (1, 1):
        return False
    if started is None and num_nodes != 1:
        raise UserError(
            f"trainer.num_nodes {num_nodes}: on several machines wsss is started by torchrun or srun, "
            "which say how many there are (docs/how-to/cluster.md)"
        )
    import torch
    from lightning_fabric import Fabric
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    place = {"accelerator": accelerator, "devices": devices, "num_nodes": num_nodes}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The `srun` command is available")
            fabric = Fabric(**place, strategy="ddp", plugins=[environment()])
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"trainer.devices {devices}: {' '.join(str(error).split())}") from error
    if fabric.world_size == 1:
        return False
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        raise UserError(
            "several devices need a program that can be started several times: call wsss run, or a "
            "script, from the command line"
        )
    _here, _placement = fabric.world_size // num_nodes, {"devices": devices, "num_nodes": num_nodes}
    # no talk of who has found whom
    for name in ("lightning_fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"{fabric.world_size} processes were to find each other at {where} and did not ({reason})"
        ) from error
    if os.environ.get("OMP_NUM_THREADS") in (None, str(allowed_cores())):  # not the user's own
        torch.set_num_threads(max(1, allowed_cores() // _here))
    _join(torch.distributed.new_group(backend="gloo", timeout=PATIENCE))
    return True


def _join(group: Any) -> None:
    """Let processes that have found each other work together."""
    global _group, _lifeline
    _group = group
    _lifeline = _Lifeline()
    import wsss

    found = gather((socket.gethostname(), f"{' '.join(sys.argv[1:])} (wsss {wsss.__version__})"))
    for number, (host, words) in enumerate(found):
        if words != found[0][1]:
            raise UserError(
                f"process {number + 1} of {len(found)} (on {host}) was started with {words}, the first "
                f"one (on {found[0][0]}) with {found[0][1]}: start all alike"
            )


def first(work: Callable[[], T]) -> T:
    """Do something in the first process only, and give all what comes of it, or its error.

    All processes call it, in the same order. Inside, `first`, `gather` and `share` are those of a
    process that is alone.

    Args:
        work: gives something that can be pickled.
    """
    global _alone
    if world_size() == 1 or _alone:
        return work()
    from torch.distributed import broadcast_object_list

    told: list[Any] = [None, None]
    if rank() == 0:
        _alone += 1
        try:
            told[0] = work()
        except Exception as error:
            told[1] = str(error)
            broadcast_object_list(told, 0, _group)
            raise
        finally:
            _alone -= 1
    broadcast_object_list(told, 0, _group)
    if told[1] is not None:
        raise UserError(told[1])
    return told[0]


def in_step() -> bool:
    """Whether all processes are at this place, not the first one alone in `first`."""
    return not _alone or world_size() == 1


def gather(value: T) -> list[T]:
    """What each process has, in their order, in all of them; waits for all."""
    if world_size() == 1 or _alone:
        return [value]
    from torch.distributed import all_gather_object

    values: list[Any] = [None] * world_size()
    all_gather_object(values, value, _group)
    return values


def average_(tensors: Iterable[Any]) -> None:
    """Let all processes have the mean of a tensor that each has, in place; of equal ones the same."""
    if world_size() > 1:
        from torch.distributed import all_reduce

        for tensor in tensors:
            total = tensor.double()  # in which no digit is lost
            all_reduce(total)
            tensor.copy_(total / world_size())


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    gather(None)


def share(items: Sequence[T]) -> Sequence[T]:
    """What of these is this process's to do: every n-th; all together do each once."""
    if world_size() == 1 or _alone:
        return items
    return items[rank() :: world_size()]


def in_order(shares: Sequence[Sequence[T]]) -> list[T]:
    """What `share` has dealt out, of all processes, in the order that it had before."""
    together: list[T] = [None] * sum(map(len, shares))  # type: ignore[list-item]
    for number, own in enumerate(shares):
        together[number :: len(shares)] = own
    return together


def require_shared(folder: Path) -> None:
    """See that all processes have the same folder before them.

    Raises:
        UserError: what the first one writes, another does not see.
    """
    if world_size() == 1 or _alone:
        return
    # named as a file that is half-written, to be removed after a break (`wsss.files.sweep`)
    token = folder / first(lambda: f".{secrets.token_hex(8)}-.part")

    def put() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        token.touch()

    first(put)
    found = gather((socket.gethostname(), str(folder), comes(token)))
    wait_for_all()
    if is_first():
        token.unlink(missing_ok=True)
    for number, (host, place, seen) in enumerate(found):
        if not seen:
            raise UserError(
                f"{place} of process {number + 1} of {len(found)} (on {host}) is not the folder "
                f"{found[0][1]} of the first one (on {found[0][0]}): give a folder that all machines "
                "share, by the same path"
            )


def comes(path: Path, seconds: float = 10.0) -> bool:
    """Whether a file can be seen that a process has written; shared file systems take a moment."""
    until = time.monotonic() + (seconds if world_size() > 1 else 0)
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
        with suppress(OSError):
            os.listdir(path.parent)  # what a client remembers of it is looked up again
    return True


def leave(code: int) -> None:
    """Tell the other processes this one's exit code; unless it is 0 they end with it, too."""
    if _lifeline is not None:
        _lifeline.leave(code)


def await_end() -> None:
    """After an error that another process may have had before: end with it, if it says so."""
    if world_size() > 1:
        time.sleep(GRACE / 2)  # the lifeline ends this process meanwhile


class _Lifeline(threading.Thread):
    """A connection of each process to the first one, over which they learn that one has ended.

    A process that ends says its exit code. One that is killed, or whose machine is gone, says nothing,
    and its connection breaks: then the first of those left says so, and all end. Collectives of NCCL
    would wait for it.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True, name="wsss-lifeline")
        self.connections: dict[socket.socket, int] = {}
        self.leaving = False
        self.key = first(lambda: secrets.token_bytes(16))
        if is_first():
            # reachable by the name under which the others have found this process
            host = os.environ["MASTER_ADDR"]
            try:
                server = socket.create_server((host, 0))
            except OSError:
                server = socket.create_server(("", 0))
            with server:
                first(lambda: (host, server.getsockname()[1]))
                server.settimeout(60)
                while len(self.connections) < world_size() - 1:
                    connection, _ = server.accept()
                    connection.settimeout(10)
                    try:
                        if _receive(connection, 16) == self.key:
                            self._add(connection, int.from_bytes(_receive(connection, 4), "big"))
                    except OSError:  # somebody else
                        connection.close()
        else:
            place = first(lambda: ("", 0))
            connection = socket.create_connection(place, timeout=60)
            connection.sendall(self.key + rank().to_bytes(4, "big"))
            self._add(connection, 0)
        self.start()

    def _add(self, connection: socket.socket, of: int) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):  # a machine without power sends no end
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.connections[connection] = of

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for connection in self.connections:
                selector.register(connection, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    connection: Any = key.fileobj
                    try:
                        word = connection.recv(1)
                    except OSError:
                        word = b""
                    if self.leaving:
                        return
                    if word != b"\0":
                        self._end(self.connections[connection], word)
                    selector.unregister(connection)

    def _end(self, number: int, word: bytes) -> None:
        """Another process ends otherwise than well."""
        code = word[0] if word else 1
        if not word and rank() == (1 if number == 0 else 0):  # one of those left says it
            print(
                f"error: process {number + 1} of {world_size()} has died without a word (killed, or "
                "out of memory?): the same command goes on with what is left",
                file=sys.stderr,
                flush=True,
            )
        if code > 128:  # told to stop: this one stops in the same way
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
            time.sleep(GRACE)
        self.leave(code)
        sys.stdout.flush()
        os._exit(code)

    def leave(self, code: int) -> None:
        self.leaving = True
        for connection in self.connections:
            with suppress(OSError):  # it has ended, too
                connection.sendall(bytes([code]))


def _receive(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = connection.recv(count - len(found))
        if not more:
            raise ConnectionError
        found += more
    return found
