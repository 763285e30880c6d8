"""What the results in a folder were made with, so that those of two settings are never mixed."""

import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from wsss.config_files import upgrade
from wsss.distributed import gather
from wsss.errors import UserError
from wsss.files import read_json, write_json

NOTE = "settings.json"
"""Name of the file that tells it."""

BEFORE = {"folds": 8, "rounds": 5, "steps": 600, "slot_grid": 8}
"""What earlier versions did, and did not note, as there was no such setting."""


def claim(folders: Mapping[Path, str], settings: Mapping[str, Any]) -> None:
    """Note in each folder what its results are made with, or refuse to add to others.

    Args:
        folders: of the results, each with what to say where it holds results of others.
        settings: what they depend on.

    Raises:
        UserError: a folder holds results of other settings; then none is noted.
    """
    wanted = plain(settings)
    for folder, conflict in folders.items():
        if (folder / NOTE).is_file() and differences(before(read_json(folder / NOTE)), wanted):
            raise UserError(conflict)
    for folder in folders:
        if not (folder / NOTE).is_file():
            write_json(folder / NOTE, wanted)


def require_alike(what: str, settings: Mapping[str, Any]) -> None:
    """See that all processes of a work have the same settings.

    Args:
        what: has them, for whoever is told.
        settings: nested plain values.

    Raises:
        UserError: they do not.
    """
    found = gather((socket.gethostname(), plain(settings)))
    host, of_first = found[0]
    for number, (its_host, others) in enumerate(found):
        news = "; ".join(differences(of_first, others)[:3])
        if news:
            raise UserError(
                f"process {number + 1} of {len(found)} (on {its_host}) has another {what} than the "
                f"first one (on {host}): {news}; give all the same"
            )


def before(noted: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they were noted, with what an earlier version did where it had none."""
    noted = upgrade({"masks": dict(noted)})["masks"]
    return BEFORE | noted if "slots" in noted else noted


def plain(value: Any) -> Any:
    """Settings as the plain types of JSON."""
    return json.loads(json.dumps(value, default=lambda v: asdict(v) if is_dataclass(v) else str(v)))


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What changed between nested settings, in words; what is off and what is not there are alike."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found = []
        for key in dict.fromkeys([*before, *now]):
            found += differences(before.get(key), now.get(key), key)
        return found
    if before == now or (not before and not now):
        return []
    return [f"{name} {_shown(before)} (now {_shown(now)})"]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "with other settings"
    return json.dumps(value) if value is not None else "not set"
