"""`wsss check`: what it finds, and with which exit code."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from odd_files import ODD, UNREADABLE, deep_tiff, photo
from own_folder import add_row, checked
from PIL import Image

from wsss.cli import main
from wsss.data.catalog import read_catalog
from wsss.data.check import check
from wsss.data.images import read_image
from wsss.data.masks import write_mask
from wsss.errors import UserError, UserNotice, forget_notices


def test_clean_folder_is_clean(good, tmp_path, capsys):
    code, report = checked(good, tmp_path)
    assert code == 0 and report["code"] == 0 and not report["warnings"] and not report["errors"]
    assert report["classes"] == {"big dog": 10, "cat": 10} and report["tags_per_image"] == {"1": 20}
    assert "Clean" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*UNREADABLE, *ODD])
def test_check_names_every_odd_file(name, good, tmp_path, capsys):
    make, kind = (UNREADABLE | ODD)[name]
    make(good / name)
    add_row(good, name)
    code, report = checked(good, tmp_path)
    assert code == 1 and not report["errors"]
    assert [names for found, names in report["warnings"].items() if kind in found] == [[name]]
    assert name in capsys.readouterr().out


def test_check_finds_faults_of_the_table(good, tmp_path, capsys):
    first = good / "größe 1" / "bild 00.jpg"
    (good / "copy.jpg").write_bytes(first.read_bytes())
    photo(11).save(good / "untagged.jpg")
    photo(12).save(good / "copy.png")
    add_row(good, "copy.jpg", "Cat")
    add_row(good, "copy.png", "cat")
    add_row(good, "copy.jpg", "cat")
    code, report = checked(good, tmp_path)
    found = report["warnings"]
    assert code == 2 and report["errors"] == {"duplicate rows": ["copy.jpg"]}
    assert "next: wsss init" in capsys.readouterr().out  # which joins them
    assert found["images without tags (left out)"] == ["untagged.jpg"]
    assert found["duplicate images (same content)"] == ["copy.jpg = größe 1/bild 00.jpg"]
    assert found["class names that differ by case or spaces"] == ["Cat / cat"]
    assert found["class with fewer than 10 images"] == ["Cat (1)"]
    assert found["names that differ by suffix only (the first is used)"] == ["copy.jpg, copy.png"]


@pytest.mark.parametrize("name", ["gone.jpg", 300 * "x" + ".jpg", "../secret.jpg", "/etc/secret.jpg"])
def test_check_is_2_for_missing_and_outside_names(name, good, tmp_path, capsys):
    photo(1).save(tmp_path / "secret.jpg")
    add_row(good, name)
    code, report = checked(good, tmp_path)
    assert code == 2 and [name] in report["errors"].values()
    assert ("next: wsss init" in capsys.readouterr().out) == ("secret" not in name)
    with pytest.raises(UserError, match=Path(name).name):
        read_catalog("folder", good, "all")


@pytest.mark.parametrize("name", ["background", "Void"])
def test_names_that_no_class_can_have(name, good, tmp_path, capsys):
    text = (good / "tags.csv").read_text(encoding="utf-8").replace("cat", name)
    (good / "tags.csv").write_text(text, encoding="utf-8")
    code, report = checked(good, tmp_path)
    assert code == 2 and report["errors"] == {
        "class name with a meaning of its own (rename it)": [name]
    }
    capsys.readouterr()
    assert main(["init", str(good), "--out", str(tmp_path / "out")]) == 2
    assert f"the tag '{name}', a name with a meaning" in capsys.readouterr().err


def test_a_class_on_every_photograph_is_told(good, tmp_path, capsys):
    text = (good / "tags.csv").read_text(encoding="utf-8").replace("cat|", "cat|big dog")
    (good / "tags.csv").write_text(text, encoding="utf-8")
    code, report = checked(good, tmp_path)
    kind = "class on every image: nothing shows where it is not (add some without)"
    assert code == 1 and report["warnings"][kind] == ["big dog"]
    capsys.readouterr()
    assert main(["init", str(good), "--backbone", "glnet_nano", "--out", str(tmp_path / "out")]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "every photograph has" in line]
    assert len(said) == 1 and "'big dog'" in said[0]


def test_check_measures_masks(good, tmp_path):
    names = [good / "masks" / "größe 1" / f"bild {number:02d}.png" for number in range(3)]
    write_mask(names[0], np.zeros((40, 56), np.uint8))
    write_mask(names[1], np.zeros((56, 40), np.uint8))
    write_mask(names[2], np.full((40, 56), 3, np.uint8))
    code, report = checked(good, tmp_path)
    assert code == 1
    size, label = report["warnings"]["mask does not fit (left out)"]
    assert "bild 01.png is 40x56" in size and "bild 02.png has label 3" in label
    with pytest.warns(UserNotice) as told:
        records = read_catalog("folder", good, "all").records
    assert [r.id for r in records if r.mask] == ["größe 1/bild 00"]
    said = " ".join(str(one.message) for one in told)
    assert size in said and label in said


def test_check_compares_masks_and_tags(good, tmp_path, capsys):
    """White on black, as drawing tools save it, is void; classes in another order are others."""
    names = [f"größe 1/bild {number:02d}" for number in range(4)]
    for name, label in zip(names, (255, 1, 1, 2), strict=True):  # tagged dog, cat, dog, cat
        mask = np.zeros((40, 56), np.uint8)
        mask[10:20] = label
        write_mask(good / "masks" / f"{name}.png", mask)
    code, report = checked(good, tmp_path)
    assert code == 1 and report["masks"] == 4 and "4 ground-truth masks" in capsys.readouterr().out
    assert report["warnings"]["masks without any class (1 is the first one, 255 void)"] == [
        f"{names[0]}.jpg: background and void alone (tagged big dog)"
    ]
    assert report["warnings"]["masks show what is not tagged (order of classes?)"] == [
        f"{names[1]}.jpg: big dog (tagged cat)"
    ]


def test_check_names_masks_with_a_palette_of_their_own(good, tmp_path):
    image = Image.fromarray(np.zeros((40, 56), np.uint8))
    image.putpalette([0, 128, 0])
    (good / "masks" / "größe 1").mkdir(parents=True)
    image.save(good / "masks" / "größe 1" / "bild 00.png")
    code, report = checked(good, tmp_path)
    (said,) = report["warnings"]["palette of a mask is not VOC's (indices are read, not colours)"]
    assert code == 1 and "bild 00.png: index 0 is 0,128,0, VOC's label 2" in said


def test_check_says_where_tags_are_from(good, tmp_path, capsys):
    (good / "tags.csv").rename(tmp_path / "tags.csv")
    code, report = checked(good, tmp_path)
    assert code == 1 and report["classes"] == {"größe 1": 20}
    assert "sub-folders named like the classes" in capsys.readouterr().out
    kind = "sub-folders are taken for classes, not a table beside them (--tags)"
    assert report["warnings"][kind] == [str(tmp_path / "tags.csv")]
    report = check(good, tmp_path / "tags.csv")
    assert kind not in report.warnings and "cat" in report.classes


@pytest.mark.parametrize("written", ["größe 1/Bild 00.JPG", "größe 1/bild 00"])
def test_check_knows_what_was_meant(written, good, tmp_path):
    text = (good / "tags.csv").read_text(encoding="utf-8")
    (good / "tags.csv").write_text(text.replace("größe 1/bild 00.jpg", written), encoding="utf-8")
    code, report = checked(good, tmp_path)
    assert code == 2
    assert report["errors"]["tags without image"] == [f"{written} (is it größe 1/bild 00.jpg?)"]


def test_check_names_masks_of_no_photograph(good, tmp_path):
    write_mask(good / "masks" / "größe 1" / "bild 00_mask.png", np.zeros((40, 56), np.uint8))
    code, report = checked(good, tmp_path)
    assert code == 1
    assert report["warnings"]["masks without photograph (not used)"] == [
        "masks/größe 1/bild 00_mask.png"
    ]


def test_check_and_init_tell_what_is_white(good, tmp_path, capsys):
    for number, top in enumerate((4000, 250)):
        ramp = np.linspace(0, top, 40 * 56).reshape(40, 56).astype(np.uint16)
        (good / f"{number}.tif").write_bytes(deep_tiff(ramp))
        add_row(good, f"{number}.tif")
    (good / "told.tif").write_bytes(deep_tiff(ramp, maximum=1023))
    add_row(good, "told.tif")
    found = checked(good, tmp_path)[1]["warnings"]
    assert found == {
        "16-bit, white is 1023 as the file declares": ["told.tif"],
        "16-bit, white is 4095 (their brightest value is 4000)": ["0.tif", "1.tif"],
    }
    capsys.readouterr()
    assert main(["init", str(good), "--backbone", "glnet_nano", "--out", str(tmp_path / "out")]) == 0
    assert "note: in photographs of 16 bits, white is 4095 (their" in capsys.readouterr().out


def test_names_that_results_cannot_have(good, tmp_path, monkeypatch):
    name = "größe 1/" + "ä" * 30 + ".jpg"  # two bytes each
    photo(1).save(good / name)
    add_row(good, name)
    assert checked(good, tmp_path)[0] == 0
    asked = []

    def limit(folder, what):
        asked.append((folder, what))
        return 63

    monkeypatch.setattr(os, "pathconf", limit)
    assert checked(good, tmp_path)[1]["warnings"] == {
        "names too long for results here (63 bytes; left out by wsss init)": [name]
    }
    out = tmp_path / "not" / "yet"
    assert main(["init", str(good), "--backbone", "glnet_nano", "--out", str(out)]) == 0
    assert "name too long for results (63 bytes)" in (out / "left_out.csv").read_text(encoding="utf-8")
    assert asked[-1] == (tmp_path, "PC_NAME_MAX")
    assert len(read_catalog("folder", good, "all", tags=out / "tags.csv").records) == 20


def test_check_of_voc_layout(drawn, tmp_path):

    root = tmp_path / "voc"
    shutil.copytree(drawn, root)
    code, report = checked(root, tmp_path)
    assert (report["layout"], report["images"], report["tagged"]) == ("voc", 32, 32)
    assert code in (0, 1) and not report["errors"]
    lists = root / "ImageSets" / "Segmentation"
    shared = (lists / "val.txt").read_text().split()[0]
    with (lists / "train.txt").open("a") as file:
        file.write(f"{shared}\n")
    code, report = checked(root, tmp_path)
    assert code == 2 and report["errors"]["train and val overlap"] == [shared]
    (root / "JPEGImages" / f"{shared}.jpg").write_bytes(b"")
    assert checked(root, tmp_path)[1]["warnings"]["unreadable: zero bytes"] == [
        f"JPEGImages/{shared}.jpg"
    ]


def test_check_of_nothing(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 2
    assert main(["check", str(tmp_path / "nowhere")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_check_compares_tags_and_classes(good, tmp_path):
    (good / "classes.txt").write_text("Cat\nzebra\n")
    code, report = checked(good, tmp_path)
    assert code == 2 and "big dog" in report["errors"]["tags that classes.txt does not list"][0]
    assert "zebra" in report["errors"]["classes in classes.txt without an image"][0]
    assert len(report["errors"]) == 2  # a class in capitals is the same class
    (good / "classes.txt").write_text("ant\ncat\nbig dog\n")
    write_mask(good / "masks" / "größe 1" / "bild 00.png", np.full((60, 80), 3))
    table = tmp_path / "elsewhere" / "t.csv"
    table.parent.mkdir()
    (good / "tags.csv").rename(table)
    words = ["check", str(good), "--tags", str(table), "--json", str(tmp_path / "report.json")]
    main(words)
    fault = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["warnings"]
    assert not any("label 3" in name for names in fault.values() for name in names)


def test_names_as_find_writes_them(good, tmp_path):
    text = (good / "tags.csv").read_text(encoding="utf-8").replace("größe 1/", "./größe 1/")
    (good / "tags.csv").write_text(text, encoding="utf-8")
    code, report = checked(good, tmp_path)
    assert code == 0 and report["tagged"] == 20
    add_row(good, "größe 1/bild 00.jpg")
    assert checked(good, tmp_path)[1]["errors"]["duplicate rows"] == ["größe 1/bild 00.jpg"]


def test_lists_that_overlap_by_name(good, tmp_path):
    (good / "train.txt").write_text("größe 1/bild 00\ngröße 1/bild 01\n", encoding="utf-8")
    (good / "val.txt").write_text("größe 1/bild 01.jpg\n", encoding="utf-8")
    overlap = checked(good, tmp_path)[1]["warnings"]["train and val overlap (used for val only)"]
    assert overlap == ["größe 1/bild 01.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8(good, tmp_path, capfd):
    name = os.fsdecode(b"caf\xe9.jpg")
    photo(3).save(good / name)
    forget_notices()
    with pytest.warns(UserNotice, match=r"caf\\xe9.jpg, whose name is not UTF-8: rename it"):
        code, report = checked(good, tmp_path)
    assert code == 0 and report["images"] == 20


def test_check_of_an_animation_cut_off(good, tmp_path):
    frames = [photo(n).convert("P") for n in range(3)]
    frames[0].save(good / "cut.gif", save_all=True, append_images=frames[1:])
    content = (good / "cut.gif").read_bytes()
    refused = good / "refused"
    refused.mkdir()
    (refused / "b.jpg").write_bytes(b"no image")
    cut = next(n for n in range(len(content) // 3, len(content)) if _fails_later(content[:n], good))
    (good / "cut.gif").write_bytes(content[:cut])
    for name in ("cut.gif", "refused/b.jpg"):
        add_row(good, name)
    warnings = checked(good, tmp_path)[1]["warnings"]
    assert warnings["truncated after its first frame (which is used)"] == ["cut.gif"]
    assert warnings["unreadable: broken or no image"] == ["refused/b.jpg"]


def _fails_later(content: bytes, folder: Path) -> bool:
    """Whether PIL reads the first frame of an animation, and not how many there are."""
    (folder / "cut.gif").write_bytes(content)
    try:
        read_image(folder / "cut.gif")
    except UserError:
        return False
    try:
        with Image.open(folder / "cut.gif") as image:
            return image.n_frames < 0
    except Exception:
        return True


def test_a_row_of_something_else_than_an_image(good, tmp_path, capsys):
    """A run stops at it, `wsss init` leaves it out."""
    (good / "notes.txt").write_text("no image")
    add_row(good, "notes.txt")
    code, report = checked(good, tmp_path)
    (kind,) = report["errors"]
    assert code == 2 and kind.startswith("no image file") and report["errors"][kind] == ["notes.txt"]
    assert "next: wsss init" in capsys.readouterr().out
    with pytest.raises(UserError, match="no image file"):
        read_catalog("folder", good, "all")
