"""A stage's config: read and checked once, then a task, its data, its settings and a trainer."""

import difflib
import re
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import Logger

from wsss.config_files import read_yaml, upgrade
from wsss.data.modules import MaskData, TagData
from wsss.errors import UserError
from wsss.schema import wrong_argument
from wsss.settings import (
    CRFSettings,
    InferenceSettings,
    PseudoMaskConfig,
    SegmenterMaskConfig,
)
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.task import Task
from wsss.tasks.trainer import Trainer, quiet

Kind = Literal["classify", "segment"]

TASKS: dict[str, type[Task]] = {"classify": ClassificationTask, "segment": SegmentationTask}
DATA = {"classify": TagData, "segment": MaskData}
MASKS = {"classify": PseudoMaskConfig, "segment": SegmenterMaskConfig}


def one_line(message: str) -> str:
    """What jsonargparse says of a setting, without its own terms and all but the first reason."""
    text = " ".join(message.split())
    if of_union := re.search(r"Errors: - (?!Does not validate)(.*?)(?= - |: *- | Given value|$)", text):
        text = re.match(r'(Parser key "[^"]*": )?', text)[0] + of_union[1]
    text = re.sub(r'Parser key "([^"]*)":', r"\1:", text)
    text = re.sub(r"a <class '(?:[\w.]+\.)?(\w+)'>", r"\1", text)
    text = re.sub(
        r"Not a valid subclass of (\w+).*", r"give \1 as lines of `name: value`, or null", text
    )
    return text.replace("a typing.Literal", "one of ")


class Parser(LightningArgumentParser):
    """Says in one line what is wrong with a setting, instead of listing all there are.

    Args:
        masks: the settings of its key `masks`; None: it has none.
    """

    def __init__(self, *args: Any, masks: type | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.masks = masks

    def add_masks(self) -> None:
        """Add the key `masks`."""
        if self.masks is not None:
            self.add_class_arguments(self.masks, "masks")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        text = one_line(message)
        if unknown := re.search(r"(?:Group '([^']*)' )?does not accept option '([^']*)'", text):
            whole = ".".join(filter(None, unknown.groups()))
            above, _, name = whole.rpartition(".")
            settings = parser.get_defaults()
            inside = settings.get(above) if above else settings
            known = list(vars(inside)) if isinstance(inside, Namespace) else []  # of a name with a dot
            near = difflib.get_close_matches(name, known, 1)
            others = f"known are {', '.join(known)}" if known else "correct the name"
            hint = f"did you mean {near[0]}?" if near else others
            text = f"there is no setting '{whole}': {hint}"
        raise UserError(text)


@cache
def _settings_parser(kind: Kind, makes_masks: bool) -> Parser:
    """Of all that a stage's config may say; makes its key `masks`, and nothing else."""
    parser = Parser(masks=MASKS[kind] if makes_masks else None)
    parser.add_argument("--seed_everything", type=bool | int, default=0)
    parser.add_class_arguments(TASKS[kind], "model", skip={"classes"}, instantiate=False)
    parser.add_class_arguments(DATA[kind], "data", instantiate=False)
    parser.add_class_arguments(Trainer, "trainer", instantiate=False)
    parser.add_masks()
    return parser


@cache
def _trainer_parser() -> Parser:
    parser = Parser()
    parser.add_class_arguments(Trainer, "trainer")
    return parser


def instantiate(parser: LightningArgumentParser, values: Namespace) -> Namespace:
    """What a parser's values describe."""
    # its name before jsonargparse 4.49
    return getattr(parser, "instantiate", parser.instantiate_classes)(values)


def _require_loggers(loggers: Any) -> None:
    """Refuse loggers whose libraries are missing; of a list jsonargparse does not say why."""
    for logger in loggers if isinstance(loggers, list) else []:
        parser = LightningArgumentParser()
        parser.add_argument("logger", type=Logger)
        try:
            instantiate(parser, parser.parse_object({"logger": logger}))
        except ValueError as error:
            raise UserError(
                f"trainer.logger: {str(error.__cause__ or error).splitlines()[0]}"
            ) from error


INFERENCE = {
    **dict.fromkeys(("scales", "flip", "tile", "crf"), "model"),
    "max_side": "data",
    "precision": "trainer",
}
"""Where a config says how a segmenter is shown images."""


def fill_in(config: Any, tested: InferenceSettings) -> InferenceSettings:
    """Show images as a segmenter was tested, where a config says nothing of it; returns all of it."""
    for name, part in INFERENCE.items():
        if config[part].get(name) is None:
            value = getattr(tested, name)
            is_class = name == "crf" and value
            config[part][name] = Namespace(**asdict(value)) if is_class else value
    options = {name: config[part][name] for name, part in INFERENCE.items()}
    return tested.with_options(**options | {"crf": plain_crf(options["crf"])})


def _checked(make: Callable, part: str, values: Namespace) -> dict[str, Any]:
    """The settings of a part; jsonargparse takes null for any of them."""
    given = vars(values[part])
    plain = {n: v for n, v in given.items() if n != "scales" and not isinstance(v, Namespace)}
    if words := wrong_argument(make, plain):
        raise UserError(f"{part}.{words}")
    return dict(given)


def plain_crf(value: Any) -> Any:
    """CRF settings as jsonargparse has parsed them, or as they are."""
    if isinstance(value, Namespace):
        values = value.as_dict()
        return CRFSettings.from_dict(values.get("init_args", values))
    return value


class StageConfig:
    """A config of `wsss classify` or `wsss segment`, for one command.

    Args:
        kind: whose config it is.
        makes_masks: for `predict`, whose config has the key `masks`; else for `fit`.
        path: the YAML file, named in errors.
        root: folder of the data instead of the config's.
        weights: weight file of the network instead of the config's.

    Raises:
        UserError: a setting is unknown, or its value cannot be used.
    """

    def __init__(
        self,
        kind: Kind,
        makes_masks: bool,
        path: Path,
        root: str | None = None,
        weights: str | None = None,
    ) -> None:
        self.kind, self.makes_masks, self.path = kind, makes_masks, path
        config = upgrade(read_yaml(path), path)
        for key in ("model", "data", "trainer", *(["masks"] if makes_masks else [])):
            config[key] = config.get(key) or {}
            if not isinstance(config[key], dict):
                raise UserError(f"{key} in {path} must be lines of `name: value`, got {config[key]!r}")
        data = config["data"]
        if root:
            data["root"] = root
        if not data.get("root"):
            raise UserError(f"where is the data? Pass --root, or set data.root in {path}")
        if not isinstance(data["root"], str):
            raise UserError(f"data.root in {path} must name a folder, got {data['root']!r}")
        data["root"] = str(Path(data["root"]).resolve())  # the same however it is written
        if weights and not makes_masks:
            if not Path(weights).is_file():
                raise UserError(f"there is no weight file {weights}: correct --weights")
            config["model"]["weights"] = str(Path(weights).resolve())
        self.written: dict[str, Any] = config
        """The config as it is written, to be changed before anything is made of it."""
        self.catalogs: dict = {}
        """What of the data set was read so far; to be shared by the configs of a run."""

    def copy(self) -> "StageConfig":
        """Another one of the same config, to be changed by itself."""
        other = copy(self)
        other.written = deepcopy(self.written)
        return other

    @property
    def values(self) -> Namespace:
        """Every setting, defaults included, checked.

        Raises:
            UserError: a setting is unknown, or its value cannot be used.
        """
        return _settings_parser(self.kind, self.makes_masks).parse_object(self.written)

    def data(self) -> TagData | MaskData:
        """The data module."""
        return self._data(self.values)

    def _data(self, values: Namespace) -> TagData | MaskData:
        data = DATA[self.kind](**_checked(DATA[self.kind], "data", values))
        data.catalogs = self.catalogs
        return data

    def masks(self) -> PseudoMaskConfig | SegmenterMaskConfig:
        """The settings of the masks."""
        values = self.values
        _checked(MASKS[self.kind], "masks", values)
        return instantiate(_settings_parser(self.kind, self.makes_masks), values).masks

    def task(self, classes: list[str], **changes: Any) -> Task:
        """The network to be trained, with its training.

        Args:
            classes: of the data.
            changes: of the config's model.
        """
        model = _checked(TASKS[self.kind], "model", self.values) | changes
        if "crf" in model:
            model["crf"] = plain_crf(model["crf"])
        if isinstance(model.get("backbone_args"), Namespace):
            model["backbone_args"] = model["backbone_args"].as_dict()
        with quiet():
            return TASKS[self.kind](classes, **model)

    def trainer(self, **changes: Any) -> Trainer:
        """The trainer; `changes` are of the config's."""
        values = {"trainer": self.written["trainer"] | changes}
        _require_loggers(values["trainer"].get("logger"))
        with quiet():
            parser = _trainer_parser()
            return instantiate(parser, parser.parse_object(values)).trainer

    def trained(self, checkpoint: Path) -> tuple[Task, TagData | MaskData, Trainer]:
        """A trained network, the data and a trainer for its prediction; inference as it was tested.

        Args:
            checkpoint: of the network.
        """
        with quiet():
            task = TASKS[self.kind].from_checkpoint(checkpoint)
        values, changes = self.values, {}
        if isinstance(task, SegmentationTask):
            task.inference = fill_in(values, task.inference)
            changes = {"precision": task.inference.precision}
        return task, self._data(values), self.trainer(logger=False, **changes)

    def seed(self) -> None:
        """Set the random seed, as `wsss classify` and `wsss segment` do."""
        seed = self.values.seed_everything
        if seed is not False:
            with quiet():
                pl.seed_everything(None if seed is True else seed, workers=True, verbose=False)

    @property
    def random_seed(self) -> int | bool:
        """Of the training."""
        return self.values.seed_everything
