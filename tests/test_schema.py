"""What is said of documents that are not as their schema."""

from typing import Literal

import pytest
from typing_extensions import NotRequired, TypedDict

from wsss.errors import UserError
from wsss.schema import Plain, check, fault, wrong_argument


class Kind(TypedDict):
    side: int
    names: NotRequired[list[str]]


@pytest.mark.parametrize(
    ("value", "schema", "words"),
    [
        ({"side": 3, "more": 1}, Kind, None),
        ({"side": "3"}, Kind, "side should be a valid integer, got '3'"),
        ({"side": True}, Kind, "side should be a valid integer, got True"),
        ({}, Kind, "side is missing"),
        ({"side": 3, "names": ["a", 7]}, Kind, "names.1 should be a valid string, got 7"),
        (3, Kind, "should be a valid dictionary, got 3"),
        (1, float, None),
        ([1], int | str, "should be a valid integer or should be a valid string, got a list"),
        (3.0, Literal[16, 32], "should be 16 or 32, got 3.0"),
        ({"a": [{"b": None}]}, Plain, None),
        ({"a": {1, 2}}, Plain, "a input was not a valid JSON value, got a set"),
    ],
)
def test_words(value, schema, words):
    assert fault(value, schema) == words


def test_what_holds_itself():
    value = {}
    value["a"] = value
    assert "cyclic" in fault(value, Plain)


def test_a_long_value_is_shown_in_part():
    assert len(fault({"side": "x" * 10_000}, Kind)) < 120


def test_check_names_the_file():
    assert check({"side": 1}, Kind, "a.json is damaged") == {"side": 1}
    with pytest.raises(UserError, match=r"^a.json is damaged \(side is missing\)$"):
        check({}, Kind, "a.json is damaged")


def test_arguments():
    def make(side: int, name: str | None = None) -> None: ...

    assert wrong_argument(make, {"side": 1}) is None
    assert wrong_argument(make, {"side": 1.5}) == "side should be a valid integer, got 1.5"
    assert "unexpected keyword argument 'x'" in wrong_argument(make, {"x": 1})
