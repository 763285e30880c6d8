"""Lists of classes of other tools."""

import json

import numpy as np
import pytest
from exchange_helpers import CLASSES, export, import_, labels, refused

from wsss.data.masks import read_mask, write_mask
from wsss.errors import UserNotice
from wsss.voc import VOID


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "background:0,0,0::\nkite:128,0,0::\nball:0,128,0::\nbrick:128,128,0::\n"),
        ("class_names.txt", "_background_\nkite\nball\nbrick\n"),
        ("class_names.txt", "__ignore__\n_background_\nkite\nball\nbrick"),
        ("classes.txt", "kite\nball\nbrick\n"),
        ("classes.txt", "background\nkite\nball\nbrick\n"),
        ("obj.names", "kite\nball\nbrick\n"),
        ("data.yaml", "names: [kite, ball, brick]\n"),
        ("data.yaml", "names:\n  1: kite\n  2: ball\n  3: brick\n"),
        ("notes.json", '{"categories": [{"id": 0, "name": "kite"}, {"id": 1, "name": "ball"}]}'),
    ],
)
@pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationClassPNG"])
def test_the_order_of_classes_is_read_from_the_lists_of_other_tools(data, name, text, folder):
    mask = np.zeros((20, 30), np.uint8)
    mask[:5], mask[5:9], mask[9:11] = 1, 2, VOID
    write_mask(data / "voc" / folder / "other.png", mask)
    (data / "voc" / name).write_text(text)
    assert import_(data, "voc") == 0
    wanted = np.zeros((20, 30), np.uint8)
    wanted[:5], wanted[5:9], wanted[9:11] = 3, 1, VOID
    np.testing.assert_array_equal(read_mask(data / "back" / "other.png"), wanted)


@pytest.mark.parametrize(("text", "word"), [("", "no class name"), ("kite\nkite\n", "'kite'")])
def test_a_list_of_classes_that_cannot_be_used_is_told(data, capsys, text, word):
    write_mask(data / "voc" / "SegmentationClass" / "other.png", np.ones((20, 30), np.uint8))
    (data / "voc" / "class_names.txt").write_text(text)
    assert import_(data, "voc") == 2
    refused(capsys, "class_names.txt", word)


def test_names_of_classes_have_no_hidden_characters(data):
    write_mask(data / "voc" / "SegmentationClass" / "other.png", np.ones((20, 30), np.uint8))
    (data / "voc" / "class_names.txt").write_text("k\u200bite\u00a0\n", encoding="utf-8")
    assert import_(data, "voc") == 0
    assert (read_mask(data / "back" / "other.png") == 3).all()


def test_lists_of_classes_that_differ_are_told(data):
    write_mask(data / "voc" / "SegmentationClass" / "other.png", np.full((20, 30), 2))
    (data / "voc" / "class_names.txt").write_text("_background_\nkite\nball\n")
    (data / "voc" / "classes.txt").write_text("ball\nkite\n")
    with pytest.warns(
        UserNotice, match=r"class_names.txt and classes.txt.* differ: class_names.txt counts"
    ):
        assert import_(data, "voc") == 0
    assert labels(data, "other") == {1: 600}


def test_ours_counts_beside_our_masks(data):
    """A data.yaml there may be of anything."""
    (data / "data.yaml").write_text("stages: [build]\n")
    assert export(data, "coco", "c.json") == 0
    (data / "data.yaml").write_text("names: [kite, ball, brick]\n")
    with pytest.warns(UserNotice, match="classes.txt counts"):
        assert export(data, "coco", "d.json") == 0
    for name in ("c.json", "d.json"):
        found = json.loads((data / name).read_text())["categories"]
        assert [one["name"] for one in found][:3] == list(CLASSES)
