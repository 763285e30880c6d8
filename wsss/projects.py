"""Projects of `wsss app`: photographs and tags as plain files, and the commands that work on them.

FOLDER/<project>/photographs/     what was uploaded, zip files unpacked
FOLDER/<project>/tags/            tables of tags, and lists beside them
FOLDER/<project>/                 what `wsss init` writes; `results` is of `wsss run`
FOLDER/<project>/trial/           the same of a trial (`wsss init --quick`)

What the page of `wsss app` does, without the page. A run is a process of its own, as in a terminal.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

from wsss.config_files import read_yaml
from wsss.data.check import check, summary
from wsss.data.images import FOREIGN_SUFFIXES, IMAGE_SUFFIXES
from wsss.data.photographs import photographs_in
from wsss.errors import UserError, UserNotice, few, forget_notices
from wsss.exchange.archive import MEMBERS, unpack
from wsss.files import old_name, read_json, write_json
from wsss.locks import holding, require_unlocked
from wsss.progress import OFTEN
from wsss.recipe_for import FILES, Differs, write_recipe
from wsss.run_folder import TITLES, RunFolder
from wsss.settings import BACKBONE

LARGEST_PROJECT = 64 * 2**30
"""Bytes of all that is uploaded to a project."""

TRIAL, LOG, CHOICE = "trial", "run.log", "wsss-app.json"
"""Names in a project's folder: of its trial, of what its runs say, of what its settings are made by."""

PHOTOGRAPHS = (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES)
TABLES = (".csv", ".tsv", ".txt", ".xlsx", ".json", ".jsonl", ".xml")
"""Suffixes of what is kept of uploads."""

_LISTS = re.compile(r"(classes|train|val|valid|validation|dev|test)\.txt|class-descriptions.*", re.I)
"""What lies beside a table of tags and is none."""

_NAME = re.compile(r"[^\W_][\w .-]{0,59}")
_BAR = re.compile(
    r"(?P<what>[^:]+): (?P<done>\d+) of (?P<total>\d+)(?: \(\d+ %\) in \S+, (?P<more>.+))?"
)
_TAIL = 2**16
"""Bytes of a log that are looked at."""


class Choice(NamedTuple):
    """What a project's settings are made by.

    Attributes:
        table: of `Project.tables`.
        backbone: of timm; empty: the default.
        trial: one epoch of small images.
    """

    table: str
    backbone: str
    trial: bool


class Bar(NamedTuple):
    """How far a part of a stage is: what it does, share done (0..1), time left, rate and numbers."""

    what: str
    share: float
    more: str


State = Literal["new", "ready", "working", "stopping", "stopped", "failed", "finished"]


class Status(NamedTuple):
    """How it stands with a run.

    Attributes:
        state: in one word.
        words: in one sentence.
        stages: what each is called, and whether it is done.
        bar: of what is being done.
        said: the last lines of the run.
    """

    state: State
    words: str
    stages: list[tuple[str, bool]]
    bar: Bar | None
    said: list[str]


class Projects:
    """A folder of projects.

    Args:
        folder: is made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = dict(os.environ)  # before the page's own is set
        self._known: dict[str, Project] = {}

    def names(self) -> list[str]:
        """The projects, the one last worked on first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = [p for p in self.folder.iterdir() if _NAME.fullmatch(p.name) and _is_project(p)]
        return [path.name for path in sorted(found, key=_last, reverse=True)]

    def __getitem__(self, name: str) -> "Project":
        path = self._place(name)
        if not _is_project(path):
            raise UserError(f"there is no project {path}: choose or make one")
        return self._known.setdefault(name, Project(path, self.environment))

    def make(self, name: str) -> "Project":
        """A new project.

        Raises:
            UserError: it cannot be called so, or there is something of that name.
        """
        path = self._place(name)
        if path.exists():
            raise UserError(f"{path} is there already: choose it, or give another name")
        (path / "photographs").mkdir(parents=True)
        return self[name]

    def _place(self, name: str) -> Path:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith((".", " ")):
            raise UserError(
                "a project's name begins with a letter or digit, has letters, digits, spaces, '-', '_' "
                f"or '.', and at most 60 of them, got {name!a}"
            )
        return self.folder / name

    def end(self) -> None:
        """Stop the runs that were started here, as Ctrl-C does; they go on the next time."""
        for project in [*self._known.values()]:
            project.end()


def _is_project(path: Path) -> bool:
    return (path / "photographs").is_dir()


def _last(path: Path) -> float:
    files = (path, path / LOG, path / TRIAL / LOG, path / CHOICE, path / TRIAL / CHOICE)
    return max(file.stat().st_mtime for file in files if file.exists())


class Project:
    """One project; use `Projects` to get it.

    Args:
        path: its folder.
        environment: of the runs.
    """

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        self.path, self.name, self.environment = path, path.name, environment
        self.uploaded, self.tags = path / "photographs", path / "tags"
        self._process: subprocess.Popen | None = None
        self._trial = self._stopping = False
        self._one = threading.RLock()

    # what is uploaded

    @property
    def photographs(self) -> Path:
        """The folder of the photographs: of an unpacked folder, that folder."""
        folder = self.uploaded
        while True:
            inside = [p for p in folder.iterdir() if p.name[0] != "." and p.name != "__MACOSX"]
            if len(inside) != 1 or not inside[0].is_dir():
                return folder
            folder = inside[0]

    def tables(self) -> list[str]:
        """What tags can be read from: files in `tags`, "." that folder, "" that of the photographs."""
        files = sorted(path.name for path in self.tags.glob("*") if path.is_file())
        names = [name for name in files if not _LISTS.fullmatch(name)]
        xml = [name for name in names if name.lower().endswith(".xml")]
        if len(xml) > 1:  # one for each photograph
            names = [".", *(name for name in names if name not in xml)]
        return names or [""]

    def _table(self, name: str) -> Path | None:
        if name not in self.tables():
            raise UserError(f"there is no table {name!a} in {self.tags}: upload or choose one")
        return self.tags / name if name else None

    def contents(self) -> str:
        """What has been uploaded, in words."""
        tables = sorted(path.name for path in self.tags.glob("*") if path.is_file())
        beside = f"; beside them {few(tables)}" if tables else ""
        return f"{len(photographs_in(self.uploaded))} photographs{beside}"

    def require_open(self) -> None:
        """Refuse other photographs and tags where a run is made of those that are there.

        Raises:
            UserError: there is one, or a trial is at work.
        """
        self.require_idle()
        if _begun(self.path):
            raise UserError(
                f"{self.path} has a run of its photographs and tags already: make another project for "
                "others"
            )

    def add(self, files: Sequence[tuple[Path, str]]) -> str:
        """Take uploaded files into the project; what is taken is moved.

        Args:
            files: each file, and the name that the user knows it by.

        Returns:
            what was taken, in words.

        Raises:
            UserError: there is too much of it, a name that no file can have, or a zip file that cannot
                be unpacked.
        """
        with self._one:
            self.require_open()
            names = [_file_name(name) for _, name in files]
            self._require_room(sum(path.stat().st_size for path, _ in files), len(files))
            for out in (self.path, self.path / TRIAL):  # its settings are of other photographs or tags
                (out / CHOICE).unlink(missing_ok=True)
            taken = {"photographs": 0, "files of tags": 0, "files of zip archives": 0}
            others = []
            for (path, _), name in zip(files, names, strict=True):
                suffix = Path(name).suffix.lower()
                if suffix == ".zip":
                    taken["files of zip archives"] += self._unpack(path, name)
                elif suffix in PHOTOGRAPHS:
                    _move(path, self.uploaded / name)
                    taken["photographs"] += 1
                elif suffix in TABLES:
                    _move(path, self.tags / name)
                    taken["files of tags"] += 1
                else:
                    others.append(name)
        words = ", ".join(f"{count} {what}" for what, count in taken.items() if count) or "nothing"
        more = f"; passed over: {few(others)} (neither photographs nor tags)" if others else ""
        return f"taken: {words}{more}"

    def _unpack(self, path: Path, name: str) -> int:
        with tempfile.TemporaryDirectory(prefix=".wsss-", dir=self.path) as place:
            aside = Path(place)
            named = path.rename(aside / "archive")  # told by the name that the user knows
            inside = aside / "files"
            inside.mkdir()
            try:
                count = unpack(named, inside, {*PHOTOGRAPHS, *TABLES})
            except UserError as error:
                raise UserError(str(error).replace(str(named), name)) from error
            files = [file for file in inside.rglob("*") if file.is_file()]
            self._require_room(sum(file.stat().st_size for file in files), len(files))
            for file in files:
                _move(file, self.uploaded / file.relative_to(inside))
        return count

    def _require_room(self, size: int, count: int) -> None:
        for folder in (self.uploaded, self.tags):
            for file in folder.rglob("*"):
                if file.is_file():
                    size, count = size + file.lstat().st_size, count + 1
        if size > LARGEST_PROJECT or count > MEMBERS:
            raise UserError(
                f"{self.name} would have {count} files of {size / 2**30:.1f} GiB; the page takes "
                f"{MEMBERS} of {LARGEST_PROJECT >> 30} GiB: use the commands in a terminal for more"
            )

    # what the commands say of it

    def verdict(self, choice: Choice) -> list[str]:
        """What `wsss check` says.

        Raises:
            UserError: as it does.
        """
        table = self._table(choice.table)
        root = self.photographs
        return _with_notices(lambda: summary(check(root, table), root, table))

    def prepare(self, choice: Choice) -> list[str]:
        """Write the settings as `wsss init` does; returns what it says.

        Settings of other photographs or tags, of which there is no run yet, are moved aside; so is a
        trial of others.

        Raises:
            UserError: as `wsss init` does; or there is a run of others.
        """
        with self._one:
            self.require_idle()
            out, table = self.out(choice.trial), self._table(choice.table)
            words = (self.photographs, table, out, choice.backbone or BACKBONE, None, choice.trial)
            said: list[str] = []
            try:
                lines = _with_notices(lambda: write_recipe(*words))
            except Differs as error:
                if _begun(out) and not choice.trial:
                    raise UserError(
                        f"{error}; a project keeps the photographs, tags and network of its run, make "
                        "another project for others"
                    ) from error
                said = [f"the earlier settings are in {_move_aside(out, choice.trial)}"]
                lines = _with_notices(lambda: write_recipe(*words))
            write_json(out / CHOICE, {"table": choice.table, "backbone": choice.backbone})
            return [*lines, *said]

    def is_prepared(self, choice: Choice) -> bool:
        """Whether there are settings that were made by this choice."""
        out = self.out(choice.trial)
        if not (out / "pipeline.yaml").is_file():
            return False
        if not (out / CHOICE).is_file():  # made in a terminal, or before other photographs came
            return _begun(out) and not choice.trial
        return self.choice(choice.trial) == choice

    def choice(self, trial: bool) -> Choice:
        """The choice that the settings were made by, or the first that there is."""
        path = self.out(trial) / CHOICE
        made = read_json(path, dict[str, str]) if path.is_file() else {}
        tables = self.tables()
        table = made.get("table", tables[0])
        return Choice(table if table in tables else tables[0], made.get("backbone", ""), trial)

    def in_a_terminal(self, choice: Choice) -> list[str]:
        """The commands that do the same."""
        table = self._table(choice.table)
        given = [str(self.photographs), *(["--tags", str(table)] if table else [])]
        out = self.out(choice.trial)
        more = ["--backbone", choice.backbone] if choice.backbone else []
        more += ["--quick"] if choice.trial else []
        lines = [["check", *given], ["init", *given, "--out", str(out), *more]]
        lines.append(["run", "-c", str(out / "pipeline.yaml")])
        return [shlex.join(["wsss", *words]) for words in lines]

    # the run

    def out(self, trial: bool) -> Path:
        """The folder of the settings and results."""
        return self.path / TRIAL if trial else self.path

    def run(self, trial: bool) -> RunFolder:
        """The folder of the results."""
        return RunFolder(self.out(trial))

    def require_idle(self) -> None:
        """See that no run is at work in the project.

        Raises:
            UserError: one is; it is named.
        """
        if self._alive():
            raise UserError(f"a run is at work in {self.out(self._trial)}: wait, or stop it")
        for trial in (False, True):
            require_unlocked(self.out(trial) / "results")

    def start(self, choice: Choice) -> None:
        """Start `wsss run`, which goes on with what an earlier one has left.

        Raises:
            UserError: a run is at work, or as `prepare`.
        """
        with self._one:
            self.require_idle()
            if not self.is_prepared(choice):
                self.prepare(choice)
            out = self.out(choice.trial)
            words = ["wsss", "run", "-c", str(out / "pipeline.yaml")]
            with (out / LOG).open("ab") as log:
                log.write(f"\n{time.strftime('%Y-%m-%d %H:%M')} $ {shlex.join(words)}\n".encode())
                log.flush()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "wsss.cli", *words[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment | {OFTEN: "2", "PYTHONUNBUFFERED": "1"},
                    start_new_session=True,  # Ctrl-C is for the page, which ends it
                )
            self._trial, self._stopping = choice.trial, False

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, trial: bool) -> None:
        """End the run as Ctrl-C does, one that an earlier page has left, too.

        Raises:
            UserError: it is that of another machine, or none can be found.
        """
        with self._one:
            if self._alive() and self._trial == trial:
                self._stopping = True
                self._process.terminate()
                return
            results = self.out(trial) / "results"
            try:
                require_unlocked(results)
            except UserError:
                number = holding(results)
                if number is None or not _is_wsss(number):
                    raise
                os.kill(number, signal.SIGTERM)

    def end(self) -> None:
        """Stop the run that was started here, and wait for its end."""
        if not self._alive():
            return
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # what is half made goes on all the same
            self._process.wait()

    def status(self, trial: bool) -> Status:
        """How it stands with the run."""
        out = self.out(trial)
        if not (out / "pipeline.yaml").is_file():
            return Status("new", "No settings yet: press Check.", [], None, [])
        run = self.run(trial)
        results = out / "results"
        stages = [(TITLES[name], (results / name / "done.json").is_file()) for name in _stages(out)]
        said, bar = _tail(out / LOG)

        def standing(state: State, words: str) -> Status:
            return Status(state, words, stages, bar if "ing" in state else None, said)

        if self._alive() and self._trial == trial:
            if self._stopping:
                return standing("stopping", "The run is being stopped.")
            return standing("working", "The run is at work.")
        try:
            require_unlocked(results)
        except UserError as error:
            return standing("working", f"{error}.")
        last = said[-1] if said else ""
        if last.startswith("error: "):
            return standing("failed", last.removeprefix("error: "))
        try:
            run.require_finished()
            return standing("finished", "The run is finished.")
        except UserError:
            pass
        if not said and not _begun(out):
            return standing("ready", "Ready to start.")
        if last.startswith("stopped; "):
            return standing("stopped", "The run was stopped; going on does what is left.")
        if self._process is not None and self._trial == trial and not self._stopping:
            code = self._process.returncode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return standing("failed", f"The run broke off ({how}); going on does what is left.")
        return standing("stopped", "The run was stopped or broken off; going on does what is left.")

    def pack_masks(self, trial: bool, file: IO[bytes]) -> None:
        """Write the masks that the segmenter learned from, and the classes, into a .zip file.

        Raises:
            UserError: the run is not finished.
        """
        run = self.run(trial)
        run.require_finished()
        masks = run.final_masks.masks
        with zipfile.ZipFile(file, "w") as archive:  # PNGs are packed already
            for mask in sorted(masks.rglob("*.png")):
                archive.write(mask, f"masks/{mask.relative_to(masks).as_posix()}")
            archive.write(self.out(trial) / "classes.txt", "classes.txt")


def _file_name(name: str) -> str:
    """The last part of a name that a browser gives, refused where no file can be called so."""
    last = name.replace("\\", "/").rpartition("/")[2] if isinstance(name, str) else ""
    if not last.strip(". ") or not last.isprintable() or len(last.encode()) > 240:
        raise UserError(f"an uploaded file cannot be called {ascii(name)[:80]}: rename it")
    return last


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}): rename it") from error


def _move_aside(out: Path, trial: bool) -> Path:
    """The settings of a project, or its whole trial; returns where they are."""
    if trial:
        return out.rename(old_name(out))
    aside = old_name(out / "settings")
    aside.mkdir()
    for name in FILES:
        if (out / name).is_file():
            (out / name).rename(aside / name)
    return aside


def _begun(out: Path) -> bool:
    """Whether there is a run with results, whole or not."""
    return any((out / "results" / name).is_dir() for name in TITLES)


def _stages(out: Path) -> list[str]:
    two = read_yaml(out / "pipeline.yaml").get("refine") is not None
    first = ["classify", "pseudo_masks"]
    return [*first, *(["segment_first", "refined_masks"] if two else []), "segment"]


def _is_wsss(number: int) -> bool:
    try:
        return b"wsss" in Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return False


def _with_notices(work: Callable[[], Iterable[str]]) -> list[str]:
    """The lines of a command without what to type next, and its notices behind them."""
    forget_notices()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserNotice)
        lines = [*work()]
    notices = [f"note: {one.message}" for one in told if issubclass(one.category, UserNotice)]
    return [*(line for line in lines if not line.startswith("next: ")), *notices]


def _tail(log: Path) -> tuple[list[str], Bar | None]:
    """What the last run has said, of each bar its last line, and the bar that is under way."""
    if not log.is_file():
        return [], None
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        text = file.read().decode(errors="replace")
    lines = [line for line in re.split(r"(?m)^\S+ \S+ \$ wsss run .*$", text)[-1].splitlines() if line]
    said: list[str] = []
    bars = [_BAR.fullmatch(line) for line in lines]
    for number, (line, bar) in enumerate(zip(lines, bars, strict=True)):
        after = bars[number + 1] if number + 1 < len(bars) else None
        if not (bar and after and bar["what"] == after["what"] and int(after["done"])):
            said.append(line)
    bar = bars[-1] if bars else None
    if bar is None:
        return said, None
    share = int(bar["done"]) / max(1, int(bar["total"]))
    return said, Bar(bar["what"], min(1.0, share), bar["more"] or "")
