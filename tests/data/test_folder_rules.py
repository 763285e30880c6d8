"""The rules of a folder of photographs."""

import shutil

import pytest
from odd_files import photo

from wsss.data.folder_rules import (
    ABSENT,
    NO_IMAGE,
    OUTSIDE,
    SAME_CONTENT,
    SAME_NAME,
    TOO_LONG,
    TWICE,
    UNTAGGED,
    Finding,
    digests,
    examine,
    refuse,
    repeats,
)
from wsss.data.tags import TagRow
from wsss.errors import UserError


def _rows(*names: str) -> list[TagRow]:
    return [TagRow(name, (f"tag {number}",), None) for number, name in enumerate(names)]


def test_rows_are_held_against_the_files(tmp_path):
    for number, name in enumerate(("a.jpg", "b.jpg", "long.jpg", "c.jpg")):
        photo(number).save(tmp_path / name)
    (tmp_path / "no.txt").write_text("no image")
    rows = _rows("a.jpg", "gone.jpg", "B.JPG", "./a.jpg", "no.txt", "../x.jpg", "long.jpg", "b.jpg")
    kept, findings = examine(rows, tmp_path, ["a.jpg", "b.jpg", "long.jpg", "c.jpg"], longest=7)
    assert [(row.image, row.tags) for row in kept] == [
        ("a.jpg", ("tag 0", "tag 3")),
        ("b.jpg", ("tag 7",)),
    ]
    assert findings == [
        Finding(ABSENT, "gone.jpg"),
        Finding(ABSENT, "B.JPG", "b.jpg"),
        Finding(TWICE, "a.jpg"),
        Finding(NO_IMAGE, "no.txt"),
        Finding(OUTSIDE, "../x.jpg"),
        Finding(TOO_LONG, "long.jpg", "7"),
        Finding(UNTAGGED, "c.jpg"),
    ]
    # without a list of files names are taken as they are, and nothing is missing in the table
    kept, findings = examine(_rows("./a.jpg", "a.jpg"), tmp_path)
    assert [row.image for row in kept] == ["./a.jpg", "a.jpg"] and not findings


def test_what_repeats_another_stands_for_nothing_later(tmp_path):
    for number, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        photo(number).save(tmp_path / name)
    for copy, of in (("a.png", "b.jpg"), ("d.jpg", "a.png"), ("e.jpg", "c.jpg"), ("e.png", "c.jpg")):
        shutil.copy(tmp_path / of, tmp_path / copy)
    names = ["a.jpg", "a.png", "d.jpg", "c.jpg", "e.jpg", "e.png", "b.jpg"]
    assert [*repeats(names, digests(tmp_path, names))] == [
        Finding(SAME_NAME, "a.png", "a.jpg"),  # so that d.jpg, of the same content, is kept
        Finding(SAME_CONTENT, "e.jpg", "c.jpg"),
        Finding(SAME_CONTENT, "e.png", "c.jpg"),
        Finding(SAME_CONTENT, "b.jpg", "d.jpg"),
    ]
    assert [*repeats(names)] == [
        Finding(SAME_NAME, "a.png", "a.jpg"),
        Finding(SAME_NAME, "e.png", "e.jpg"),
    ]


def test_only_files_of_one_size_are_read(tmp_path):
    contents = {"a": b"12", "b": b"12", "c": b"21", "d": b"123", "e": b"", "f": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = digests(tmp_path, contents)
    assert found.keys() == {"a", "b", "c"} and found["a"] == found["b"] != found["c"]


@pytest.mark.parametrize(
    "finding, said",
    [
        (Finding(OUTSIDE, "../x.jpg"), r"t.csv names '../x.jpg', which lies outside"),
        (Finding(ABSENT, "{x}.jpg"), r"t.csv lists '\{x\}.jpg', but there is no image .*\{x\}.jpg"),
        (
            Finding(NO_IMAGE, "x.txt"),
            r"t.csv lists 'x.txt', which is no image file: known",
        ),
        (Finding(SAME_NAME, "x.png", "x.jpg"), r"'x.jpg' and 'x.png' in .*t.csv differ by suffix only"),
    ],
)
def test_the_catalog_refuses_in_one_sentence(finding, said, tmp_path):
    with pytest.raises(UserError, match=said):
        refuse(finding, tmp_path, tmp_path / "t.csv")
