"""What `wsss slots` draws, and that it goes on where it was."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from wsss.cli import main


def _photograph(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint as `wsss classify` writes it, without the training."""
    import pytorch_lightning as pl

    from wsss.tasks.classification import ClassificationTask

    torch.manual_seed(0)
    task = ClassificationTask(["ball", "brick"], backbone="glnet_nano")
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(task)
    path = tmp_path_factory.mktemp("ckpt") / "last.ckpt"
    trainer.save_checkpoint(path)
    return path


class _Sources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]


def test_command_draws_a_gallery_and_goes_on(trained, drawn, tmp_path, capsys):
    photographs = tmp_path / "my photographs"
    (photographs / "a&b").mkdir(parents=True)
    for number, shape in enumerate([(48, 96), (96, 48)]):
        Image.fromarray(_photograph(*shape)).save(photographs / "a&b" / f"{number} #.jpg")
    (photographs / "text.jpg").write_text("no image")
    out = tmp_path / "out"
    words = [
        "slots",
        str(photographs),
        "--ckpt",
        str(trained),
        "--out",
        str(out),
        "--blocks",
        "1.0",
        "features",
    ]
    assert main([*words, "--at", "40,20"]) == 1
    printed = capsys.readouterr()
    assert "text.jpg cannot be read" in printed.err and "2 photographs drawn" in printed.out
    assert printed.out.count("at 40,20, features: slots") == 2
    folder = out / "a&b" / "0 #"
    names = ["groups", "maps", "at-40-20"]
    assert {p.name for p in folder.iterdir()} == {
        f"{b}-{n}.png" for b in ("1.0", "features") for n in names
    }
    from urllib.parse import unquote

    page = _Sources()
    page.feed((out / "index.html").read_text())
    assert len(page.found) == 2 * 2 * 3 and all((out / unquote(link)).is_file() for link in page.found)

    # again: nothing twice; one more photograph: the gallery holds all
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    picture = sorted((drawn / "JPEGImages").glob("*.jpg"))[0]
    assert main(words) == 1
    assert main(["slots", str(picture), *words[2:]]) == 0
    assert times.items() <= {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}.items()
    assert (
        picture.stem in (out / "index.html").read_text()
        and "a&amp;b/1 #" in (out / "index.html").read_text()
    )
    assert json.loads((out / "settings.json").read_text())["size"] is None
    capsys.readouterr()

    def error(*more):
        assert main(["slots", *more]) == 2
        return capsys.readouterr().err

    given = [str(picture), "--ckpt", str(trained), "--out"]
    assert "another network or size" in error(*given, str(out), "--size", "64")
    assert "which is 64x64 pixels" in error(*given, str(tmp_path / "x"), "--at", "64,3")
    assert "no block '7.0'" in error(*given, str(tmp_path / "x"), "--blocks", "7.0")
    assert "cannot be read" in error(str(photographs / "text.jpg"), *given[1:], str(tmp_path / "x"))
    assert "give either --ckpt" in error(str(picture), "--out", str(tmp_path / "x"))
    assert "too small" in error(*given, str(tmp_path / "x"), "--size", "8")


def test_a_photograph_smaller_than_a_network_can_see(trained, tmp_path):
    Image.fromarray(_photograph(20, 12)).save(tmp_path / "x.png")
    words = ["slots", str(tmp_path / "x.png"), "--ckpt", str(trained), "--out", str(tmp_path / "slots")]
    assert main(words) == 0 and (tmp_path / "slots" / "index.html").is_file()


def test_own_pictures_are_no_photographs(trained, tmp_path):
    Image.fromarray(_photograph(40, 60)).save(tmp_path / "x-groups.png")
    words = ["slots", str(tmp_path), "--ckpt", str(trained), "--out", str(tmp_path / "slots")]
    assert main(words) == 0 and main(words) == 0
    assert [p.name for p in (tmp_path / "slots").iterdir() if p.is_dir()] == ["x-groups"]


def test_a_photograph_of_the_same_name_is_not_taken_for_drawn(trained, tmp_path, capsys):
    words = ["--ckpt", str(trained), "--out", str(tmp_path / "slots"), "--blocks", "features"]
    for folder, side in (("a", 40), ("b", 48)):
        (tmp_path / folder).mkdir()
        Image.fromarray(_photograph(side, 60)).save(tmp_path / folder / "x.png")
    assert main(["slots", str(tmp_path / "a"), *words]) == 0
    pictures = {path: path.read_bytes() for path in (tmp_path / "slots" / "x").iterdir()}
    capsys.readouterr()
    assert main(["slots", str(tmp_path / "b"), *words]) == 2
    assert "is of another photograph of the same name as" in capsys.readouterr().err
    assert pictures == {path: path.read_bytes() for path in pictures}
    (tmp_path / "b" / "x.png").replace(tmp_path / "a" / "x.png")  # changed in its place: drawn again
    assert main(["slots", str(tmp_path / "a"), *words]) == 0
    assert all(path.read_bytes() != content for path, content in pictures.items())


def test_command_with_weights_of_a_backbone(drawn, tmp_path, capsys):
    from safetensors.torch import save_file

    weights = tmp_path / "net.safetensors"
    save_file(timm.create_model("mobilenetv2_050", num_classes=0).state_dict(), weights)
    picture = sorted((drawn / "JPEGImages").glob("*.jpg"))[0]
    words = ["slots", str(picture), "--backbone", "mobilenetv2_050", "--out", str(tmp_path / "out")]
    assert main(words) == 2 and "no weights of the backbone mobilenetv2_050" in capsys.readouterr().err
    assert main([*words, "--weights", str(weights)]) == 0
    assert (tmp_path / "out" / picture.stem / "features-groups.png").is_file()
    words[words.index("mobilenetv2_050")], words[-1] = "glnet_nano", str(tmp_path / "own")
    assert main(words) == 0  # its weights come with the package
    assert (tmp_path / "own" / picture.stem / "2.0-groups.png").is_file()
