"""No reader raises anything but a UserError, whatever its input (`fuzzing.py`)."""

import shutil
from pathlib import Path

import fuzzing
import pytest

CONFIGS = Path(__file__).parent.parent / "configs" / "demo"

CASES = {
    "voc": (lambda to, drawn: fuzzing.voc(to, drawn), 60),
    "coco": (lambda to, drawn: fuzzing.coco(to), 60),
    "coco import": (lambda to, drawn: fuzzing.coco_import(to), 60),
    "arrays": (lambda to, drawn: fuzzing.arrays(to), 100),
    "stage yaml": (lambda to, drawn: fuzzing.stage_yaml(to, drawn, CONFIGS), 40),
    "pipeline yaml": (lambda to, drawn: fuzzing.pipeline_yaml(to, CONFIGS), 40),
    "run files": (lambda to, drawn: fuzzing.run_files(to, drawn), 60),
    "checkpoints": (lambda to, drawn: fuzzing.checkpoints(to), 12),
    "masks": (lambda to, drawn: fuzzing.masks(to), 100),
    "photographs": (lambda to, drawn: fuzzing.photographs(to), 100),
}
"""How each reader is made, and how many inputs it gets here."""


@pytest.mark.parametrize("name", CASES)
def test_damaged_inputs(name, drawn, tmp_path):
    make, count = CASES[name]
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    (tmp_path / "in").mkdir()
    found = list(fuzzing.faults(make(tmp_path / "in", data), 0, count))
    assert not found, "\n".join(found[:5])


def test_every_reader_takes_a_good_input(drawn, tmp_path, monkeypatch):
    """Else all would be refused for one and the same reason."""
    monkeypatch.setattr(fuzzing, "damaged_bytes", lambda content, chance: content)
    for name in ("damage_arrays", "damage_text"):
        monkeypatch.setattr(
            fuzzing, name, lambda path, chance, into: path != into and shutil.copy(path, into)
        )
    readers = {name: make for name, (make, _) in CASES.items()}
    del readers["checkpoints"], readers["pipeline yaml"]  # of networks; of data that are not there
    for number, make in enumerate(readers.values()):
        place = tmp_path / str(number)
        place.mkdir()
        read = make(place, drawn)
        for seed in range(5):
            read(fuzzing.Random(seed))


def test_a_fault_is_seen():
    def read(chance):
        raise KeyError("scores")

    assert "KeyError" in next(fuzzing.faults(read, 0, 1))
