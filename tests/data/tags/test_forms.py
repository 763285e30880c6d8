"""What holds for every form in which tags are read."""

import random

import pytest
from tag_samples import CLASSES, SAMPLES, TAGS, photographs

from wsss.cli import main
from wsss.data.catalog import read_catalog
from wsss.data.check import check
from wsss.data.tags import FORMS, read_tag_table, tag_source
from wsss.errors import UserError


def test_every_form_has_a_sample(tmp_path):
    abouts = set()
    for name, write in SAMPLES.items():
        root = photographs(tmp_path / name / "photos")
        abouts.add(read_tag_table(write(root), root).form)
    assert abouts | {"sub-folders named like the classes"} == {form.about for form in FORMS}


@pytest.mark.parametrize("form", SAMPLES)
def test_the_same_tags_in_every_form(form, root):
    path = SAMPLES[form](root)
    found = read_tag_table(path, root, odd=(odd := {}))
    assert {row.image: {*row.tags} for row in found.rows} == {n: {*t} for n, t in TAGS.items()}
    assert odd == {} and len(found.examples()) == 3 and {row.split for row in found.rows} == {None}
    if path.is_relative_to(root):  # found without --tags
        assert tag_source(root) == path
    catalog = read_catalog("folder", root, "all", tags=path)
    assert catalog.classes == CLASSES
    assert {r.id + ".jpg": tuple(CLASSES[t] for t in r.tags) for r in catalog.records} == TAGS


@pytest.mark.parametrize("form", SAMPLES)
def test_check_and_init_say_what_they_took_it_for(form, root, tmp_path, capsys):
    path = SAMPLES[form](root)
    table = read_tag_table(path, root)
    assert main(["check", str(root), "--tags", str(path)]) == 1  # few images of a class
    assert f"tags read as {table.form}" in capsys.readouterr().out
    words = ["--backbone", "glnet_nano", "--quick", "--out", str(tmp_path / "out")]
    assert main(["init", str(root), "--tags", str(path), *words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{path}: read as {table.form}"
    assert said[1:4] == [f"  {example}" for example in table.examples()]
    assert any("c.jpg: none of the classes" in line for line in said[1:4])


@pytest.mark.parametrize("form", SAMPLES)
@pytest.mark.parametrize("name", ["../d.jpg", "/etc/d.jpg", "x/../../d.jpg"])
def test_names_that_leave_the_folder_are_refused(form, name, root, tmp_path):
    path = SAMPLES[form](root)
    if form == "excel":
        import openpyxl

        book = openpyxl.load_workbook(path)
        book.active["A5"] = name
        book.save(path)
    elif form == "voc":
        (root / "d.xml").rename(root / "other.xml")
        text = (root / "other.xml").read_text()
        (root / "other.xml").write_text(text.replace("d.jpg", name))
    elif form.startswith("label_studio"):
        text = path.read_text(encoding="utf-8").replace("/data/local-files/?d=photos/d.jpg", name)
        path.write_text(text, encoding="utf-8")
    else:
        short = form in ("fiftyone", "open_images")
        old, new = ("d", name.removesuffix(".jpg")) if short else ("d.jpg", name)
        text = path.read_text(encoding="utf-8")
        for sign in ('"', "\n"):
            text = text.replace(f"{sign}{old}", f"{sign}{new}", 1) if f"{sign}{old}" in text else text
        path.write_text(text, encoding="utf-8")
    (tmp_path / "d.jpg").write_bytes((root / "d.jpg").read_bytes())
    with pytest.raises(UserError, match=r"outside|there is no image|names the image"):
        read_catalog("folder", root, "all", tags=path)
    report = check(root, path)
    assert report.code == 2


@pytest.mark.parametrize("form", SAMPLES)
def test_what_is_broken_is_told_in_one_sentence(form, root):
    """Seeded changes of bytes, lines and values: read, or refused in a sentence that names the file."""
    path = SAMPLES[form](root)
    whole = (path / "d.xml" if path.is_dir() else path).read_bytes()
    chance = random.Random(form)
    for _ in range(40):
        (path / "d.xml" if path.is_dir() else path).write_bytes(broken(whole, chance))
        try:
            read_catalog("folder", root, "all", tags=path)
        except UserError as error:
            assert str(error) and "\n" not in str(error)


SIGNS = [
    b"\0",
    b"\xff",
    b"\xff\xfe",
    b'"',
    b",",
    b";",
    b"\n",
    b"\t",
    b"[",
    b"{",
    b"}",
    b"]",
    b"<",
    b">",
]
SIGNS += [
    b"&a;",
    b"null",
    b"true",
    b"1e999",
    b"-1",
    b"[]",
    b"{}",
    b'""',
    b"../",
    b"/",
    b"\xc3",
    b"\xed\xa0\x80",
]
SIGNS += [
    b"\\ud800",
    b"\\u0000",
    b"nan",
    b"?",
    b"'",
    b"\\",
    b"<!DOCTYPE a>",
    b"\xe2\x80\x8b",
    b"9" * 30,
]


def broken(content: bytes, chance: random.Random) -> bytes:
    """The content with some of it changed."""
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(content) + 1)
        end = min(len(content), at + chance.choice((0, 1, 2, 8, 40)))
        kind = chance.randrange(5)
        if kind == 0:
            content = content[:at] + chance.choice(SIGNS) + content[end:]
        elif kind == 1:
            content = content[:at]
        elif kind == 2:
            content = content[:at] + content[end:]
        elif kind == 3:  # a part of it again
            content = content[:at] + content[at:end] + content[at:]
        else:
            values = [b"null", b"1", b"[]", b"{}", b"true", b'"x"', b"-0.5", b"[[]]"]
            parts = content.split(b'"')
            if len(parts) > 2:
                place = chance.randrange(1, len(parts), 2)
                parts[place - 1 : place + 2] = [
                    parts[place - 1]
                    + chance.choice(values)
                    + (parts[place + 1] if place + 1 < len(parts) else b"")
                ]
                content = b'"'.join(parts)
        content = content or b" "
    return content


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", [form for form in SAMPLES if form not in ("excel", "voc", "coco")])
def test_byte_order_marks_and_utf_16(form, encoding, root):
    path = SAMPLES[form](root)
    text = path.read_text(encoding="utf-8").replace(
        'encoding="utf-8"', f'encoding="{encoding.removesuffix("-sig")}"'
    )
    path.write_bytes(text.encode(encoding))
    rows = read_tag_table(path, root).rows
    assert {row.image: {*row.tags} for row in rows} == {name: {*tags} for name, tags in TAGS.items()}


@pytest.mark.parametrize(
    "form", ["roboflow", "image_folder_csv", "open_images", "label_studio_csv", "table"]
)
def test_another_encoding_names_the_line(form, root):
    path = SAMPLES[form](root)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_bytes("".join([*lines, "ö.jpg\n"]).encode("cp1252"))
    number = next(n for n, line in enumerate([*lines, "ö"], start=1) if not line.isascii())
    with pytest.raises(UserError, match=rf"{path.name} is not UTF-8 text \(line {number}: "):
        read_tag_table(path, root)


@pytest.mark.parametrize("form", ["roboflow", "image_folder_csv", "open_images", "label_studio_csv"])
@pytest.mark.parametrize("sign", [";", "\t"])
def test_columns_by_semicolon_or_tab(form, sign, root):
    path = SAMPLES[form](root)
    text = path.read_text(encoding="utf-8")
    if form == "label_studio_csv":
        text = text.replace('","', f'"{sign}"').replace(
            "annotation_id,annotator,choice,id,image,lead_time",
            sign.join(("annotation_id", "annotator", "choice", "id", "image", "lead_time")),
        )
    else:
        text = text.replace(",", sign)
    path.write_text(text, encoding="utf-8")
    rows = read_tag_table(path, root).rows
    assert {row.image: {*row.tags} for row in rows} == {name: {*tags} for name, tags in TAGS.items()}


@pytest.mark.parametrize("form", ["roboflow", "fiftyone", "image_folder_csv", "image_folder_lines"])
def test_a_table_in_the_folder_of_each_split(form, tmp_path):
    for split in ("train", "valid", "test"):
        SAMPLES[form](photographs(tmp_path / split))
    assert tag_source(tmp_path) == tmp_path
    rows = read_tag_table(tmp_path, tmp_path).rows
    assert {(row.image, row.split): {*row.tags} for row in rows} == {
        (f"{folder}/{name}", split): {*tags}
        for folder, split in (("train", "train"), ("valid", "val"), ("test", "test"))
        for name, tags in TAGS.items()
    }


def test_folders_of_classes_in_those_of_splits(tmp_path):
    for split in ("train", "test"):
        for name in CLASSES:
            photographs(tmp_path / split / name)
    rows = read_tag_table(tag_source(tmp_path), tmp_path).rows
    assert {(row.image.split("/")[1], row.split, row.tags) for row in rows} == {
        (name, split, (name,)) for split in ("train", "test") for name in CLASSES
    }
    (tmp_path / "test").rename(tmp_path / "ship")  # then train is a class
    assert {row.tags for row in read_tag_table(tmp_path, tmp_path).rows} == {("train",), ("ship",)}
