"""The split of a folder by its table, by lists, or as images are dealt out."""

from pathlib import Path

import pytest
from odd_files import photo

from wsss.data.catalog import read_catalog
from wsss.data.check import check
from wsss.data.gather import gather
from wsss.data.splits import split_folder, split_of
from wsss.data.tags import TagRow, read_tag_table
from wsss.errors import UserError, UserNotice, forget_notices
from wsss.files import read_lines


@pytest.fixture(autouse=True)
def _anew():
    forget_notices()


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twelve photographs, every second one of a cat, the others of a big dog, without a table."""
    for number in range(12):
        photo(number).save(tmp_path / f"{number:02d}.jpg")
    return tmp_path


def _tags(number: int) -> str:
    return "cat" if number % 2 else "big dog"


def _write(folder: Path, cells: dict[int, str], header: str = "image;tags") -> Path:
    lines = [f"{number:02d}.jpg;{cells.get(number, _tags(number) + '|')}" for number in range(12)]
    path = folder / "tags.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def _notices(told) -> str:
    return "\n".join(str(one.message) for one in told)


def test_split_keeps_every_class_in_both_parts(tmp_path):
    lines = [f"{index}.jpg,{'rare' if index < 10 else 'common'}" for index in range(100)]
    (tmp_path / "tags.csv").write_text("image,tags\n" + "\n".join(lines))
    splits = split_of(read_tag_table(tmp_path / "tags.csv", tmp_path).rows)
    assert sum(splits[f"{index}.jpg"] == "val" for index in range(10)) == 2
    assert sum(split == "val" for split in splits.values()) == 20


def test_lists_in_utf_16_are_read(tmp_path):
    (tmp_path / "val.txt").write_bytes("é 1.jpg\r\nb.jpg\r\n".encode("utf-16"))
    assert read_lines(tmp_path / "val.txt") == ["é 1.jpg", "b.jpg"]


TRAIN = ["train", "Train", "TRAIN", " training "]


VAL = ["val", "Val", "valid", "VALID", "Validation", "dev"]


TEST = ["test", "TEST", "Testing"]


def _ids(root: Path, split: str) -> list[str]:
    return sorted(record.id for record in read_catalog("folder", root, split).records)


def _numbers(*numbers: int) -> list[str]:
    return [f"{number:02d}" for number in numbers]


@pytest.mark.parametrize("train, val, test", [(TRAIN[i % 4], VAL[i], TEST[i % 3]) for i in range(6)])
@pytest.mark.parametrize("by", ["column", "lists"])
def test_splits_by_their_names(by, train, val, test, photos):
    splits = {number: train for number in range(12)} | {2: val, 5: val, 3: test, 4: test}
    if by == "column":
        _write(photos, {n: f"{_tags(n)}|;{s}" for n, s in splits.items()}, "image;tags;Split")
    else:
        _write(photos, {})
        for name in (train, val, test):
            lines = [f"{number:02d}" for number, split in splits.items() if split == name]
            (photos / f"{name.strip()}.txt").write_text("\n".join(lines))
    with pytest.warns(UserNotice, match=r"left out, of split test, .*: 03\.jpg, 04\.jpg"):
        assert _ids(photos, "val") == _numbers(2, 5)
    assert _ids(photos, "train") == _numbers(0, 1, *range(6, 12))
    assert _ids(photos, "all") == _numbers(*range(12))
    found = gather(photos, photos / "tags.csv", photos / "out")
    assert found.names("val") == ["02.jpg", "05.jpg"] and len(found.names("train")) == 8
    reason = "of split test, neither trained on nor validated with"
    assert found.left_out == {reason: ["03.jpg", "04.jpg"]}
    report = check(photos)
    assert report.warnings[f"left out, {reason}"] == ["03.jpg", "04.jpg"] and not report.errors


@pytest.mark.parametrize("beside", ["photographs", "table"])
@pytest.mark.parametrize("val", ["val.txt", "valid.txt", "validation.txt", "VAL.TXT"])
def test_lists_fix_the_split_for_everyone(val, beside, photos, tmp_path_factory):
    table = _write(photos, {})
    folder = photos
    if beside == "table":
        folder = tmp_path_factory.mktemp("table")
        table = table.rename(folder / "tags.csv")
    (folder / "train.txt").write_text("00.jpg\n./01\n02\n\n" + f"{photos}/03.jpg\n" + "09\n")
    (folder / val).write_text("\ufeff04\r\n05.jpg\r\n09.jpg\r\nlost.jpg\r\n", encoding="utf-8")
    with pytest.warns(UserNotice) as told:
        parts = {
            split: sorted(r.id for r in read_catalog("folder", photos, split, tags=table).records)
            for split in ("train", "val", "all")
        }
    assert parts == {
        "train": _numbers(0, 1, 2, 3),
        "val": _numbers(4, 5, 9),
        "all": _numbers(*range(12)),
    }
    said = _notices(told)
    assert f"left out, in neither train.txt nor {val}: 06.jpg, 07.jpg, 08.jpg, 10.jpg, 11.jpg" in said
    assert "train and val overlap (used for val only): 09.jpg" in said
    assert f"named in {val}, but no usable image with tags: lost.jpg" in said
    found = gather(photos, table, photos / "out")
    assert [name[:2] for name in found.names("train")] == parts["train"]
    assert [name[:2] for name in found.names("val")] == parts["val"]
    assert found.left_out == {
        f"in neither train.txt nor {val}": [f"{n}.jpg" for n in _numbers(6, 7, 8, 10, 11)]
    }
    report = check(photos, table)
    assert report.warnings["train and val overlap (used for val only)"] == ["09.jpg"]
    assert len(report.warnings[f"left out, in neither train.txt nor {val}"]) == 5
    assert report.warnings[f"named in {val}, but no usable image with tags"] == ["lost.jpg"]


@pytest.mark.parametrize("lines, said", [("a 1\nb 2\n", "'a 1' is none"), ("\n", "it is empty")])
def test_lists_of_something_else_are_named(lines, said, photos):
    _write(photos, {})
    (photos / "train.txt").write_text("00\n01\n")
    (photos / "val.txt").write_text(lines)
    with pytest.raises(UserError, match=rf"val\.txt names no usable image of .*tags\.csv \({said}"):
        read_catalog("folder", photos, "train")
    with pytest.raises(UserError, match=r"val\.txt names no usable image"):
        gather(photos, photos / "tags.csv", photos / "out")
    assert said in check(photos).errors["split unusable"][0]


def test_a_list_of_train_alone_is_told_and_of_test_alone_counts(photos):
    _write(photos, {})
    usual = _ids(photos, "train"), _ids(photos, "val")
    (photos / "train.txt").write_text("00\n01\n")
    with pytest.warns(UserNotice, match=r"only train and val together fix the split: .*train\.txt"):
        assert (_ids(photos, "train"), _ids(photos, "val")) == usual
    (photos / "test.txt").write_text("00\n01\n02\n03\n")
    train, val = _ids(photos, "train"), _ids(photos, "val")
    assert sorted(train + val) == _numbers(*range(4, 12)) and len(val) == 2


def test_a_column_comes_before_lists(photos):
    _write(photos, {n: f"{_tags(n)}|;{'val' if n > 8 else ''}" for n in range(12)}, "image;tags;split")
    (photos / "train.txt").write_text("11\n")
    (photos / "val.txt").write_text("00\n")
    kind = "lists that are not used, as the table has a column split"
    with pytest.warns(UserNotice, match=rf"{kind}: .*train\.txt, .*val\.txt"):
        assert _ids(photos, "val") == _numbers(9, 10, 11)
    assert len(check(photos).warnings[kind]) == 2


def test_what_is_in_test_is_in_no_other(tmp_path):
    rows = [TagRow(f"{name}.jpg", ("cat",), None) for name in "abcdef"]
    for name, lines in (("train", "a\nb\nc\nd\n"), ("val", "c\nd\ne\n"), ("test", "d\ne\nf\n")):
        (tmp_path / f"{name}.txt").write_text(lines)
    parts = split_folder(rows, tmp_path / "tags.csv", tmp_path)
    assert parts.of == {"a.jpg": "train", "b.jpg": "train", "c.jpg": "val"}
    assert [*parts.left_out.values()] == [["d.jpg", "e.jpg", "f.jpg"]]
    assert parts.odd == {
        "train and val overlap (used for val only)": ["c.jpg"],
        "val and test overlap (used for test only)": ["d.jpg", "e.jpg"],
        "train and test overlap (used for test only)": ["d.jpg"],
    }


def test_two_rows_of_an_image_in_two_splits(tmp_path):
    lines = ["a.jpg,cat,train", "a.jpg,dog,Test", "b.jpg,cat,valid", "b.jpg,cat,train", "c.jpg,cat,nan"]
    (tmp_path / "tags.csv").write_text("\n".join(["image,tags,split", *lines]))
    rows = read_tag_table(tmp_path / "tags.csv", tmp_path, duplicates=[], odd=(odd := {})).rows
    assert [row.split for row in rows] == ["test", "val", None]
    assert odd == {"read as an empty cell": ["line 6: 'nan'"]}


def test_split_is_stratified_and_keeps_every_class_in_train():
    rows = [TagRow(f"{i}.jpg", ("common",) if i % 4 else ("common", "rare"), None) for i in range(200)]
    splits = split_of(rows)
    assert splits == split_of(rows)  # the same on every run
    for tag in ("common", "rare"):
        held = [splits[row.image] == "val" for row in rows if tag in row.tags]
        assert sum(held) / len(held) == pytest.approx(0.2, abs=0.03)
    # whatever the names: two images a class, some shared, must not empty a class of train
    for trial in range(50):
        rows = [
            TagRow(f"{trial} {i}.jpg", tags, None)
            for i, tags in enumerate(
                (("b",), ("b", "c"), ("d", "c"), ("d",), ("e",), (), (), ("f",) * 1)
            )
        ]
        splits = split_of(rows)
        train = {tag for row in rows if splits[row.image] == "train" for tag in row.tags}
        val = {tag for row in rows if splits[row.image] == "val" for tag in row.tags}
        assert train == set("bcdef") and {"b", "d"} <= val
