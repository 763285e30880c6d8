"""The folder of a run: the one place that knows what lies where in it.

RUN/metrics.json report.html overview.png       numbers and report of the whole run
RUN/run.json                                    versions, random seeds and data of the last time
RUN/bad_images.csv                              images that are left out, and why
RUN/<stage>/config.yaml begun.json done.json    what it is made with, and what it cost
RUN/<stage>/metrics.json                        its numbers
RUN/classify|segment*/last.ckpt log/ test/      weights, log of the training, masks of the test
RUN/pseudo_masks|refined_masks/masks/           the masks, `<id>.png`
RUN/pseudo_masks/maps/ seeds/                   scores that the masks are made of, `<id>.npz`
RUN/pseudo_masks/slot_classes.npz               what was learned about slots, and from which images
"""

import csv
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Len
from pydantic import FiniteFloat
from typing_extensions import NotRequired, TypedDict

from wsss.config_files import read_yaml, upgrade
from wsss.data.modules import MaskData, TagData
from wsss.errors import UserError, notice
from wsss.evaluation import Counts, read_counts
from wsss.files import damaged, read_json, write_json
from wsss.origin import before
from wsss.schema import Plain, check, wrong_argument
from wsss.settings import PseudoMaskSettings, RefinementSettings

TITLES = {
    "classify": "classifier",
    "pseudo_masks": "pseudo-masks",
    "segment_first": "first round's segmenter",
    "refined_masks": "refined pseudo-masks",
    "segment": "segmenter",
    "segment_true": "fully supervised baseline",
}
"""The stages of a run in their order, and what each is called."""

NEEDED = ("classify", "pseudo_masks", "segment")
"""Stages of every run."""

PLACES = ("root", "tags", "weights")
"""Settings that say where something lies: what it holds is stamped instead."""

Number = float | None
Minutes = Annotated[FiniteFloat, Ge(0)]


class StageSettings(TypedDict):
    """All settings of a stage, in `done.json`; `callbacks` by their names in earlier versions."""

    model: Plain
    data: Plain
    trainer: Plain
    masks: NotRequired[Plain]
    callbacks: NotRequired[list | dict[str, Plain]]


class Note(TypedDict):
    """What `done.json` and `begun.json` of a stage hold."""

    minutes: Minutes
    fingerprint: NotRequired[str]
    method: NotRequired[int]
    inputs: NotRequired[list[str]]
    written: NotRequired[str]
    kept: NotRequired[str]
    settings: NotRequired[StageSettings]
    device: NotRequired[str]
    memory_gb: NotRequired[Number]
    gpu_memory_gb: NotRequired[Number]
    versions: NotRequired[dict[str, str]]


class MaskQuality(TypedDict):
    """`Scores` of a stage's masks."""

    miou: NotRequired[Number]
    iou: dict[str, Number]
    void: NotRequired[Number]


class StageNumbers(TypedDict):
    """What `metrics.json` of a stage holds beside numbers."""

    mask: NotRequired[MaskQuality]
    seed_curve: NotRequired[list[Annotated[list[FiniteFloat], Len(2, 2)]]]


class MinutesPerStage(TypedDict):
    """Of the stages of every run; there may be more."""

    classify: Minutes
    pseudo_masks: Minutes
    segment: Minutes


class RunNumbers(TypedDict):
    """What `metrics.json` of a run holds beside numbers."""

    minutes_per_stage: MinutesPerStage


class SplitRecord(TypedDict):
    """Of a split: how many images, of these left out, and a stamp of images, tags and masks."""

    images: Annotated[int, Ge(0)]
    left_out: Annotated[int, Ge(0)]
    stamp: str


class RunRecord(TypedDict):
    """What `run.json` of a run holds; its settings are in `done.json` of each stage."""

    versions: dict[str, str]
    device: str
    random_seeds: dict[str, int | bool]
    data: dict[str, SplitRecord]


class StageYaml(TypedDict):
    """What `config.yaml` of a stage holds."""

    data: Plain
    model: NotRequired[Plain | None]
    trainer: NotRequired[Plain | None]
    masks: NotRequired[Plain | None]


def read_note(path: Path) -> dict[str, Any]:
    """What a stage was made with and what it cost, of its `done.json` or `begun.json`."""
    return read_json(path, Note)


def _read_numbers(path: Path, schema: Any) -> dict[str, Any]:
    """Numbers by their names, and what else the schema names."""
    found = read_json(path, schema)
    numbers = {name: value for name, value in found.items() if name not in schema.__annotations__}
    check(numbers, dict[str, Number], f"{path} is damaged")
    return found


class MaskFiles:
    """Where the files of pseudo-masks lie: beside the folder of the masks.

    Args:
        masks: the folder of the masks, `<id>.png`.
    """

    def __init__(self, masks: str | Path) -> None:
        self.masks = Path(masks)
        self.seeds, self.maps = self.masks.parent / "seeds", self.masks.parent / "maps"
        self.slot_classes = self.masks.parent / "slot_classes.npz"

    def mask(self, name: str) -> Path:
        """Of an image, by its id."""
        return self.masks / f"{name}.png"

    def seed(self, name: str) -> Path:
        """Scores, labels, slots and dispatch maps of an image, about 80 kilobytes."""
        return self.seeds / f"{name}.npz"

    def scores(self, name: str) -> Path:
        """Scores (n, h, w) in 0..1 that an image's mask is made from, and their labels."""
        return self.maps / f"{name}.npz"


class StageFolder(MaskFiles):
    """One stage of a run.

    Args:
        path: its folder, whose name is the stage's.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path / "masks")
        self.path, self.name = path, path.name
        self.checkpoint, self.log, self.test = path / "last.ckpt", path / "log", path / "test"

    @property
    def title(self) -> str:
        """What it is called."""
        return TITLES.get(self.name, self.name)

    @property
    def is_done(self) -> bool:
        """Whether it has come to its end."""
        return (self.path / "done.json").is_file()

    @property
    def notes(self) -> list[Path]:
        """Files that tell what it was made with, what it cost, and its numbers, once it has them."""
        return [self.path / name for name in ("done.json", "metrics.json", "config.yaml")]

    @cached_property
    def note(self) -> dict[str, Any]:
        """What it was made with and what it cost, of `done.json`, or of `begun.json` before."""
        paths = (self.path / f"{name}.json" for name in ("done", "begun"))
        return next((read_note(path) for path in paths if path.is_file()), {})

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Its numbers."""
        return _read_numbers(self.path / "metrics.json", StageNumbers)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its config as it was written, with the places where data and weights are now."""
        return _read_config(self.path / "config.yaml")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting of model, data and trainer, defaults included, and where its data are now."""
        own, logged = self.config, self.log / "config.yaml"  # of earlier versions
        full = self.note.get("settings") or (_read_config(logged) if logged.is_file() else own)
        places = {key: own["data"][key] for key in PLACES if key in own["data"]}
        return {"model": {}, "trainer": {}} | full | {"data": full["data"] | places}

    def data(self) -> TagData | MaskData:
        """The data module that it works on."""
        make = TagData if self.name in ("classify", "pseudo_masks") else MaskData
        given, path = self.config["data"], self.path / "config.yaml"
        if "root" not in given:
            raise damaged(path, "data.root is missing")
        if words := wrong_argument(make, given):
            raise damaged(path, f"data: {words}")
        return make(**given)

    @cached_property
    def noted(self) -> dict[str, Any]:
        """What its masks were made with as it was noted, of whatever version."""
        # what an earlier version did where it had no setting for it
        return {"border_prior": False, "relabel_slots": False} | before(
            read_json(self.masks / "settings.json", Plain)
        )

    @cached_property
    def made_with(self) -> PseudoMaskSettings | RefinementSettings:
        """What its masks were made with, whatever has become of the config or of defaults since."""
        kind = RefinementSettings if self.name == "refined_masks" else PseudoMaskSettings
        try:
            return kind.from_dict(self.noted)
        except UserError as error:
            raise damaged(self.masks / "settings.json", error) from error

    def counts(self, masks: Path) -> tuple[list[str], dict[str, Counts]] | None:
        """Classes, and pixel counts of each image of `masks` or `test`; None: no ground truth."""
        path = masks.with_suffix(".json")
        return read_counts(path) if path.is_file() else None

    def training(self) -> dict[str, tuple[list[float], list[float]]]:
        """Column -> (steps, values) of its log; what a training that went on repeats counts once."""
        rows: list[dict[str, str]] = []
        logs = {path.suffixes[0][1:]: path for path in self.log.glob("metrics.*.csv")}
        earlier = [logs[number] for number in sorted(filter(str.isdecimal, logs), key=int)]
        for path in [*earlier, self.log / "metrics.csv"]:
            if path.is_file():
                read = _rows(path)
                first = min((int(row["step"]) for row in read), default=0)
                rows = [row for row in rows if int(row["step"]) < first] + read
        columns: dict[str, tuple[list[float], list[float]]] = {}
        for row in rows:
            for name, value in row.items():
                if value and not name.startswith("test_"):
                    steps, values = columns.setdefault(name, ([], []))
                    steps.append(float(row["step"]))
                    values.append(float(value))
        return columns


class RunFolder:
    """The folder of a `wsss run` or `wsss demo`.

    Args:
        path: its folder, or the one around its `results`, as `wsss init` lays them out.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        # as `wsss init` lays them out
        around = (path / "pipeline.yaml").is_file() and (path / "results").is_dir()
        self.path = path / "results" if around and not (path / "classify").is_dir() else path
        self.report, self.overview = self.path / "report.html", self.path / "overview.png"
        self.bad_images = self.path / "bad_images.csv"

    @property
    def name(self) -> str:
        """What the run is called: its folder, or the one around `results`."""
        path = self.path.resolve()
        return path.parent.name if (path.parent / "pipeline.yaml").is_file() else path.name

    def __getitem__(self, name: str) -> StageFolder:
        return StageFolder(self.path / name)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The numbers of the whole run."""
        return _read_numbers(self.path / "metrics.json", RunNumbers)

    def record(self, now: RunRecord) -> list[str]:
        """Note in `run.json` what the run is made with; returns what was otherwise the last time.

        Raises:
            UserError: the note is damaged.
        """
        path = self.path / "run.json"
        before = read_json(path, RunRecord) if path.is_file() else None
        if before == now:
            return []
        write_json(path, now)
        earlier, today = _flat(before or now), _flat(now)
        return [
            f"{name} has changed: {earlier.get(name, 'not known')} before, "
            f"{today.get(name, 'not known')} now"
            for name in dict.fromkeys([*earlier, *today])
            if earlier.get(name) != today.get(name)
        ]

    @property
    def stages(self) -> dict[str, StageFolder]:
        """The stages that the run's numbers are of, by their names, in their order."""
        return {name: self[name] for name in self.metrics["minutes_per_stage"]}

    @property
    def final_masks(self) -> StageFolder:
        """The stage whose masks the segmenter learns from."""
        first, refined = self["pseudo_masks"], self["refined_masks"]
        if (self.path / "metrics.json").is_file():  # one may be left from a run of two rounds
            return self.stages.get("refined_masks", first)
        return refined if refined.is_done else first

    @property
    def notes(self) -> list[Path]:
        """The files that tell what its stages were made with, what they cost, and all numbers."""
        return [self.path / "metrics.json", *(n for name in TITLES for n in self[name].notes)]

    @property
    def finished(self) -> datetime:
        """When the last of its stages came to its end."""
        ends = (stage.notes[0].stat().st_mtime for stage in self.stages.values())
        return datetime.fromtimestamp(max(ends))

    def require_finished(self) -> None:
        """Refuse a folder that holds no finished run.

        Raises:
            UserError: a stage, or the numbers, are missing.
        """
        known = (self.path / "metrics.json").is_file()
        stages = dict.fromkeys([*NEEDED, *(self.stages if known else ())])
        for name in ("metrics.json", *(f"{stage}/done.json" for stage in stages)):
            if not (self.path / name).is_file():
                raise UserError(
                    f"{self.path} holds no finished run, {name} is missing: give the folder of `wsss "
                    "run` or `wsss demo`, or run it again to the end"
                )


def _flat(nested: Any, name: str = "") -> dict[str, Any]:
    """Nested values by the names that lead to them."""
    if not isinstance(nested, Mapping):
        return {name.lstrip("."): nested}
    return {k: v for key, one in nested.items() for k, v in _flat(one, f"{name}.{key}").items()}


def _read_config(path: Path) -> dict[str, Any]:
    """The config of a stage, in the form of today."""
    config = check(upgrade(read_yaml(path)), StageYaml, f"{path} is damaged")
    return {name: {} if value is None else value for name, value in config.items()}


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a log that name a step; damaged ones are passed over and told."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        table = csv.DictReader(line.replace("\0", "") for line in file)
        rows, broken = [], 0
        while True:
            try:
                row = next(table, None)
            except csv.Error:
                broken += 1
                continue
            if row is None:
                break
            rows += [row] if any(row.values()) else []
    whole = [row for row in rows if _is_whole(row)]
    if broken := broken + len(rows) - len(whole):
        notice(f"{path} has {broken} damaged rows, which are passed over")
    return [row for row in whole if row.get("step")]


def _is_whole(row: dict[str | None, Any]) -> bool:
    try:  # a break or two writers leave rows of another length, or half numbers
        int(row.get("step") or 0), int(row.get("epoch") or 0)
        return None not in row and all(np.isfinite(float(value or 0)) for value in row.values())
    except (TypeError, ValueError):
        return False
