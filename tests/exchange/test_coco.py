"""COCO's annotations; pycocotools' own reading is the judge."""

import json
import shutil

import numpy as np
import pytest
from exchange_helpers import (
    CLASSES,
    LONG,
    OTHER,
    PLAIN,
    as_stored,
    export,
    given_coco,
    import_,
    labels,
    refused,
    square,
    tiny_coco,
    turned_photo,
)
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from wsss.data.masks import read_mask
from wsss.errors import UserNotice
from wsss.exchange.outlines import outlines


@pytest.mark.parametrize("more", [[], ["--polygons"]])
def test_pycocotools_reads_the_same(data, more):
    assert export(data, "coco", "c.json", *more) == 0
    coco = COCO(str(data / "c.json"))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == [*CLASSES, "void"]
    for image in coco.loadImgs(coco.getImgIds()):
        ours = read_mask((data / "masks" / image["file_name"]).with_suffix(".png"))
        assert Image.open(data / "photos" / image["file_name"]).size == (
            image["width"],
            image["height"],
        )
        seen = np.zeros_like(ours)
        for one in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            where = coco.annToMask(one)
            assert one["area"] == where.sum()
            seen[where > 0] = one["category_id"]
        assert (seen != ours).mean() <= (0.03 if more else 0)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_run_lengths_are_read_as_pycocotools_writes_them(data, share):
    random = np.random.default_rng(0)
    where = np.asfortranarray(random.random((301, 207)) < share, dtype=np.uint8)
    runs = coco_mask.encode(where)
    tiny_coco(data, [{"segmentation": runs | {"counts": runs["counts"].decode()}}], where.shape)
    assert import_(data, "given.json") == 0
    np.testing.assert_array_equal(read_mask(data / "back" / "tiny.png"), where)


def test_run_lengths_as_numbers_crowds_and_overlaps(data):
    """iscrowd with a list of runs lies below, and the smaller lies on the larger."""
    tiny_coco(
        data,
        [
            {"segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]], "category_id": 9, "iscrowd": 0},
            {"segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]], "iscrowd": 0},
            {"segmentation": {"size": [4, 6], "counts": [0, 20, 4]}, "category_id": 9, "iscrowd": 1},
        ],
    )
    assert import_(data, "given.json") == 0
    wanted = np.zeros((4, 6), np.uint8)
    wanted[:, :5], wanted[:, :4], wanted[:2, :2] = 3, 1, 3
    np.testing.assert_array_equal(read_mask(data / "back" / "tiny.png"), wanted)


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ({"size": [4, 6], "counts": [0, 10**12]}, "do not fill"),
        ({"size": [4, 6], "counts": [30, -6]}, "do not fill"),
        ({"size": [4, 6], "counts": "~~~~"}, "do not fill"),
        ({"size": [4, 6], "counts": "oooooooooooooooooooooooo"}, "do not fill"),
        ({"size": [40000, 60000], "counts": [0, 24]}, "of its image's size"),
        ([[0, 0, 1e9, 0, 1, 1]], "far outside"),
        ([[0, 0, float("nan"), 0, 1, 1]], "outline"),
        ([[0, 0, 1]], "outline"),
        ([["a", "b"]], "outline"),
        ("text", "neither"),
        ([], "they are boxes"),
        (None, "they are boxes"),
    ],
)
def test_broken_segments_are_told(data, capsys, shape, word):
    tiny_coco(data, [{"segmentation": shape}])
    assert import_(data, "given.json") == 2
    refused(capsys, "given.json", "annotation", word)
    assert not (data / "back").exists()
    assert not list(data.glob(".*"))


@pytest.mark.parametrize(
    "text", ["no json", "[1]", "{}", '{"images": 1, "categories": [], "annotations": []}', "[" * 99999]
)
def test_what_is_no_coco_is_told(data, capsys, text):
    (data / "given.json").write_text(text)
    assert import_(data, "given.json") == 2
    refused(capsys, "given.json")


def test_one_id_of_two_photographs_is_told(data, capsys):
    """Whose the marks are cannot be known; 1 and "1" are one id, as tools mix them."""
    for other in (1, "1", 1.0):
        marks = [(1, 1, square(0, 0)), (3, 2, square(0, 0))]
        given_coco(data, [PLAIN, (other, *OTHER[1:]), LONG], marks)
        assert import_(data, "given.json") == 2
        refused(capsys, "given.json", "id 1", "plain.jpg", "other.png")
    given_coco(data, [PLAIN], [(1, 1, square(0, 0))])
    found = json.loads((data / "given.json").read_text())
    found["categories"][1]["id"] = 1
    (data / "given.json").write_text(json.dumps(found))
    assert import_(data, "given.json") == 2
    refused(capsys, "given.json", "id 1", "ball", "brick")


def test_ids_of_another_type_are_the_same(data):
    given_coco(
        data, [("1", *PLAIN[1:]), (2.0, *OTHER[1:])], [(1, "1", square(0, 0)), ("2", 2, square(5, 5))]
    )
    assert import_(data, "given.json") == 0
    assert labels(data, "plain") == {0: 47 * 90 - 100, 1: 100}
    assert labels(data, "other") == {0: 500, 2: 100}


@pytest.mark.parametrize("crowd", [0, 1])
def test_what_is_smaller_lies_on_top_painted_or_drawn(data, crowd):
    """CVAT calls crowd what was painted with its brush."""
    brush = np.zeros((47, 90), np.uint8)
    brush[10:20, 30:50] = 1
    rle = coco_mask.encode(np.asfortranarray(brush))
    rle["counts"] = rle["counts"].decode()
    given_coco(data, [PLAIN], [(1, 1, rle), (1, 3, square(5, 5, 40))])
    found = json.loads((data / "given.json").read_text())
    found["annotations"][0]["iscrowd"] = crowd
    (data / "given.json").write_text(json.dumps(found))
    assert import_(data, "given.json") == 0
    assert labels(data, "plain")[1] == 200
    assert labels(data, "plain")[3] == 1600 - 10 * 15


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ((1, 1, [[3, 3, 9, 9]]), "not three or more points"),
        ((1, 1, [[3, 3, 9, 9, 1]]), "not three or more points"),
        ((1, 1, [[3, 3, 9, 9, float("nan"), 1]]), "not three or more points"),
        ((1, 1, [[3, 3, 1e7, 9, 3, 9]]), "far outside"),
        ((1, 1, {"size": [9, 9], "counts": [0, 81]}), "of its image's size"),
        ((1, 1, {"size": [47, 90], "counts": [5, 5]}), "do not fill"),
        ((1, 1, {"size": [47, 90], "counts": [float("inf")]}), "do not fill"),
        ((1, 1, {"size": [47, 90], "counts": [47 * 90]}), "marks no pixel"),
        ((1, 1, "text"), "neither"),
        ((1, 77, square(0, 0)), "category 77"),
        ((1, None, square(0, 0)), "category None"),
        ((99, 1, square(0, 0)), "image 99"),
        ((None, 1, square(0, 0)), "image None"),
    ],
)
def test_one_bad_mark_does_not_refuse_the_others(data, bad, word):
    good = [(1, 3, square(20, 20)), (2, 2, square(5, 5))]
    given_coco(data, [PLAIN, OTHER], [good[0], bad, good[1]])
    with pytest.warns(UserNotice, match=rf"left out: .*given.json, annotation 2.*{word}"):
        assert import_(data, "given.json") == 0
    assert labels(data, "plain") == {0: 47 * 90 - 100, 3: 100}
    assert labels(data, "other") == {0: 500, 2: 100}


def test_a_photograph_of_which_no_mark_is_left_has_no_mask(data):
    """It is not background: something is there."""
    given_coco(data, [PLAIN, OTHER], [(1, 1, [[3, 3, 9, 9]]), (2, 2, square(5, 5))])
    with pytest.warns(UserNotice, match="left out: .*annotation 1"):
        assert import_(data, "given.json") == 0
    assert [path.name for path in (data / "back").iterdir()] == ["other.png"]


def test_the_good_parts_of_an_outline_count(data):
    given_coco(data, [PLAIN], [(1, 1, [*square(0, 0), [50, 30, 52, 31], *square(20, 20)])])
    with pytest.warns(UserNotice, match="left out: .*annotation 1.*not three or more points"):
        assert import_(data, "given.json") == 0
    assert labels(data, "plain")[1] == 200


@pytest.mark.parametrize(
    "shape",
    [
        square(20, 20)[0],
        [[20, 20], [30, 20], [30, 30], [20, 30]],
        [{"size": [47, 90], "counts": [20 * 47 + 20, *[10, 37] * 9, 10, 47 * 60 + 17]}],
        {"size": [47, 90], "counts": [20 * 47 + 20.0, *[10.0, 37.0] * 9, 10.0, 47 * 60 + 17.0]},
    ],
)
def test_other_ways_to_write_an_outline(data, shape):
    given_coco(data, [PLAIN], [(1, 1, shape)])
    assert import_(data, "given.json") == 0
    mask = read_mask(data / "back" / "plain.png")
    assert mask[20:30, 20:30].all() and mask.sum() == 100


@pytest.mark.parametrize("empty", [None, 0, "", "none"])
def test_sizes_that_are_not_told(data, empty):
    given_coco(data, [(1, "plain.jpg", empty, empty)], [(1, 1, square(20, 20))])
    assert import_(data, "given.json") == 0
    assert labels(data, "plain")[1] == 100


def test_an_image_of_another_size_is_left_out(data, capsys):
    given_coco(data, [(1, "plain.jpg", 91, 47), OTHER], [(1, 1, square(0, 0)), (2, 2, square(5, 5))])
    with pytest.warns(UserNotice, match="left out: .*91x47 pixels for 'plain.jpg'.* 90x47"):
        assert import_(data, "given.json") == 0
    assert [path.name for path in (data / "back").iterdir()] == ["other.png"]
    given_coco(data, [(1, "plain.jpg", 91, 47)], [])
    assert import_(data, "given.json", out="no") == 2
    refused(capsys, "91x47", "90x47")


@pytest.mark.parametrize("image", ["no entry", {"id": 9}, {"file_name": "plain.jpg"}])
def test_an_image_without_id_or_name_is_left_out(data, image):
    given_coco(data, [OTHER], [(2, 2, square(5, 5))])
    found = json.loads((data / "given.json").read_text())
    found["images"].insert(0, image)
    (data / "given.json").write_text(json.dumps(found))
    with pytest.warns(UserNotice, match="left out: image 1 in .*given.json"):
        assert import_(data, "given.json") == 0
    assert labels(data, "other") == {0: 500, 2: 100}


def test_an_image_listed_twice_counts_once(data):
    """Twice with one id, twice with two, and in a second file."""
    marks = [
        (1, 1, square(0, 0)),
        (2, 2, square(5, 5)),
        (7, 3, square(30, 30)),
        (8, 3, square(0, 0)),
    ]
    again = [PLAIN, (7, *PLAIN[1:]), (8, *PLAIN[1:])]
    given_coco(data, [PLAIN, OTHER, *again], marks)
    with pytest.warns(UserNotice) as told:
        assert import_(data, "given.json") == 0
    said = [str(one.message) for one in told if "plain.jpg" in str(one.message)]
    assert len(said) == 3 and "twice (id 1)" in said[0]
    assert "again (id 7, 1 marks)" in said[1] and "again (id 8, 1 marks)" in said[2]
    assert labels(data, "plain") == {0: 47 * 90 - 100, 1: 100}
    assert labels(data, "other") == {0: 500, 2: 100}
    given_coco(data, [PLAIN, (7, *PLAIN[1:])], [(7, 3, square(30, 30))])  # the first has none
    with pytest.warns(UserNotice, match=r"again \(id 1, 0 marks\)"):
        assert import_(data, "given.json", out="marked") == 0
    assert labels(data, "plain", "marked")[3] == 100
    (data / "two").mkdir()
    shutil.copy(data / "given.json", data / "two" / "b.json")
    given_coco(data, [PLAIN, OTHER], marks[:2])
    shutil.copy(data / "given.json", data / "two" / "a.json")
    (data / "two" / "notes.json").write_text('{"of": "another kind"}')
    with pytest.warns(UserNotice) as told:
        assert import_(data, "two", out="from two") == 0
    said = " ".join(str(one.message) for one in told)
    assert "passed over: " in said and "notes.json is no COCO file" in said
    assert "b.json lists the photograph 'plain.jpg' again" in said
    assert labels(data, "plain", "from two") == {0: 47 * 90 - 100, 1: 100}


def test_many_bad_marks_are_counted(data):
    given_coco(data, [PLAIN], [(1, 1, square(0, 0)), *[(1, 1, [[1, 1, 2, 2]])] * 14])
    with pytest.warns(UserNotice) as told:
        assert import_(data, "given.json") == 0
    said = [str(one.message) for one in told]
    assert sum("left out: " in one for one in said) == 11 and "left out: 4 more" in said


def test_a_tool_that_turns_nothing_turns_no_photograph(data):
    """Where one shows that sizes are those before turning, upside-down ones and squares follow."""
    seen = np.zeros((40, 40), np.uint8)
    seen[:8, :20] = 1
    images, marks = [], []
    for number, orientation in enumerate((6, 3, 8), 1):
        shape = (60, 36) if orientation == 6 else (40, 40)
        width, height = turned_photo(data / "photos" / f"phone {number}.jpg", shape, orientation)
        images.append((number, f"phone {number}.jpg", width, height))
        mark = square(0, 0) if number == 1 else outlines(as_stored(seen, orientation) > 0)
        marks.append((number, 1, mark))
    given_coco(data, images, marks)
    with pytest.warns(UserNotice, match="1 photographs before EXIF turns them"):
        assert import_(data, "given.json") == 0
    for number in (2, 3):
        np.testing.assert_array_equal(read_mask(data / "back" / f"phone {number}.png"), seen)


def test_upright_sizes_of_turned_photographs(data):
    """A tool that shows them upright, as most do."""
    images = []
    for number, orientation in enumerate((6, 3), 1):
        turned_photo(data / "photos" / f"phone {number}.jpg", (60, 36), orientation)
        images.append((number, f"phone {number}.jpg", 36, 60))
    given_coco(data, images, [(1, 1, square(4, 30)), (2, 1, square(4, 30))])
    assert import_(data, "given.json") == 0
    for number in (1, 2):
        mask = read_mask(data / "back" / f"phone {number}.png")
        assert mask[30:40, 4:14].all() and mask.sum() == 100


@pytest.mark.parametrize("orientation", [6, 8])
def test_label_studio_stretches_the_marks_of_turned_photographs(data, orientation):
    """It shows them upright, and multiplies shares of their sides by the sides before turning.

    As written by label-studio-sdk 2.1.2 for the upper left quarter of a photograph.
    """
    width, height = turned_photo(data / "photos" / "phone.jpg", (80, 40), orientation)
    assert (width, height) == (80, 40)
    quarter = [[0.0, 0.0, 40.0, 0.0, 40.0, 10.0, 0.0, 10.0]]  # 50 % of 80, 25 % of 40
    info = {"contributor": "Label Studio", "version": "1.0"}
    given_coco(data, [(0, "phone.jpg", width, height)], [(0, 1, quarter)], info=info)
    with pytest.warns(UserNotice, match=r"phone.jpg.* stretched"):
        assert import_(data, "given.json") == 0
    wanted = np.zeros((80, 40), np.uint8)
    wanted[:20, :20] = 1
    np.testing.assert_array_equal(read_mask(data / "back" / "phone.png"), wanted)
