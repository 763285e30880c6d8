"""Damages what readers are given: bytes, nested values of JSON and YAML, arrays and weights."""

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml

ODD = (
    None, True, 0, -1, 3, 10**400, 1.5, -0.5, float("nan"), float("inf"), "", "x", "a\0b", "../x",
    "é" * 300, "1e-4", [], {}, [1], [[1, 2], [3]], {"a": 1}, ["a", "a"], [None],
    {"": None}, [{}], "\ud800",
)  # fmt: skip
"""What may stand where something else belongs."""


SIGNS = (b"\0", b"\xff\xfe", b"&a [*a]", b"{", b"]", b"\n", b'"', b": ")


def damaged_bytes(content: bytes, chance: Random) -> bytes:
    """A file with some bytes changed, left out, doubled, or cut off."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content) + 1)
        few = content[at : at + chance.randint(1, 20)]
        match chance.randrange(5):
            case 0:
                content[at : at + len(few)] = chance.randbytes(len(few))
            case 1:
                del content[at : at + len(few)]
            case 2:
                content[at:at] = few
            case 3:
                content[at:at] = chance.choice(
                    [b"\0", b"\xff\xfe", b"&a [*a]", b"{", b"]", b"\n", b'"', b": "]
                )
            case 4 if chance.random() < 0.3:
                del content[at:]
    return bytes(content)


def damaged(value: Any, chance: Random, odd: Any = ODD) -> Any:
    """A copy of nested dictionaries and lists in which one to three entries are others."""
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        places = _places(value)
        if not places:
            return chance.choice(odd)
        where, key = chance.choice(places)
        match chance.randrange(6):
            case 0:
                del where[key]
            case 1 if isinstance(where, dict):
                where[chance.choice(["x", "root", "", "kind", "a.b"])] = where.pop(key)
            case 2:
                other, its = chance.choice(places)
                if isinstance(other, dict) and its in other:
                    where[key] = copy.deepcopy(other[its])
            case _:
                where[key] = copy.deepcopy(chance.choice(odd))
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    found, left = [], [value]
    while left:
        one = left.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        # what is deep inside is met as often as what is on top
        found += [(one, key) for key in keys][:50]
        left += [one[key] for key in keys][:50]
    return found


def damage_text(path: Path, chance: Random, into: Path) -> None:
    """Write a JSON or YAML file with damaged content or damaged bytes."""
    content = path.read_bytes()
    if chance.random() < 0.3:
        into.write_bytes(damaged_bytes(content, chance))
    elif path.suffix == ".json":
        text = json.dumps(damaged(json.loads(content), chance))
        into.write_text(text, encoding="utf-8")
    else:
        text = yaml.safe_dump(damaged(yaml.safe_load(content), chance), allow_unicode=True)
        into.write_bytes(text.encode("utf-8", "surrogatepass"))


def damage_arrays(path: Path, chance: Random, into: Path) -> None:
    """Write an NPZ file with arrays gone, renamed, of other types and shapes, or damaged bytes."""
    if chance.random() < 0.3:
        into.write_bytes(damaged_bytes(path.read_bytes(), chance))
        return
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    name = chance.choice(list(arrays))
    array = arrays[name]
    odd = [
        array[:-1], array[None], array.ravel(), array[..., :0], array.astype("U8"), np.array(3),
        np.zeros(0), np.array(["a", "b"]), array.astype("S4"), np.array([{}], dtype=object),
    ]  # fmt: skip
    if array.dtype.kind in "fiu":
        large = array.astype(float) * 1e30
        odd += [
            array.astype(complex),
            large,
            large * np.nan,
            array.astype(bool),
            -array.astype(int) - 1,
        ]
    match chance.randrange(4):
        case 0:
            del arrays[name]
        case 1:
            arrays["x"] = arrays.pop(name)
        case _:
            arrays[name] = chance.choice(odd)
    with into.open("wb") as file:
        np.savez(file, **arrays)


WEIGHTS = (
    *ODD, torch.zeros(0), torch.tensor(1), torch.ones(2, 3, dtype=torch.complex64),
    torch.ones(3).bool(), torch.eye(3).to_sparse(),
)  # fmt: skip


def damage_checkpoint(content: dict, chance: Random, into: Path) -> None:
    """Write a checkpoint whose content is damaged."""
    torch.save(damaged(content, chance, WEIGHTS), into)
