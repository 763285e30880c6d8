"""A table of tags while it is read: its content, its rows, and what is odd about it."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, Protocol
from xml.etree.ElementTree import Element

from defusedxml import ElementTree

from wsss.data.cells import SPLITS, clean, hidden, listed, missing, shown, unquoted
from wsss.data.names import Renamed, leads_out, relative
from wsss.data.photographs import photographs_in
from wsss.errors import UserError, few, notice
from wsss.files import read_text

HIDDEN = "characters that cannot be seen, dropped from names or read as a space"
NOT_ANNOTATED = "not annotated yet, left out"
"""What tools list, and nobody has looked at; an image in which nothing was found is background."""

FIRST = ("test", "val", "train")
"""Of two splits that an image is given, the one that counts: what judges is not learned from."""

Odd = dict[str, list[str]]
"""What was read otherwise than it is written: kind -> where."""


@dataclass(frozen=True)
class TagRow:
    """What a table says of an image.

    Attributes:
        image: file name relative to the root.
        tags: what is on it.
        split: "train", "val", or "test" for what is neither trained on nor validated with; None: the
            table does not say.
        looked_for: the classes that somebody looked for, its tags among them; whether others are on it
            is not known. None: all classes were looked for.
    """

    image: str
    tags: tuple[str, ...]
    split: str | None
    looked_for: tuple[str, ...] | None = None

    def joined(self, other: "TagRow") -> "TagRow":
        """With what another row says of the same image."""
        split = next((name for name in FIRST if name in (self.split, other.split)), None)
        looked_for = None
        if self.looked_for is not None and other.looked_for is not None:
            looked_for = tuple(dict.fromkeys(self.looked_for + other.looked_for))
        return TagRow(self.image, tuple(dict.fromkeys(self.tags + other.tags)), split, looked_for)


Rows = Iterable[tuple[str, TagRow]]
"""Each row of a table, and where it stands."""


def tell(table: Path, odd: Odd) -> None:
    """A notice for each kind of oddity of a table."""
    for kind, places in odd.items():
        notice(f"{table}: {kind}: {few(places)}")


class Line(NamedTuple):
    """A line, not shorter than the first one, and its number."""

    number: int
    cells: list[str]


class _Object(dict):
    """An object of JSON; `pairs` has the names that are there twice, too."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


@dataclass
class Source:
    """A table while it is read.

    Attributes:
        path: the file or folder.
        root: folder of the photographs.
        odd: kind of oddity -> where, each once.
        known: what has been read of it.
    """

    path: Path
    root: Path
    odd: dict[str, dict[str, None]] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)

    # what it holds: of each form of content one of these, None in the others

    @cached_property
    def head(self) -> bytes:
        """Its first bytes; none of a folder."""
        if self.path.is_dir():
            return b""
        with self.path.open("rb") as file:
            return file.read(4096)

    @cached_property
    def text(self) -> str | None:
        """The text of a file that is neither a folder nor a workbook."""
        return None if self.path.is_dir() or self.head.startswith(_BINARY) else read_text(self.path)

    @cached_property
    def json(self) -> Any:
        """What a JSON file holds."""
        if self.text is None or not (self.path.suffix.lower() == ".json" or self._begins("[", "{")):
            return None
        return self.parsed(self.text, "")

    @cached_property
    def lines(self) -> list[tuple[int, dict[str, Any]]] | None:
        """The objects of JSON Lines, with their numbers."""
        if self.path.suffix.lower() not in _LINES or self.text is None:
            return None
        found = []
        for number, line in enumerate(self.text.split("\n"), start=1):
            if clean(line):
                one = self.parsed(line, f" line {number}")
                if not isinstance(one, dict):
                    raise UserError(
                        f'{self.path} line {number} must be like {{"file_name": "a.jpg", ...}}'
                    )
                found.append((number, one))
        return found

    @cached_property
    def xml(self) -> Element | None:
        """The root of an XML file; of a folder, None."""
        if self.path.is_dir() or not self.head.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n").startswith(
            b"<"
        ):
            return None
        return read_xml(self.path)

    def parsed(self, text: str, place: str) -> Any:
        """What a text of JSON holds."""
        try:
            return json.loads(text, object_pairs_hook=_Object, parse_constant=str)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path}{place} is not readable JSON ({error})") from error

    def _begins(self, *signs: str) -> bool:
        if self.path.suffix.lower() in _LINES:
            return False
        return (self.text or "").lstrip().startswith(signs)

    # what its rows say

    def note(self, kind: str, place: str, text: str | None = None) -> None:
        where = place if text is None else f"{place}: {shown(text)}"
        self.odd.setdefault(kind, {})[where] = None

    def name(self, text: str, place: str) -> str:
        """A name as it is meant; empty where a program wrote that there is none."""
        name = clean(text)
        if any("\ud800" <= sign <= "\udfff" for sign in name):
            raise UserError(f"{self.path} {place}: {name!a} is no text: export it again")
        if hidden(text):
            self.note(HIDDEN, place, text)
        if inner := unquoted(name):
            self.note("read without the quotes around it", place, name)
            name = inner
        if missing(name):
            self.note("read as an empty cell", place, name)
            return ""
        return name

    def items(self, text: str, place: str) -> list[str] | None:
        """The items of a printed list; None: the text is none."""
        try:
            items = listed(clean(text))
        except ValueError:
            raise UserError(
                f"{self.path} {place}: {shown(text)} begins as a list and cannot be read as one: "
                "separate the tags with |, without brackets and quotes"
            ) from None
        if items is not None:
            self.note("read as a list of tags", place, text)
            if hidden(text):
                self.note(HIDDEN, place, text)
        return items

    def split(self, text: str, place: str) -> str | None:
        name = self.name(text, place)
        if name and name.casefold() not in SPLITS:
            raise UserError(
                f"{self.path} {place}: split '{name}' must be train or val (or test, which is "
                "neither trained on nor validated with)"
            )
        return SPLITS[name.casefold()] if name else None

    def row(
        self,
        image: str,
        texts: Iterable[str],
        place: str,
        split: str | None = None,
        looked_for: Iterable[str] | None = None,
    ) -> TagRow:
        tags = self._names(texts, place)
        if looked_for is not None:
            looked_for = tuple(dict.fromkeys((*self._names(looked_for, place), *tags)))
        return TagRow(image.strip().replace("\\", "/"), tags, split, looked_for)

    def _names(self, texts: Iterable[str], place: str) -> tuple[str, ...]:
        names = (self.name(text, place) for text in texts)
        return tuple(dict.fromkeys(name for name in names if name))

    def a_text(self, value: Any, place: str, what: str) -> str:
        """A value that must be a text or a number, which may be a name, too."""
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        told = shown(json.dumps(value, ensure_ascii=True, default=str))
        raise UserError(f"{self.path} {place}: {what} must be a text, not {told}: correct it")

    def texts(self, value: Any, place: str, what: str) -> list[str]:
        """A value that must be a text, a list of texts, or none."""
        values = value if isinstance(value, list) else [value]
        return [self.a_text(one, place, what) for one in values if one not in (None, "")]

    # which image a name means

    def image(self, name: str, place: str, exact: bool) -> str:
        """The image that a name means, relative to the root; as it is where there is none.

        Args:
            name: as the table has it.
            place: where it stands.
            exact: the name is relative to the root. If not, it may be relative to the table's folder,
                the end of an image's name, or what a tool has made of it.
        """
        try:
            os.fsencode(name)
        except UnicodeError:
            name += "\0"
        if "\0" in name:
            raise UserError(
                f"{self.path} {place} names the image {name[:60]!a}, as no file is called: correct it"
            )
        name = relative(name, self._folders)
        # its own hidden characters are kept, others dropped
        if hidden(name) and not os.path.isfile(self.root / name):
            plain = clean(name)
            if os.path.isfile(self.root / plain):
                self.note(HIDDEN, place, name)
                return plain
        if exact or not name or os.path.isabs(name) or leads_out(self.root, name):
            return name
        for folder in self._beside:
            if os.path.isfile(self.root / folder / name):
                return (folder / name).as_posix()
        stem = PurePosixPath(name).with_suffix("").as_posix() if PurePosixPath(name).name else name
        found = self._photographs
        stems = next((s for one in (stem, name) if (s := self._called(one))), [])
        files = [file for one in stems for file in found[one]]
        same = [file for file in files if file.endswith(PurePosixPath(name).suffix)]
        files = same if len(same) == 1 else files
        own = [file for file in files if file.startswith(f"{self._beside[0].as_posix()}/")]
        files = own if len(own) == 1 else files
        if len(files) > 1:
            raise UserError(
                f"{self.path} {place} names the image '{name}', and {len(files)} are called so "
                f"({few(files, 2)}): rename them, or give names with folders"
            )
        return files[0] if files else name

    @cached_property
    def _folders(self) -> tuple[Path, Path]:
        return Path(os.path.abspath(self.root)), self.root.resolve()

    @cached_property
    def _beside(self) -> list[Path]:
        """The table's folder, where it lies in the root, and the root, relative to the root."""
        own = (self.path if self.path.is_dir() else self.path.parent).resolve()
        root = self.root.resolve()
        inner = [own.relative_to(root)] if own.is_relative_to(root) else []
        return [*inner, Path()]

    @cached_property
    def _photographs(self) -> dict[str, list[str]]:
        """Name without suffix -> the photographs of this name."""
        found: dict[str, list[str]] = {}
        for path in photographs_in(self.root):
            inner = path.relative_to(self.root)
            found.setdefault(inner.with_suffix("").as_posix(), []).append(inner.as_posix())
        return found

    @cached_property
    def _renamed(self) -> Renamed:
        return Renamed(self._photographs)

    def _called(self, stem: str) -> list[str]:
        meant = self._renamed.meant(stem)
        return self._renamed.ending(stem) if meant is None else meant


_BINARY = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""The first bytes of a workbook, new and old."""

_LINES = (".jsonl", ".ndjson")


def read_xml(path: Path) -> Element:
    """The root of an XML file; declarations of types and entities, which can do harm, are refused.

    Raises:
        UserError: it is none.
    """
    try:
        return ElementTree.fromstring(path.read_bytes(), forbid_dtd=True)
    except Exception as error:
        raise UserError(f"{path} is not readable XML ({error}): export it again") from error


class Form(Protocol):
    """A form in which tags are written down.

    Attributes:
        about: what a user calls it.
        files: the files that hold it in a folder of photographs, which then need no --tags.
        exact: names are relative to the root, letter by letter.
    """

    about: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[bool] = False

    def read(self, source: Source) -> Rows | None:
        """The rows; None: the source is not of this form."""
        ...
