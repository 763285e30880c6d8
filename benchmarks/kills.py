"""Kill a whole small chain again and again, start it again, and compare its end with an unbroken run.

python benchmarks/kills.py --out /tmp/kills [--kills 1000] [--seed 0]

Of drawn images of 64 pixels: classifier, pseudo-masks, first segmenter, refined masks, segmenter,
report. At moments that a seed decides, SIGKILL goes to all processes, to the main one alone, to one of
those that load images or make masks, or to one of two ranks; or the disk is full from then on, as far
as the main process can see. Then the same command is given again. At the end every mask, seed, weight
and number must be that of a run that nobody has disturbed, byte for byte, and nothing half-written may
be left. Every process is a fork of this one, so that torch is imported once. The same command goes on
where it was broken off.
"""

import argparse
import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

PROJECT = Path(__file__).parent.parent  # processes that make masks import this file: torch comes later

STAGES = ("start", "classify", "pseudo_masks", "segment_first", "refined_masks", "segment", "report")
"""Of the chain, with what is before its first stage and after its last one."""

KINDS = ("seconds", "operations", "files")
"""What is counted from a stage's beginning: time, the main process's changes of files, new files."""

WHOM = {
    "group": "all processes",
    "main": "the main one",
    "worker": "a worker",
    "rank": "one rank of two",
    "disk": "a full disk",
}
"""What is killed, or else happens, and what it is called."""

MOST, PATIENCE = 5.0, 900.0
"""Seconds: that a process may live longer than the main one, and that a run may take."""


class Moment(NamedTuple):
    """When a run is killed.

    Attributes:
        stage: in which of `STAGES`, or later.
        kind: of `KINDS`.
        amount: how many of them.
        whom: of `WHOM`.
    """

    stage: str
    kind: str
    amount: float
    whom: str


class Watch:
    """Follows a run from inside its main process; kills it at a moment.

    Args:
        out: the run's folder.
        note: file that gets, of a run that comes to its end, what each stage has of `KINDS`, and of one
            that is killed the stage.
        moment: None: it is left alone.
        first: whether this is the rank that begins and ends stages; another one looks when it does.
    """

    CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")

    def __init__(self, out: Path, note: Path, moment: Moment | None, first: bool) -> None:
        self.out, self.note, self.moment = out, note, moment
        self.stage, self.operations, self.armed = STAGES[0], 0, False
        self.target: float = float("inf")
        self.killed = self.full = False
        self.before = (time.monotonic(), 0, _count(out))
        self.counts: dict[str, tuple[float, ...]] = {}
        self._arm()
        sys.addaudithook(self._see)
        if not first:
            threading.Thread(target=self._look, args=[time.time_ns()], daemon=True).start()

    def _see(self, event: str, args: tuple) -> None:
        if event not in self.CHANGES or not str(args[0]).startswith(str(self.out)):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        self.operations += 1
        if self.operations > self.target:
            self._kill()
        if self.full and event == "open":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
        if event == "os.rename":
            made = Path(os.fsdecode(args[1]))
            if made.name == "begun.json":
                self._enter(made.parent.name)
            elif made.parts[-2:] == (STAGES[-2], "done.json"):
                self._enter(STAGES[-1])

    def _look(self, since: int) -> None:
        while True:
            for stage in STAGES[STAGES.index(self.stage) + 1 : -1]:
                note = self.out / stage / "begun.json"
                if note.is_file() and note.stat().st_mtime_ns > since:
                    self._enter(stage)
            time.sleep(0.002)

    def _enter(self, stage: str) -> None:
        if stage != self.stage:
            self._leave()
            self.stage = stage
            if self.armed:  # there was less in the stage than was to be counted
                self._kill()
            self._arm()

    def _leave(self) -> None:
        now = (time.monotonic(), self.operations, _count(self.out))
        self.counts[self.stage] = tuple(a - b for a, b in zip(now, self.before, strict=True))
        self.before = now

    def _arm(self) -> None:
        late = self.moment and STAGES.index(self.stage) >= STAGES.index(self.moment.stage)
        if late and not self.armed:
            self.armed = True
            if self.moment.kind == "operations":
                self.target = self.operations + self.moment.amount
            else:
                threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        if self.moment.kind == "seconds":
            time.sleep(self.moment.amount)
        else:
            until = _count(self.out) + self.moment.amount
            while _count(self.out) < until:
                time.sleep(0.0005)
        self._kill()

    def _kill(self) -> None:
        if self.killed:
            return
        self.killed, self.target = True, float("inf")
        if self.moment.whom == "worker":  # in a thread of its own: there may be none yet
            threading.Thread(target=self._kill_worker, daemon=True).start()
            return
        self._tell({"killed": self.stage})
        if self.moment.whom == "disk":
            self.full = True
            return
        if self.moment.whom == "group":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def _kill_worker(self) -> None:
        while True:
            if number := next(_workers(), None):
                self._tell({"killed": self.stage})
                os.kill(number, signal.SIGKILL)
                return
            time.sleep(0.002)

    def _tell(self, what: dict) -> None:
        self.note.write_text(json.dumps(what))

    def end(self) -> None:
        """Note what the stages of a run have, that has come to its end."""
        self._leave()
        if not self.note.is_file():
            self._tell(self.counts)


def _count(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _words(process: int) -> str:
    """The command line of a process; nothing of one that has ended."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return ""
    return words.replace(b"\0", b" ").decode(errors="replace")


def _workers() -> Iterator[int]:
    """The processes that load images, which are forks of this one, or make masks."""
    own = _words(os.getpid())
    for thread in Path("/proc/self/task").iterdir():
        try:
            numbers = [int(word) for word in (thread / "children").read_text().split()]
        except OSError:  # it has ended
            continue
        for number in numbers:
            if (words := _words(number)) == own or "multiprocessing.spawn" in words:
                yield number


def members(group: int) -> Iterator[int]:
    """The processes of a group that are not dead."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (place / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended
            continue
        if int(its_group) == group and state not in "ZX":
            yield int(place.name)


class Outcome(NamedTuple):
    """What became of a run.

    Attributes:
        codes: exit codes of its processes, negative of those that a signal has ended.
        said: all that they have said.
        noted: by the `Watch`.
        seconds: until all had ended.
        left: what processes are that have lived `MOST` seconds longer than the main ones.
    """

    codes: list[int]
    said: str
    noted: dict[str, Any]
    seconds: float
    left: list[str]


class Chain:
    """The small chain in one way: on one process that loads images in another one, or on two ranks.

    Args:
        folder: gets the configs, the run, and the unbroken run.
        drawn: its data.
        ranks: 1 or 2.
    """

    def __init__(self, folder: Path, drawn: Path, ranks: int) -> None:
        self.folder, self.drawn, self.ranks = folder, drawn, ranks
        self.out, self.unbroken = folder / "run", folder / "unbroken"
        self.config = folder / "configs" / "pipeline.yaml"
        self.counts: dict[str, list[float]] = {}

    def prepare(self) -> None:
        """Run it once, unbroken."""
        kept = self.folder / "counts.json"
        if not kept.is_file():
            from small_pipeline import small_pipeline

            shutil.rmtree(self.folder, ignore_errors=True)
            small_pipeline(self.folder / "configs", num_workers=2 - self.ranks)
            outcome = self.run(None)
            if any(outcome.codes):
                raise SystemExit(f"the unbroken run fails:\n{outcome.said}")
            self.out.rename(self.unbroken)
            kept.write_text(json.dumps(outcome.noted))
        self.counts = json.loads(kept.read_text())

    def run(self, moment: Moment | None, hit: int = 0) -> Outcome:
        """Give the command once.

        Args:
            moment: at which rank `hit` kills; None: it is left alone.
        """
        from processes import free_port, task_environment

        log, note, port = self.folder / "log.txt", self.folder / "note.json", free_port()
        for path in (log, note):
            path.unlink(missing_ok=True)
        words = ["run", "-c", str(self.config), "--root", str(self.drawn), "--out", str(self.out)]
        context, group, processes = get_context("fork"), 0, []
        begun = time.monotonic()
        for rank in range(self.ranks):
            env = task_environment(self.ranks, rank, port) if self.ranks > 1 else {}
            its = moment if rank == hit else None
            its_note = note if rank == hit else note.with_name("other.json")
            target = (words, env, log, group, self.out, its_note, its, rank == 0)
            processes.append(context.Process(target=_work, args=target))
            processes[-1].start()
            group = group or processes[0].pid
        end = begun + PATIENCE
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
        seconds, end = time.monotonic() - begun, time.monotonic() + MOST
        while (numbers := [*members(group)]) and time.monotonic() < end:
            time.sleep(0.01)
        left = [_words(number) for number in numbers]
        for number in numbers:
            os.kill(number, signal.SIGKILL)
        for process in processes:
            process.join()
        codes = [process.exitcode for process in processes]
        noted = json.loads(note.read_text()) if note.is_file() else {}
        return Outcome(codes, log.read_text(errors="replace"), noted, seconds, left)

    def kill(
        self, moments: Iterable[Moment], chance: Random
    ) -> Iterator[tuple[Moment, str, list[str]]]:
        """Begin a new run, kill it at each of the moments, and let it come to its end.

        Yields:
            The moment, the stage in which it was, and the faults found; at last the moment None.
        """
        shutil.rmtree(self.out, ignore_errors=True)
        for moment in moments:
            outcome = self.run(moment, chance.randrange(self.ranks))
            stage = outcome.noted.get("killed")
            yield moment, stage, [f"{moment}: {fault}" for fault in _faults(outcome, moment, stage)]
            if outcome.codes == [0] * self.ranks:  # it had come to its end before
                break
        outcome = self.run(None)
        faults = [*_faults(outcome, None, None)]
        faults += [f"{path}: {what}" for path, what in differences(self.unbroken, self.out)]
        yield None, "", [f"at last: {fault}" for fault in faults]


def _work(
    words: list[str],
    env: dict[str, str],
    log: Path,
    group: int,
    out: Path,
    note: Path,
    moment: Moment | None,
    first: bool,
) -> None:
    """What a fork does: `wsss`, as its command line."""
    os.setpgid(0, group)
    os.environ |= env
    told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(told, 1), os.dup2(told, 2)
    watch = Watch(out, note, moment, first)
    from wsss.cli import main

    code = main(words)
    watch.end()
    sys.exit(code)


def _faults(outcome: Outcome, moment: Moment | None, stage: str | None) -> Iterator[str]:
    """What a run that was killed should not have done."""
    codes, wanted, told = outcome.codes, [0], 0
    if stage is not None and moment.whom == "group":
        wanted = [-signal.SIGKILL]
    elif stage is not None and moment.whom in ("main", "rank"):
        wanted, told = [-signal.SIGKILL, 1], len(codes) - 1
    elif stage is not None and any(
        codes
    ):  # else a worker had nothing to do any more, or nothing was written
        wanted, told = [2], 1
    lines = outcome.said.splitlines()
    if not set(codes) <= set(wanted) or sum(line.startswith("error: ") for line in lines) != told:
        yield "\n".join([f"exit codes {codes} instead of {wanted}, {told} sentences:", *lines[-25:]])
    if outcome.seconds > PATIENCE:
        yield "it hangs"
    yield from (f"lives on: {process}" for process in outcome.left)


CHANGING = ("minutes", "minutes_per_stage", "memory_gb")
"""Numbers that no two runs have alike."""


def differences(unbroken: Path, run: Path) -> Iterator[tuple[str, str]]:
    """Files of a run that differ from those of the unbroken one, and how."""
    from wsss.run_folder import StageFolder

    names = [
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        # a training that was broken off has several
        - {path.relative_to(folder).as_posix() for path in folder.glob("*/log/metrics*.csv")}
        for folder in (unbroken, run)
    ]
    yield from ((name, "is missing") for name in sorted(names[0] - names[1]))
    yield from ((name, "is left over") for name in sorted(names[1] - names[0]))
    for name in sorted(names[0] & names[1]):
        one, other = unbroken / name, run / name
        if name.endswith(".ckpt"):
            alike = _weights(one) == _weights(other)
        elif name.endswith(("metrics.json", "done.json", "begun.json")):
            alike = _numbers(one) == _numbers(other)
        else:  # a report tells minutes
            alike = name == "report.html" or one.read_bytes() == other.read_bytes()
        if not alike:
            yield name, "differs"
    for stage in STAGES[1:-1]:
        if StageFolder(unbroken / stage).training() != StageFolder(run / stage).training():
            yield f"{stage}/log/metrics.csv", "differs"


def _numbers(path: Path) -> dict[str, Any]:
    return {name: value for name, value in json.loads(path.read_text()).items() if name not in CHANGING}


def _weights(path: Path) -> dict[str, bytes]:
    import torch

    weights = torch.load(path, weights_only=True)["state_dict"]
    return {name: tensor.numpy().tobytes() for name, tensor in weights.items()}


def moments(chance: Random, count: int, counts: dict[str, list[float]], ranks: int) -> Iterator[Moment]:
    """So many moments in the order of the stages."""
    whom = (
        ["group", "rank", "rank", "disk"] if ranks > 1 else ["group", "group", "main", "worker", "disk"]
    )
    for stage in sorted(chance.choices(STAGES, k=count), key=STAGES.index):
        place = chance.randrange(len(KINDS))
        amount = chance.random() * counts[stage][place]
        yield Moment(stage, KINDS[place], amount if place == 0 else int(amount), chance.choice(whom))


def table(kills: Counter, faults: int) -> str:
    """What was killed, by stage, as Markdown."""
    lines = [["killed in", *WHOM.values()], ["---"] * (1 + len(WHOM))]
    lines += [[stage, *(str(kills[stage, one]) for one in WHOM)] for stage in STAGES]
    lines.append(["all", *(str(sum(kills[stage, one] for stage in STAGES)) for one in WHOM)])
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{rows}\n\n{sum(kills.values())} kills, {faults} faults"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder; goes on with what is there")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=8, help="kills of one run, at most")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 1, 2], help="of runs, in turn")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(out / "cache")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(PROJECT / "tests"))
    from wsss.machine import share_cores

    share_cores()
    import wsss.pipeline  # noqa: F401  # and torch, once for all forks
    from wsss.data.synthetic import draw_dataset

    if not (out / "drawn").exists():
        draw_dataset(out / "drawn", train=12, val=4, size=64)
    chains = {ranks: Chain(out / f"ranks{ranks}", out / "drawn", ranks) for ranks in args.ranks}
    for chain in chains.values():
        chain.prepare()
    log = out / f"seed{args.seed}.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    while (left := args.kills - sum(len(one["kills"]) for one in done)) > 0:
        number = len(done)
        chance = Random(f"{args.seed} {number}")
        chain = chains[args.ranks[number % len(args.ranks)]]
        told: dict[str, Any] = {"kills": [], "faults": []}
        planned = moments(chance, args.each, chain.counts, chain.ranks)
        for moment, stage, faults in chain.kill(islice(planned, left), chance):
            told["kills"] += [[stage, moment.whom, moment.kind]] if moment and stage else []
            told["faults"] += faults
        done.append(told)
        with log.open("a") as file:
            file.write(json.dumps(told) + "\n")
        print(f"run {number}: {len(told['kills'])} kills", *told["faults"], sep="\n", flush=True)
    kills = Counter((stage, whom) for one in done for stage, whom, _ in one["kills"])
    faults = sum(len(one["faults"]) for one in done)
    print(table(kills, faults))
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
