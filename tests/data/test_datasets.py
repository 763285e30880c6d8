"""Samples and batches."""

import numpy as np
import pytest
from PIL import Image

from wsss.data.catalog import Catalog, read_catalog
from wsss.data.datasets import MaskedImages, SameShapeBatches, TaggedImages
from wsss.data.masks import write_mask
from wsss.data.modules import MaskData
from wsss.data.synthetic import SYNTHETIC_CLASSES
from wsss.errors import UserError
from wsss.voc import VOID


def test_a_large_photographs_training_crops_are_as_smooth_as_what_is_predicted(tmp_path):
    stripes = np.zeros((1500, 2000, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255  # two pixels wide: below what 64 pixels can show
    Image.fromarray(stripes).save(tmp_path / "a.png")
    (tmp_path / "tags.csv").write_text("image,tags\na.png,stripes\n")
    catalog = read_catalog("folder", tmp_path, "all")
    for min_scale in (0.4, None):
        shown = TaggedImages(catalog, 64, min_scale)
        assert all(shown[0]["image"].float().std((1, 2)).max() < 25 for _ in range(4))


def test_predict_batches_cover_every_image_once(drawn):
    catalog = read_catalog("voc", drawn, "train")
    batches = SameShapeBatches(catalog, lambda height, width: (height, width), 5 * 64**2)
    items = [batches[index] for index in range(len(batches))]
    assert sorted(name for item in items for name in item["id"]) == [r.id for r in catalog.records]
    assert items[0]["image"].shape == (5, 3, 64, 64)


def test_mask_of_other_size_is_named(drawn, tmp_path):
    catalog = read_catalog("voc", drawn, "val")
    write_mask(tmp_path / "m.png", np.zeros((10, 10), int))
    with pytest.raises(UserError, match=r"m\.png is 10x10 pixels.*64x64"):
        MaskedImages(catalog, [tmp_path / "m.png"] * 8, None, 1024)[0]


def test_training_crops_show_the_same_share_of_an_image_of_any_size(drawn):
    record = read_catalog("voc", drawn, "train").records[0]
    catalog = Catalog(SYNTHETIC_CLASSES, (record,))
    for crop in (32, 200):  # smaller and larger than the image of 64
        shown = MaskedImages(catalog, [record.mask], crop, max_side=0)
        inside = [(shown[0]["mask"] != VOID).float().mean().item() for _ in range(40)]
        # half a crop long: a quarter is image, the rest padding; two crops long: all is image
        assert 0.2 < min(inside) < 0.5 and max(inside) == 1
    assert MaskData(str(drawn), crop=320).max_side == 480
