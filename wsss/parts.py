"""Classes of one's own in the place of those of wsss, named in the config by their import path."""

import importlib
import os
import sys
from typing import TypeVar

from wsss.errors import UserError
from wsss.settings import Part

P = TypeVar("P")


def make_part(spec: Part, protocol: type[P], setting: str) -> P:
    """Make an object of a class that a config names.

    Args:
        spec: `mypackage.MyClass`, or `class_path` and `init_args` in a dictionary.
        protocol: what it must be able to do, a runtime-checkable `typing.Protocol`.
        setting: name of the setting, for errors.

    Raises:
        UserError: there is no such class, its arguments are others, or it lacks what is asked for.
    """
    named = {"class_path": spec} if isinstance(spec, str) else spec
    path, given = named.get("class_path"), named.get("init_args")
    if path is None:
        raise UserError(f"{setting} {named} lacks class_path: give the path of a class of yours as it")
    module, _, name = str(path).rpartition(".")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # one's own file may lie beside the config, where one works
    try:
        if not all(map(str.isidentifier, str(path).split("."))):
            raise ImportError("it is no path of names with dots between them")
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{setting} {path} cannot be imported ({error}): give the path of a class of yours, such "
            "as mypackage.MyClass, in a package that is installed or lies in the working folder"
        ) from error
    if not isinstance(made, type):
        raise UserError(f"{setting} {path} is no class: give the path of one")
    try:
        part = made(**(given or {}))
    except TypeError as error:
        raise UserError(f"{setting} {path} cannot be made with {given or {}} ({error})") from error
    if not isinstance(part, protocol):
        wanted = [n for n in dir(protocol) if n == "__call__" or not n.startswith("_")]
        raise UserError(
            f"{setting} {path} is no {protocol.__name__}, which has {', '.join(wanted)}: see "
            "docs/how-to/extend.md"
        )
    return part
