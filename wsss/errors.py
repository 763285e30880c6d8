"""What a user is told: mistakes that can be mended, and notices of what is left out."""

import warnings
from collections.abc import Sequence


class UserError(Exception):
    """Bad input: the message names the file or value and says what to do.

    The command line prints it as one sentence without a traceback.

    >>> try:
    ...     image = wsss.read_image("gone.jpg")
    ... except wsss.UserError as error:
    ...     print(error)
    no image file gone.jpg: check the root folder and the list that names it
    """


class Damaged(UserError):
    """What a file holds cannot be known."""


class Unavailable(UserError):
    """The machine could not do it this time; a file is not to blame."""


class NotMeasurable(UserError):
    """There is nothing to measure with."""


class UserNotice(UserWarning):
    """Something was left out or passed over, and the work goes on."""


_told: set[str] = set()


def notice(message: str) -> None:
    """Warn with a `UserNotice`, once a command however many of its stages come across it."""
    if message not in _told:
        _told.add(message)
        warnings.warn(message, UserNotice, stacklevel=2)


def forget_notices() -> None:
    """A new command begins: every notice is given again."""
    _told.clear()


def install(extra: str) -> str:
    """The command that installs an extra's packages, as pyproject.toml lists them."""
    from importlib.metadata import PackageNotFoundError, requires  # takes a while

    try:
        wanted = [one.partition(";") for one in requires("wsss") or []]
    except PackageNotFoundError:  # only on Python's path
        return f"pip install -e '.[{extra}]' in the folder of wsss"
    names = [f"'{name.strip()}'" for name, _, when in wanted if f'"{extra}"' in when]
    return f"pip install {' '.join(names)}"


def few(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f", ... and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
