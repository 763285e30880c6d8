"""A stage of a run: a folder, what its results were made with, and whether they may stay."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from wsss.config_files import read_yaml, upgrade
from wsss.data.cache import remembered
from wsss.data.catalog import Catalog
from wsss.data.masks import mask_stamp
from wsss.distributed import first, is_first
from wsss.errors import UserError
from wsss.files import file_stamp, old_name, read_json, write_json, write_text
from wsss.origin import before, differences, plain
from wsss.progress import progress
from wsss.resources import Cost
from wsss.run_folder import PLACES, StageFolder, read_note
from wsss.settings import InferenceSettings, PseudoMaskSettings, RefinementSettings
from wsss.stages.config import DATA, TASKS, Kind
from wsss.tasks.views import remove_views

FORMAT = 4
"""Of the notes `begun.json` and `done.json`; 2 kept a hash of the config as it was written, 3 had the
settings of masks among the trainer's callbacks."""

METHODS = {"classify": 1, "pseudo_masks": 3, "segment": 1, "refined_masks": 2}
"""Raised by one where the code of a stage makes other results of the same settings and inputs."""

Changed = Literal["tell", "keep", "redo"]
"""What becomes of results that this version of wsss would make otherwise from the same config."""

_MASKS = {"pseudo_masks": PseudoMaskSettings, "refined_masks": RefinementSettings}
# how fast it goes and what it shows, not what comes out
_NO_MATTER = ("num_workers", "workers", "out", "maps", "mask_dir", *PLACES)
_NO_MATTER += ("devices", "num_nodes", "strategy", "sync_batchnorm")
_OF_TRAINER = ("callbacks", "logger", "default_root_dir", "enable_progress_bar")


@dataclass(frozen=True)
class Recipe:
    """What decides a stage's results.

    Attributes:
        method: of the stage's code, from `METHODS`.
        settings: every setting that matters with its value, the defaults of the code among them.
        inputs: stamps of the images, weights and stages it works on.
        written: hash of the config as it stands in the user's files.
    """

    method: int
    settings: dict[str, Any]
    inputs: list[str]
    written: str

    @property
    def fingerprint(self) -> str:
        """Tells a stage's results from those of any other recipe, for the stages behind it."""
        return _hash([FORMAT, self.method, self.settings, self.inputs])


def recipe(
    kind: Kind, method: str, config: dict[str, Any], inputs: list[str], out: Path, images: int = 0
) -> Recipe:
    """The recipe of a stage.

    Args:
        kind: whose config it is.
        method: the stage's key in `METHODS`.
        config: the stage's config, with model, data, trainer and, where masks are made, masks.
        inputs: as in `Recipe`.
        out: folder of the run.
        images: as for `resolved_settings`.
    """
    written = _hash(without_places(config, out))
    return Recipe(METHODS[method], resolved_settings(kind, method, config, images), inputs, written)


def resolved_settings(
    kind: Kind, method: str, config: dict[str, Any], images: int = 0
) -> dict[str, Any]:
    """Every setting of a stage that its results depend on, defaults included, as plain types.

    Of a stage that makes masks the model's settings are those given: the rest comes with the
    checkpoint, which is among the stage's inputs. Of how many `images` masks are made tells whether a
    sample of them is one.
    """
    trainer, model = config.get("trainer") or {}, config.get("model") or {}
    masks = {}
    if method in _MASKS:
        how = _MASKS[method].from_dict(config.get("masks") or {})
        if isinstance(how, PseudoMaskSettings):
            how = how.for_images(images)
        masks = how.to_dict()
        if masks.get("slots") == "none":  # both are about slots
            masks |= {"relabel_slots": False, "border_prior": False}
    else:
        model = with_defaults(TASKS[kind], model)
        if model["freeze"] != "all":
            model["views"] = None  # there are none
        if kind == "segment":
            names = ("scales", "flip", "tile", "crf")
            tested = InferenceSettings().with_options(**{n: model[n] for n in names}).to_dict()
            model |= {name: tested[name] for name in names}
    settings = {
        "seed_everything": config.get("seed_everything", 0),
        "model": model,
        "data": with_defaults(DATA[kind], config.get("data") or {}),
        "trainer": {n: v for n, v in trainer.items() if n not in _OF_TRAINER},
        "callbacks": trainer.get("callbacks") or [],
        "masks": masks,
    }
    return plain(_without(settings, _NO_MATTER))


def with_defaults(make: Callable, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments given to a class or function, and the defaults of all others."""
    parameters = inspect.signature(make).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(given)


def _without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {k: _without(v, names) for k, v in value.items() if k not in names}
    return value


def without_places(config: Any, out: Path) -> Any:
    """A config without where data, weights and results lie: their content is stamped."""
    if isinstance(config, dict):
        return {k: without_places(v, out) for k, v in config.items() if k not in PLACES}
    if isinstance(config, list):
        return [without_places(value, out) for value in config]
    return config.replace(str(out), "OUT") if isinstance(config, str) else config


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def do_stage(
    folder: Path,
    wanted: Recipe,
    config: dict[str, Any],
    work: Callable[[], dict[str, Any]],
    changed: Changed = "tell",
) -> None:
    """Do the work of a stage unless it is done; what other settings made is moved aside.

    Args:
        folder: of the stage.
        wanted: what its results are to be made with.
        config: written into the folder as `config.yaml`.
        work: makes the results and returns their metrics.
        changed: what to do where this version of wsss differs from the one that made the results.

    Raises:
        UserError: it does differ, and `changed` is "tell".
    """
    if (of_recipe := first(lambda: _begin(folder, wanted, config, changed))) is None:
        return
    cost = Cost(of_recipe.pop("minutes"))
    try:
        metrics = work()
    finally:  # broken off, it goes on counting
        spent = cost.so_far()
        if is_first():
            write_json(folder / "begun.json", of_recipe | {"minutes": spent["minutes"]})

    def end() -> None:
        write_json(folder / "metrics.json", metrics)
        write_json(folder / "done.json", of_recipe | spent)

    first(end)


def _begin(
    folder: Path, wanted: Recipe, config: dict[str, Any], changed: Changed
) -> dict[str, Any] | None:
    """Make a stage's folder ready for its work; returns its note so far, or None where it is done."""
    done, begun = folder / "done.json", folder / "begun.json"
    dumped = yaml.safe_dump(config, sort_keys=False)
    # the config is written first; without it a stage has not begun
    notes = (done, begun) if (folder / "config.yaml").is_file() else (done,)
    note = next((read_note(path) for path in notes if path.is_file()), None)
    news = _news(folder, wanted, note, changed) if note is not None else []
    if done.is_file() and not news:
        if "settings" not in note:  # of format 2, which tells it by the config that follows
            before = _recipe_of(folder, note, wanted)
            for path in (done, begun):
                write_json(path, note | asdict(replace(before, written=wanted.written)))
        if (folder / "config.yaml").read_text() != dumped:  # data or results were moved
            write_text(folder / "config.yaml", dumped)
        print(f"{folder.name}: done before, unchanged", flush=True)
        return None
    if news or (note is None and _holds_more(folder)):
        aside = folder.rename(old_name(folder))
        remove_views(aside)
        told = f" ({'; '.join(news[:4])})" if news else ""
        print(f"{folder.name}: settings or inputs changed{told}, earlier results are in {aside}")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{folder.name}: {'goes on' if begun.is_file() else 'starts'}", flush=True)
    earlier = read_note(begun) if begun.is_file() else {}
    # what is half made keeps the name that an earlier version gave it, by which later stages know it
    of_recipe = asdict(wanted) | {"fingerprint": wanted.fingerprint} | earlier
    of_recipe = {"minutes": 0.0} | of_recipe
    write_text(folder / "config.yaml", dumped)
    write_json(begun, of_recipe)  # the last: with it the stage has begun
    return of_recipe


def _holds_more(folder: Path) -> bool:
    """Whether there is more in a stage's folder than a break at its very beginning leaves."""
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return any(name != "config.yaml" and not name.startswith(".") for name in names)


def _news(folder: Path, wanted: Recipe, note: dict[str, Any], changed: Changed) -> list[str]:
    """Why a stage's results cannot stay, in words; nothing where they can.

    Raises:
        UserError: nobody changed anything but wsss itself.
    """
    if note.get("kept") == wanted.fingerprint:
        return []
    before = _recipe_of(folder, note, wanted)
    if before is None or before.inputs != wanted.inputs:
        return ["its images, weights or the stage before are others"]
    news = differences(before.settings, wanted.settings)
    if before.method != wanted.method:
        news.append(f"method {before.method} of this stage (now {wanted.method})")
    if not news or before.written != wanted.written or changed == "redo":
        return news
    made = f"{folder} was made by another version of wsss with {', '.join(news)}"
    redo = "--redo to make it anew (the earlier results are moved aside)"
    # masks are not added to those of other settings
    if wanted.settings["masks"] and not (folder / "done.json").is_file():
        raise UserError(
            f"{made} and is half done, and masks made in two ways do not go together: run the same "
            f"command with {redo}"
        )
    if changed == "keep":
        note["kept"] = wanted.fingerprint
        for path in (folder / "done.json", folder / "begun.json"):
            if path.is_file():
                write_json(path, read_note(path) | {"kept": wanted.fingerprint})
        return []
    raise UserError(
        f"{made}: run the same command with --keep to go on with it as it is, or with {redo}"
    )


def _recipe_of(folder: Path, note: dict[str, Any], wanted: Recipe) -> Recipe | None:
    """What a stage's results were made with; None where it cannot be told from what is wanted."""
    if "settings" in note:
        settings = made_with(note)
        return Recipe(note["method"], settings, note["inputs"], _written(folder))
    return _recipe_of_format_2(folder, note, wanted)


def made_with(note: dict[str, Any]) -> dict[str, Any]:
    """The settings in a stage's note, in the form that they would have today."""
    settings = dict(note["settings"])
    if "masks" not in settings:  # of format 3
        listed = [{"class_path": n, "init_args": v} for n, v in settings["callbacks"].items()]
        trainer = settings["trainer"] | {"callbacks": listed}
        settings = upgrade(settings | {"trainer": trainer})
        others = settings["trainer"].pop("callbacks", [])
        settings["callbacks"] = [one if one["init_args"] else one["class_path"] for one in others]
        settings["masks"] = before(settings.get("masks") or {})
    return upgrade(settings)


def _recipe_of_format_2(folder: Path, note: dict[str, Any], wanted: Recipe) -> Recipe | None:
    """The recipe of earlier versions, whose note is a hash of config and inputs.

    The config is in the folder, and the settings that were in force are in what training and masks
    left. A setting that they do not name did not exist, and what it does was not done.
    """
    if not (folder / "config.yaml").is_file():
        return None
    config = read_yaml(folder / "config.yaml")
    out = _place_of_run(config)
    if _hash([2, without_places(config, out), wanted.inputs]) != note["fingerprint"]:
        return None
    kind: Kind = "classify" if folder.name in ("classify", "pseudo_masks") else "segment"
    method = folder.name if folder.name in METHODS else kind
    config = upgrade(config)
    settings = resolved_settings(kind, method, config)
    stage = StageFolder(folder)
    if (stage.log / "config.yaml").is_file():
        recorded = upgrade(read_yaml(stage.log / "config.yaml"))
        settings = resolved_settings(kind, method, config | {k: recorded[k] for k in ("model", "data")})
        for part in ("model", "data"):
            known = recorded[part]
            settings[part] = {k: v if k in known else None for k, v in settings[part].items()}
    if settings["masks"] and (stage.masks / "settings.json").is_file():
        recorded = before(read_json(stage.masks / "settings.json"))
        settings["masks"] = {key: recorded.get(key) for key in settings["masks"]}
    return Recipe(1, plain(settings), wanted.inputs, _written(folder))


def _written(folder: Path) -> str:
    """Hash of the config in a stage's folder, in the form of today."""
    config = upgrade(read_yaml(folder / "config.yaml"))
    return _hash(without_places(config, _place_of_run(config)))


def _place_of_run(config: dict[str, Any]) -> Path:
    """Where the run was whose stage has this config."""
    return Path(config["trainer"]["default_root_dir"]).parent


def stamp_catalog(catalog: Catalog, truth: bool = True) -> str:
    """Tells one set of images and tags from another, and where asked one set of ground-truth masks."""
    digest = hashlib.sha256(repr(catalog.classes).encode())
    if catalog.white:  # how images of 16 bits are shown
        digest.update(repr(catalog.white).encode())
    images = _stamps([r.image for r in catalog.records], file_stamp)
    masks = iter(_stamps([r.mask for r in catalog.records if truth and r.mask], mask_stamp))
    for r, image in zip(catalog.records, images, strict=True):
        mask = next(masks) if truth and r.mask else None
        asked = () if r.looked_for is None else (r.looked_for,)
        digest.update(repr((r.id, r.tags, image, mask, *asked)).encode())
    return digest.hexdigest()


def _stamps(paths: list[Path], stamp: Callable[[Path], str]) -> list[str]:
    def find(paths: Sequence[Path]) -> Iterator[str]:
        return map(stamp, progress(paths, "look whether data changed", "files", brief=True))

    return remembered("stamps", paths, find)


def stamp_weights(config: dict[str, Any]) -> str:
    """Tells the weight file that a stage starts from."""
    file = config.get("model", {}).get("weights")
    return file_stamp(Path(file)) if file and Path(file).is_file() else "-"
