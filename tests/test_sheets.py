"""Names that begin as formulas do."""

import csv

import pytest

from wsss.data.gather import Found
from wsss.exchange.classes import class_names
from wsss.predict import _areas_so_far, _write_areas
from wsss.sheets import as_meant, as_text

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''-x"]


@pytest.mark.parametrize("name", [*FORMULAS, "cat", "it's", "'s-Hertogenbosch", "a=b", ""])
def test_there_and_back(name):
    written = as_text(name)
    assert as_meant(written) == name
    assert not written.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert (written != name) == (name in FORMULAS)


def test_numbers_stay():
    assert as_text(-0.5) == -0.5


def test_areas_are_read_back(tmp_path):
    classes = ["=HYPERLINK(1)", "@b"]
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "-a.png").touch()  # not read, as its areas are known
    _write_areas(tmp_path, classes, {"-a": [50.0, 25.0, 25.0]})
    with (tmp_path / "areas.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert _areas_so_far(tmp_path, classes) == {"-a": [50.0, 25.0, 25.0]}
    assert class_names(None, tmp_path / "masks", None) == tuple(classes)


def test_images_that_are_left_out_and_those_that_are_used():
    found = Found(classes=("-dog", "cat"), tags={"=1.jpg": ("cat",)}, splits={"=1.jpg": "train"})
    found.leave_out("broken", "=cmd|' /C calc'!A0.jpg")
    assert found.left_out_table().splitlines()[1].startswith("'=cmd")
    assert found.table() == "image,split,'-dog,cat\n'=1.jpg,train,0,1\n"
