"""scripts/slots_figure.py draws what docs/slots.md shows, and the page shows today's pictures."""

import hashlib
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from small_pipeline import PROJECT

from wsss.api import own_weights

PAGE = PROJECT / "docs" / "slots.md"


@pytest.fixture
def script():
    path = PROJECT / "scripts" / "slots_figure.py"
    spec = importlib.util.spec_from_file_location("slots_figure", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _photograph(name):
    shape = (64, 64, 3) if name == "camera" else (64, 96, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_one_command_draws_the_pages_pictures(script, tmp_path, monkeypatch):
    at = script.Click("spot", 40, 20)
    monkeypatch.setattr(script, "PHOTOGRAPHS", dict.fromkeys(("camera", "coffee"), (at, at, at)))
    monkeypatch.setattr(script, "FIGURES", tmp_path)
    monkeypatch.setattr(script, "read", _photograph)
    script.main([])
    drawn = {path.stem: Image.open(path) for path in tmp_path.iterdir()}
    assert set(drawn) == {"camera", "coffee", "readme", "stages", "clicks"}
    assert drawn["readme"].width > 7 * 146 > 3 * drawn["readme"].height
    assert drawn["clicks"].height > 2 * script.LOW
    assert len(np.unique(np.asarray(drawn["stages"])[::9, ::9].reshape(-1, 3), axis=0)) > 100
    weights = hashlib.sha256(Path(own_weights("glnet_lite")).read_bytes()).hexdigest()
    assert drawn["coffee"].info["comment"].decode() == f"glnet_lite {weights}"


def test_blocks_of_the_stages(script):
    class Network:
        blocks = ("0.0", "0.1", "2.0", "2.2", "2.4", "features", "features.0")

    assert script.of_stages(Network) == ["0.0", "0.1", "2.0", "2.4"]
    Network.blocks = ("features", "features.0", "features.1")
    assert script.of_stages(Network) == ["features.0", "features.1"]


def test_photographs_are_in_scikit_image(script):
    for name, clicks in script.PHOTOGRAPHS.items():
        image = script.read(name)
        height, width = image.shape[:2]
        assert image.shape[2] == 3 and image.dtype == np.uint8
        assert len(clicks) == 3 and all(0 <= c.x < width and 0 <= c.y < height for c in clicks)
        assert re.search("CC0|public domain", getattr(skimage.data, name).__doc__)


def test_page_shows_todays_pictures_with_their_sources(script):
    page = PAGE.read_text()
    shown = set(re.findall(r"\(slots/(\w+\.jpg)\)", page))
    assert "docs/slots/readme.jpg" in (PROJECT / "README.md").read_text()
    files = {path.name: path for path in script.FIGURES.iterdir()}
    assert set(files) == shown | {"readme.jpg"}
    sizes = [path.stat().st_size for path in files.values()]
    assert max(sizes) < 400_000 and sum(sizes) < 1_500_000
    for name in script.PHOTOGRAPHS:
        assert re.search(rf"^\| `{name}`.*(CC0|public domain).*\|$", page, re.MULTILINE)
    for path in files.values():
        network, weights = Image.open(path).info["comment"].decode().split()
        today = hashlib.sha256(Path(own_weights(network)).read_bytes()).hexdigest()
        assert weights == today, f"{path}: other weights: run scripts/slots_figure.py again"
        assert f"`{network}`" in page
