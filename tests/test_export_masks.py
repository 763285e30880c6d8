"""Masks out into other tools' formats and back; pycocotools' own reading is the judge."""

import json
import os
import shutil
import stat
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from odd_files import UNREADABLE
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from wsss.cli import main
from wsss.commands.export import outlines
from wsss.commands.import_masks import _run_lengths
from wsss.data.masks import read_mask, write_mask
from wsss.errors import UserNotice
from wsss.voc import VOID, palette

CLASSES = ("ball", "brick", "kite")


def _discs(seed: int, height: int, width: int) -> np.ndarray:
    """Overlapping discs and a ring, the ring's hole and some void: (H, W) uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    for label in (1, 2, 3, 1):
        far = np.hypot(y - random.integers(height), x - random.integers(width))
        mask[far < random.integers(6, 18)] = label
    far = np.hypot(y - height / 2, x - width / 2)
    mask[(far < 16) & (far > 7)] = 2
    mask[:2, 5:25] = VOID
    return mask


@pytest.fixture
def data(tmp_path):
    """Four photographs in two folders, names with spaces and accents; three masks of them."""
    names = {"a/été 1": (50, 71), "a/b 2": (64, 48), "plain": (47, 90)}
    for number, (name, (height, width)) in enumerate(names.items()):
        photo = tmp_path / "photos" / f"{name}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), "gray").save(photo)
        write_mask(tmp_path / "masks" / f"{name}.png", _discs(number, height, width))
    Image.new("RGB", (30, 20)).save(tmp_path / "photos" / "other.png")
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return tmp_path


def _export(data, form, out, *more, masks="masks"):
    words = ["export", "masks", data / masks, "--photos", data / "photos", "--format", form]
    return main([str(word) for word in (*words, "--out", data / out, *more)])


def _import(data, file, *more, out="back"):
    words = ["import", "masks", data / file, "--photos", data / "photos", "--out", data / out]
    return main([str(word) for word in (*words, *more)])


def _pairs(data, out="back"):
    files = sorted((data / "masks").rglob("*.png"))
    assert len(list((data / out).rglob("*.png"))) == len(files) == 3
    for path in files:
        yield read_mask(path), read_mask(data / out / path.relative_to(data / "masks"))


def _refused(capsys, *words):
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in said, said
    for word in words:
        assert str(word) in lines[0]


@pytest.mark.parametrize(("form", "out"), [("voc", "voc"), ("voc", "v.zip"), ("coco", "c.json")])
def test_there_and_back_exactly(data, form, out):
    assert _export(data, form, out) == 0
    assert _import(data, out) == 0
    for ours, back in _pairs(data):
        np.testing.assert_array_equal(ours, back)
        assert (ours == VOID).any()


@pytest.mark.parametrize(
    ("form", "out", "more"),
    [("coco", "c.json", ["--polygons"]), ("yolo-seg", "y", []), ("yolo-seg", "y.zip", [])],
)
def test_there_and_back_nearly(data, capsys, form, out, more):
    assert _export(data, form, out, *more) == 0
    assert _import(data, out) == 0
    said = capsys.readouterr().out
    for ours, back in _pairs(data):
        if form == "yolo-seg":
            ours = np.where(ours == VOID, 0, ours)
        assert (ours != back).mean() < 0.03
        for label in (1, 2, 3):
            one, two = ours == label, back == label
            if one.sum() > 50:
                assert (one & two).sum() / (one | two).sum() > 0.85
        assert (
            back[back.shape[0] // 2, back.shape[1] // 2] == ours[ours.shape[0] // 2, ours.shape[1] // 2]
        )
    if form == "yolo-seg":
        assert f"{3 * 40} void pixels became background" in said


def test_lists_are_as_their_readers_want_them(data):
    """Read by datumaro 0.3.1 and 1.13.12 and by Ultralytics 8.4.190, whose rules these are."""
    assert _export(data, "voc", "voc") == 0
    lines = (data / "voc" / "ImageSets" / "Segmentation" / "default.txt").read_text("utf-8")
    assert lines.splitlines() == ["a/b 2", "a/été 1", "plain"]  # no quotes
    assert _export(data, "yolo-seg", "y") == 0
    card = yaml.safe_load((data / "y" / "data.yaml").read_text())
    assert card == {"train": "train.txt", "names": dict(enumerate(CLASSES))}  # root: its own folder
    lines = (data / "y" / "train.txt").read_text("utf-8").splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("./")  # else sought from where the program runs
        front, found, back = str(data / "y" / line).rpartition("/images/")
        assert found and Path(f"{front}/labels/{back}").with_suffix(".txt").is_file()


def test_folders_called_as_theirs(data):
    """Photographs in folders `images` and `train`, and a list of classes beside data.yaml."""
    for number, name in enumerate(("images/x", "train/x", "train/images/y")):
        where = data / "photos" / f"{name}.jpg"
        where.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(where)
        write_mask(data / "own" / f"{name}.png", np.full((30, 40), number % 2, np.uint8))
    assert _export(data, "yolo-seg", "y", masks="own") == 0
    (data / "y" / "classes.txt").write_text("ball\nbrick\nkite\n")
    assert _import(data, "y") == 0
    masks = {p.relative_to(data / "back").as_posix(): read_mask(p) for p in data.glob("back/**/*.png")}
    assert {name: mask.max() for name, mask in masks.items()} == {
        "images/x.png": 0,
        "train/x.png": 1,
        "train/images/y.png": 0,
    }


def test_photographs_without_a_mark(data):
    """A task's export lists them all: nobody says that nothing is in those not worked on."""
    assert _export(data, "coco", "c.json") == 0
    found = json.loads((data / "c.json").read_text(encoding="utf-8"))
    number = {one["file_name"]: one["id"] for one in found["images"]}
    of = {name: [a for a in found["annotations"] if a["image_id"] == i] for name, i in number.items()}
    boxes = [one | {"segmentation": []} for one in of["plain.jpg"]]
    assert of["a/b 2.jpg"] and of["plain.jpg"]
    found["annotations"] = [*of["a/été 1.jpg"], *boxes]
    (data / "c.json").write_text(json.dumps(found))
    with pytest.warns(UserNotice, match=r"1 photographs .*\(first: a/b 2\), and become background"):
        assert _import(data, "c.json") == 0
    assert not read_mask(data / "back" / "a" / "b 2.png").any()
    assert not (data / "back" / "plain.png").exists()  # boxes alone: something is there
    assert _import(data, "c.json", "--rest", str(data / "masks"), out="with") == 0
    assert all((ours == back).all() for ours, back in _pairs(data, "with"))


def test_an_archive_that_does_not_say_its_names_are_utf8(data):
    assert _export(data, "voc", "v.zip") == 0
    content = (data / "v.zip").read_bytes()
    with zipfile.ZipFile(data / "v.zip") as archive:
        assert any(one.flag_bits & 0x800 for one in archive.infolist())
        places = [(one.header_offset + 6, one.flag_bits) for one in archive.infolist()]
        start = archive.start_dir
    content = bytearray(content)
    for place, flags in places:
        content[place : place + 2] = (flags & ~0x800).to_bytes(2, "little")
    while content[start : start + 4] == b"PK\x01\x02":
        flags = int.from_bytes(content[start + 8 : start + 10], "little") & ~0x800
        content[start + 8 : start + 10] = flags.to_bytes(2, "little")
        lengths = [int.from_bytes(content[start + i : start + i + 2], "little") for i in (28, 30, 32)]
        start += 46 + sum(lengths)
    (data / "v.zip").write_bytes(content)
    assert _import(data, "v.zip") == 0
    assert all((ours == back).all() for ours, back in _pairs(data))


def test_a_photograph_of_another_folder_is_not_taken(data, capsys):
    assert _export(data, "coco", "c.json") == 0
    text = (data / "c.json").read_text(encoding="utf-8")
    (data / "c.json").write_text(text.replace("a/b 2.jpg", "images/a/b 2.jpg"), encoding="utf-8")
    assert _import(data, "c.json") == 0
    assert all((ours == back).all() for ours, back in _pairs(data))
    (data / "c.json").write_text(text.replace("a/b 2.jpg", "day 2/b 2.jpg"), encoding="utf-8")
    assert _import(data, "c.json", out="other") == 2
    _refused(capsys, "day 2/b 2.jpg", "there is none in")
    assert not (data / "other").exists()


def test_yolo_files_of_one_image_are_told(data, capsys):
    assert _export(data, "yolo-seg", "y") == 0
    label = next(path for path in (data / "y" / "labels").rglob("*.txt") if path.stem == "plain")
    other = data / "y" / "labels" / "val" / "plain.txt"
    other.parent.mkdir()
    shutil.copy(label, other)
    assert _import(data, "y") == 2
    _refused(capsys, "'plain' twice")


@pytest.mark.parametrize("form", ["coco", "voc", "yolo-seg"])
def test_what_a_mac_adds_to_archives_is_passed_over(data, form):
    assert _export(data, form, "made/made.json" if form == "coco" else "made") == 0
    for path in [p for p in (data / "made").rglob("*") if p.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
        beside = data / "made" / "__MACOSX" / path.relative_to(data / "made")
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert _import(data, "made", "--classes", data / "classes.txt") == 0
    assert len(list(_pairs(data))) == 3


@pytest.mark.parametrize("more", [[], ["--polygons"]])
def test_pycocotools_reads_the_same(data, more):
    assert _export(data, "coco", "c.json", *more) == 0
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


def test_outlines_of_single_pixels_and_rings():
    random = np.random.default_rng(0)
    for _ in range(50):
        where = random.random((9, 13)) < 0.5
        where = np.repeat(np.repeat(where, 6, 0), 6, 1)
        drawn = coco_mask.decode(
            coco_mask.merge(coco_mask.frPyObjects(outlines(where), *where.shape))
        ).astype(bool)
        assert (drawn != where).mean() < 0.05
    assert outlines(np.zeros((5, 4), bool)) == []


def test_run_lengths_are_read_as_pycocotools_writes_them():
    random = np.random.default_rng(0)
    for share in (0.001, 0.1, 0.5, 0.999):
        where = np.asfortranarray(random.random((301, 207)) < share, dtype=np.uint8)
        runs = _run_lengths(coco_mask.encode(where)["counts"].decode())
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        np.testing.assert_array_equal(flat.reshape(where.shape, order="F"), where)


def _coco(data, annotations, size=(4, 6), name="tiny.png", category="ball"):
    Image.new("RGB", size[::-1]).save(data / "photos" / "tiny.png")
    found = {
        "images": [{"id": 7, "file_name": name, "height": size[0], "width": size[1]}],
        "categories": [{"id": 3, "name": category}, {"id": 9, "name": "kite"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3} | one for one in annotations],
    }
    (data / "given.json").write_text(json.dumps(found))


def test_run_lengths_as_numbers_crowds_and_overlaps(data):
    """iscrowd with a list of runs lies below, and the smaller lies on the larger."""
    _coco(
        data,
        [
            {"segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]], "category_id": 9, "iscrowd": 0},
            {"segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]], "iscrowd": 0},
            {"segmentation": {"size": [4, 6], "counts": [0, 20, 4]}, "category_id": 9, "iscrowd": 1},
        ],
    )
    assert _import(data, "given.json") == 0
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
    _coco(data, [{"segmentation": shape}])
    assert _import(data, "given.json") == 2
    _refused(capsys, "given.json", "annotation", word)
    assert not (data / "back").exists()
    assert not list(data.glob(".*"))


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
        assert _import(data, "given.json") == 0
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
    _coco(data, [{"segmentation": [[0, 0, 3, 0, 3, 3]]}], **more)
    assert _import(data, "given.json") == 2
    _refused(capsys, "given.json", word)


@pytest.mark.parametrize(
    "text", ["no json", "[1]", "{}", '{"images": 1, "categories": [], "annotations": []}', "[" * 99999]
)
def test_what_is_no_coco_is_told(data, capsys, text):
    (data / "given.json").write_text(text)
    assert _import(data, "given.json") == 2
    _refused(capsys, "given.json")


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
    assert _import(data, "cvat", "--rest", str(data / "masks")) == 0
    wanted = np.zeros((20, 30), np.uint8)
    wanted[:5], wanted[5:9], wanted[9:11] = 3, 1, VOID
    np.testing.assert_array_equal(read_mask(data / "back" / "other.png"), wanted)
    for name in ("plain", "a/b 2"):  # not in it, or without a mark
        rest = read_mask(data / "back" / f"{name}.png")
        np.testing.assert_array_equal(rest, read_mask(data / "masks" / f"{name}.png"))
    shutil.rmtree(data / "back")
    with pytest.warns(UserNotice, match=r"1 photographs .*become background"):
        assert _import(data, "cvat") == 0
    assert not read_mask(data / "back" / "a" / "b 2.png").any()


def test_colours_that_no_label_has_are_told(data, capsys):
    assert _export(data, "voc", "voc") == 0
    Image.new("RGB", (90, 47), (1, 1, 1)).save(data / "voc" / "SegmentationClass" / "plain.png")
    assert _import(data, "voc") == 2
    _refused(capsys, "plain.png", "1,1,1")
    Image.new("P", (5, 5)).save(data / "voc" / "SegmentationClass" / "plain.png")
    assert _import(data, "voc") == 2
    _refused(capsys, "plain.png", "5x5", "90x47")
    UNREADABLE["bomb.png"][0](data / "voc" / "SegmentationClass" / "plain.png")
    assert _import(data, "voc") == 2
    _refused(capsys, "plain.png", "cannot be read")


def test_archives_that_lead_out_are_refused(data, capsys):
    for name in ("../evil.txt", "/tmp/evil.txt", "a/../../evil.txt"):
        with zipfile.ZipFile(data / "given.zip", "w") as file:
            file.writestr(name, "x")
        assert _import(data, "given.zip") == 2
        _refused(capsys, "given.zip", name)
    with zipfile.ZipFile(data / "given.zip", "w") as file:
        link = zipfile.ZipInfo("labelmap.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    assert _import(data, "given.zip") == 2
    _refused(capsys, "given.zip", "labelmap.txt")
    (data / "given.zip").write_bytes(b"no archive")
    assert _import(data, "given.zip") == 2
    _refused(capsys, "given.zip", "cannot be unpacked")


def test_masks_come_into_a_folder(data, capsys):
    assert _export(data, "voc", "voc") == 0
    assert _import(data, "voc", out="back.zip") == 2
    _refused(capsys, "back.zip", "folder")


def test_archives_that_grow_are_refused(data, capsys, monkeypatch):
    monkeypatch.setattr("wsss.commands.import_masks.UNPACKED", 1000)
    with zipfile.ZipFile(data / "given.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("labelmap.txt", "x" * 2000)
    assert _import(data, "given.zip") == 2
    _refused(capsys, "given.zip", "refused")


@pytest.mark.parametrize("line", ["7 0 0 1 0 1 1", "0 0.5 0.5 1 1", "0 0 0 a 0 1 1", "0 0 0 99 0 1 1"])
def test_broken_yolo_lines_are_told(data, capsys, line):
    assert _export(data, "yolo-seg", "y.zip") == 0
    with zipfile.ZipFile(data / "y.zip") as file:
        file.extractall(data / "y")
    (data / "y" / "labels" / "train" / "plain.txt").write_text(line)
    assert _import(data, "y") == 2
    _refused(capsys, "plain.txt, line 1")
    shutil.make_archive(str(data / "z"), "zip", data / "y")
    assert _import(data, "z.zip") == 2
    _refused(capsys, "z.zip/labels/train/plain.txt, line 1")  # not the place it is unpacked in


def _square(x, y, side=10):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def _given(data, images, annotations, classes=CLASSES, **more):
    """A COCO file: (id, file_name, width, height) and (image, category, segmentation) each."""
    keys = ("id", "file_name", "width", "height")
    found = {
        "images": [dict(zip(keys, one, strict=True)) for one in images],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        "annotations": [
            {"id": place, "image_id": image, "category_id": category, "segmentation": shape}
            for place, (image, category, shape) in enumerate(annotations, 1)
        ],
    }
    (data / "given.json").write_text(json.dumps(found | more))


def _labels(data, name, out="back"):
    """Label -> number of its pixels."""
    return dict(zip(*np.unique(read_mask(data / out / f"{name}.png"), return_counts=True), strict=True))


PLAIN, OTHER, LONG = (1, "plain.jpg", 90, 47), (2, "other.png", 30, 20), (3, "a/b 2.jpg", 48, 64)


def test_one_id_of_two_photographs_is_told(data, capsys):
    """Whose the marks are cannot be known; 1 and "1" are one id, as tools mix them."""
    for other in (1, "1", 1.0):
        _given(data, [PLAIN, (other, *OTHER[1:]), LONG], [(1, 1, _square(0, 0)), (3, 2, _square(0, 0))])
        assert _import(data, "given.json") == 2
        _refused(capsys, "given.json", "id 1", "plain.jpg", "other.png")
    _given(data, [PLAIN], [(1, 1, _square(0, 0))])
    found = json.loads((data / "given.json").read_text())
    found["categories"][1]["id"] = 1
    (data / "given.json").write_text(json.dumps(found))
    assert _import(data, "given.json") == 2
    _refused(capsys, "given.json", "id 1", "ball", "brick")


def test_ids_of_another_type_are_the_same(data):
    _given(
        data, [("1", *PLAIN[1:]), (2.0, *OTHER[1:])], [(1, "1", _square(0, 0)), ("2", 2, _square(5, 5))]
    )
    assert _import(data, "given.json") == 0
    assert _labels(data, "plain") == {0: 47 * 90 - 100, 1: 100}
    assert _labels(data, "other") == {0: 500, 2: 100}


@pytest.mark.parametrize("crowd", [0, 1])
def test_what_is_smaller_lies_on_top_painted_or_drawn(data, crowd):
    """CVAT calls crowd what was painted with its brush."""
    brush = np.zeros((47, 90), np.uint8)
    brush[10:20, 30:50] = 1
    rle = coco_mask.encode(np.asfortranarray(brush))
    rle["counts"] = rle["counts"].decode()
    _given(data, [PLAIN], [(1, 1, rle), (1, 3, _square(5, 5, 40))])
    found = json.loads((data / "given.json").read_text())
    found["annotations"][0]["iscrowd"] = crowd
    (data / "given.json").write_text(json.dumps(found))
    assert _import(data, "given.json") == 0
    assert _labels(data, "plain")[1] == 200
    assert _labels(data, "plain")[3] == 1600 - 10 * 15


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
        ((1, 77, _square(0, 0)), "category 77"),
        ((1, None, _square(0, 0)), "category None"),
        ((99, 1, _square(0, 0)), "image 99"),
        ((None, 1, _square(0, 0)), "image None"),
    ],
)
def test_one_bad_mark_does_not_refuse_the_others(data, bad, word):
    good = [(1, 3, _square(20, 20)), (2, 2, _square(5, 5))]
    _given(data, [PLAIN, OTHER], [good[0], bad, good[1]])
    with pytest.warns(UserNotice, match=rf"left out: .*given.json, annotation 2.*{word}"):
        assert _import(data, "given.json") == 0
    assert _labels(data, "plain") == {0: 47 * 90 - 100, 3: 100}
    assert _labels(data, "other") == {0: 500, 2: 100}


def test_a_photograph_of_which_no_mark_is_left_has_no_mask(data):
    """It is not background: something is there."""
    _given(data, [PLAIN, OTHER], [(1, 1, [[3, 3, 9, 9]]), (2, 2, _square(5, 5))])
    with pytest.warns(UserNotice, match="left out: .*annotation 1"):
        assert _import(data, "given.json") == 0
    assert [path.name for path in (data / "back").iterdir()] == ["other.png"]


def test_the_good_parts_of_an_outline_count(data):
    _given(data, [PLAIN], [(1, 1, [*_square(0, 0), [50, 30, 52, 31], *_square(20, 20)])])
    with pytest.warns(UserNotice, match="left out: .*annotation 1.*not three or more points"):
        assert _import(data, "given.json") == 0
    assert _labels(data, "plain")[1] == 200


@pytest.mark.parametrize(
    "shape",
    [
        _square(20, 20)[0],
        [[20, 20], [30, 20], [30, 30], [20, 30]],
        [{"size": [47, 90], "counts": [20 * 47 + 20, *[10, 37] * 9, 10, 47 * 60 + 17]}],
        {"size": [47, 90], "counts": [20 * 47 + 20.0, *[10.0, 37.0] * 9, 10.0, 47 * 60 + 17.0]},
    ],
)
def test_other_ways_to_write_an_outline(data, shape):
    _given(data, [PLAIN], [(1, 1, shape)])
    assert _import(data, "given.json") == 0
    mask = read_mask(data / "back" / "plain.png")
    assert mask[20:30, 20:30].all() and mask.sum() == 100


@pytest.mark.parametrize("empty", [None, 0, "", "none"])
def test_sizes_that_are_not_told(data, empty):
    _given(data, [(1, "plain.jpg", empty, empty)], [(1, 1, _square(20, 20))])
    assert _import(data, "given.json") == 0
    assert _labels(data, "plain")[1] == 100


def test_an_image_of_another_size_is_left_out(data, capsys):
    _given(data, [(1, "plain.jpg", 91, 47), OTHER], [(1, 1, _square(0, 0)), (2, 2, _square(5, 5))])
    with pytest.warns(UserNotice, match="left out: .*91x47 pixels for 'plain.jpg'.* 90x47"):
        assert _import(data, "given.json") == 0
    assert [path.name for path in (data / "back").iterdir()] == ["other.png"]
    _given(data, [(1, "plain.jpg", 91, 47)], [])
    assert _import(data, "given.json", out="no") == 2
    _refused(capsys, "91x47", "90x47")


@pytest.mark.parametrize("image", ["no entry", {"id": 9}, {"file_name": "plain.jpg"}])
def test_an_image_without_id_or_name_is_left_out(data, image):
    _given(data, [OTHER], [(2, 2, _square(5, 5))])
    found = json.loads((data / "given.json").read_text())
    found["images"].insert(0, image)
    (data / "given.json").write_text(json.dumps(found))
    with pytest.warns(UserNotice, match="left out: image 1 in .*given.json"):
        assert _import(data, "given.json") == 0
    assert _labels(data, "other") == {0: 500, 2: 100}


def test_an_image_listed_twice_counts_once(data):
    """Twice with one id, twice with two, and in a second file."""
    marks = [
        (1, 1, _square(0, 0)),
        (2, 2, _square(5, 5)),
        (7, 3, _square(30, 30)),
        (8, 3, _square(0, 0)),
    ]
    again = [PLAIN, (7, *PLAIN[1:]), (8, *PLAIN[1:])]
    _given(data, [PLAIN, OTHER, *again], marks)
    with pytest.warns(UserNotice) as told:
        assert _import(data, "given.json") == 0
    said = [str(one.message) for one in told if "plain.jpg" in str(one.message)]
    assert len(said) == 3 and "twice (id 1)" in said[0]
    assert "again (id 7, 1 marks)" in said[1] and "again (id 8, 1 marks)" in said[2]
    assert _labels(data, "plain") == {0: 47 * 90 - 100, 1: 100}
    assert _labels(data, "other") == {0: 500, 2: 100}
    _given(data, [PLAIN, (7, *PLAIN[1:])], [(7, 3, _square(30, 30))])  # the first has none
    with pytest.warns(UserNotice, match=r"again \(id 1, 0 marks\)"):
        assert _import(data, "given.json", out="marked") == 0
    assert _labels(data, "plain", "marked")[3] == 100
    (data / "two").mkdir()
    shutil.copy(data / "given.json", data / "two" / "b.json")
    _given(data, [PLAIN, OTHER], marks[:2])
    shutil.copy(data / "given.json", data / "two" / "a.json")
    (data / "two" / "notes.json").write_text('{"of": "another kind"}')
    with pytest.warns(UserNotice) as told:
        assert _import(data, "two", out="from two") == 0
    said = " ".join(str(one.message) for one in told)
    assert "passed over: " in said and "notes.json is no COCO file" in said
    assert "b.json lists the photograph 'plain.jpg' again" in said
    assert _labels(data, "plain", "from two") == {0: 47 * 90 - 100, 1: 100}


def test_many_bad_marks_are_counted(data):
    _given(data, [PLAIN], [(1, 1, _square(0, 0)), *[(1, 1, [[1, 1, 2, 2]])] * 14])
    with pytest.warns(UserNotice) as told:
        assert _import(data, "given.json") == 0
    said = [str(one.message) for one in told]
    assert sum("left out: " in one for one in said) == 11 and "left out: 4 more" in said


def _turned_photo(path, upright, orientation):
    """A photograph that EXIF turns: what is seen upright has the (height, width) `upright`."""
    height, width = upright if orientation < 5 else upright[::-1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), "gray").save(path, exif=exif)
    return width, height


def _as_stored(mask, orientation):
    """What lies in the file of a photograph that is seen as `mask`."""
    one = {1: 1, 6: 8, 8: 6}.get(orientation, orientation)  # the others turn back by themselves
    mask = mask.T if one in (5, 6, 7, 8) else mask
    mask = mask[::-1] if one in (3, 4, 7, 8) else mask
    return mask[:, ::-1] if one in (2, 3, 6, 7) else mask


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("form", ["outline", "runs", "voc"])
def test_marks_of_photographs_before_exif_turns_them(data, orientation, form):
    seen = np.zeros((60, 36), np.uint8)
    seen[4:14, 6:30], seen[40:50, 6:12] = 1, 1
    width, height = _turned_photo(data / "photos" / "phone.jpg", seen.shape, orientation)
    stored = np.ascontiguousarray(_as_stored(seen, orientation))
    assert stored.shape == (height, width) == (36, 60)
    if form == "voc":
        write_mask(data / "given" / "SegmentationClass" / "phone.png", stored)
        (data / "given" / "labelmap.txt").write_text("background:0,0,0::\nball:128,0,0::\n")
    else:
        flat = stored.ravel(order="F")
        ends = np.flatnonzero(np.diff(flat)) + 1
        runs = {"size": [36, 60], "counts": np.diff([0, *ends, flat.size]).tolist()}
        shape = outlines(stored > 0) if form == "outline" else runs
        _given(data, [(1, "phone.jpg", width, height)], [(1, 1, shape)])
    with pytest.warns(UserNotice, match=r"EXIF turns them.* turned"):
        assert _import(data, "given" if form == "voc" else "given.json") == 0
    np.testing.assert_array_equal(read_mask(data / "back" / "phone.png"), seen)


def test_a_tool_that_turns_nothing_turns_no_photograph(data):
    """Where one shows that sizes are those before turning, upside-down ones and squares follow."""
    seen = np.zeros((40, 40), np.uint8)
    seen[:8, :20] = 1
    images, marks = [], []
    for number, orientation in enumerate((6, 3, 8), 1):
        shape = (60, 36) if orientation == 6 else (40, 40)
        width, height = _turned_photo(data / "photos" / f"phone {number}.jpg", shape, orientation)
        images.append((number, f"phone {number}.jpg", width, height))
        mark = _square(0, 0) if number == 1 else outlines(_as_stored(seen, orientation) > 0)
        marks.append((number, 1, mark))
    _given(data, images, marks)
    with pytest.warns(UserNotice, match="1 photographs before EXIF turns them"):
        assert _import(data, "given.json") == 0
    for number in (2, 3):
        np.testing.assert_array_equal(read_mask(data / "back" / f"phone {number}.png"), seen)


def test_upright_sizes_of_turned_photographs(data):
    """A tool that shows them upright, as most do."""
    images = []
    for number, orientation in enumerate((6, 3), 1):
        _turned_photo(data / "photos" / f"phone {number}.jpg", (60, 36), orientation)
        images.append((number, f"phone {number}.jpg", 36, 60))
    _given(data, images, [(1, 1, _square(4, 30)), (2, 1, _square(4, 30))])
    assert _import(data, "given.json") == 0
    for number in (1, 2):
        mask = read_mask(data / "back" / f"phone {number}.png")
        assert mask[30:40, 4:14].all() and mask.sum() == 100


@pytest.mark.parametrize("orientation", [6, 8])
def test_label_studio_stretches_the_marks_of_turned_photographs(data, orientation):
    """It shows them upright, and multiplies shares of their sides by the sides before turning.

    As written by label-studio-sdk 2.1.2 for the upper left quarter of a photograph.
    """
    width, height = _turned_photo(data / "photos" / "phone.jpg", (80, 40), orientation)
    assert (width, height) == (80, 40)
    quarter = [[0.0, 0.0, 40.0, 0.0, 40.0, 10.0, 0.0, 10.0]]  # 50 % of 80, 25 % of 40
    info = {"contributor": "Label Studio", "version": "1.0"}
    _given(data, [(0, "phone.jpg", width, height)], [(0, 1, quarter)], info=info)
    with pytest.warns(UserNotice, match=r"phone.jpg.* stretched"):
        assert _import(data, "given.json") == 0
    wanted = np.zeros((80, 40), np.uint8)
    wanted[:20, :20] = 1
    np.testing.assert_array_equal(read_mask(data / "back" / "phone.png"), wanted)


ORDER = ("kite", "ball", "brick")  # labels 1, 2, 3 of the other tool are 3, 1, 2 of ours


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
    assert _import(data, "voc") == 0
    wanted = np.zeros((20, 30), np.uint8)
    wanted[:5], wanted[5:9], wanted[9:11] = 3, 1, VOID
    np.testing.assert_array_equal(read_mask(data / "back" / "other.png"), wanted)


@pytest.mark.parametrize(("text", "word"), [("", "no class name"), ("kite\nkite\n", "'kite'")])
def test_a_list_of_classes_that_cannot_be_used_is_told(data, capsys, text, word):
    write_mask(data / "voc" / "SegmentationClass" / "other.png", np.ones((20, 30), np.uint8))
    (data / "voc" / "class_names.txt").write_text(text)
    assert _import(data, "voc") == 2
    _refused(capsys, "class_names.txt", word)


def test_names_of_classes_have_no_hidden_characters(data):
    write_mask(data / "voc" / "SegmentationClass" / "other.png", np.ones((20, 30), np.uint8))
    (data / "voc" / "class_names.txt").write_text("k\u200bite\u00a0\n", encoding="utf-8")
    assert _import(data, "voc") == 0
    assert (read_mask(data / "back" / "other.png") == 3).all()


@pytest.mark.parametrize("form", ["voc", "yolo-seg"])
def test_links_and_capital_suffixes_of_other_tools(data, form):
    assert _export(data, form, "e") == 0
    name, suffix = {"voc": ("SegmentationClass", ".png"), "yolo-seg": ("labels", ".txt")}[form]
    shutil.move(data / "e" / name, data / "disk")
    (data / "e" / name).symlink_to(data / "disk")
    for path in [*(data / "disk").rglob(f"plain{suffix}")]:
        path.rename(path.with_suffix(suffix.upper()))
    assert _import(data, "e") == 0
    assert all(back.any() for _, back in _pairs(data))


def test_an_order_of_classes_that_is_assumed_is_told(data):
    write_mask(data / "voc" / "SegmentationClass" / "other.png", np.full((20, 30), 2))
    with pytest.warns(UserNotice, match=r"voc has no list of its classes .*1 ball, 2 brick, 3 kite"):
        assert _import(data, "voc") == 0
    assert _labels(data, "other") == {2: 600}


def test_lists_of_classes_that_differ_are_told(data):
    write_mask(data / "voc" / "SegmentationClass" / "other.png", np.full((20, 30), 2))
    (data / "voc" / "class_names.txt").write_text("_background_\nkite\nball\n")
    (data / "voc" / "classes.txt").write_text("ball\nkite\n")
    with pytest.warns(
        UserNotice, match=r"class_names.txt and classes.txt.* differ: class_names.txt counts"
    ):
        assert _import(data, "voc") == 0
    assert _labels(data, "other") == {1: 600}


def test_folders_of_subsets_and_a_list_above_them(data):
    for subset, name in (("train", "other"), ("valid", "plain")):
        shape = (20, 30) if name == "other" else (47, 90)
        write_mask(data / "voc" / subset / "SegmentationClass" / f"{name}.png", np.full(shape, 2))
    (data / "voc" / "class_names.txt").write_text("_background_\nkite\nball\n")
    assert _import(data, "voc") == 0
    assert _labels(data, "other") == {1: 600} and _labels(data, "plain") == {1: 47 * 90}


def test_ours_counts_beside_our_masks(data):
    """A data.yaml there may be of anything."""
    (data / "data.yaml").write_text("stages: [build]\n")
    assert _export(data, "coco", "c.json") == 0
    (data / "data.yaml").write_text("names: [kite, ball, brick]\n")
    with pytest.warns(UserNotice, match="classes.txt counts"):
        assert _export(data, "coco", "d.json") == 0
    for name in ("c.json", "d.json"):
        found = json.loads((data / name).read_text())["categories"]
        assert [one["name"] for one in found][:3] == list(CLASSES)


def test_a_label_that_their_list_does_not_name_is_told(data, capsys):
    write_mask(data / "voc" / "SegmentationClass" / "other.png", np.full((20, 30), 3))
    (data / "voc" / "class_names.txt").write_text("_background_\nkite\nball\n")
    assert _import(data, "voc") == 2
    _refused(capsys, "other.png", "label 3")
    (data / "voc" / "class_names.txt").write_text("_background_\nkite\nball\ndog\n")
    assert _import(data, "voc") == 2
    _refused(capsys, "class_names.txt", "'dog'")


def test_a_palette_that_is_not_vocs_is_told(data):
    """An editor has kept the colours and not the indices, which are what is read."""
    mask = np.zeros((20, 30), np.uint8)
    mask[:5] = 2
    image = Image.fromarray(1 - mask // 2)
    image.putpalette([0, 128, 0, 0, 0, 0])
    for folder in ("voc/SegmentationClass", "own"):
        (data / folder).mkdir(parents=True)
        image.save(data / folder / "other.png")
    (data / "voc" / "classes.txt").write_text("ball\nbrick\nkite\n")
    with pytest.warns(
        UserNotice, match=r"palette of 1 masks .*other.png: index 0 is 0,128,0, VOC's label 2"
    ):
        assert _import(data, "voc") == 0
    with pytest.warns(UserNotice, match="palette of 1 masks is not VOC's"):
        assert _export(data, "voc", "out", masks="own") == 0


@pytest.mark.parametrize(
    "names",
    [
        "['ball', 'kite']",
        "\n- ball\n- kite",
        "\n  0: ball\n  1: kite",
        "\n  '0': ball\n  '1': kite",
        "{0: ball, 1: kite, 2: never used}",
    ],
)
def test_yolo_as_roboflow_lays_it_out(data, names):
    """A folder for each subset, its names of files, and folders of images instead of lists."""
    files = {
        "train": "plain_jpg.rf.0123456789abcdef0123456789abcdef",
        "valid": "b-2_JPG.rf.0123456789abcdef0123456789abcdee",
        "test": "other_png.rf.Zk3vQ7bT1xW9",
    }
    for subset, name in files.items():
        (data / "rf" / subset / "labels").mkdir(parents=True)
        line = "" if subset == "test" else "1 0.5 0.5 1 0.5 1 1 0.5 1\n"
        (data / "rf" / subset / "labels" / f"{name}.txt").write_text(line)
    (data / "rf" / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: {names}\n"
    )
    with pytest.warns(UserNotice, match=r"1 photographs .* have nothing marked"):
        assert _import(data, "rf") == 0
    assert _labels(data, "a/b 2") == {0: 64 * 48 * 3 // 4, 3: 64 * 48 // 4}
    assert set(_labels(data, "plain")) == {0, 3} and set(_labels(data, "other")) == {0}
    shutil.make_archive(str(data / "z"), "zip", data / "rf")
    with pytest.warns(UserNotice, match="have nothing marked"):
        assert _import(data, "z.zip", out="zipped") == 0
    assert _labels(data, "a/b 2", "zipped") == _labels(data, "a/b 2")


def test_augmented_pictures_of_roboflow_are_told(data, capsys):
    """Turned and cropped copies of a photograph are not the photograph."""
    (data / "rf" / "train" / "labels").mkdir(parents=True)
    (data / "rf" / "data.yaml").write_text("names: [ball]\n")
    for sign in "ab":
        name = f"plain_jpg.rf.{sign * 32}.txt"
        (data / "rf" / "train" / "labels" / name).write_text("0 0 0 1 0 1 1\n")
    assert _import(data, "rf") == 2
    _refused(capsys, "'plain'", "augmentation")


@pytest.mark.parametrize("subset", ["", "val/", "Validation/"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.json", '{"categories": [{"id": 0, "name": "kite"}, {"id": 1, "name": "ball"}]}'),
        ("classes.txt", "kite\nball\n"),
        ("labels/classes.txt", "kite\nball\n"),
        ("obj.names", "kite\nball\n"),
        ("data.yml", "names: {0: kite, 1: ball}\n"),
    ],
)
def test_yolo_without_data_yaml(data, name, text, subset):
    """As Label Studio and labelImg have it; LabelMe's and others' subsets."""
    (data / "ls" / "labels" / subset).mkdir(parents=True)
    line = "1 0.5 0.5 1 0.5 1 1 0.5 1\n"
    (data / "ls" / "labels" / subset / "0123abcd-b_2.txt").write_text(line)
    (data / "ls" / name).write_text(text)
    assert _import(data, "ls") == 0
    assert _labels(data, "a/b 2") == {0: 64 * 48 * 3 // 4, 1: 64 * 48 // 4}


def test_yolo_without_a_list_of_classes_is_told(data, capsys):
    (data / "y" / "labels").mkdir(parents=True)
    (data / "y" / "labels" / "plain.txt").write_text("0 0 0 1 0 1 1\n")
    assert _import(data, "y") == 2
    _refused(capsys, "YOLO", "data.yaml", "classes.txt")
    (data / "y" / "data.yaml").write_text("nc: 2\n")
    assert _import(data, "y") == 2
    _refused(capsys, "data.yaml", "names")


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("form", ["voc", "coco", "yolo-seg"])
def test_accents_match_however_they_are_written(tmp_path, forms, form):
    """One sign or two: a Mac's way and the others' look the same."""
    name, kind = "été/garçon ñ", "forêt"
    photos, others = (unicodedata.normalize(one, name) for one in forms)
    assert photos != others
    (tmp_path / "photos" / photos).parent.mkdir(parents=True)
    Image.new("RGB", (71, 50)).save(tmp_path / "photos" / f"{photos}.png")
    write_mask(tmp_path / "masks" / f"{others}.png", _discs(0, 50, 71) == 1)
    for one, place in zip(forms, ("classes.txt", "theirs.txt"), strict=True):
        (tmp_path / place).write_text(unicodedata.normalize(one, kind), "utf-8")
    out = "given.json" if form == "coco" else "given"
    assert _export(tmp_path, form, out) == 0
    for path in [path for path in tmp_path.glob("given*/**/*") if path.is_file()][::-1]:
        if path.suffix in (".txt", ".json", ".yaml"):
            path.write_text(unicodedata.normalize(forms[1], path.read_text("utf-8")), "utf-8")
        inner = Path(unicodedata.normalize(forms[1], path.relative_to(tmp_path).as_posix()))
        (tmp_path / inner).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, tmp_path / inner)
    if form == "coco":
        text = json.dumps(json.loads((tmp_path / out).read_text("utf-8")), ensure_ascii=False)
        (tmp_path / out).write_text(unicodedata.normalize(forms[1], text), "utf-8")
    assert _import(tmp_path, out, "--classes", tmp_path / "theirs.txt") == 0
    back = tmp_path / "back" / f"{photos}.png"  # the photograph's own way
    assert (read_mask(back) != read_mask(tmp_path / "masks" / f"{others}.png")).mean() < 0.03
    words = ["--rest", tmp_path / "masks"]
    (tmp_path / "empty.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": others}], "categories": [], "annotations": []})
    )
    with pytest.warns(UserNotice, match="have the masks of --rest"):
        assert _import(tmp_path, "empty.json", *map(str, words), out="rest") == 0
    assert (tmp_path / "rest" / f"{photos}.png").is_file()


def test_two_masks_of_one_name_are_told(data, capsys):
    for form in ("NFC", "NFD"):
        write_mask(data / "masks" / f"{unicodedata.normalize(form, 'a/été 1')}.png", np.zeros((50, 71)))
    (data / "photos" / "a" / "été 1.jpg").rename(data / "photos" / "a" / "été.jpg")
    Image.new("RGB", (71, 50)).save(data / "photos" / f"{unicodedata.normalize('NFC', 'a/été 1')}.jpg")
    assert _export(data, "voc", "out") == 2
    _refused(capsys, "written in two ways")


@pytest.mark.parametrize("form", ["voc", "coco", "yolo-seg"])
def test_names_as_long_as_file_systems_allow(data, form):
    """The place beside that a result is written to has a name of its own."""
    end = {"voc": ".zip", "coco": ".json", "yolo-seg": ""}[form]
    out = "写" * ((255 - len(end)) // 3) + end
    assert _export(data, form, out) == 0
    assert _import(data, out, out="i" * 255) == 0
    assert len(list((data / ("i" * 255)).rglob("*.png"))) == 3


def test_the_server_gets_its_layout(data, capsys):
    label = np.zeros((8, 9), np.uint8)
    label[2:4] = 20
    write_mask(data / "test" / "2008_000006.png", label)
    Image.new("RGB", (9, 8)).save(data / "photos" / "2008_000006.jpg")
    assert _export(data, "voc-server", "results.tgz", masks="test") == 0
    with tarfile.open(data / "results.tgz", "r:gz") as archive:
        place = "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png"
        assert archive.getnames() == [place]
        with Image.open(archive.extractfile(place)) as image:
            np.testing.assert_array_equal(np.array(image), label)
            assert image.getpalette()[:63] == palette()[:63]
    label[0] = VOID
    write_mask(data / "test" / "2008_000006.png", label)
    assert _export(data, "voc-server", "again.tgz", masks="test") == 2
    _refused(capsys, "2008_000006", "255")
    assert not (data / "again.tgz").exists()


def test_photographs_that_share_a_name_matter_where_they_have_a_mask(data, capsys):
    Image.new("RGB", (30, 20)).save(data / "photos" / "other.jpg")
    with pytest.warns(UserNotice, match=r"other.jpg and .*other.png, which share the name"):
        assert _export(data, "voc", "voc") == 0
    with pytest.warns(UserNotice, match="which share the name"):
        assert _import(data, "voc") == 0
    write_mask(data / "masks" / "other.png", np.zeros((20, 30), int))
    capsys.readouterr()
    with pytest.warns(UserNotice, match="which share the name"):
        assert _export(data, "voc", "voc2") == 2
    _refused(capsys, "other.png")


def test_export_names_what_does_not_fit(data, capsys):
    assert _export(data, "coco", "folder") == 2
    _refused(capsys, "a .json file")
    assert _export(data, "voc", "voc") == 0
    assert _export(data, "voc", "voc") == 2
    _refused(capsys, data / "voc", "there already")
    (data / "classes.txt").unlink()
    assert _export(data, "coco", "c.json") == 2
    _refused(capsys, "--classes")
    (data / "areas.csv").write_text("image,background,ball,brick,kite\n")
    assert _export(data, "coco", "c.json") == 0
    write_mask(data / "masks" / "plain.png", np.zeros((9, 9), int))
    assert _export(data, "coco", "d.json") == 2
    _refused(capsys, "plain.png", "9x9")
    write_mask(data / "masks" / "nobody.png", np.zeros((9, 9), int))
    assert _export(data, "coco", "d.json") == 2
    _refused(capsys, "nobody.png")


def test_without_pycocotools_it_is_named(data, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    assert _export(data, "coco", "c.json") == 2
    _refused(capsys, "pycocotools", ".[export]")
