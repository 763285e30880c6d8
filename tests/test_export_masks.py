"""Masks out into other tools' formats and back; pycocotools' own reading is the judge."""

import json
import shutil
import stat
import tarfile
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
