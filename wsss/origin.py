"""What the results in a folder were made with, so that those of two settings are never mixed."""

import json
from pathlib import Path
from typing import Any

from wsss.errors import UserError
from wsss.files import read_json, write_json

NOTE = "settings.json"
"""Name of the file that tells it."""


def claim(folder: Path, settings: dict[str, Any], conflict: str, also: dict[str, Any] | None = None) -> None:
    """Note in a folder what its results are made with, or refuse to add to others.

    Args:
        folder: of the results.
        settings: what they depend on, as plain types.
        conflict: what to say where the folder holds results of others.
        also: what an earlier version did without noting it, by the setting's name today.

    Raises:
        UserError: the folder holds results of other settings.
    """
    note, wanted = folder / NOTE, json.loads(json.dumps(settings))
    if not note.is_file():
        write_json(note, wanted)
    elif (also or {}) | read_json(note) != wanted:
        raise UserError(conflict)
