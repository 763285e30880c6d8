"""Config files as dictionaries, in the form of today."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from wsss.errors import UserError, notice

RENAMED = {
    "model": {"head_factor": "head_lr_multiplier", "freeze_stride": "freeze"},
    "masks": {"learn_slots": "relabel_slots"},
}
"""Names of settings before wsss 0.2, and today."""

GONE = {
    "model": {"pooling": ("top20",), "schedule": ("poly", "cosine")},
    "masks": {"void_below": (0, None)},
}
"""What was a setting before wsss 0.2, with the values that are what is done today."""

_WRITERS = ("PseudoMaskWriter", "RefinedMaskWriter", "MaskWriter")
"""Callbacks before wsss 0.2, whose settings stand under the key `masks` now."""


MOST_VALUES = 100_000
"""Values of a config file; one whose aliases name each other holds billions of them in a few lines."""


def shipped_config(name: str) -> Path:
    """A config file that comes with wsss, for example `voc/pipeline.yaml`."""
    here = Path(__file__).parent
    for folder in (here / "configs", here.parent / "configs"):  # of a wheel, of a checkout
        if os.path.isfile(folder / name):
            return folder / name
    raise UserError(f"the shipped config {name} is missing: install wsss again")


def config_file(path: str | Path) -> Path:
    """A config file; `configs/voc/pipeline.yaml` and the like: that of wsss, where none is here."""
    path = Path(path)
    if path.parts[:1] == ("configs",) and not os.path.isfile(path):
        with suppress(UserError):
            return shipped_config(str(Path(*path.parts[1:])))
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a dictionary.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if not os.path.isfile(path):  # a name may be too long to be asked for
        raise UserError(f"no config file {path}")
    from wsss.schema import Plain, check  # what it imports takes a while

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    # a number or date that is none is a ValueError, as is UnicodeDecodeError
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no settings: it must be lines of `name: value`")
    _require_sane(config, path)
    return check(config, Plain, f"{path} holds what is no setting")


def _require_sane(config: dict[Any, Any], path: Path) -> None:
    left, count = [config], 0
    while left:
        one = left.pop()
        if isinstance(one, int) and abs(one) >= 2**63:
            raise UserError(f"{path} holds a whole number beyond 64 bits: correct it")
        count += 1
        if count > MOST_VALUES:
            raise UserError(f"{path} holds more than {MOST_VALUES:,} values: no config is that long")
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def yaml_text(config: Mapping[str, Any]) -> str:
    """Settings as YAML, in their order."""
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def upgrade(config: dict[str, Any], told: str | Path | None = None) -> dict[str, Any]:
    """A stage's config in the form of today.

    Args:
        config: of any version.
        told: where it stands, for a notice of what is to be changed in it until wsss 0.3; None: none.

    Returns:
        The config with today's names, settings of masks under `masks`, and without settings that are
        none any more, where their values are what is done today.
    """
    changed = []
    for part, names in RENAMED.items():
        values = config.get(part)
        for before, now in names.items() if isinstance(values, dict) else ():
            if before in values:
                values = {now if name == before else name: v for name, v in values.items()}
                changed.append(f"{part}.{before} is {part}.{now}")
        config = config if values is config.get(part) else config | {part: values}
    for part, names in GONE.items():
        values = config.get(part)
        gone = [n for n in names if isinstance(values, dict) and values.get(n, "-") in names[n]]
        if gone:
            config = config | {part: {k: v for k, v in values.items() if k not in gone}}
            changed += [f"{part}.{name} is no setting any more" for name in gone]
    trainer = config.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    for callback in callbacks if isinstance(callbacks, list) else ():
        given = {"class_path": callback} if isinstance(callback, str) else callback
        path = given.get("class_path") if isinstance(given, dict) else None
        if str(path).rpartition(".")[2] in _WRITERS:
            others = [one for one in callbacks if one is not callback]
            trainer = {k: v for k, v in trainer.items() if k != "callbacks"}
            trainer |= {"callbacks": others} if others else {}
            masks = [given.get("init_args") or {}, config.get("masks") or {}]
            if not all(isinstance(one, dict) for one in masks):
                raise UserError(f"{told or 'config'}: settings of masks must be lines of `name: value`")
            masks = masks[0] | masks[1]
            changed.append("settings of masks stand under the key `masks`, not in trainer.callbacks")
            config = upgrade(config | {"trainer": trainer, "masks": masks})
    if changed and told is not None:
        notice(f"{told}: {'; '.join(changed)} (the form before is read until wsss 0.3)")
    return config


def _value(word: str) -> Any:
    """What a word of the command line is as YAML; the word itself where it is none."""
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def upgrade_words(words: Sequence[str], told: str) -> list[str]:
    """Words of the command line, and the config files that they name, in the form of today.

    Args:
        words: of `wsss classify` or `wsss segment`.
        told: whose words they are, for notices.
    """
    names = {f"--{p}.{old}": f"--{p}.{new}" for p, its in RENAMED.items() for old, new in its.items()}
    gone = {f"--{part}.{name}": its[name] for part, its in GONE.items() for name in its}
    found, of_masks, changed = [], False, False
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in ("-c", "--config") and not equals and (path := next(rest, None)) is not None:
            path = str(config_file(path))
            config = read_yaml(Path(path)) if Path(path).is_file() else None
            now = config and upgrade(config, path)
            found += [name, path if now == config else yaml_text(now)]
            continue
        if name in ("--trainer.callbacks", "--trainer.callbacks+"):
            value = value if equals else next(rest, "")
            given = _value(value)
            of_masks = str(given).rpartition(".")[2] in _WRITERS
            listed = given if isinstance(given, list) else [given]
            now = upgrade({"trainer": {"callbacks": listed}})
            if "masks" in now:
                changed = True
                others = now["trainer"].get("callbacks")
                found += [f"{name}={json.dumps(others)}"] if others else []
                for key, one in now["masks"].items():
                    found.append(f"--masks.{key}={one if isinstance(one, str) else json.dumps(one)}")
            else:
                found += [name, value]
            continue
        if of_masks and name.startswith("--trainer.callbacks."):
            name = f"--masks.{name.removeprefix('--trainer.callbacks.').removeprefix('init_args.')}"
        if name in names:
            name, changed = names[name], True
        if name in gone:
            value = value if equals else next(rest, "")
            if _value(value) in gone[name]:
                changed = True
                continue
            equals = "="
        found.append(name + equals + value)
    if changed:
        notice(f"{told}: settings of masks are --masks.NAME, and {', '.join(names)} are "
               f"{', '.join(names.values())} (the words before are read until wsss 0.3)")  # fmt: skip
    return found
