"""Photographs by the names that other tools give them."""

import json

import numpy as np
import pytest
from exchange_helpers import export, import_, masks_on_disk, pairs, refused, tiny_coco
from PIL import Image

from wsss.data.masks import read_mask
from wsss.errors import UserNotice
from wsss.exchange.names import mask_files


def test_a_photograph_of_another_folder_is_not_taken(data, capsys):
    assert export(data, "coco", "c.json") == 0
    text = (data / "c.json").read_text(encoding="utf-8")
    (data / "c.json").write_text(text.replace("a/b 2.jpg", "images/a/b 2.jpg"), encoding="utf-8")
    assert import_(data, "c.json") == 0
    assert all((ours == back).all() for ours, back in pairs(data))
    (data / "c.json").write_text(text.replace("a/b 2.jpg", "day 2/b 2.jpg"), encoding="utf-8")
    assert import_(data, "c.json", out="other") == 2
    refused(capsys, "day 2/b 2.jpg", "there is none in")
    assert not (data / "other").exists()


@pytest.mark.parametrize(
    "name",
    [
        "/data/local-files/?d=a/b%202.jpg",
        "images/0123abcd-b_2.jpg",
        "../media/upload/1/0123abcd-b_2.jpg",
        "images/01234567__0123abcd-b_2.jpg",
        "images/01234567__b%202.jpg",
    ],
)
def test_as_label_studio_writes_it(data, name):
    """Its names of files, no size of an empty image, and a box beside each outline."""
    outline = {"segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]], "category_id": 0}
    found = {
        "images": [
            {"id": 0, "file_name": name, "width": 48, "height": 64},
            {"id": 1, "file_name": "89abcdef-été_1.jpg", "width": None, "height": None},
        ],
        "categories": [{"id": 0, "name": "kite"}],
        "annotations": [
            {"id": 0, "image_id": 0, "segmentation": [], "bbox": [0, 0, 9, 9], "category_id": 0},
            {"id": 1, "image_id": 0, **outline},
        ],
    }
    (data / "given.json").write_text(json.dumps(found))
    with pytest.warns(UserNotice, match="1 of 2 annotations in .* no outline .*annotation 0 of"):
        assert import_(data, "given.json") == 0
    wanted = np.zeros((64, 48), np.uint8)
    wanted[:9, :9] = 3
    np.testing.assert_array_equal(read_mask(data / "back" / "a" / "b 2.png"), wanted)
    assert not read_mask(data / "back" / "a" / "été 1.png").any()


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"name": "../outside.png"}, "outside"),
        ({"name": "/etc/passwd"}, "outside"),
        ({"name": "/data/local-files/?d=../outside.png"}, "outside"),
        ({"name": "gone.png"}, "there is none"),
        ({"name": "0123abcd-gone.png"}, "there is none"),
        ({"category": "dog"}, "class 'dog'"),
        ({"name": "other.png"}, "20"),
        ({"name": "a\0.png"}, "correct the name"),
    ],
)
def test_foreign_names_and_sizes_are_told(data, capsys, more, word):
    tiny_coco(data, [{"segmentation": [[0, 0, 3, 0, 3, 3]]}], **more)
    assert import_(data, "given.json") == 2
    refused(capsys, "given.json", word)


def test_masks_in_linked_folders_and_with_capital_suffixes_count(tmp_path):
    masks_on_disk(tmp_path / "pred" / "day", "ab")
    masks_on_disk(tmp_path / "pred", "cd")
    masks_on_disk(tmp_path / "disk", "ab")
    masks_on_disk(tmp_path / "true", "cd")
    (tmp_path / "true" / "day").symlink_to(tmp_path / "disk")
    (tmp_path / "true" / "loop").symlink_to(tmp_path)
    (tmp_path / "true" / "c.png").rename(tmp_path / "true" / "c.PNG")
    with Image.open(tmp_path / "true" / "d.png") as image:
        image.save(tmp_path / "true" / "d.bmp")
    (tmp_path / "true" / "d.png").unlink()
    assert sorted(mask_files(tmp_path / "pred")) == ["c", "d", "day/a", "day/b"]
    with pytest.warns(UserNotice, match=r"1 pictures in .*true that are no PNG \(first: d\.bmp\)"):
        assert sorted(mask_files(tmp_path / "true")) == ["c", "day/a", "day/b"]
