"""What `wsss slots` draws: right groups, right positions, any K, any shape, any network."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from wsss.cli import main
from wsss.errors import UserError
from wsss.geometry import resize_scores
from wsss.localize.slots import propagate
from wsss.models.classifier import TagClassifier
from wsss.slot_pictures import (
    SlotView,
    block_names,
    check_blocks,
    colours,
    default_blocks,
    draw_groups,
    group_sheet,
    map_sheet,
    position_sheet,
    representative,
    slot_views,
    slots_at,
    tint,
    winners,
)


@pytest.fixture(scope="module")
def glnet():
    torch.manual_seed(0)
    return TagClassifier("glnet_nano", 3).eval()


def _photograph(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _dispatch(slots, height, width, seed=0):
    logits = np.random.default_rng(seed).normal(0, 3, (slots, height, width))
    share = np.exp(logits)
    return (share / share.sum(0)).astype(np.float32)


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


def test_blocks_have_the_names_of_the_network(glnet):
    assert block_names(glnet)[:4] == ["0.0", "1.0", "2.0", "2.2"]
    assert default_blocks(glnet) == ["0.0", "1.0", "2.0"] == check_blocks(glnet, [])
    assert check_blocks(glnet, ["2.2", "features", "2.2"]) == ["2.2", "features"]
    assert check_blocks(glnet, ["all"]) == block_names(glnet)
    with pytest.raises(UserError, match=r"no block '2\.1' .* 2\.0, 2\.2, features"):
        check_blocks(glnet, ["2.1"])
    plain = TagClassifier("mobilenetv2_050", 1).eval()
    assert default_blocks(plain) == ["features"] and "0.0" not in block_names(plain)


def test_views_are_the_networks_own_slots(glnet):
    image = _photograph(40, 130)
    views = slot_views(glnet, image, ["2.0", "0.0", "features", "features.0"], 128)
    assert [v.name for v in views] == ["2.0", "0.0", "features", "features.0"]
    assert [v.dispatch.shape for v in views] == [(64, 2, 8), (64, 8, 32), (64, 2, 8), (64, 8, 32)]
    for view in views:
        np.testing.assert_allclose(view.dispatch.sum(0), 1, atol=1e-5)
    # the clustering is the one that the chain uses
    small = torch.from_numpy(np.asarray(Image.fromarray(image).resize((128, 32))).copy())
    with torch.inference_mode():
        tensor = small.permute(2, 0, 1)[None]
        chain = glnet(tensor, slots="features").dispatch[0].numpy()
    same = slot_views(glnet, small.numpy(), ["features"], 128)[0].dispatch
    np.testing.assert_allclose(same, chain, atol=1e-5)


def test_networks_with_another_number_of_slots():
    network = TagClassifier("glnet_nano", 1).eval()
    network.backbone = timm.create_model("glnet_nano", num_classes=0, num_slots=10, learned_slots=True)
    image = _photograph(50, 120)
    view = slot_views(network.eval(), image, ["1.0"], 96)[0]
    assert view.dispatch.shape == (10, 4, 12)
    assert group_sheet(image, view).width > map_sheet(image, view).width


def test_winners_and_colours_for_any_number_of_slots():
    dispatch = _dispatch(7, 3, 11)
    by_hand = resize_scores(dispatch, 30, 110).argmax(0)
    np.testing.assert_array_equal(winners(dispatch, 30, 110), by_hand)
    assert colours(dispatch).shape == (7, 3)
    assert colours(_dispatch(1, 2, 2)).shape == (1, 3)
    # maps that are alike have neighbouring hues, others do not
    two = np.zeros((4, 2, 2), np.float32)
    two[0, 0], two[1, 0], two[2, 1], two[3, 1] = 0.6, 0.4, 0.7, 0.3
    hue = [
        Image.new("RGB", (1, 1), tuple(map(int, c))).convert("HSV").getpixel((0, 0))[0]
        for c in colours(two)
    ]

    def apart(a, b):
        return min((hue[a] - hue[b]) % 256, (hue[b] - hue[a]) % 256)

    assert max(apart(0, 1), apart(2, 3)) < min(apart(0, 2), apart(1, 3), apart(0, 3), apart(1, 2))


def test_representative_slots_do_not_repeat_each_other():
    dispatch = np.full((5, 4, 4), 0.01, np.float32)
    dispatch[1, :, :3] = 0.9  # the largest
    dispatch[2, :, :3] = 0.8  # says the same with less weight
    dispatch[3, :, 3] = 0.7
    dispatch[4] = 0.9  # everywhere alike: belongs nowhere in particular
    assert representative(dispatch, 2) == [1, 3]
    assert sorted(representative(dispatch, 9)) == [0, 1, 2, 3, 4]


def test_position_and_reach_agree_with_propagation():
    dispatch = _dispatch(5, 4, 6)
    height, width = 8, 12  # pixel (2 x + 0.5) lies midway: choose a size where centres coincide
    at = slots_at(dispatch, 3, 2, 4, 6)
    np.testing.assert_allclose(at.shares, dispatch[:, 2, 3], rtol=1e-6)
    assert at.order[0] == dispatch[:, 2, 3].argmax() and at.reach.max() == 1
    # the value that propagation hands to this position is the mean by these weights
    values = torch.rand(1, 1, 4, 6)
    handed = propagate(values, torch.from_numpy(dispatch)[None], 1)[0, 0, 2, 3]
    weights = at.reach / at.reach.sum()
    assert float((values[0, 0].numpy() * weights).sum()) == pytest.approx(float(handed), rel=1e-4)
    # between map positions it is what the resized maps show there
    np.testing.assert_allclose(
        slots_at(dispatch, 7, 3, height, width).shares,
        resize_scores(dispatch, height, width)[:, 3, 7],
        atol=1e-5,
    )
    corner = slots_at(dispatch, 11, 7, height, width)
    np.testing.assert_allclose(corner.shares, dispatch[:, 3, 5], rtol=1e-6)
    for x, y in ((-1, 0), (12, 0), (0, 8)):
        with pytest.raises(UserError, match="12x8 pixels: x must be"):
            slots_at(dispatch, x, y, height, width)


def test_drawings_show_what_they_say():
    image = np.full((20, 60, 3), 128, np.uint8)
    dispatch = np.zeros((2, 1, 2), np.float32)
    dispatch[0, 0, 0] = dispatch[1, 0, 1] = 1
    groups = draw_groups(image, dispatch)
    hues = colours(dispatch).astype(int)
    for x, slot in ((5, 0), (55, 1)):
        assert abs(groups[10, x] - (0.35 * 128 + 0.65 * hues[slot])).max() <= 1
    lit = tint(image, dispatch[1], (255, 0, 0))
    assert lit[10, 58, 0] > 180 > lit[10, 58, 1] and len(set(lit[10, 2].tolist())) == 1


@pytest.mark.parametrize("slots", [1, 5, 49])
@pytest.mark.parametrize("shape", [(31, 400), (333, 90), (1, 1)])
def test_sheets_of_any_slots_and_shapes(slots, shape):
    image, view = _photograph(*shape), SlotView("features", _dispatch(slots, 3, 5))
    for sheet in (group_sheet(image, view), map_sheet(image, view), position_sheet(image, view, 0, 0)):
        assert sheet.mode == "RGB" and 100 < max(sheet.size) < 4000
    assert np.asarray(group_sheet(image, view)).std() > 1


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
    assert main(words) == 2 and "needs --weights FILE" in capsys.readouterr().err
    assert main([*words, "--weights", str(weights)]) == 0
    assert (tmp_path / "out" / picture.stem / "features-groups.png").is_file()
    words[words.index("mobilenetv2_050")], words[-1] = "glnet_nano", str(tmp_path / "own")
    assert main(words) == 0  # its weights come with the package
    assert (tmp_path / "own" / picture.stem / "2.0-groups.png").is_file()
