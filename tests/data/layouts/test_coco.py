"""The layout of COCO, on small files in the real form; pycocotools' reading is the judge."""

import json
import os
import shutil

import numpy as np
import pytest
from exchange_helpers import as_stored, turned_photo
from PIL import Image
from pycocotools.coco import COCO
from small_coco import NUMBERS, box, drawn_as_coco, small_coco, write_instances

from wsss.cli import main
from wsss.data import coco
from wsss.data.catalog import read_catalog, read_classes
from wsss.data.layouts.coco import Coco
from wsss.data.masks import mask_fault, read_mask
from wsss.data.modules import MaskData
from wsss.errors import UserError, UserNotice, forget_notices
from wsss.stages.recipe import stamp_catalog


def masks_of(root, split="s"):
    """Id -> mask, of all images of a split."""
    catalog = read_catalog("coco", root, split)
    return {record.id: read_mask(record.mask, len(catalog.classes) + 1) for record in catalog.records}


def test_the_drawn_data_are_the_same_in_cocos_form(drawn, tmp_path):
    root = drawn_as_coco(drawn, tmp_path / "coco")
    assert read_classes("coco", root) == ("kite", "ball", "star", "brick")  # in the order of their ids
    order = [1 + sorted(NUMBERS.values()).index(NUMBERS[label]) for label in (1, 2, 3, 4)]
    for split in ("train", "val"):
        ours, plain = read_catalog("coco", root, f"{split}2014"), read_catalog("voc", drawn, split)
        assert [r.id for r in ours.records] == sorted(r.id for r in plain.records)
        known = {record.id: record for record in plain.records}
        for record in ours.records:
            other = known[record.id]
            tags = {("ball", "brick", "kite", "star")[tag] for tag in other.tags}
            assert {ours.classes[tag] for tag in record.tags} == tags
            wanted = np.array([0, *order, *[0] * 250, 255])[read_mask(other.mask)]
            np.testing.assert_array_equal(read_mask(record.mask, 5), wanted)


def test_small_lies_on_large_and_crowds_below_all(tmp_path):
    crowd = {"counts": [0, 1200, 1200], "size": [40, 60]}  # smaller than what lies on it
    annotations = [
        {"segmentation": [box(1, 1, 20, 20)], "category_id": 90, "area": 1e9},
        {"segmentation": [box(0, 0, 50, 39)], "category_id": 1},
        {"segmentation": crowd, "category_id": 17, "iscrowd": 1},
        {"segmentation": [box(30, 5, 35, 9), box(40, 5, 45, 9), [3, 3, 9, 9]], "category_id": 5},
        {"segmentation": [[3, 3, 4, 4, 5, 5]], "category_id": 5},  # marks nothing
    ]
    root = small_coco(tmp_path, annotations, images=[(7, "a.jpg")])
    catalog = read_catalog("coco", root, "s")
    assert catalog.classes == ("kite", "ball", "star", "brick")
    assert [record.tags for record in catalog.records] == [(0, 1, 3)]  # a crowd is no tag
    judge = COCO(str(root / "annotations" / "instances_s.json"))
    wanted = np.zeros((40, 60), np.uint8)
    for number, label in ((102, 3), (101, 1), (100, 4)):
        wanted[judge.annToMask(judge.anns[number]) > 0] = label
    wanted[5:9, 30:35] = wanted[5:9, 40:45] = 2
    np.testing.assert_array_equal(masks_of(root)["a"], wanted)


def test_tags_alone_draw_no_mask(drawn, tmp_path):
    root = drawn_as_coco(drawn, tmp_path / "coco")
    catalog = read_catalog("coco", root, "val2014")
    stamp = stamp_catalog(catalog)
    assert not list(root.rglob("*.png"))
    read_mask(catalog.records[0].mask)
    assert list(root.rglob("*.png")) == [catalog.records[0].mask]
    first = catalog.records[0].mask.stat().st_mtime_ns
    assert all(mask_fault(r.mask, r.image, 5) is None for r in catalog.records)
    assert len(list(root.rglob("*.png"))) == 8
    assert catalog.records[0].mask.stat().st_mtime_ns == first  # drawn once
    assert stamp_catalog(read_catalog("coco", root, "val2014")) == stamp
    assert stamp_catalog(catalog, truth=False) != stamp


def test_the_loaders_of_a_segmenter_draw_what_they_need(drawn, tmp_path):
    root = drawn_as_coco(drawn, tmp_path / "coco")
    splits = {"train_split": "train2014", "val_split": "val2014"}
    data = MaskData(str(root), "coco", crop=64, batch_size=4, num_workers=2, **splits)
    assert sum(len(batch["id"]) for batch in data.train_dataloader()) == 24
    assert [batch["mask"].shape for batch in data.val_dataloader()] == [(1, 64, 64)] * 8
    assert len(list(root.rglob("*.png"))) == 32


def test_images_without_a_tag_are_left_out(tmp_path):
    images = [(7, "a.jpg"), (9, "b.jpg"), (11, "c.jpg")]
    root = small_coco(tmp_path, [{}, {"image_id": 11, "iscrowd": 1}], images)
    forget_notices()
    with pytest.warns(UserNotice) as told:
        assert [record.id for record in read_catalog("coco", root, "s").records] == ["a"]
    said = [str(one.message) for one in told]
    assert "1 of 3 images" in said[0] and "no annotation: b.jpg" in said[0]
    assert "crowds alone" in said[1] and "c.jpg" in said[1]


def test_boxes_alone_are_tags_without_true_masks(tmp_path):
    marks = [{"segmentation": []}, {"image_id": 9}, {"image_id": 9, "segmentation": None}]
    records = read_catalog("coco", small_coco(tmp_path, marks), "s").records
    assert [(record.tags, record.mask) for record in records] == [((1,), None), ((1,), None)]


def test_a_test_set_without_annotations_is_listed_where_no_tags_are_asked_for(tmp_path):
    root = small_coco(tmp_path, [])
    path = root / "annotations" / "instances_s.json"
    found = json.loads(path.read_text())
    del found["annotations"]
    path.unlink()
    (root / "annotations" / "image_info_s.json").write_text(json.dumps(found))
    records = read_catalog("coco", root, "s", tagged=False).records
    assert [(record.id, record.tags, record.mask) for record in records] == [
        ("a", (), None),
        ("b", (), None),
    ]
    with pytest.raises(UserError, match=r"image_info_s.json has no annotations"):
        read_catalog("coco", root, "s")


@pytest.mark.parametrize(
    "annotations, images",
    [
        ("annotations/mine.json", "mine"),
        ("annotations/mine.json", "images/mine"),
        ("mine/_annotations.coco.json", "mine"),
        ("annotations/mine.json", "images"),
        ("annotations/instances_mine.json", "."),
    ],
)
def test_where_annotations_and_images_may_lie(annotations, images, tmp_path):
    root = small_coco(tmp_path / "data", [{}, {"image_id": 9}])
    written = (root / "annotations" / "instances_s.json").read_bytes()
    shutil.move(root / "s", tmp_path / "aside")
    shutil.rmtree(root)
    shutil.copytree(tmp_path / "aside", root / images)
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    (root / annotations).write_bytes(b"\xef\xbb\xbf" + written)  # with a mark of UTF-8
    assert list(masks_of(root, "mine")) == ["a", "b"]


def test_a_list_of_classes_fixes_their_order(tmp_path):
    root = small_coco(tmp_path, [{}, {"category_id": 1, "segmentation": [box(20, 20, 30, 30)]}])
    (root / "classes.txt").write_text("ball\nkite\n")
    assert read_catalog("coco", root, "s").records[0].tags == (0, 1)
    assert masks_of(root)["a"][25, 25] == 2
    (root / "classes.txt").write_text("kite\nball\n")  # the masks drawn before are others
    assert masks_of(root)["a"][25, 25] == 1
    (root / "classes.txt").write_text("kite\n")
    with pytest.raises(UserError, match=r"instances_s.json \(a.jpg\) has the tag 'ball'"):
        read_catalog("coco", root, "s")
    with pytest.raises(UserError, match=r"annotation 100 has the tag 'ball'"):
        read_mask(read_catalog("coco", root, "s", tagged=False).records[0].mask)


def test_void_and_background_are_no_classes(tmp_path):
    marks = [{}, {"category_id": 255, "segmentation": [box(20, 20, 30, 30)]}]
    root = small_coco(tmp_path, marks, names={5: "ball", 255: "void", 0: "Background"})
    catalog = read_catalog("coco", root, "s")
    assert catalog.classes == ("ball",) and catalog.records[0].tags == (0,)
    assert masks_of(root)["a"][25, 25] == 255


def test_changed_annotations_give_new_tags_and_masks(tmp_path, monkeypatch):
    root = small_coco(tmp_path, [{}])
    before = read_catalog("coco", root, "s")
    stamp, mask = stamp_catalog(before), masks_of(root)["a"]
    path = root / "annotations" / "instances_s.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"category_id": 5', '"category_id": 1'))
    with pytest.raises(UserError, match="was changed"):
        shutil.copy(before.records[0].mask, tmp_path / "kept")
        before.records[0].mask.unlink()
        read_mask(before.records[0].mask)
    shutil.move(tmp_path / "kept", before.records[0].mask)
    after = read_catalog("coco", root, "s")
    assert (before.records[0].tags, after.records[0].tags) == ((1,), (0,))
    np.testing.assert_array_equal(read_mask(after.records[0].mask), mask // 2)
    assert stamp_catalog(after) != stamp


def test_annotations_are_parsed_once(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("wsss.data.cache.SETTLED", 0)
    root = drawn_as_coco(drawn, tmp_path / "coco")
    first = read_catalog("coco", root, "train2014")
    coco._read_index.cache_clear()  # another process
    monkeypatch.setattr(coco, "read_entries", None)
    assert read_catalog("coco", root, "train2014") == first
    assert read_mask(first.records[0].mask).any()


def test_masks_of_a_root_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = small_coco(tmp_path / "data", [{}])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (record,) = read_catalog("coco", root, "s").records
    assert record.mask.is_relative_to(tmp_path / "cache")
    assert read_mask(record.mask).sum() == 200 and not (root / "SemanticMasks").exists()


@pytest.mark.parametrize("told", [True, False])
def test_a_turned_photograph(told, tmp_path):
    """Annotated upright, or as it lies in the file."""
    root = small_coco(tmp_path, [{"segmentation": [box(0, 0, 10, 5)]}], images=[(7, "a.jpg")])
    turned_photo(root / "s" / "a.jpg", (60, 40), 6)
    wanted = np.zeros((60, 40), np.uint8)
    wanted[:5, :10] = 2
    if told:
        path = root / "annotations" / "instances_s.json"
        text = path.read_text(encoding="utf-8").replace(
            '"height": 40, "width": 60', '"height": 60, "width": 40'
        )
        path.write_text(text, encoding="utf-8")
        np.testing.assert_array_equal(masks_of(root)["a"], wanted)
    else:
        stored = as_stored(masks_of(root)["a"], 6)
        assert stored.shape == (40, 60) and stored[:5, :10].all() and stored.sum() == 100


BROKEN = {
    "unknown image": (
        {"image_id": 8},
        r"annotation 100, is of the image 8, which the file does not list",
    ),
    "no image": ({"image_id": None}, r"annotation 100, is of the image None"),
    "unknown category": ({"category_id": 2}, r"annotation 100, is of the category 2, which the file"),
}


@pytest.mark.parametrize("mark, said", BROKEN.values(), ids=BROKEN)
def test_annotations_that_do_not_fit_are_refused(mark, said, tmp_path):
    with pytest.raises(UserError, match=rf"instances_s.json, {said}"):
        read_catalog("coco", small_coco(tmp_path, [mark]), "s")


@pytest.mark.parametrize(
    "shape, said",
    [
        (7, "has an outline that is not three or more points"),
        ([7], "has an outline that is not three or more points"),
        ([["a"] * 6], "has an outline that is not three or more points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "has an outline that is not three or more points"),
        ([box(0, 0, 900, 5)], "outline far outside its image of 60x40 pixels"),
        ({"size": [60, 40], "counts": [0, 2400]}, "of its image's size"),
        ({"size": [40, 60], "counts": [0, 24]}, "do not fill its image"),
        ({"size": [40, 60], "counts": "éé"}, "do not fill its image"),
        ("text", "neither polygons nor run lengths"),
    ],
)
def test_outlines_that_are_none_are_told_when_their_mask_is_read(shape, said, tmp_path):
    root = small_coco(tmp_path, [{"segmentation": shape}])
    (record,) = read_catalog("coco", root, "s").records
    with pytest.raises(UserError, match=rf"instances_s.json, annotation 100, .*{said}"):
        read_mask(record.mask)
    assert "annotation 100" in mask_fault(record.mask, record.image, 5)
    assert not list(root.rglob("*.png"))


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ('{"images": [}', "cannot be read as JSON"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}]', "cannot be read as JSON"),
        ('{"images": [], "annotations": [],}', "cannot be read as JSON"),
        ('{"images": []} {}', "cannot be read as JSON .*more behind its end"),
        ("[1, 2]", "is no COCO file .*no list 'images'"),
        ('{"annotations": []}', "is no COCO file .*no list 'images'"),
        ('{"images": ["a.jpg"]}', "image 1 in .* has no id or no file_name"),
        ('{"images": [{"id": 1}]}', "image 1 in .* has no id or no file_name"),
        ('{"images": [{"id": 1, "file_name": 5}]}', "image 1 in .* has no id or no file_name"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": []}', "has no category"),
    ],
)
def test_files_that_are_none_of_cocos(text, said, tmp_path):
    root = small_coco(tmp_path, [{}])
    (root / "annotations" / "instances_s.json").write_text(text)
    with pytest.raises(UserError, match=rf"(?s)instances_s.json.*{said}|{said}"):
        read_catalog("coco", root, "s")


def test_no_json_at_all_is_no_text_either(tmp_path):
    root = small_coco(tmp_path, [{}])
    (root / "annotations" / "instances_s.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"instances_s.json cannot be read as JSON"):
        read_catalog("coco", root, "s")


def test_images_and_categories_that_contradict_each_other(tmp_path):
    path = tmp_path / "annotations" / "instances_s.json"
    one, two = ({"id": n, "file_name": f"{n}.jpg"} for n in (1, 2))
    mark = {"id": 1, "image_id": 1, "category_id": 5}
    for images, names, said in (
        ([one, two | {"id": 1}], None, "the id 1 to two images, '1.jpg' and '2.jpg'"),
        ([one, two | {"file_name": "1.jpg"}], None, "lists the image '1.jpg' twice"),
        ([one], {5: "ball", 6: "ball"}, "two categories with the name 'ball'"),
        ([one], {n: f"c{n}" for n in range(300)}, "has 300 classes"),
        ([one], None, "lists '1.jpg', but there is no such image in"),
        ([one | {"file_name": "../1.jpg"}], None, "outside"),
    ):
        write_instances(path, images, [mark], names)
        with pytest.raises(UserError, match=said):
            read_catalog("coco", tmp_path, "s")
    root = small_coco(tmp_path / "more", [{}, {"image_id": 9}])
    (root / "s" / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"lists 'b.jpg', but there is no image .*b.jpg"):
        read_catalog("coco", root, "s")
    root = small_coco(tmp_path / "same", [{}, {"image_id": 9}], [(7, "a.jpg"), (9, "a.png")])
    with pytest.raises(UserError, match=r"'a.jpg' and 'a.png', which differ by suffix only"):
        read_catalog("coco", root, "s")


def test_photographs_of_another_size_are_refused(tmp_path):
    root = small_coco(tmp_path, [{}, {"image_id": 9}])
    Image.new("RGB", (60, 41)).save(root / "s" / "a.jpg")
    with pytest.raises(UserError, match=r"says 60x40 pixels for 'a.jpg', but .*a.jpg is 60x41"):
        masks_of(root)
    path = root / "annotations" / "instances_s.json"
    text = path.read_text(encoding="utf-8").replace('"height": 40', '"height": null')
    path.write_text(text, encoding="utf-8")  # none is told: the photograph's own
    assert masks_of(root)["a"].shape == (41, 60)


def test_splits_that_are_not_there_or_have_other_categories(tmp_path):
    root = small_coco(tmp_path, [{}])
    for split in ("t", "../s"):
        with pytest.raises(UserError, match=r"no split 't': .*known here: s|outside"):
            read_catalog("coco", root, split)
    names = {5: "cube", **{n: f"class {n}" for n in range(10, 40)}}
    write_instances(root / "annotations" / "instances_t.json", [{"id": 1, "file_name": "a.jpg"}],
                    [{"image_id": 1, "category_id": 5}], names)  # fmt: skip
    with pytest.raises(
        UserError, match=r"instances_t.json has the categories cube, .* but another file"
    ):
        read_catalog("coco", root, "t")
    with pytest.raises(UserError, match="has no annotations of COCO"):
        Coco().classes(tmp_path / "s", None)
    with pytest.raises(UserError, match="has no annotations of COCO"):
        read_catalog("coco", tmp_path / "s", "s")


def test_check_and_init_know_the_layout(drawn, tmp_path, capsys):
    root = drawn_as_coco(drawn, tmp_path / "coco")
    assert main(["check", str(root), "--json", str(tmp_path / "found.json")]) in (0, 1)
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["layout"], found["images"], found["tagged"], found["errors"]) == ("coco", 32, 32, {})
    assert "coco layout, 32 images" in capsys.readouterr().out
    assert main(["init", str(root)]) == 2
    assert "COCO layout and needs no init: run `wsss run -c configs/coco" in capsys.readouterr().err
    path = root / "annotations" / "instances_val2014.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"counts": "', '"counts": "~'))
    assert main(["check", str(root)]) == 2
    assert "run lengths (RLE) that do not fill" in capsys.readouterr().out
    path.write_text("{}")
    assert main(["check", str(root), "--layout", "coco"]) == 2
    assert "split val2014 unusable" in capsys.readouterr().out
    assert main(["check", str(root / "train2014"), "--layout", "coco"]) == 2
    assert "no annotations of COCO" in capsys.readouterr().out
