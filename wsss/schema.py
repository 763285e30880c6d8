"""Documents that are read from files, held as a whole against what they must be.

A schema is a type in Python's own words: a class, `dict[str, int]`, a `TypedDict`, ... Each kind of
file has one, beside the function that reads it. So nothing else in wsss meets a value of a wrong type.
"""

from collections.abc import Callable
from functools import lru_cache
from inspect import signature
from typing import Any, get_type_hints

from pydantic import JsonValue, TypeAdapter, ValidationError

from wsss.errors import UserError

Plain = dict[str, JsonValue]
"""What JSON and YAML can hold under names."""

SHOWN = 60
"""Characters of a wrong value that are told."""

DEEP = 8
"""Keys of the way to a wrong value that are told."""


@lru_cache(maxsize=64)
def _adapter(schema: Any) -> TypeAdapter:
    return TypeAdapter(schema)


def fault(value: Any, schema: Any) -> str | None:
    """What is wrong with a value, in words; None: nothing.

    A number that is written as text is wrong; a whole number is good where any number is asked for.

    >>> fault({"side": "large"}, dict[str, int | None])
    "side should be a valid integer, got 'large'"

    Args:
        value: as it was read.
        schema: what it must be.
    """
    try:
        _adapter(schema).validate_python(value, strict=True)
    except ValidationError as error:
        return _words(value, error)
    return None


def check(value: Any, schema: Any, told: str) -> Any:
    """The value as it is, refused where it is not as its schema.

    Args:
        value: as it was read.
        schema: what it must be.
        told: what to say first of one that is not: the file, and what it is not.

    Raises:
        UserError: `told`, and what is wrong.
    """
    if words := fault(value, schema):
        raise UserError(f"{told} ({words})")
    return value


def wrong_argument(make: Callable, given: dict[str, Any]) -> str | None:
    """What is wrong with arguments for a function or class, in words: an unknown one, or one of a wrong
    type; None: nothing."""
    try:
        signature(make).bind_partial(**given)
    except TypeError as error:
        return str(error)
    hints = get_type_hints(make.__init__ if isinstance(make, type) else make)
    for name in signature(make).parameters.keys() & given.keys() & hints.keys():
        if words := fault(given[name], hints[name]):
            return f"{name} {words}"
    return None


def _words(value: Any, error: ValidationError) -> str:
    faults = [(_place(value, one["loc"], one["type"]), one) for one in error.errors(include_url=False)]
    place, first = faults[0]
    # what may be of several types has a fault for each of them
    alike = [one["msg"] for its_place, one in faults if its_place == place]
    what = (
        " or ".join(dict.fromkeys(alike)).replace("Input ", "").replace("Field required", "is missing")
    )
    got = "" if first["type"] == "missing" else f", got {_short(first['input'])}"
    return f"{'.'.join(place[:DEEP])} {what}{got}".strip()


def _place(value: Any, keys: tuple[int | str, ...], kind: str) -> tuple[str, ...]:
    """The keys that lead to a fault, without pydantic's names of types among them."""
    place = []
    for key in keys:
        try:
            value = value[key]
        except (TypeError, LookupError):
            if kind != "missing":
                continue
        place.append(str(key))
    return tuple(place)


def _short(value: Any) -> str:
    if not isinstance(value, str | int | float | bool | type(None)):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
