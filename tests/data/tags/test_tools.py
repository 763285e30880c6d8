"""What the tools' forms have beside the tags, and what is refused."""

import json
import sys
from dataclasses import replace

import pytest
from tag_samples import SAMPLES, TAGS, label_studio, photographs

from wsss.cli import main
from wsss.data.catalog import Catalog, read_catalog
from wsss.data.check import check
from wsss.data.datasets import SameShapeBatches, TaggedImages
from wsss.data.labels import UNKNOWN
from wsss.data.tags import read_tag_table
from wsss.data.tags.open_images import OpenImages
from wsss.data.tags.source import NOT_ANNOTATED, Source
from wsss.errors import UserError
from wsss.stages.recipe import stamp_catalog


def _read(path, root, text=None):
    if text is not None:
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    odd = {}
    return {row.image: row for row in read_tag_table(path, root, odd=odd).rows}, odd


def test_label_studio_leaves_out_what_nobody_has_annotated(root):
    tasks = json.loads(label_studio(root).read_text())
    tasks[0]["annotations"][0]["was_cancelled"] = True  # skipped
    tasks[1]["annotations"] = []
    tasks[3]["annotations"].append(
        {"result": [{"type": "rectanglelabels", "value": {"rectanglelabels": ["polar bear"]}}]}
    )
    rows, odd = _read(root.parent / "a.json", root, tasks)
    assert rows.keys() == TAGS.keys() - {"day 1/a b.jpg", "é.jpg"}
    assert odd[NOT_ANNOTATED] == ["photos/day 1/a b.jpg", "0a1b2c31-é.jpg"]
    assert rows["d.jpg"].tags == ("cat", "polar bear")
    assert odd["annotations that differ, what any says counts"] == ["task 4: photos/d.jpg"]


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/12/0a1b2c3d-d.jpg",
        "http://localhost:8080/data/upload/12/0a1b2c3d-d.jpg",
        "/data/local-files/?d=any/where/d.jpg",
        "https://example.org/images/d.jpg?size=large",
        "gs://bucket/d.jpg",
        "d.jpg",
    ],
)
def test_addresses_of_label_studio(address, root):
    annotation = {"result": [{"type": "choices", "value": {"choices": ["cat"]}}]}
    rows, _ = _read(root / "a.json", root, [{"data": {"pic": address}, "annotations": [annotation]}])
    assert rows.keys() == {"d.jpg"}


def test_json_min_of_several_annotators_and_other_columns(root):
    said = {"annotation_id": 1, "lead_time": 1.0}
    entries = [
        {"image": "d.jpg", "city": "Bergen", "choice": "cat", **said},
        {"image": "d.jpg", "city": "Bergen", "choice": "polar bear", **said},
        {"image": "c.jpg", "city": "Oslo", "annotation_id": None, "lead_time": None},
    ]
    rows, odd = _read(root / "a.json", root, entries)
    assert {name: row.tags for name, row in rows.items()} == {"d.jpg": ("cat", "polar bear")}
    assert odd[NOT_ANNOTATED] == ["c.jpg"]
    for one in entries:
        one["animal"] = one.pop("choice", "")
    with pytest.raises(
        UserError, match="which of image, city, animal is the choice: export it as JSON"
    ):
        _read(root / "a.json", root, entries)


def test_fiftyone_targets(root):
    labels = {"d": 1, "c": None, "e": "cat", "f": {"label": "cat", "confidence": 0.5}, "é": []}
    rows, odd = _read(root / "labels.json", root, {"classes": ["cat", "polar bear"], "labels": labels})
    assert {name: row.tags for name, row in rows.items()} == {
        **{"d.jpg": ("polar bear",), "e.jpg": ("cat",), "f.jpg": ("cat",), "é.jpg": ()}
    }
    assert odd == {NOT_ANNOTATED: ["c"]}
    with pytest.raises(UserError, match="label 1 is the class 2, and 2 are listed, counted from 0"):
        _read(root / "labels.json", root, {"classes": ["a", "b"], "labels": {"d": 2}})


def test_cvat_shapes_subsets_and_video(root):
    image = '<image name="{}.jpg" subset="{}"><box label="cat" xtl="1"/><tag label="dog"/></image>'
    text = "<annotations>" + image.format("d", "Train") + image.format("e", "mine") + "</annotations>"
    rows, _ = _read(root / "a.xml", root, text)
    assert [(row.tags, row.split) for row in rows.values()] == [
        (("cat", "dog"), "train"),
        (("cat", "dog"), None),
    ]
    with pytest.raises(UserError, match=r"tracks: CVAT for video.*export it as CVAT for images"):
        _read(root / "a.xml", root, '<annotations><track label="cat"/></annotations>')


@pytest.mark.parametrize("form", ["cvat", "voc"])
def test_entities_of_xml_are_refused(form, root):
    path = SAMPLES[form](root)
    path = path / "d.xml" if path.is_dir() else path
    (root / "secret.txt").write_text("cat")
    bomb = f'<!DOCTYPE a [<!ENTITY e SYSTEM "file://{root}/secret.txt">]>\n'
    text = path.read_text(encoding="utf-8").partition("?>\n")[2] or path.read_text(encoding="utf-8")
    path.write_text(bomb + text.replace(">cat<", ">&e;<"), encoding="utf-8")
    with pytest.raises(UserError, match=rf"{path.name} is not readable XML .*DTDForbidden"):
        read_tag_table(path if form == "cvat" else root, root)


def test_open_images_tells_absent_from_not_looked_for(root):
    text = "ImageID,Source,LabelName,Confidence\nd,v,/m/0,1\nd,v,/m/1,0\ne,v,/m/1,1\ne,m,/m/1,0.0\n"
    rows, odd = _read(root.parent / "l.csv", root, text)
    assert (rows["d.jpg"].tags, rows["d.jpg"].looked_for) == (("/m/0",), ("/m/0", "/m/1"))
    assert (rows["e.jpg"].tags, rows["e.jpg"].looked_for) == (("/m/1",), ("/m/1",))
    assert odd == {"said to be present and absent, taken for present": ["line 5: /m/1"]}
    with pytest.raises(UserError, match=r"line 2: the confidence of '/m/0' is '0\.7', neither 1"):
        _read(root.parent / "l.csv", root, text.replace(",1\n", ",0.7\n"))
    assert OpenImages().read(Source(SAMPLES["roboflow"](root), root)) is None


def test_names_of_label_studio_and_roboflow_are_ambiguous_or_none(root):
    text = "filename, cat\nd_jpg.rf.0123456789abcdef.jpg, 1\n"
    assert _read(root / "_classes.csv", root, text)[0].keys() == {"d.jpg"}
    (root / "one").mkdir()
    photographs(root / "two" / "more")
    (root / "d.jpg").rename(root / "one" / "d.jpg")
    with pytest.raises(UserError, match=r"line 2 names the image 'd\.jpg', and 2 are called so"):
        _read(root.parent / "_classes.csv", root, "filename, cat\nd.jpg, 1\n")


@pytest.mark.parametrize("name", ["a\\u0000b.jpg", "\\ud800.jpg"])
def test_names_that_no_file_has_are_named(name, root):
    with pytest.raises(UserError, match=r"entry 1 names the image .*no file is called"):
        _read(root / "tags.json", root, f'{{"{name}": ["cat"]}}')


def test_excel_without_openpyxl_formulas_and_archives(root, monkeypatch):
    import openpyxl

    path = SAMPLES["excel"](root)
    book = openpyxl.load_workbook(path)
    book.create_sheet("notes").append(["more"])
    book.active["B3"] = 1.0
    book.save(path)
    rows, odd = _read(path, root)
    assert rows["é.jpg"].tags == ("cat", "polar bear")
    assert odd == {"sheets that are not read (the first one is)": ["'notes'"]}
    book.active["C4"] = "=1+0"
    book.save(path)
    with pytest.raises(UserError, match="line 4: the value of the formula in C4 is not in the file"):
        _read(path, root)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError, match=r"pip install 'openpyxl>=3.1', or save it as CSV UTF-8"):
        _read(path, root)
    path.write_bytes(b"\xd0\xcf\x11\xe0" + bytes(100))
    with pytest.raises(UserError, match=r"old Excel: save it as \.xlsx"):
        _read(path, root)


def test_marks_of_what_nobody_looked_for(root):
    text = "image,cat,dog,cow\nd.jpg,1,?,0\ne.jpg,0,1,\nc.jpg,?,?,?\n"
    rows, odd = _read(root / "tags.csv", root, text)
    assert {name: (row.tags, row.looked_for) for name, row in rows.items()} == {
        "d.jpg": (("cat",), ("cat", "cow")),
        "e.jpg": (("dog",), None),
        "c.jpg": ((), ()),
    }
    assert odd == {
        "empty beside 0 and 1, read as 0 (?: nobody looked)": ["line 3, column 'cow'"],
        "looked for, and on no image: no class": ["cow"],
    }


def test_what_was_looked_for_goes_through_init_and_into_training(root, tmp_path):
    path = SAMPLES["open_images"](root)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines.remove("d,verification,/m/01,0")
    path.write_text("\n".join(lines), encoding="utf-8")
    words = ["--backbone", "glnet_nano", "--quick", "--out", str(tmp_path / "out")]
    assert main(["init", str(root), "--tags", str(path), *words]) == 0
    text = (tmp_path / "out" / "tags.csv").read_text(encoding="utf-8")
    assert "\nd.jpg,train,1,?\n" in text or "\nd.jpg,val,1,?\n" in text
    for table in (path, tmp_path / "out" / "tags.csv"):
        catalog = read_catalog("folder", root, "all", tags=table)
        found = {record.id: record.looked_for for record in catalog.records}
        whole = (0, 1) if table == path else None
        assert found == dict.fromkeys(found, whole) | {"d": (0,)}
        samples = {sample["id"]: sample["tags"].tolist() for sample in TaggedImages(catalog, 32, None)}
        assert samples["d"] == [1, UNKNOWN] and samples["day 1/a b"] == [1, 1]
        (batch,) = SameShapeBatches(catalog, lambda *size: size, 10**6)  # masks are made of tags
        assert {*batch["tags"].flatten().tolist()} == {0, 1}
        other = [replace(record, looked_for=None) for record in catalog.records]
        assert stamp_catalog(catalog) != stamp_catalog(Catalog(catalog.classes, tuple(other)))


def test_a_class_that_no_image_is_said_to_be_without_is_told(root, tmp_path, capsys):
    text = "image,cat,dog\nc.jpg,1,0\nd.jpg,1,1\ne.jpg,?,1\nf.jpg,1,0\n"
    (root / "tags.csv").write_text(text)
    kind = "class on every image: nothing shows where it is not (add some without)"
    assert check(root).warnings[kind] == ["cat"]
    words = ["--backbone", "glnet_nano", "--quick", "--out", str(tmp_path / "out")]
    assert main(["init", str(root), *words]) == 0
    assert "every photograph has the tag 'cat'" in capsys.readouterr().out


def test_a_column_of_what_was_looked_for(root):
    text = "image,tags,Looked_For\nd.jpg,cat,polar bear|cat\ne.jpg,polar bear,cat\nc.jpg,,\n"
    rows, odd = _read(root / "tags.csv", root, text)
    assert {name: (row.tags, row.looked_for) for name, row in rows.items()} == {
        "d.jpg": (("cat",), ("polar bear", "cat")),
        "e.jpg": (("polar bear",), ("cat", "polar bear")),
        "c.jpg": ((), None),
    }
    assert odd == {}
    text = "image,tags,looked_for\nd.jpg,cat,dog\nd.jpg,,cow|cat\n"
    (root / "tags.csv").write_text(text)
    (row,) = read_tag_table(root / "tags.csv", root, duplicates=[], odd={}).rows
    assert (row.tags, row.looked_for) == (("cat",), ("dog", "cat", "cow"))
