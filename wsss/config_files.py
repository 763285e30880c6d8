"""Config files as dictionaries, in the form of today."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from wsss.errors import UserError

OLD_FORM = (
    "{}: settings of masks stand under the key `masks` now, not in trainer.callbacks; the form before "
    "is read until wsss 0.3"
)

_WRITERS = ("PseudoMaskWriter", "RefinedMaskWriter", "MaskWriter")
"""Callbacks of earlier versions, whose settings stand under the key `masks` now."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a dictionary.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise UserError(f"no config file {path}")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no settings: it must be lines of `name: value`")
    return config


def yaml_text(config: Mapping[str, Any]) -> str:
    """Settings as YAML, in their order."""
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """A stage's config in the form of today: settings of masks stand under `masks`."""
    model = config.get("model")
    if isinstance(model, dict) and model.get("pooling") == "top20":  # there is no other any more
        config = config | {"model": {k: v for k, v in model.items() if k != "pooling"}}
    trainer = config.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    for callback in callbacks if isinstance(callbacks, list) else ():
        given = {"class_path": callback} if isinstance(callback, str) else callback
        path = given.get("class_path") if isinstance(given, dict) else None
        if str(path).rpartition(".")[2] not in _WRITERS:
            continue
        masks = dict(given.get("init_args") or {})
        if not masks.get("void_below", True):
            del masks["void_below"]  # it did nothing, and is no setting any more
        others = [one for one in callbacks if one is not callback]
        trainer = {k: v for k, v in trainer.items() if k != "callbacks"}
        if others:
            trainer["callbacks"] = others
        return config | {"trainer": trainer, "masks": masks | (config.get("masks") or {})}
    return config
