"""Masks as CVAT and labelme write them."""

import shutil

import numpy as np
import pytest
from exchange_helpers import export, import_, labels, refused
from odd_files import UNREADABLE
from PIL import Image

from wsss.data.masks import read_mask, write_mask
from wsss.errors import UserNotice
from wsss.voc import VOID


def test_a_labelmap_gives_the_colours(data):
    """CVAT's folder: own colours and order, RGB pictures; an image without mask is background."""
    root = data / "cvat"
    (root / "SegmentationClass").mkdir(parents=True)
    (root / "labelmap.txt").write_text(
        "# label:color\nkite:1,2,3::\nbackground:0,0,0::\nball:9,8,7::\n"
    )
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:5], picture[5:9], picture[9:11] = (1, 2, 3), (9, 8, 7), (224, 224, 192)
    Image.fromarray(picture).save(root / "SegmentationClass" / "other.png")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("other\na/b 2\n")
    assert import_(data, "cvat", "--rest", str(data / "masks")) == 0
    wanted = np.zeros((20, 30), np.uint8)
    wanted[:5], wanted[5:9], wanted[9:11] = 3, 1, VOID
    np.testing.assert_array_equal(read_mask(data / "back" / "other.png"), wanted)
    for name in ("plain", "a/b 2"):  # not in it, or without a mark
        rest = read_mask(data / "back" / f"{name}.png")
        np.testing.assert_array_equal(rest, read_mask(data / "masks" / f"{name}.png"))
    shutil.rmtree(data / "back")
    with pytest.warns(UserNotice, match=r"1 photographs .*become background"):
        assert import_(data, "cvat") == 0
    assert not read_mask(data / "back" / "a" / "b 2.png").any()


def test_colours_that_no_label_has_are_told(data, capsys):
    assert export(data, "voc", "voc") == 0
    Image.new("RGB", (90, 47), (1, 1, 1)).save(data / "voc" / "SegmentationClass" / "plain.png")
    assert import_(data, "voc") == 2
    refused(capsys, "plain.png", "1,1,1")
    Image.new("P", (5, 5)).save(data / "voc" / "SegmentationClass" / "plain.png")
    assert import_(data, "voc") == 2
    refused(capsys, "plain.png", "5x5", "90x47")
    UNREADABLE["bomb.png"][0](data / "voc" / "SegmentationClass" / "plain.png")
    assert import_(data, "voc") == 2
    refused(capsys, "plain.png", "cannot be read")


def test_an_order_of_classes_that_is_assumed_is_told(data):
    write_mask(data / "voc" / "SegmentationClass" / "other.png", np.full((20, 30), 2))
    with pytest.warns(UserNotice, match=r"voc has no list of its classes .*1 ball, 2 brick, 3 kite"):
        assert import_(data, "voc") == 0
    assert labels(data, "other") == {2: 600}


def test_folders_of_subsets_and_a_list_above_them(data):
    for subset, name in (("train", "other"), ("valid", "plain")):
        shape = (20, 30) if name == "other" else (47, 90)
        write_mask(data / "voc" / subset / "SegmentationClass" / f"{name}.png", np.full(shape, 2))
    (data / "voc" / "class_names.txt").write_text("_background_\nkite\nball\n")
    assert import_(data, "voc") == 0
    assert labels(data, "other") == {1: 600} and labels(data, "plain") == {1: 47 * 90}


def test_a_label_that_their_list_does_not_name_is_told(data, capsys):
    write_mask(data / "voc" / "SegmentationClass" / "other.png", np.full((20, 30), 3))
    (data / "voc" / "class_names.txt").write_text("_background_\nkite\nball\n")
    assert import_(data, "voc") == 2
    refused(capsys, "other.png", "label 3")
    (data / "voc" / "class_names.txt").write_text("_background_\nkite\nball\ndog\n")
    assert import_(data, "voc") == 2
    refused(capsys, "class_names.txt", "'dog'")
