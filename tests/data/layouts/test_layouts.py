"""The registry of layouts, and layouts of one's own."""

import pytest
from odd_files import photo

from wsss.cli import main
from wsss.data.catalog import read_catalog, read_classes
from wsss.data.layouts import LAYOUTS, Layout, layout_of
from wsss.data.modules import TagData
from wsss.errors import UserError


@pytest.fixture
def albums(tmp_path):
    for number, name in enumerate(("train/cat/a", "train/dog/b", "train/dog/c", "val/cat/d")):
        path = tmp_path / "albums" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(number).save(path)
    return tmp_path / "albums"


def test_every_layout_fits_the_protocol():
    assert set(LAYOUTS) == {"voc", "folder", "coco", "synthetic"}
    assert all(isinstance(layout_of(name), Layout) for name in LAYOUTS)


def test_a_layout_of_ones_own_by_its_import_path(albums):
    assert read_classes("own_layout.Albums", albums) == ("cat", "dog")
    catalog = read_catalog("own_layout.Albums", albums, "train")
    assert [(r.id, r.tags) for r in catalog.records] == [
        ("cat/a", (0,)),
        ("dog/b", (1,)),
        ("dog/c", (1,)),
    ]
    data = TagData(str(albums), "own_layout.Albums", size=32, batch_size=3, num_workers=1)
    assert data.classes == ["cat", "dog"]
    (batch,) = data.train_dataloader()
    assert sorted(batch["id"]) == ["cat/a", "dog/b", "dog/c"]


def test_a_layout_need_not_derive_and_may_make_its_data(tmp_path):
    data = TagData(str(tmp_path / "made"), "own_layout.Underived")
    assert [record.id for record in data.catalog("train").records] == ["made"]


@pytest.mark.parametrize(
    "name, said",
    [
        ("coc", "'coc' is unknown: use voc, folder, coco, synthetic, or the import path of a class"),
        ("own_layout.Half", "own_layout.Half is no Layout, which has catalog, classes, prepare"),
        ("own_layout.Gone", "own_layout.Gone cannot be imported"),
        ("no_such_module.Layout", "no_such_module.Layout cannot be imported"),
    ],
)
def test_what_is_no_layout_is_one_sentence(name, said, albums, capsys):
    for read in (lambda: read_catalog(name, albums, "train"), lambda: read_classes(name, albums)):
        with pytest.raises(UserError, match=said):
            read()
    words = ["classify", "fit", "--data.layout", name, "--data.root", str(albums)]
    assert main([*words, "--model.backbone", "glnet_nano"]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_root_that_is_not_there_is_named(tmp_path):
    for name in (*LAYOUTS, "own_layout.Albums"):
        with pytest.raises(UserError, match=r"data root .*nowhere does not exist"):
            read_catalog(name, tmp_path / "nowhere", "train")
    for name in ("voc", "folder", "coco"):
        with pytest.raises(UserError, match=r"data root .*nowhere does not exist"):
            read_classes(name, tmp_path / "nowhere")


def test_a_layout_that_gives_something_else_is_told(tmp_path):
    with pytest.raises(UserError, match=r"own_layout\.Listing gives a list as the images of split 'x'"):
        read_catalog("own_layout.Listing", tmp_path, "x")
