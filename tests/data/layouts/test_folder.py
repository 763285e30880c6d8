"""A folder of photographs with a table."""

import shutil
import unicodedata

import numpy as np
import pytest
import timm
from odd_files import UNREADABLE, photo
from own_folder import add_row, checked
from PIL import Image
from safetensors.torch import save_file

from wsss.cli import main
from wsss.data.catalog import read_catalog, read_classes
from wsss.data.check import check
from wsss.data.masks import write_mask
from wsss.data.modules import MaskData
from wsss.data.names import inside
from wsss.data.photographs import find_photographs
from wsss.errors import UserError, UserNotice, forget_notices
from wsss.settings import BACKBONE


def test_folder_of_photographs(tmp_path):
    (tmp_path / "sub dir").mkdir()
    for index in range(10):
        Image.new("RGB", (40, 30)).save(tmp_path / "sub dir" / f"é {index}.jpg")
    lines = [f"sub dir/é {index}.jpg,{'dog|big sofa' if index % 2 else ''}" for index in range(10)]
    (tmp_path / "tags.csv").write_text("image,tags\n" + "\n".join(lines), encoding="utf-8")
    assert read_classes("folder", tmp_path) == ("big sofa", "dog")
    train, val = (read_catalog("folder", tmp_path, split) for split in ("train", "val"))
    assert len(train.records) == 8 and len(val.records) == 2
    assert {r.id for r in train.records} | {r.id for r in val.records} == {
        f"sub dir/é {index}" for index in range(10)
    }
    assert {r.tags for r in train.records} == {(), (0, 1)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no image"),
        ("file,tags\na.jpg,dog\n", "no column 'image'"),
        ("image,tags\na.jpg,dog\na.jpg,cat\n", "twice"),
        ("image,tags\na.jpg,\n", "no tag at all"),
        ("image,tags,split\na.jpg,dog,spare\n", "line 2: split 'spare' must be train or val"),
        ("image,tags\nnone.jpg,dog\n", "no image"),
        ("image,tags\n../a.jpg,dog\n", "outside"),
        ("image,cat,dog\na.jpg,maybe,no\n", "no column 'tags'.*'maybe' in its column 'cat'"),
        ("image,cat,dog\na.jpg,2,0\n", "no column 'tags'.*'2' in its column 'cat'"),
        ("image,kind\na.jpg,x\nb.jpg,y\n", "no column 'tags'.*'y' in its column 'kind'"),
        ("sep=;\nimage;tags\n;dog\n", "line 3 names no image"),
        ("image,tags\na.jpg,\"['dog', 'cat'\"\n", r"line 2: '\['dog', .* cannot be read as one"),
        ("image,tags\na.jpg,\"{'dog': 1, 'cat': 0}\"\n", "line 2: .* cannot be read as one"),
        ("image,tags\na.jpg,[dog\n", "line 2: .* cannot be read as one"),
        ("image,tags\na.jpg,nan\n", "no tag at all"),
        ("image,tags\n,dog\n", "line 2 names no image"),
        ("image,tags,tags\na.jpg,dog,cat\n", "two columns 'tags'"),
        ("image,cat,dog,cat\na.jpg,1,0,0\n", "two columns 'cat'"),
        ("image,cat,dog\na.jpg,1,0\nb.jpg,0,1,1\n", "line 3 has more cells"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, message):
    (tmp_path / "tags.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_catalog("folder", tmp_path, "all")


def test_an_accented_letter_is_one_letter_however_it_is_written(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.jpg")
    text = "image,tags\na.jpg,caf\u00e9\nb.jpg,cafe\u0301\n"
    (tmp_path / "tags.csv").write_text(text, encoding="utf-8")
    for _ in range(2):
        catalog = read_catalog("folder", tmp_path, "all")
        assert catalog.classes == ("caf\u00e9",) and [r.tags for r in catalog.records] == [(0,), (0,)]
        (tmp_path / "classes.txt").write_text("cafe\u0301\n", encoding="utf-8")


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files_are_left_out_of_training(name, good):
    before = [read_catalog("folder", good, split) for split in ("train", "val")]
    UNREADABLE[name][0](good / name)
    add_row(good, name, "only here")
    with pytest.warns(UserWarning, match=name):
        after = [read_catalog("folder", good, split) for split in ("train", "val")]
    assert after == before  # the split and the classes of the good files, too


def test_a_mended_file_is_seen(good):
    path = good / "later.jpg"
    path.write_bytes(b"")
    add_row(good, path.name)
    with pytest.warns(UserWarning, match=r"later\.jpg"):
        assert len(read_catalog("folder", good, "all").records) == 20
    photo(1).save(path)
    assert len(read_catalog("folder", good, "all").records) == 21


def test_a_name_leads_out_by_no_link(good, tmp_path):
    photo(1).save(tmp_path / "secret.jpg")
    (tmp_path / "beside").mkdir()
    (good / "link").symlink_to(tmp_path / "beside")
    add_row(good, "link/../secret.jpg")  # which a system takes for the folder above `beside`
    with pytest.raises(UserError, match="outside"):
        read_catalog("folder", good, "all")


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
    add_row(good, f"a{suffix}")
    assert checked(good, tmp_path)[1]["warnings"] == {}
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
    save_file(timm.create_model(BACKBONE).state_dict(), weights)
    assert (
        main(["init", str(root), *words, "--weights", str(weights), "--out", str(tmp_path / "o")]) == 0
    )
    assert "\ngröße 1/bild 00.jpg," in (tmp_path / "o" / "tags.csv").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="relative to"):  # a devkit's list
        inside(good, str(good / "größe 1" / "bild 00.jpg"), table)


def test_ground_truth_matches_however_accents_are_written(good, tmp_path):
    names = [f"größe 1/bild {number:02d}" for number in range(2)]
    for name in names:
        mask = np.zeros((40, 56), np.uint8)
        write_mask(good / "masks" / f"{unicodedata.normalize('NFD', name)}.png", mask)
    report = checked(good, tmp_path)[1]
    assert report["masks"] == 2 and "masks without photograph (not used)" not in report["warnings"]
    records = read_catalog("folder", good, "all").records
    assert [record.id for record in records if record.mask] == names
    shutil.move(good / "masks", tmp_path / "corrected")
    data = MaskData(str(good), "folder", train_split="all", mask_dir=str(tmp_path / "corrected"))
    with pytest.raises(UserError, match="18 of 20 images have no mask"):
        data.train_dataloader()


def test_ground_truth_with_a_capital_suffix_or_another_one(good, tmp_path):
    write_mask(good / "masks" / "größe 1" / "bild 00.png", np.zeros((40, 56), np.uint8))
    write_mask(good / "masks" / "größe 1" / "bild 01.png", np.zeros((40, 56), np.uint8))
    folder = good / "masks" / "größe 1"
    (folder / "bild 00.png").rename(folder / "bild 00.PNG")
    Image.new("L", (56, 40)).save(folder / "bild 02.bmp")
    report = checked(good, tmp_path)[1]
    assert report["masks"] == 2 and "masks without photograph (not used)" not in report["warnings"]
    assert report["warnings"]["masks that are no PNG (not read)"] == ["masks/größe 1/bild 02.bmp"]
    assert sum(record.mask is not None for record in read_catalog("folder", good, "all").records) == 2


def test_more_classes_than_labels(tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("\n".join(f"c{n}" for n in range(255)))
    with pytest.raises(UserError, match="has 255 classes, masks have labels for 254"):
        read_classes("folder", tmp_path)
    (tmp_path / "classes.txt").unlink()
    photo(1).save(tmp_path / "a.jpg")
    (tmp_path / "tags.csv").write_text("image,tags\na.jpg," + "|".join(f"c{n}" for n in range(255)))
    with pytest.raises(UserError, match="has 255 classes"):
        read_classes("folder", tmp_path)
    assert checked(tmp_path, tmp_path)[1]["errors"]["classes unusable"]
    assert main(["init", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "has 255 classes" in capsys.readouterr().err


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
    with pytest.warns(UserNotice, match="masks, which is taken for ground-truth masks"):
        read_classes("folder", tmp_path)
