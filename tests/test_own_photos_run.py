"""Every odd file on the whole way: all commands finish, name it, and change nothing else."""

import csv
import io
import json
import shutil
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from odd_files import ODD, UNREADABLE, photo
from safetensors.torch import save_file

from wsss.cli import main
from wsss.data import oddities
from wsss.data.images import read_image
from wsss.data.masks import read_mask, write_mask
from wsss.errors import UserNotice
from wsss.tasks.checkpoints import read_checkpoint


def _good(root: Path) -> None:
    """16 photographs to train on and 4 to validate with; one of these has a mask."""
    (root / "größe 1").mkdir(parents=True)
    lines = ["image,tags,split"]
    for number in range(20):
        name = f"größe 1/bild {number:02d}.jpg"
        photo(100 + number).save(root / name)
        lines.append(
            f"{name},{'cat' if number % 2 else 'big dog'}|,{'train' if number < 16 else 'val'}"
        )
    (root / "tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_mask(root / "masks" / "größe 1" / "bild 16.png", np.eye(40, 56, dtype=np.uint8))


def _make_odd(root: Path, split: str) -> None:
    for name, (make, _) in (UNREADABLE | ODD).items():
        if name == "huge.png":
            photo(12, 700, 900).save(root / name)  # enormous by the limit that the test sets
        else:
            make(root / name)
        _add(root, f"{name},cat,{'train' if name in UNREADABLE else split}")


def _add(root: Path, row: str) -> None:
    with (root / "tags.csv").open("a", encoding="utf-8") as file:
        file.write(row + "\n")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenetv2_050.safetensors"
    save_file(timm.create_model("mobilenetv2_050").state_dict(), path)
    return path


@dataclass
class Way:
    """A folder that went through all commands: exit code and words of each, and its results."""

    root: Path
    codes: dict[str, int]
    said: dict[str, str]

    @property
    def results(self) -> Path:
        return self.root.parent / "config" / "results"

    @property
    def predicted(self) -> Path:
        return self.root.parent / "new"


def _command(words: list[str]) -> tuple[int, str]:
    """Exit code and all that a command said."""
    out = io.StringIO()
    with warnings.catch_warnings(record=True) as told, redirect_stdout(out), redirect_stderr(out):
        code = main(words)
    notices = [str(one.message) for one in told if isinstance(one.message, UserNotice)]
    return code, "\n".join([out.getvalue(), *notices])


def _go(root: Path, weights: Path) -> Way:
    config = root.parent / "config"
    words = {
        "check": ["check", str(root), "--json", str(root.parent / "check.json")],
        "init": ["init", str(root), "--out", str(config), "--quick", "--weights", str(weights)],
        "run": ["run", "-c", str(config / "pipeline.yaml")],
        "predict": ["predict", str(root), "--out", str(root.parent / "new"), "--device", "cpu"],
    }
    words["init"] += ["--backbone", "mobilenetv2_050"]
    words["predict"] += ["--ckpt", str(config / "results" / "segment" / "last.ckpt")]
    done = {name: _command(words[name]) for name in words}
    return Way(root, {n: d[0] for n, d in done.items()}, {n: d[1] for n, d in done.items()})


@pytest.fixture(scope="module")
def clean(tmp_path_factory, weights) -> Way:
    """Good photographs only."""
    root = tmp_path_factory.mktemp("clean") / "photos"
    _good(root)
    return _go(root, weights)


@pytest.fixture(scope="module")
def odd(tmp_path_factory, weights) -> Way:
    """The same with every odd thing beside them, what can be read of it in val."""
    root = tmp_path_factory.mktemp("odd") / "photos"
    _good(root)
    _make_odd(root, "val")
    _add(root, "gone.jpg,cat,train")
    photo(13).save(root / "untagged.jpg")
    (root / "copy.jpg").write_bytes((root / "größe 1" / "bild 00.jpg").read_bytes())
    _add(root, "copy.jpg,big dog,val")  # would be seen in training and in validation
    _add(root, "größe 1/bild 00.jpg,big dog|,train")
    photo(14).save(root / "spelling.jpg")
    _add(root, "spelling.jpg,Big  DOG,val")
    write_mask(root / "masks" / "größe 1" / "bild 17.png", np.zeros((9, 9), np.uint8))
    write_mask(root / "masks" / "größe 1" / "bild 18.png", np.full((40, 56), 77, np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oddities, "ENORMOUS", 500_000)
        return _go(root, weights)


def test_codes(clean, odd):
    assert clean.codes == {"check": 0, "init": 0, "run": 0, "predict": 0}
    # 2: rows without image and twice, which init mends
    assert odd.codes == {"check": 2, "init": 0, "run": 0, "predict": 1}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files_are_named_and_left_out(name, odd):
    for command in ("check", "init", "predict"):
        assert name in odd.said[command], command
    assert name not in (odd.root.parent / "config" / "tags.csv").read_text(encoding="utf-8")
    assert name in (odd.root.parent / "config" / "left_out.csv").read_text(encoding="utf-8")
    assert not (odd.predicted / "masks" / name).with_suffix(".png").exists()


@pytest.mark.parametrize("name", ODD)
def test_readable_odd_files_are_named_and_used(name, odd):
    report = json.loads((odd.root.parent / "check.json").read_text(encoding="utf-8"))
    kinds = [kind for kind, names in report["warnings"].items() if name in names]
    assert any(ODD[name][1] in kind for kind in kinds)
    assert name in (odd.root.parent / "config" / "tags.csv").read_text(encoding="utf-8")
    mask = read_mask((odd.predicted / "masks" / name).with_suffix(".png"))
    assert mask.shape == read_image(odd.root / name).shape[:2]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("check", ["tags without image", "gone.jpg"]),
        ("check", ["images without tags", "untagged.jpg"]),
        ("check", ["duplicate images", "copy.jpg = größe 1/bild 00.jpg"]),
        ("check", ["duplicate rows", "größe 1/bild 00.jpg"]),
        ("check", ["differ by case or spaces", "Big  DOG / big dog"]),
        ("check", ["fewer than 10 images", "Big  DOG (1)"]),
        ("check", ["mask does not fit", "bild 17.png is 9x9", "bild 18.png has label 77"]),
        ("init", ["tags without image", "gone.jpg"]),
        ("init", ["images without tags", "untagged.jpg"]),
        ("init", ["same content as größe 1/bild 00.jpg: copy.jpg"]),
        ("init", ["listed more than once: größe 1/bild 00.jpg"]),
        ("init", ["'Big  DOG' counted as 'big dog'"]),
        ("init", ["mask left out", "bild 17.png is 9x9", "bild 18.png has label 77"]),
        ("run", ["mask left out", "bild 17.png is 9x9", "bild 18.png has label 77"]),
        ("run", ["images of split 'val' have a ground-truth mask"]),
        ("predict", ["passed over", "masks (3 files)"]),
    ],
)
def test_faults_of_tables_and_masks_are_named(command, words, odd):
    for word in words:
        assert word in odd.said[command]
        if command == "run":  # once, not once a stage
            assert odd.said[command].count(word) == (2 if word == "mask left out" else 1)


def test_results_of_the_good_files_are_unchanged(clean, odd):
    masks = sorted((clean.results / "pseudo_masks" / "masks").rglob("*.png"))
    assert len(masks) == 16
    for path in masks:
        other = odd.results / path.relative_to(clean.results)
        assert other.read_bytes() == path.read_bytes()
    networks = [
        read_checkpoint(way.results / "segment" / "last.ckpt", "segment") for way in (clean, odd)
    ]
    assert networks[0]["classes"] == networks[1]["classes"] == ["big dog", "cat"]
    for name, tensor in networks[0]["state_dict"].items():
        assert torch.equal(tensor, networks[1]["state_dict"][name]), name
    predicted = sorted((clean.predicted / "masks").rglob("*.png"))
    assert len(predicted) == 20
    for path in predicted:
        assert (odd.predicted / path.relative_to(clean.predicted)).read_bytes() == path.read_bytes()
    rows = [
        {
            row["image"]: row
            for row in csv.DictReader((way.predicted / "areas.csv").open(encoding="utf-8"))
        }
        for way in (clean, odd)
    ]
    assert rows[0] == {name: rows[1][name] for name in rows[0]}
    scores = [json.loads((way.results / "metrics.json").read_text()) for way in (clean, odd)]
    assert (
        scores[0]["seg_miou_val"] == scores[1]["seg_miou_val"] is not None
    )  # of the one mask that fits


def test_odd_files_in_training_and_without_init(clean, tmp_path):
    """The folder's own table, as it is: what cannot be read is named once, all else is trained on."""
    root = tmp_path / "photos"
    _good(root)
    _make_odd(root, "train")
    config = tmp_path / "config"
    shutil.copytree(clean.root.parent / "config", config, ignore=shutil.ignore_patterns("results"))
    for path in config.glob("*.yaml"):
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings.get("data", {}).pop("tags", None)
        path.write_text(yaml.safe_dump(settings))
    out = tmp_path / "out"
    code, said = _command(
        ["run", "-c", str(config / "pipeline.yaml"), "--root", str(root), "--out", str(out)]
    )
    assert code == 0
    for name in UNREADABLE:
        assert said.count(f"left out: image {root / name} ") == 1, name
    for name in ODD:
        mask = read_mask((out / "pseudo_masks" / "masks" / name).with_suffix(".png"))
        assert mask.shape == read_image(root / name).shape[:2]
