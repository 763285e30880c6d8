"""One's own photographs: odd files, forms of tags, `wsss check` and `wsss predict`."""

import csv
import errno
import json
import os
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from odd_files import ODD, UNREADABLE, deep_tiff, photo
from PIL import Image
from safetensors.torch import save_file

from wsss.cli import main
from wsss.commands.check import check
from wsss.data.catalog import inside, read_catalog, read_classes
from wsss.data.images import read_image
from wsss.data.masks import read_mask, write_mask
from wsss.data.modules import MaskData
from wsss.data.photographs import find_photographs
from wsss.data.tags import read_tag_table
from wsss.errors import UserError, UserNotice, forget_notices
from wsss.files import write_atomic


@pytest.fixture
def good(tmp_path) -> Path:
    """Twenty clean photographs of two classes, in a sub-folder with a space and an umlaut."""
    root = tmp_path / "good"
    (root / "größe 1").mkdir(parents=True)
    lines = ["image,tags"]
    for number in range(20):
        photo(100 + number).save(root / "größe 1" / f"bild {number:02d}.jpg")
        lines.append(f"größe 1/bild {number:02d}.jpg,{'cat' if number % 2 else 'big dog'}|")
    (root / "tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def _add(root: Path, name: str, tags: str = "cat") -> None:
    with (root / "tags.csv").open("a", encoding="utf-8") as file:
        file.write(f"{name},{tags}\n")


def _check(root: Path, tmp_path: Path) -> tuple[int, dict]:
    code = main(["check", str(root), "--json", str(tmp_path / "report.json")])
    return code, json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))


def test_clean_folder_is_clean(good, tmp_path, capsys):
    code, report = _check(good, tmp_path)
    assert code == 0 and report["code"] == 0 and not report["warnings"] and not report["errors"]
    assert report["classes"] == {"big dog": 10, "cat": 10} and report["tags_per_image"] == {"1": 20}
    assert "Clean" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*UNREADABLE, *ODD])
def test_check_names_every_odd_file(name, good, tmp_path, capsys):
    make, kind = (UNREADABLE | ODD)[name]
    make(good / name)
    _add(good, name)
    code, report = _check(good, tmp_path)
    assert code == 1 and not report["errors"]
    assert [names for found, names in report["warnings"].items() if kind in found] == [[name]]
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files_are_left_out_of_training(name, good):
    before = [read_catalog("folder", good, split) for split in ("train", "val")]
    UNREADABLE[name][0](good / name)
    _add(good, name, "only here")
    with pytest.warns(UserWarning, match=name):
        after = [read_catalog("folder", good, split) for split in ("train", "val")]
    assert after == before  # the split and the classes of the good files, too


def test_a_mended_file_is_seen(good):
    path = good / "later.jpg"
    path.write_bytes(b"")
    _add(good, path.name)
    with pytest.warns(UserWarning, match=r"later\.jpg"):
        assert len(read_catalog("folder", good, "all").records) == 20
    photo(1).save(path)
    assert len(read_catalog("folder", good, "all").records) == 21


def test_check_finds_faults_of_the_table(good, tmp_path, capsys):
    first = good / "größe 1" / "bild 00.jpg"
    (good / "copy.jpg").write_bytes(first.read_bytes())
    photo(11).save(good / "untagged.jpg")
    photo(12).save(good / "copy.png")
    _add(good, "copy.jpg", "Cat")
    _add(good, "copy.png", "cat")
    _add(good, "copy.jpg", "cat")
    code, report = _check(good, tmp_path)
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
    _add(good, name)
    code, report = _check(good, tmp_path)
    assert code == 2 and [name] in report["errors"].values()
    assert ("next: wsss init" in capsys.readouterr().out) == ("secret" not in name)
    with pytest.raises(UserError, match=Path(name).name):
        read_catalog("folder", good, "all")


def test_a_name_leads_out_by_no_link(good, tmp_path):
    photo(1).save(tmp_path / "secret.jpg")
    (tmp_path / "beside").mkdir()
    (good / "link").symlink_to(tmp_path / "beside")
    _add(good, "link/../secret.jpg")  # which a system takes for the folder above `beside`
    with pytest.raises(UserError, match="outside"):
        read_catalog("folder", good, "all")


def test_a_snapshot_of_links_is_a_folder_like_any_other(tmp_path, checkpoint):
    """As the hub of Hugging Face keeps it: files are links to what lies outside."""
    root, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    (root / "deep").mkdir(parents=True)
    blobs.mkdir()
    lines = ["image,tags"]
    for number in range(20):
        name = f"deep/{number}.jpg" if number % 3 else f"{number}.jpg"
        photo(number).save(blobs / f"{number:x}", "JPEG")
        (root / name).symlink_to(
            Path("../../blobs" if number % 3 == 0 else "../../../blobs") / f"{number:x}"
        )
        lines.append(f"{name},{'cat' if number % 2 else 'dog'}")
    (root / "deep" / "lost.jpg").symlink_to("nowhere")
    (tmp_path / "tags.csv").write_text("\n".join(lines))
    words = [str(root), "--tags", str(tmp_path / "tags.csv")]
    forget_notices()
    with pytest.warns(UserNotice, match=r"1 links that lead nowhere \(first: .*lost\.jpg\)"):
        assert main(["check", *words]) == 0
    assert main(["init", *words, "--backbone", "glnet_nano", "--out", str(tmp_path / "out")]) == 0
    assert len(read_catalog("folder", root, "all", tags=tmp_path / "out" / "tags.csv").records) == 20
    words = ["predict", str(root), "--ckpt", str(checkpoint), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "new")]) == 0
    assert len(list((tmp_path / "new").rglob("*.png"))) == 20


def test_links_to_folders_are_followed_once(tmp_path):
    for name in ("root/red", "root/deep/green", "disk/blue"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(3):
            photo(number).save(tmp_path / name / f"{number}.jpg")
    root = tmp_path / "root"
    links = {"blue": "../disk/blue", "azure": "../disk/blue", "lost": "../gone", "up": "..", "me": "."}
    links |= {"deep/again": "..", "zed": "red"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "disk" / "blue" / "back").symlink_to("..")
    photo(9).save(tmp_path / "disk" / "beside.jpg")
    forget_notices()
    with pytest.warns(UserNotice) as told:
        found = sorted(find_photographs([root]))
    wanted = ["azure/0", "azure/1", "azure/2", "azure/back/beside", "deep/green/0", "deep/green/1"]
    assert found == [*wanted, "deep/green/2", "red/0", "red/1", "red/2"]
    said = [str(one.message) for one in told]
    for name in ("blue", "up", "me", "deep/again", "zed", "azure/back/blue"):
        assert any(f" {root / name}, a link to what" in line for line in said), name
    assert any("1 links that lead nowhere" in line and "lost" in line for line in said)


def test_what_systems_keep_is_neither_photograph_nor_class(tmp_path, capsys):
    own = (
        "@eaDir/0.jpg",
        "iPod Photo Cache",
        "@eaDir",
        "#recycle",
        ".thumbnails",
        "__MACOSX",
        "$RECYCLE.BIN",
        "lost+found",
    )
    own += ("#snapshot", "System Volume Information", "@Recycle", "@eadir")
    for name in ("red", "blue"):
        for place in ("", *own):
            (tmp_path / name / place).mkdir(parents=True, exist_ok=True)
            if place:
                (tmp_path / place / "deep").mkdir(parents=True, exist_ok=True)
                photo(1).save(tmp_path / place / "deep" / "thumb.jpg")
            photo(len(name)).save(tmp_path / name / place / ("thumb.jpg" if place else "0.jpg"))
        label = 1 + (name == "red")
        write_mask(tmp_path / "masks" / name / "0.png", np.full((40, 56), label, np.uint8))
        write_mask(tmp_path / "masks" / name / "@eaDir" / "0.png", np.zeros((40, 56), np.uint8))
        photo(1).save(tmp_path / name / "._0.jpg")
        (tmp_path / name / "Thumbs.db").write_bytes(b"thumbs")
    assert sorted(find_photographs([tmp_path])) == ["blue/0", "red/0"]
    assert read_classes("folder", tmp_path) == ("blue", "red")
    report = check(tmp_path)
    assert report.classes == {"blue": 1, "red": 1} and report.images == 2
    assert set(report.warnings) == {"class with fewer than 10 images"}
    from wsss.exchange.names import mask_files

    assert sorted(mask_files(tmp_path / "masks")) == ["blue/0", "red/0"]


@pytest.mark.parametrize("suffix", [".jpe", ".jfif", ".jif", ".jfi", ".JFIF", ".pjpeg", ".mpo"])
def test_jpegs_by_all_their_suffixes(suffix, good, tmp_path):
    photo(1).save(good / f"a{suffix}", format="JPEG")
    _add(good, f"a{suffix}")
    assert _check(good, tmp_path)[1]["warnings"] == {}
    assert len(read_catalog("folder", good, "all").records) == 21
    assert "a" in find_photographs([good])


@pytest.mark.parametrize("written", ["absolute", "of a link"])
def test_absolute_names_in_the_folder_are_relative_ones(written, good, tmp_path):
    (tmp_path / "link").symlink_to(good)
    root = tmp_path / "link" if written == "of a link" else good
    text = (good / "tags.csv").read_text(encoding="utf-8")
    plain = read_catalog("folder", root, "all")
    table = tmp_path / "t.csv"
    table.write_text(text.replace("größe", f"{root}/größe"), encoding="utf-8")
    assert read_catalog("folder", root, "all", tags=table) == plain
    words = ["--tags", str(table)]
    assert main(["check", str(root), *words]) == 0
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("mobilenetv2_100").state_dict(), weights)
    assert (
        main(["init", str(root), *words, "--weights", str(weights), "--out", str(tmp_path / "o")]) == 0
    )
    assert "\ngröße 1/bild 00.jpg," in (tmp_path / "o" / "tags.csv").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="relative to"):  # a devkit's list
        inside(good, str(good / "größe 1" / "bild 00.jpg"), table)


@pytest.mark.parametrize("name", ["background", "Void"])
def test_names_that_no_class_can_have(name, good, tmp_path, capsys):
    text = (good / "tags.csv").read_text(encoding="utf-8").replace("cat", name)
    (good / "tags.csv").write_text(text, encoding="utf-8")
    code, report = _check(good, tmp_path)
    assert code == 2 and report["errors"] == {
        "class name with a meaning of its own (rename it)": [name]
    }
    capsys.readouterr()
    assert main(["init", str(good), "--out", str(tmp_path / "out")]) == 2
    assert f"the tag '{name}', a name with a meaning" in capsys.readouterr().err


def test_a_class_on_every_photograph_is_told(good, tmp_path, capsys):
    text = (good / "tags.csv").read_text(encoding="utf-8").replace("cat|", "cat|big dog")
    (good / "tags.csv").write_text(text, encoding="utf-8")
    code, report = _check(good, tmp_path)
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
    code, report = _check(good, tmp_path)
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
    code, report = _check(good, tmp_path)
    assert code == 1 and report["masks"] == 4 and "4 true masks" in capsys.readouterr().out
    assert report["warnings"]["masks without any class (1 is the first one, 255 void)"] == [
        f"{names[0]}.jpg: background and void alone (tagged big dog)"
    ]
    assert report["warnings"]["masks show what is not tagged (order of classes?)"] == [
        f"{names[1]}.jpg: big dog (tagged cat)"
    ]


def test_true_masks_match_however_accents_are_written(good, tmp_path):
    names = [f"größe 1/bild {number:02d}" for number in range(2)]
    for name in names:
        mask = np.zeros((40, 56), np.uint8)
        write_mask(good / "masks" / f"{unicodedata.normalize('NFD', name)}.png", mask)
    report = _check(good, tmp_path)[1]
    assert report["masks"] == 2 and "masks without photograph (not used)" not in report["warnings"]
    records = read_catalog("folder", good, "all").records
    assert [record.id for record in records if record.mask] == names
    shutil.move(good / "masks", tmp_path / "corrected")
    data = MaskData(str(good), "folder", train_split="all", mask_dir=str(tmp_path / "corrected"))
    with pytest.raises(UserError, match="18 of 20 images have no mask"):
        data.train_dataloader()


def test_check_names_masks_with_a_palette_of_their_own(good, tmp_path):
    image = Image.fromarray(np.zeros((40, 56), np.uint8))
    image.putpalette([0, 128, 0])
    (good / "masks" / "größe 1").mkdir(parents=True)
    image.save(good / "masks" / "größe 1" / "bild 00.png")
    code, report = _check(good, tmp_path)
    (said,) = report["warnings"]["palette of a mask is not VOC's (indices are read, not colours)"]
    assert code == 1 and "bild 00.png: index 0 is 0,128,0, VOC's label 2" in said


def test_true_masks_with_a_capital_suffix_or_another_one(good, tmp_path):
    write_mask(good / "masks" / "größe 1" / "bild 00.png", np.zeros((40, 56), np.uint8))
    write_mask(good / "masks" / "größe 1" / "bild 01.png", np.zeros((40, 56), np.uint8))
    folder = good / "masks" / "größe 1"
    (folder / "bild 00.png").rename(folder / "bild 00.PNG")
    Image.new("L", (56, 40)).save(folder / "bild 02.bmp")
    report = _check(good, tmp_path)[1]
    assert report["masks"] == 2 and "masks without photograph (not used)" not in report["warnings"]
    assert report["warnings"]["masks that are no PNG (not read)"] == ["masks/größe 1/bild 02.bmp"]
    assert sum(record.mask is not None for record in read_catalog("folder", good, "all").records) == 2


def test_training_tells_of_palettes_that_are_not_vocs(good):
    image = Image.fromarray(np.zeros((40, 56), np.uint8))
    image.putpalette([0, 128, 0])
    for record in read_catalog("folder", good, "all").records:
        path = good / "masks" / f"{record.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    data = MaskData(str(good), "folder", train_split="all", val_split="all", num_workers=0)
    for loader in (data.train_dataloader, data.test_dataloader):
        forget_notices()
        with pytest.warns(UserNotice, match="palette of 20 masks is not VOC's"):
            loader()


def test_check_says_where_tags_are_from(good, tmp_path, capsys):
    (good / "tags.csv").rename(tmp_path / "tags.csv")
    code, report = _check(good, tmp_path)
    assert code == 1 and report["classes"] == {"größe 1": 20}
    assert "the names of the sub-folders are the tags" in capsys.readouterr().out
    kind = "sub-folders are taken for classes, not a table beside them (--tags)"
    assert report["warnings"][kind] == [str(tmp_path / "tags.csv")]
    report = check(good, tmp_path / "tags.csv")
    assert kind not in report.warnings and "cat" in report.classes


@pytest.mark.parametrize("written", ["größe 1/Bild 00.JPG", "größe 1/bild 00"])
def test_check_knows_what_was_meant(written, good, tmp_path):
    text = (good / "tags.csv").read_text(encoding="utf-8")
    (good / "tags.csv").write_text(text.replace("größe 1/bild 00.jpg", written), encoding="utf-8")
    code, report = _check(good, tmp_path)
    assert code == 2
    assert report["errors"]["tags without image"] == [f"{written} (is it größe 1/bild 00.jpg?)"]


def test_check_names_masks_of_no_photograph(good, tmp_path):
    write_mask(good / "masks" / "größe 1" / "bild 00_mask.png", np.zeros((40, 56), np.uint8))
    code, report = _check(good, tmp_path)
    assert code == 1
    assert report["warnings"]["masks without photograph (not used)"] == [
        "masks/größe 1/bild 00_mask.png"
    ]


def test_a_raw_file_beside_its_photograph_is_passed_over(tmp_path):
    photo(0).save(tmp_path / "DSC1.JPG")
    for name in ("DSC1.NEF", "DSC2.NEF"):
        (tmp_path / name).write_bytes(b"raw")
    with pytest.warns(UserNotice, match=r"passed over: 1 files .* \(first: DSC1\.NEF\)"):
        found = find_photographs([tmp_path])
    assert found == {"DSC1": tmp_path / "DSC1.JPG", "DSC2": tmp_path / "DSC2.NEF"}


FOREIGN = (
    "3fr arq arw cr2 cr3 crw dng erf fff iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 "
    "srf srw x3f dcr heic heics heif hif avif jxl jp2 j2k jpf jpx tga exr hdr psd svg HEIC"
)


def test_every_format_that_is_not_read_is_named(good, checkpoint, tmp_path, capsys):
    names = [f"{suffix}.{suffix}" for suffix in FOREIGN.split()]
    for name in names:
        photo(1).save(good / name, format="JPEG")
        _add(good, name)
    found = _check(good, tmp_path)[1]["warnings"]
    assert found["unreadable: format that is not read (save it as JPEG or PNG)"] == sorted(names)
    out = tmp_path / "out"
    assert main(["init", str(good), "--backbone", "glnet_nano", "--out", str(out)]) == 0
    with (out / "left_out.csv").open(encoding="utf-8") as file:
        assert {row["image"] for row in csv.DictReader(file)} == set(names)
    capsys.readouterr()
    words = ["predict", str(good), "--ckpt", str(checkpoint), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "new")]) == 1
    said = capsys.readouterr().err
    assert all(f"{good / name} is of a format that is not read" in said for name in names)


def test_check_and_init_tell_what_is_white(good, tmp_path, capsys):
    for number, top in enumerate((4000, 250)):
        ramp = np.linspace(0, top, 40 * 56).reshape(40, 56).astype(np.uint16)
        (good / f"{number}.tif").write_bytes(deep_tiff(ramp))
        _add(good, f"{number}.tif")
    (good / "told.tif").write_bytes(deep_tiff(ramp, maximum=1023))
    _add(good, "told.tif")
    found = _check(good, tmp_path)[1]["warnings"]
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
    _add(good, name)
    assert _check(good, tmp_path)[0] == 0
    asked = []

    def limit(folder, what):
        asked.append((folder, what))
        return 63

    monkeypatch.setattr(os, "pathconf", limit)
    assert _check(good, tmp_path)[1]["warnings"] == {
        "names too long for results here (63 bytes; left out by wsss init)": [name]
    }
    out = tmp_path / "not" / "yet"
    assert main(["init", str(good), "--backbone", "glnet_nano", "--out", str(out)]) == 0
    assert "name too long for results (63 bytes)" in (out / "left_out.csv").read_text(encoding="utf-8")
    assert asked[-1] == (tmp_path, "PC_NAME_MAX")
    assert len(read_catalog("folder", good, "all", tags=out / "tags.csv").records) == 20


def test_check_of_voc_layout(drawn, tmp_path):
    import shutil

    root = tmp_path / "voc"
    shutil.copytree(drawn, root)
    code, report = _check(root, tmp_path)
    assert (report["layout"], report["images"], report["tagged"]) == ("voc", 32, 32)
    assert code in (0, 1) and not report["errors"]
    lists = root / "ImageSets" / "Segmentation"
    shared = (lists / "val.txt").read_text().split()[0]
    with (lists / "train.txt").open("a") as file:
        file.write(f"{shared}\n")
    code, report = _check(root, tmp_path)
    assert code == 2 and report["errors"]["train and val overlap"] == [shared]
    (root / "JPEGImages" / f"{shared}.jpg").write_bytes(b"")
    assert _check(root, tmp_path)[1]["errors"]["unreadable: zero bytes"] == [f"JPEGImages/{shared}.jpg"]


def test_a_file_may_have_the_longest_name_there_is(tmp_path):
    path = tmp_path / ("写" * 83 + "ab.png")  # 255 bytes
    write_mask(path, np.ones((4, 4)))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told(good, tmp_path, monkeypatch, capsys):
    def full(path, write):
        write_atomic(path, lambda aside: Path("/dev/full").write_text("x"))

    monkeypatch.setattr("wsss.files.write_atomic", full)
    assert main(["check", str(good), "--json", str(tmp_path / "r.json")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: {tmp_path / 'r.json'}: No space left on device"
    assert not list(tmp_path.glob("*.part"))


def test_check_of_nothing(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 2
    assert main(["check", str(tmp_path / "nowhere")]) == 2
    assert "no folder" in capsys.readouterr().err


FORMS = {
    "space": ("tags.csv", "image,tags\na.jpg,cat dog\nb.jpg,\n"),
    "comma": ("tags.csv", 'image,tags\na.jpg,"cat,dog"\nb.jpg,\n'),
    "bare comma": ("tags.csv", "image,tags\na.jpg,cat,dog\nb.jpg,\n"),
    "semicolon": ("tags.csv", "image,tags\na.jpg,cat;dog\nb.jpg,\n"),
    "pipe": ("tags.csv", "image,tags\na.jpg,cat|dog\nb.jpg,\n"),
    "columns by semicolon": ("tags.csv", "image;tags;split\na.jpg;cat, dog;train\nb.jpg;;train\n"),
    "columns by tab": ("tags.csv", "image\ttags\na.jpg\tcat;dog\nb.jpg\t\n"),
    "0/1 by semicolon": ("tags.csv", "image;cat;dog;cow\na.jpg;1;1;0\nb.jpg;0;0;0\n"),
    "rows of separators": ("tags.csv", "image,tags\na.jpg,cat|dog\n,\nb.jpg,\n , ,\n"),
    "names of columns as people write them": (
        "tags.csv",
        "Image; Tags ;SPLIT\na.jpg;cat|dog;train\nb.jpg;;\n",
    ),
    "columns": ("tags.csv", "image,cat,dog,cow\na.jpg,1,1,0\nb.jpg,0,0,0\n"),
    "json": ("tags.json", '{"a.jpg": ["cat", "dog"], "b.jpg": []}'),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_tags(form, tmp_path):
    name, text = FORMS[form]
    (tmp_path / name).write_text(text)
    for number, image in enumerate("ab"):
        photo(number).save(tmp_path / f"{image}.jpg")
    rows = read_tag_table(tmp_path / name, tmp_path)
    assert [(row.image, row.tags) for row in rows] == [("a.jpg", ("cat", "dog")), ("b.jpg", ())]
    assert read_classes("folder", tmp_path) == ("cat", "dog")
    assert [r.tags for r in read_catalog("folder", tmp_path, "all").records] == [(0, 1), ()]


def test_class_names_with_spaces_between_bare_commas(tmp_path):
    (tmp_path / "tags.csv").write_text("image,tags\na.jpg,polar bear,dog\nb.jpg,\n")
    rows = read_tag_table(tmp_path / "tags.csv", tmp_path)
    assert [row.tags for row in rows] == [("polar bear", "dog"), ()]


def test_more_classes_than_labels(tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("\n".join(f"c{n}" for n in range(255)))
    with pytest.raises(UserError, match="has 255 classes, masks have labels for 254"):
        read_classes("folder", tmp_path)
    (tmp_path / "classes.txt").unlink()
    photo(1).save(tmp_path / "a.jpg")
    (tmp_path / "tags.csv").write_text("image,tags\na.jpg," + "|".join(f"c{n}" for n in range(255)))
    with pytest.raises(UserError, match="has 255 classes"):
        read_classes("folder", tmp_path)
    assert _check(tmp_path, tmp_path)[1]["errors"]["classes unusable"]
    assert main(["init", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "has 255 classes" in capsys.readouterr().err


def test_check_compares_tags_and_classes(good, tmp_path):
    (good / "classes.txt").write_text("Cat\nzebra\n")
    code, report = _check(good, tmp_path)
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
    code, report = _check(good, tmp_path)
    assert code == 0 and report["tagged"] == 20
    _add(good, "größe 1/bild 00.jpg")
    assert _check(good, tmp_path)[1]["errors"]["duplicate rows"] == ["größe 1/bild 00.jpg"]


def test_lists_that_overlap_by_name(good, tmp_path):
    (good / "train.txt").write_text("größe 1/bild 00\ngröße 1/bild 01\n", encoding="utf-8")
    (good / "val.txt").write_text("größe 1/bild 01.jpg\n", encoding="utf-8")
    overlap = _check(good, tmp_path)[1]["warnings"]["train and val overlap (used for val only)"]
    assert overlap == ["größe 1/bild 01.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8(good, tmp_path, capfd):
    name = os.fsdecode(b"caf\xe9.jpg")
    photo(3).save(good / name)
    forget_notices()
    with pytest.warns(UserNotice, match=r"caf\\xe9.jpg, whose name is not UTF-8: rename it"):
        code, report = _check(good, tmp_path)
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
        _add(good, name)
    warnings = _check(good, tmp_path)[1]["warnings"]
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


def test_one_folder_per_class(tmp_path):
    for number, name in enumerate(("big dog/ä.jpg", "cat/deep/b.png", "masks/no.png")):
        (tmp_path / name).parent.mkdir(parents=True)
        photo(number).save(tmp_path / name)
    assert read_classes("folder", tmp_path) == ("big dog", "cat")
    records = read_catalog("folder", tmp_path, "all").records
    assert [(r.id, r.tags) for r in records] == [("big dog/ä", (0,)), ("cat/deep/b", (1,))]
    for folder, note in (("new", "settings.json"), ("runs/a", "pipeline.yaml"), ("r", "metrics.json")):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / note).write_text("{}")
        photo(7).save(tmp_path / folder / "deep" / "c.jpg")
    (tmp_path / "cat" / ".originals").mkdir()
    photo(9).save(tmp_path / "cat" / ".originals" / "b.jpg")
    forget_notices()
    with pytest.warns(UserNotice, match="runs/a, which holds results of wsss"):
        assert read_classes("folder", tmp_path) == ("big dog", "cat")  # results are no classes
    assert len(read_catalog("folder", tmp_path, "all").records) == 2
    assert sorted(find_photographs([tmp_path])) == ["big dog/ä", "cat/deep/b"]
    photo(8).save(tmp_path / "masks" / "mask.jpg")
    forget_notices()
    with pytest.warns(UserNotice, match="masks, which is taken for true masks"):
        read_classes("folder", tmp_path)


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("tags.json", '["a.jpg"]', "must be like"),
        ("tags.json", '{"a.jpg": "cat"}', "must be like"),
        ("tags.json", '{"a.jpg": ["cat"], "a.jpg": ["dog"]}', "twice"),
        ("tags.json", "{", "not readable JSON"),
        ("tags.csv", "image,cat\na.jpg,perhaps\n", "no column 'tags'"),
        ("tags.csv", 'image,tags\na.jpg,cat\nb.jpg,"cat\nc.jpg,dog\n', "line 3 .* not closed"),
        ("tags.csv", 'image,tags\na.jpg,"cat' + 5000 * "\na-long-name-of-a-file.jpg,dog", "not closed"),
    ],
)
def test_bad_tables_are_named(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        read_tag_table(tmp_path / name, tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    from wsss.tasks.segmentation import SegmentationTask

    torch.manual_seed(0)
    settings = {"decoder": "Unet", "encoder": "mobilenetv2_050"}
    task = SegmentationTask(["big dog", "cat"], **settings)
    path = tmp_path_factory.mktemp("ckpt") / "last.ckpt"
    content = {"kind": "segment", "classes": task.classes, "hyper_parameters": settings}
    torch.save(content | {"state_dict": task.state_dict()}, path)
    return path


def test_predict_is_untouched_by_odd_files(good, checkpoint, tmp_path, capsys):
    words = ["predict", "--ckpt", str(checkpoint), "--device", "cpu", str(good), "--out"]
    assert main([*words, str(tmp_path / "before")]) == 0
    for name, (make, _) in (UNREADABLE | ODD).items():
        if name != "huge.png":
            make(good / name)
    out = tmp_path / "after"
    capsys.readouterr()
    assert main([*words, str(out)]) == 1
    said = capsys.readouterr().err
    assert all(f"{name} " in said for name in UNREADABLE)
    masks = sorted((tmp_path / "before" / "masks").rglob("*.png"))
    assert len(masks) == 20
    for path in masks:
        other = out / path.relative_to(tmp_path / "before")
        assert other.read_bytes() == path.read_bytes()
    assert read_mask(out / "masks" / "turned.png").shape == (56, 40)  # upright
    rows = list(csv.DictReader((out / "areas.csv").open(encoding="utf-8")))
    assert len(rows) == 20 + len(ODD) - 1
    for row in rows:
        mask = read_mask(out / "masks" / f"{row['image']}.png")
        assert float(row["cat"]) == pytest.approx(100 * (mask == 2).mean(), abs=1e-3)

    # again, after a spreadsheet has saved the table in its own way
    table = (out / "areas.csv").read_bytes()
    one = next(str(p) for p in good.glob("*.jpg") if (out / "masks" / f"{p.stem}.png").is_file())
    for form in (table.replace(b",", b";"), table.replace(b"0.000", b'"0,0"'), b"", b"\xff\xfe"):
        (out / "areas.csv").write_bytes(form)
        assert main([*(one if word == str(good) else word for word in words), str(out)]) == 0
        shown = list(csv.DictReader((out / "areas.csv").open(encoding="utf-8")))
        assert sorted(shown, key=str) == sorted(rows, key=str)

    # again: kept files stay, a lost one is made again
    kept = {path: path.stat().st_mtime_ns for path in (out / "masks").rglob("*.png")}
    lost = out / "masks" / "grey.png"
    lost.unlink()
    assert main([*words, str(out)]) == 1
    after = {path: path.stat().st_mtime_ns for path in (out / "masks").rglob("*.png")}
    assert [path for path in after if after[path] != kept[path]] == [lost]


@pytest.mark.parametrize("fault", [errno.ENAMETOOLONG, errno.EILSEQ, errno.ENOSPC, errno.EACCES])
def test_predict_goes_on_where_one_name_cannot_be_written(
    fault, good, checkpoint, tmp_path, monkeypatch, capsys
):
    def write(path, content):
        if path.name.startswith("bild 03"):
            raise OSError(fault, os.strerror(fault), str(path))
        write_atomic(path, content)

    monkeypatch.setattr("wsss.data.masks.write_atomic", write)
    out = tmp_path / "out"
    words = ["predict", str(good), "--ckpt", str(checkpoint), "--device", "cpu", "--out", str(out)]
    code, said = main(words), capsys.readouterr().err
    if fault in (errno.ENOSPC, errno.EACCES):  # the next one cannot be written either
        assert code == 2 and f"bild 03.png: {os.strerror(fault)}" in said
        return
    assert code == 1
    assert (
        f"left out: image {good / 'größe 1' / 'bild 03.jpg'}: " in said and os.strerror(fault) in said
    )
    rows = list(csv.DictReader((out / "areas.csv").open(encoding="utf-8")))
    assert len(rows) == 19 == len(list(out.rglob("*.png")))


def test_predict_shows_16_bits_as_in_training(checkpoint, tmp_path, monkeypatch):
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"white": 65535}, tmp_path / "last.ckpt")
    (tmp_path / "new").mkdir()
    dark = np.linspace(0, 4000, 40 * 56).reshape(40, 56).astype(np.uint16)  # of a camera of 16 bits
    (tmp_path / "new" / "dark.tif").write_bytes(deep_tiff(dark))
    brightest = []

    def shown(image, mask):
        brightest.append(image.max())
        return image

    monkeypatch.setattr("wsss.predict.overlay", shown)
    for number, ckpt in enumerate((tmp_path / "last.ckpt", checkpoint)):
        words = ["predict", str(tmp_path / "new"), "--ckpt", str(ckpt), "--device", "cpu"]
        assert main([*words, "--out", str(tmp_path / str(number))]) == 0
    assert brightest == [4000 * 255 // 65535, 4000 * 255 // 4095]


def test_a_checkpoint_tells_what_was_white(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, tag in enumerate(("cat", "big dog")):
        ramp = np.linspace(0, 9000 - number, 40 * 56).reshape(40, 56).astype(np.uint16)
        (good / f"{number}.tif").write_bytes(deep_tiff(ramp))
        _add(good, f"{number}.tif", f"{tag}|")
    words = ["classify", "fit", "--data.layout", "folder", "--data.root", str(good)]
    words += ["--data.size", "64", "--data.num_workers", "0", "--data.batch_size", "4"]
    words += ["--model.backbone", "glnet_nano", "--trainer.accelerator", "cpu"]
    words += ["--trainer.max_epochs", "1", "--trainer.logger", "false"]
    assert main(words) == 0
    from wsss.tasks.classification import ClassificationTask

    assert ClassificationTask.from_checkpoint("checkpoints/last.ckpt").white == 16383


def test_predict_does_not_take_one_photograph_for_another(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    for number, card in enumerate(("a", "b")):
        (tmp_path / card).mkdir()
        photo(number).save(tmp_path / card / "DSC_1.jpg")
        photo(9).save(tmp_path / card / f"only {card}.jpg")

    def predict(folder):
        words = ["--ckpt", str(checkpoint), "--device", "cpu", "--out", str(out)]
        return main(["predict", str(tmp_path / folder), *words])

    def rows():
        return [row["image"] for row in csv.DictReader((out / "areas.csv").open(encoding="utf-8"))]

    assert predict("a") == 0 and rows() == ["DSC_1", "only a"]
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    capsys.readouterr()
    assert predict("b") == 2
    error = capsys.readouterr().err
    assert "overlays/DSC_1.jpg is of another photograph of the same name as" in error
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    (tmp_path / "b" / "DSC_1.jpg").unlink()
    assert predict("b") == 0 and rows() == ["DSC_1", "only a", "only b"]  # added to the others

    times = {path: path.stat().st_mtime_ns for path in (out / "masks").iterdir()}
    (tmp_path / "a").rename(tmp_path / "moved")
    photo(5).save(tmp_path / "moved" / "new.jpg")
    assert predict("moved") == 0 and rows() == ["DSC_1", "only a", "only b", "new"]
    (tmp_path / "moved").rename(tmp_path / "a")
    photo(6).save(tmp_path / "a" / "DSC_1.jpg")  # developed again
    assert predict("a") == 0
    after = {path: path.stat().st_mtime_ns for path in times}
    assert [path.name for path in times if times[path] != after[path]] == ["DSC_1.png"]


def test_predict_spares_masks_that_are_not_its_own(checkpoint, tmp_path, capsys):
    photo(0).save(tmp_path / "x.jpg")
    truth = tmp_path / "masks" / "x.png"
    write_mask(truth, np.ones((40, 56), np.uint8))
    before = truth.read_bytes()
    words = ["predict", "--ckpt", str(checkpoint), "--device", "cpu", "--out", str(tmp_path)]
    for given, said in ((tmp_path, "taken for true ones"), (tmp_path / "x.jpg", "of another origin")):
        assert main([*words, str(given)]) == 2
        assert said in capsys.readouterr().err
    assert truth.read_bytes() == before


def test_predict_tiles_what_is_large(checkpoint, tmp_path, monkeypatch):
    from wsss import predict
    from wsss.models.segmenter import SegmentationNetwork

    sides = []
    forward = SegmentationNetwork.forward

    def spy(self, images):
        sides.append(tuple(images.shape[-2:]))
        return forward(self, images)

    monkeypatch.setattr(SegmentationNetwork, "forward", spy)
    monkeypatch.setattr(predict, "TILE", 64)
    photo(0, 150, 90).save(tmp_path / "large.jpg")
    words = ["predict", "--ckpt", str(checkpoint), str(tmp_path / "large.jpg")]
    words += ["--device", "cpu", "--out"]
    assert main([*words, str(tmp_path / "as-tested")]) == 0
    assert set(sides) == {(150, 90)}
    sides.clear()
    assert main([*words, str(tmp_path / "out"), "--max-side", "150"]) == 0
    assert read_mask(tmp_path / "out" / "masks" / "large.png").shape == (150, 90)
    assert set(sides) == {(64, 64)}


def test_predict_runs_no_code_from_a_checkpoint(good, tmp_path, capsys):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"kind": "segment", "x": Attack()}, tmp_path / "evil.ckpt")
    words = ["predict", "--ckpt", str(tmp_path / "evil.ckpt"), str(good), "--out", str(tmp_path)]
    assert main(words) == 2 and "no code is run" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_training_goes_on_with_odd_files(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, (make, _) in (UNREADABLE | ODD).items():
        if name != "huge.png":
            make(good / name)
            _add(good, name)
    words = ["classify", "fit", "--data.layout", "folder", "--data.root", str(good)]
    words += ["--data.size", "64", "--data.num_workers", "0", "--data.batch_size", "4"]
    words += ["--model.backbone", "glnet_nano", "--trainer.accelerator", "cpu"]
    words += ["--trainer.max_epochs", "1", "--trainer.logger", "false"]
    with pytest.warns(UserWarning, match=r"zero\.jpg"):
        assert main(words) == 0


def test_segmenter_reads_weights_strictly_and_runs_no_code_from_them(drawn, tmp_path, capsys):
    import timm

    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {"x": Attack()}}, tmp_path / "evil.pth")
    torch.save(timm.create_model("glnet_nano").state_dict(), tmp_path / "other.pth")
    words = ["segment", "fit", "--data.root", str(drawn), "--model.encoder", "mobilenetv2_050"]
    for name, said in (("evil.pth", "no code is run"), ("other.pth", "does not hold the weights")):
        assert main([*words, "--model.weights", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_without_a_download_one_sentence(monkeypatch):
    import segmentation_models_pytorch as smp
    import timm

    from wsss.models.classifier import TagClassifier
    from wsss.models.segmenter import SegmentationNetwork

    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(smp, "create_model", offline)
    with pytest.raises(UserError, match=r"mobilenetv2_100 cannot be downloaded.*--weights"):
        TagClassifier("mobilenetv2_100", 2, pretrained=True)
    with pytest.raises(UserError, match=r"mobilenetv2_100 cannot be downloaded.*--weights"):
        SegmentationNetwork("Unet", "mobilenetv2_100", 3, pretrained=True)
