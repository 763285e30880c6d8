"""Masks out into other tools' formats and back, whatever the format."""

import json
import os
import shutil
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from exchange_helpers import (
    CLASSES,
    as_stored,
    discs,
    export,
    given_coco,
    import_,
    pairs,
    refused,
    turned_photo,
)
from PIL import Image

from wsss.data.masks import read_mask, write_mask
from wsss.errors import UserNotice
from wsss.exchange.format import Format
from wsss.exchange.masks import FORMATS, export_masks, import_masks
from wsss.exchange.outlines import outlines
from wsss.exchange.output import write_lines
from wsss.voc import VOID


@pytest.mark.parametrize(("form", "out"), [("voc", "voc"), ("voc", "v.zip"), ("coco", "c.json")])
def test_there_and_back_exactly(data, form, out):
    assert export(data, form, out) == 0
    assert import_(data, out) == 0
    for ours, back in pairs(data):
        np.testing.assert_array_equal(ours, back)
        assert (ours == VOID).any()


@pytest.mark.parametrize(
    ("form", "out", "more"),
    [("coco", "c.json", ["--polygons"]), ("yolo-seg", "y", []), ("yolo-seg", "y.zip", [])],
)
def test_there_and_back_nearly(data, capsys, form, out, more):
    assert export(data, form, out, *more) == 0
    assert import_(data, out) == 0
    said = capsys.readouterr().out
    for ours, back in pairs(data):
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
    assert export(data, "voc", "voc") == 0
    lines = (data / "voc" / "ImageSets" / "Segmentation" / "default.txt").read_text("utf-8")
    assert lines.splitlines() == ["a/b 2", "a/été 1", "plain"]  # no quotes
    assert export(data, "yolo-seg", "y") == 0
    card = yaml.safe_load((data / "y" / "data.yaml").read_text())
    assert card == {"train": "train.txt", "names": dict(enumerate(CLASSES))}  # root: its own folder
    lines = (data / "y" / "train.txt").read_text("utf-8").splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("./")  # else sought from where the program runs
        front, found, back = str(data / "y" / line).rpartition("/images/")
        assert found and Path(f"{front}/labels/{back}").with_suffix(".txt").is_file()


def test_photographs_without_a_mark(data):
    """A task's export lists them all: nobody says that nothing is in those not worked on."""
    assert export(data, "coco", "c.json") == 0
    found = json.loads((data / "c.json").read_text(encoding="utf-8"))
    number = {one["file_name"]: one["id"] for one in found["images"]}
    of = {name: [a for a in found["annotations"] if a["image_id"] == i] for name, i in number.items()}
    boxes = [one | {"segmentation": []} for one in of["plain.jpg"]]
    assert of["a/b 2.jpg"] and of["plain.jpg"]
    found["annotations"] = [*of["a/été 1.jpg"], *boxes]
    (data / "c.json").write_text(json.dumps(found))
    with pytest.warns(UserNotice, match=r"1 photographs .*\(first: a/b 2\), and become background"):
        assert import_(data, "c.json") == 0
    assert not read_mask(data / "back" / "a" / "b 2.png").any()
    assert not (data / "back" / "plain.png").exists()  # boxes alone: something is there
    assert import_(data, "c.json", "--rest", str(data / "masks"), out="with") == 0
    assert all((ours == back).all() for ours, back in pairs(data, "with"))


@pytest.mark.parametrize("form", ["coco", "voc", "yolo-seg"])
def test_what_a_mac_adds_to_archives_is_passed_over(data, form):
    assert export(data, form, "made/made.json" if form == "coco" else "made") == 0
    for path in [p for p in (data / "made").rglob("*") if p.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
        beside = data / "made" / "__MACOSX" / path.relative_to(data / "made")
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert import_(data, "made", "--classes", data / "classes.txt") == 0
    assert len(list(pairs(data))) == 3


def test_masks_come_into_a_folder(data, capsys):
    assert export(data, "voc", "voc") == 0
    assert import_(data, "voc", out="back.zip") == 2
    refused(capsys, "back.zip", "folder")


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("form", ["outline", "runs", "voc"])
def test_marks_of_photographs_before_exif_turns_them(data, orientation, form):
    seen = np.zeros((60, 36), np.uint8)
    seen[4:14, 6:30], seen[40:50, 6:12] = 1, 1
    width, height = turned_photo(data / "photos" / "phone.jpg", seen.shape, orientation)
    stored = np.ascontiguousarray(as_stored(seen, orientation))
    assert stored.shape == (height, width) == (36, 60)
    if form == "voc":
        write_mask(data / "given" / "SegmentationClass" / "phone.png", stored)
        (data / "given" / "labelmap.txt").write_text("background:0,0,0::\nball:128,0,0::\n")
    else:
        flat = stored.ravel(order="F")
        ends = np.flatnonzero(np.diff(flat)) + 1
        runs = {"size": [36, 60], "counts": np.diff([0, *ends, flat.size]).tolist()}
        shape = outlines(stored > 0) if form == "outline" else runs
        given_coco(data, [(1, "phone.jpg", width, height)], [(1, 1, shape)])
    with pytest.warns(UserNotice, match=r"EXIF turns them.* turned"):
        assert import_(data, "given" if form == "voc" else "given.json") == 0
    np.testing.assert_array_equal(read_mask(data / "back" / "phone.png"), seen)


@pytest.mark.parametrize("form", ["voc", "yolo-seg"])
def test_links_and_capital_suffixes_of_other_tools(data, form):
    assert export(data, form, "e") == 0
    name, suffix = {"voc": ("SegmentationClass", ".png"), "yolo-seg": ("labels", ".txt")}[form]
    shutil.move(data / "e" / name, data / "disk")
    (data / "e" / name).symlink_to(data / "disk")
    for path in [*(data / "disk").rglob(f"plain{suffix}")]:
        path.rename(path.with_suffix(suffix.upper()))
    assert import_(data, "e") == 0
    assert all(back.any() for _, back in pairs(data))


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
        assert import_(data, "voc") == 0
    with pytest.warns(UserNotice, match="palette of 1 masks is not VOC's"):
        assert export(data, "voc", "out", masks="own") == 0


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("form", ["voc", "coco", "yolo-seg"])
def test_accents_match_however_they_are_written(tmp_path, forms, form):
    """One sign or two: a Mac's way and the others' look the same."""
    name, kind = "été/garçon ñ", "forêt"
    photos, others = (unicodedata.normalize(one, name) for one in forms)
    assert photos != others
    (tmp_path / "photos" / photos).parent.mkdir(parents=True)
    Image.new("RGB", (71, 50)).save(tmp_path / "photos" / f"{photos}.png")
    write_mask(tmp_path / "masks" / f"{others}.png", discs(0, 50, 71) == 1)
    for one, place in zip(forms, ("classes.txt", "theirs.txt"), strict=True):
        (tmp_path / place).write_text(unicodedata.normalize(one, kind), "utf-8")
    out = "given.json" if form == "coco" else "given"
    assert export(tmp_path, form, out) == 0
    for path in [path for path in tmp_path.glob("given*/**/*") if path.is_file()][::-1]:
        if path.suffix in (".txt", ".json", ".yaml"):
            path.write_text(unicodedata.normalize(forms[1], path.read_text("utf-8")), "utf-8")
        inner = Path(unicodedata.normalize(forms[1], path.relative_to(tmp_path).as_posix()))
        (tmp_path / inner).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, tmp_path / inner)
    if form == "coco":
        text = json.dumps(json.loads((tmp_path / out).read_text("utf-8")), ensure_ascii=False)
        (tmp_path / out).write_text(unicodedata.normalize(forms[1], text), "utf-8")
    assert import_(tmp_path, out, "--classes", tmp_path / "theirs.txt") == 0
    back = tmp_path / "back" / f"{photos}.png"  # the photograph's own way
    assert (read_mask(back) != read_mask(tmp_path / "masks" / f"{others}.png")).mean() < 0.03
    words = ["--rest", tmp_path / "masks"]
    (tmp_path / "empty.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": others}], "categories": [], "annotations": []})
    )
    with pytest.warns(UserNotice, match="have the masks of --rest"):
        assert import_(tmp_path, "empty.json", *map(str, words), out="rest") == 0
    assert (tmp_path / "rest" / f"{photos}.png").is_file()


def test_two_masks_of_one_name_are_told(data, capsys):
    for form in ("NFC", "NFD"):
        write_mask(
            data / "masks" / f"{unicodedata.normalize(form, 'a/été 1')}.png", np.zeros((50, 71), int)
        )
    (data / "photos" / "a" / "été 1.jpg").rename(data / "photos" / "a" / "été.jpg")
    Image.new("RGB", (71, 50)).save(data / "photos" / f"{unicodedata.normalize('NFC', 'a/été 1')}.jpg")
    assert export(data, "voc", "out") == 2
    refused(capsys, "written in two ways")


@pytest.mark.parametrize("form", ["voc", "coco", "yolo-seg"])
def test_names_as_long_as_file_systems_allow(data, form):
    """The place beside that a result is written to has a name of its own."""
    end = {"voc": ".zip", "coco": ".json", "yolo-seg": ""}[form]
    out = "写" * ((255 - len(end)) // 3) + end
    assert export(data, form, out) == 0
    assert import_(data, out, out="i" * 255) == 0
    assert len(list((data / ("i" * 255)).rglob("*.png"))) == 3


def test_photographs_that_share_a_name_matter_where_they_have_a_mask(data, capsys):
    Image.new("RGB", (30, 20)).save(data / "photos" / "other.jpg")
    with pytest.warns(UserNotice, match=r"other.jpg and .*other.png, which share the name"):
        assert export(data, "voc", "voc") == 0
    with pytest.warns(UserNotice, match="which share the name"):
        assert import_(data, "voc") == 0
    write_mask(data / "masks" / "other.png", np.zeros((20, 30), int))
    capsys.readouterr()
    with pytest.warns(UserNotice, match="which share the name"):
        assert export(data, "voc", "voc2") == 2
    refused(capsys, "other.png")


def test_export_names_what_does_not_fit(data, capsys):
    assert export(data, "coco", "folder") == 2
    refused(capsys, "a .json file")
    assert export(data, "voc", "voc") == 0
    assert export(data, "voc", "voc") == 2
    refused(capsys, data / "voc", "there already")
    (data / "classes.txt").unlink()
    assert export(data, "coco", "c.json") == 2
    refused(capsys, "--classes")
    (data / "areas.csv").write_text("image,background,ball,brick,kite\n")
    assert export(data, "coco", "c.json") == 0
    write_mask(data / "masks" / "plain.png", np.zeros((9, 9), int))
    assert export(data, "coco", "d.json") == 2
    refused(capsys, "plain.png", "9x9")
    write_mask(data / "masks" / "nobody.png", np.zeros((9, 9), int))
    assert export(data, "coco", "d.json") == 2
    refused(capsys, "nobody.png")


@dataclass(frozen=True)
class Csv(Format):
    """Pixels of each label, a line a mask; one class is all that a new format takes."""

    name = "csv"
    about = "a table"
    signs = "CSV (.csv)"
    suffixes = (".csv",)

    after: str = ""

    def write(self, given, out):
        write_lines(out, (f"{photo},{(mask == 1).sum()}" for _, photo, mask in given))
        return self.after

    def read(self, source):
        if source.path.suffix != ".csv":
            return None
        rows = (line.split(",") for line in source.path.read_text("utf-8").splitlines())
        found = ((*source.photos.find(name), int(count)) for name, count in rows)
        return ((ours, np.full(size, source.label("ball", source.told))) for ours, size, _ in found)


def test_a_format_of_ones_own_is_a_class_and_a_line(data, monkeypatch):
    monkeypatch.setitem(FORMATS, "csv", Csv)
    said = export_masks(data / "masks", data / "t.csv", Csv(", done"), data / "photos")
    assert said == f"3 masks of 3 classes written to {data / 't.csv'}, done"
    assert export(data, "csv", "u.csv") == 0
    assert import_masks(data / "t.csv", data / "photos", data / "back").startswith("3 masks")
    assert all((back == 1).all() for _, back in pairs(data))
