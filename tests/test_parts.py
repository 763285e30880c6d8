"""Classes of one's own, named by their import path."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import pytest

from wsss.errors import UserError
from wsss.parts import make_part


@runtime_checkable
class Doubles(Protocol):
    def double(self, value: int) -> int: ...


class Good:
    def __init__(self, more: int = 0) -> None:
        self.more = more

    def double(self, value: int) -> int:
        return 2 * value + self.more


class Bad:
    pass


NOT_A_CLASS = 3


@pytest.fixture
def here(tmp_path, monkeypatch) -> str:
    """This file as a module in the working folder."""
    (tmp_path / "own_parts.py").write_text(Path(__file__).read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_parts"


def test_a_class_by_its_path_and_with_arguments(here):
    assert make_part(f"{here}.Good", Doubles, "x").double(4) == 8
    spec = {"class_path": f"{here}.Good", "init_args": {"more": 1}}
    assert make_part(spec, Doubles, "x").double(4) == 9


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nowhere.Good", "masks.seed nowhere.Good cannot be imported .*nowhere"),
        ("own_parts.Better", "cannot be imported .*Better"),
        ("Good", "cannot be imported"),
        ("own_parts.NOT_A_CLASS", "is no class"),
        ("own_parts.Bad", "is no Doubles, which has double: see docs/how-to/extend.md"),
        ({"class_path": "own_parts.Good", "init_args": {"less": 1}}, "cannot be made with .*less"),
        ({}, "masks.seed {} lacks class_path"),
    ],
)
def test_what_is_wrong_is_told(spec, said, here):
    with pytest.raises(UserError, match=said):
        make_part(spec, Doubles, "masks.seed")
