"""`wsss init`: what it finds, how it splits, what it fits to the machine."""

import csv
import json
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from odd_files import photo

from wsss import recipe_for
from wsss.cli import main
from wsss.config_files import shipped_config
from wsss.data.catalog import read_catalog, read_classes
from wsss.data.gather import gather
from wsss.data.masks import write_mask
from wsss.data.modules import TagData
from wsss.errors import UserNotice
from wsss.machine import Machine
from wsss.recipe_for import Backbone
from wsss.settings import BACKBONE, PseudoMaskSettings

LAPTOP = Machine("CPU, 2 cores", False, 2, 0.0, False)


CARD = Machine("some GPU", True, 16, 24.0, True)


def _backbone(name, weights, num_classes):
    return Backbone(name, {"weights": str(weights)} if weights else {"pretrained": True})


@pytest.fixture(autouse=True)
def _no_network_built(monkeypatch):
    """Most of these look at the files written only."""
    monkeypatch.setattr(recipe_for, "look_at_backbone", _backbone)
    monkeypatch.setattr(recipe_for, "find_machine", lambda: LAPTOP)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twenty photographs in sub-folders with spaces and umlauts."""
    root = tmp_path / "my photos"
    for number in range(20):
        path = root / f"größe {number % 2}" / f"bild {number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(number).save(path)
    return root


def _names(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))


def _csv(path: Path, tags: dict[str, str], split: dict[str, str] | None = None) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "tags", *(["split"] if split else [])])
        writer.writerows([n, t, *([split.get(n, "")] if split else [])] for n, t in tags.items())
    return path


def _table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "tags.csv").open(encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def _left_out(out: Path) -> dict[str, str]:
    with (out / "left_out.csv").open(encoding="utf-8") as file:
        return {row["image"]: row["reason"] for row in csv.DictReader(file)}


def _init(photos: Path, out: Path, *words: object) -> int:
    return main(["init", str(photos), "--out", str(out), *map(str, words)])


def _forms(photos: Path, folder: Path) -> dict[str, list]:
    """The same tags in every form: image number n has cat (n % 2) and big dog (n % 3), else none."""
    names = _names(photos)
    tags = {n: ["cat"] * (i % 2) + ["big dog"] * (i % 3 == 1) for i, n in enumerate(names)}
    folder.mkdir()
    joined = {
        key: _csv(folder / f"{key}.csv", {n: mark.join(t) for n, t in tags.items()})
        for key, mark in (("comma", ","), ("semicolon", ";"), ("pipe", "|"))
    }
    columns = folder / "columns.csv"
    lines = ["image,cat,big dog"]
    lines += [f"{n},{int('cat' in t)},{int('big dog' in t)}" for n, t in tags.items()]
    columns.write_text("\n".join(lines), encoding="utf-8")
    (folder / "tags.json").write_text(json.dumps(tags), encoding="utf-8")
    return {**joined, "columns": columns, "json": folder / "tags.json"}


def test_every_form_of_tags_gives_the_same_config(photos, tmp_path):
    before = sorted(photos.rglob("*"))
    wanted = None
    for key, table in _forms(photos, tmp_path / "tables").items():
        out = tmp_path / key
        assert _init(photos, out, "--tags", table) == 0
        catalogs = [
            read_catalog("folder", photos, split, tags=out / "tags.csv") for split in ("train", "val")
        ]
        wanted = wanted or catalogs
        assert catalogs == wanted
        assert read_classes("folder", photos, out / "tags.csv") == ("big dog", "cat")
        assert _left_out(out) == {}
    assert [len(catalog.records) for catalog in wanted] == [16, 4]
    assert any(record.tags == () for record in wanted[0].records)  # pure background
    assert sorted(photos.rglob("*")) == before  # only read


def test_space_between_tags(photos, tmp_path):
    names = _names(photos)
    table = _csv(tmp_path / "t.csv", {n: "cat dog" if i % 2 else "dog" for i, n in enumerate(names)})
    assert _init(photos, tmp_path / "out", "--tags", table) == 0
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\n"
    counts = Counter((row["cat"], row["dog"]) for row in _table(tmp_path / "out").values())
    assert counts == {("1", "1"): 10, ("0", "1"): 10}


def test_one_folder_per_class(photos, tmp_path, capsys):
    photo(99).save(photos / "loose.jpg")
    assert _init(photos, tmp_path / "out") == 0
    catalog = read_catalog("folder", photos, "all", tags=tmp_path / "out" / "tags.csv")
    assert catalog.classes == ("größe 0", "größe 1") and len(catalog.records) == 20
    assert _left_out(tmp_path / "out") == {"loose.jpg": "images without tags (not listed)"}
    assert "loose.jpg" in capsys.readouterr().out


def test_what_cannot_be_used_is_left_out_and_named(photos, tmp_path, capsys):
    names = _names(photos)
    tags = dict.fromkeys(names[:18], "Cat")
    tags |= {names[0]: "cat", names[1]: "dog", names[2]: "dog"}
    (photos / "copy.jpg").write_bytes((photos / names[0]).read_bytes())
    (photos / "other.jpg").write_bytes((photos / names[1]).read_bytes())
    (photos / "zero.jpg").write_bytes(b"")
    (photos / "notes.txt").write_text("no image")
    photo(50).save((photos / names[3]).with_suffix(".png"))
    tags |= dict.fromkeys(("zero.jpg", "gone.jpg", "notes.txt", "copy.jpg", "other.jpg"), "cat")
    tags |= {Path(names[3]).with_suffix(".png").as_posix(): "cat"}
    table = _csv(tmp_path / "t.csv", tags)
    with table.open("a", encoding="utf-8") as file:
        file.write(f"{names[4]},dog\n")
    assert _init(photos, tmp_path / "out", "--tags", table) == 0
    reasons = _left_out(tmp_path / "out")
    assert {
        name: next(word for word in WORDS if word in reason) for name, reason in reasons.items()
    } == {
        "zero.jpg": "unreadable: zero bytes",
        "gone.jpg": "without image",
        "notes.txt": "no image file",
        "copy.jpg": "same content",
        "other.jpg": "other tags",
        Path(names[3]).with_suffix(".png").as_posix(): "by suffix only",
        names[18]: "not listed",
        names[19]: "not listed",
    }
    said = capsys.readouterr().out
    assert all(name in said for name in reasons) and "'cat' counted as 'Cat'" in said
    assert f"listed more than once: {names[4]}" in said
    assert "fewer than 10 images" in said and "dog" in said.partition("fewer than 10")[2]
    row = _table(tmp_path / "out")[names[4]]
    assert (row["Cat"], row["dog"]) == ("1", "1")  # both rows count


WORDS = (
    "unreadable: zero bytes",
    "without image",
    "no image file",
    "other tags",
    "same content",
    "by suffix only",
    "not listed",
)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg"])
def test_names_that_leave_the_folder_are_refused(name, photos, tmp_path, capsys):
    photo(1).save(tmp_path / "secret.jpg")
    table = _csv(tmp_path / "t.csv", {**dict.fromkeys(_names(photos), "cat"), name: "cat"})
    assert _init(photos, tmp_path / "out", "--tags", table) == 2
    error = capsys.readouterr().err
    assert "outside" in error and Path(name).name in error
    assert not (tmp_path / "out").exists()


def test_names_written_as_a_mac_does(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    names = [f"é{number}.jpg" for number in range(8)]
    for number, name in enumerate(names):
        photo(number).save(photos / unicodedata.normalize("NFD", name))
    table = _csv(tmp_path / "t.csv", {unicodedata.normalize("NFC", n): "cat" for n in names})
    assert _init(photos, tmp_path / "out", "--tags", table) == 0
    assert len(_table(tmp_path / "out")) == 8 and _left_out(tmp_path / "out") == {}


def test_split_column_and_lists_are_respected(photos, tmp_path, capsys):
    names = _names(photos)
    tags = {name: "cat" if i % 2 else "dog" for i, name in enumerate(names)}
    splits = {name: "val" if i in (3, 8) else "train" for i, name in enumerate(names)}
    table = _csv(tmp_path / "t.csv", tags, splits)
    assert _init(photos, tmp_path / "column", "--tags", table) == 0
    assert {n: row["split"] for n, row in _table(tmp_path / "column").items()} == splits

    table = _csv(tmp_path / "t.csv", tags)
    stems = [Path(name).with_suffix("").as_posix() for name in names]
    stems[14] = names[14]
    (photos / "train.txt").write_text("\n".join(stems[:15]), encoding="utf-8")
    (photos / "val.txt").write_text("\n".join(names[14:18]), encoding="utf-8")
    assert main(["check", str(photos), "--tags", str(table)]) == 1
    overlap = capsys.readouterr().out.partition("train and val overlap")[2]
    assert overlap.splitlines()[1].strip() == names[14]
    assert _init(photos, tmp_path / "lists", "--tags", table) == 0
    found = {n: row["split"] for n, row in _table(tmp_path / "lists").items()}
    assert found == {n: "train" if i < 14 else "val" for i, n in enumerate(names[:18])}
    assert f"(used for val only): {names[14]}" in capsys.readouterr().out
    assert set(_left_out(tmp_path / "lists")) == set(names[18:])


def test_config_is_fitted_to_machine_and_data(photos, tmp_path, monkeypatch):
    table = _csv(tmp_path / "t.csv", dict.fromkeys(_names(photos), "cat"))

    def config(name, *words):
        assert _init(photos, tmp_path / name, "--tags", table, *words) == 0
        return {p.stem: yaml.safe_load(p.read_text()) for p in (tmp_path / name).glob("*.yaml")}

    small = config("laptop")
    assert set(small) == {"pipeline", "classify", "pseudo_masks", "refine", "segment"}
    assert small["classify"]["model"]["backbone"] == small["segment"]["model"]["encoder"]
    assert small["classify"]["model"]["pretrained"] is True
    assert small["classify"]["trainer"]["accelerator"] == "cpu"
    assert small["classify"]["trainer"]["precision"] == "32-true"
    assert small["classify"]["data"]["size"] == 64  # the photographs are no larger than 56 pixels
    assert small["classify"]["data"]["batch_size"] == 4  # of 16 images
    assert small["classify"]["data"]["num_workers"] == 1
    TagData(**small["classify"]["data"])  # every setting exists
    results = tmp_path / "laptop" / "results"
    assert small["refine"]["masks"] == {
        "out": str(results / "refined_masks" / "masks"),
        "maps": str(results / "pseudo_masks" / "maps"),
    }
    quick = config("quick", "--quick", "--weights", table)
    assert quick["classify"]["model"]["weights"] == str(table) and "pretrained" not in quick["classify"]
    assert quick["pseudo_masks"]["masks"]["scales"] == [1.0]
    assert quick["pseudo_masks"]["masks"]["steps"] < 600
    assert {quick[s]["trainer"]["max_epochs"] for s in ("classify", "segment")} == {1}
    monkeypatch.setattr(recipe_for, "find_machine", lambda: CARD)
    found = gather(photos, table, tmp_path)
    large = recipe_for.recipe(found, CARD, 4000, photos, tmp_path, Backbone("glnet_4g", {}), False)
    assert large["classify"]["trainer"] | {"max_epochs": 0} == {
        "max_epochs": 0,
        "accelerator": "gpu",
        "devices": 1,
        "precision": "bf16-mixed",
    }
    assert large["classify"]["data"]["size"] == 448 and large["segment"]["data"]["num_workers"] == 8
    assert large["classify"]["model"]["freeze_norm"] is False  # from scratch
    assert "freeze" not in large["classify"]["model"]
    other = config("other", "--backbone", "mobilenetv2_100")
    names = ("background", "border_prior", "relabel_slots")
    defaults = {name: getattr(PseudoMaskSettings(), name) for name in names}
    own = config("own", "--backbone", "glnet_lite")
    pairs = (("efficientnet-lite2", small), ("mobilenetv2", other), ("glnet", own))
    for name, made in pairs:
        for stage in ("classify", "segment", "refine"):  # one recipe, but for what hangs on the machine
            shipped = yaml.safe_load(shipped_config(f"voc-{name}/{stage}.yaml").read_text())["model"]
            pretrained = {} if stage == "refine" else {"pretrained": True}
            assert made[stage]["model"] == shipped | pretrained
        shipped = yaml.safe_load(shipped_config(f"voc-{name}/pseudo_masks.yaml").read_text())["masks"]
        masks = made["pseudo_masks"]["masks"]
        assert Path(masks["out"]).parts[-3:] == ("results", "pseudo_masks", "masks")
        # the defaults are written down to be found, without changing anything
        assert masks == defaults | shipped | {"out": masks["out"]}


def test_a_frozen_backbone_keeps_no_more_than_a_disk_holds(photos, tmp_path):
    table = _csv(tmp_path / "t.csv", dict.fromkeys(_names(photos), "cat"))
    found = gather(photos, table, tmp_path)
    one = found.names("train")[0]
    for count, views in ((500, None), (2000, 2), (20_000, 0)):
        many = {f"{index}.jpg": found.tags[one] for index in range(count)}
        more = replace(found, tags=many, splits=dict.fromkeys(many, "train"))
        network = Backbone(BACKBONE, {"pretrained": True})
        made = recipe_for.recipe(more, LAPTOP, 4000, photos, tmp_path, network, False)["classify"]
        assert made["model"].get("views") == views
        assert made["trainer"]["check_val_every_n_epoch"] == made["trainer"]["max_epochs"]


def test_again_is_the_same_and_edited_files_are_kept(photos, tmp_path, capsys):
    table = _csv(tmp_path / "t.csv", dict.fromkeys(_names(photos), "cat"))
    out = photos / "out"  # its own results are no photographs
    assert _init(photos, out, "--tags", table) == 0
    (out / "results" / "masks").mkdir(parents=True)
    photo(70).save(out / "results" / "masks" / "x.jpg")
    before = {p: p.read_bytes() for p in out.glob("*.*")}
    assert _init(photos, out, "--tags", table) == 0
    assert before == {p: p.read_bytes() for p in out.glob("*.*")}
    (out / "segment.yaml").write_text("# mine\n")
    assert _init(photos, out, "--tags", table) == 2
    assert "segment.yaml" in capsys.readouterr().err
    assert (out / "segment.yaml").read_text() == "# mine\n"


def test_masks_that_do_not_fit_are_named(photos, tmp_path):
    import numpy as np

    names = _names(photos)
    table = _csv(tmp_path / "t.csv", dict.fromkeys(names, "cat"))
    stems = [Path(name).with_suffix(".png") for name in names]
    write_mask(photos / "masks" / stems[0], np.zeros((40, 56), np.uint8))
    write_mask(photos / "masks" / stems[1], np.zeros((41, 56), np.uint8))
    write_mask(photos / "masks" / stems[2], np.full((40, 56), 2, np.uint8))
    with pytest.warns(UserNotice) as told:
        assert _init(photos, tmp_path / "out", "--tags", table) == 0
    said = [str(one.message) for one in told]
    assert len(said) == 2 and all(any(stem.name in line for line in said) for stem in stems[1:3])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"gone.jpg": "cat"}, "gone.jpg"),
        ({"größe 0/bild 00.jpg": "cat"}, "too few"),
        ({"größe 0/bild 00.jpg": "tags", "größe 0/bild 02.jpg": "cat"}, "cannot be named 'tags'"),
    ],
)
def test_too_little_is_one_sentence(rows, message, photos, tmp_path, capsys):
    table = _csv(tmp_path / "t.csv", rows)
    assert _init(photos, tmp_path / "out", "--tags", table) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_classes_txt_fixes_order_and_spelling(photos, tmp_path, capsys):
    names = _names(photos)
    table = _csv(tmp_path / "t.csv", {n: "cat" if i % 2 else "Dog" for i, n in enumerate(names)})
    (photos / "classes.txt").write_text("dog\ncat\n")
    assert _init(photos, tmp_path / "out", "--tags", table) == 0
    assert (tmp_path / "out" / "classes.txt").read_text() == "dog\ncat\n"
    (photos / "classes.txt").write_text("dog\ncat\ncow\n")
    assert _init(photos, tmp_path / "more", "--tags", table) == 2
    assert "'cow'" in capsys.readouterr().err


def test_unknown_backbone_and_weights_are_named(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    table = _csv(tmp_path / "t.csv", dict.fromkeys(_names(photos), "cat"))
    assert _init(photos, tmp_path / "out", "--tags", table, "--backbone", "mobilenet9") == 2
    assert "mobilenet9" in capsys.readouterr().err
    assert _init(photos, tmp_path / "out", "--tags", table, "--weights", table) == 2
    assert "t.csv" in capsys.readouterr().err
    assert _init(photos, tmp_path / "out", "--tags", table, "--backbone", "levit_128") == 2
    assert "levit_128 takes images of 224x224 pixels only" in capsys.readouterr().err
    for backbone, told in (("glnet_4g", "from scratch"), ("glnet_nano", "weights come with wsss")):
        out = tmp_path / backbone
        assert _init(photos, out, "--tags", table, "--backbone", backbone) == 0
        assert told in capsys.readouterr().out
        settings = yaml.safe_load((out / "classify.yaml").read_text())
        assert settings["model"].get("pretrained", False) == (backbone == "glnet_nano")
