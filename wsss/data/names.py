"""Names of files as tables and other tools write them."""

import posixpath
import unicodedata
from collections.abc import Collection, Iterable


def as_files(names: Iterable[str], files: Collection[str]) -> dict[str, str]:
    """Names -> the same as the files have them: without `./`, and with their way to write accents."""
    # a Mac writes "é" in file names as two characters, most tables as one
    composed = {unicodedata.normalize("NFC", name): name for name in files}
    known, found = set(files), {}
    for name in names:
        plain = posixpath.normpath(name)
        if plain not in known:
            plain = composed.get(unicodedata.normalize("NFC", plain), plain)
        found[name] = plain
    return found
