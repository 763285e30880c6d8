"""Masks and photographs that are given to other tools."""

import pytest
from exchange_helpers import CLASSES, discs
from PIL import Image

from wsss.data.masks import write_mask


@pytest.fixture
def data(tmp_path):
    """Four photographs in two folders, names with spaces and accents; three masks of them."""
    names = {"a/été 1": (50, 71), "a/b 2": (64, 48), "plain": (47, 90)}
    for number, (name, (height, width)) in enumerate(names.items()):
        photo = tmp_path / "photos" / f"{name}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), "gray").save(photo)
        write_mask(tmp_path / "masks" / f"{name}.png", discs(number, height, width))
    Image.new("RGB", (30, 20)).save(tmp_path / "photos" / "other.png")
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return tmp_path
