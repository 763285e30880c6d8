"""Samples and batches."""

import numpy as np
import pytest
from PIL import Image

from wsss.data import datasets
from wsss.data.catalog import Catalog, Record, read_catalog
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


@pytest.mark.parametrize("shape", [(3000, 4000), (4000, 3000), (700, 6000), (900, 900), (300, 400)])
@pytest.mark.parametrize("min_scale", [0.1, 0.4, 1.0])
def test_no_training_crop_of_a_reduced_photograph_is_enlarged(shape, min_scale):
    data = TaggedImages(Catalog((), ()), 224, min_scale)
    spare = data._spare(*shape)
    times = max(t for t in (0, 1, 2, 4, 8) if t <= spare)
    if times < 2:
        return  # read whole
    reduced = (-(-shape[0] // times), -(-shape[1] // times))
    crop = data.transform.transforms[0]
    for _ in range(300):
        x, y, right, bottom = crop.get_params_dependent_on_data({"shape": reduced}, {})["crop_coords"]
        assert min(right - x, bottom - y) >= 223  # sides are rounded


def _large(folder):
    """A photograph of 1203 x 1599, white where its mask says 1."""
    rows, columns = np.ogrid[:1203, :1599]
    mask = ((rows - 590) ** 2 + (columns - 820) ** 2 < 450**2).astype(np.uint8)
    Image.fromarray(np.repeat(mask[..., None] * 255, 3, 2)).save(folder / "a.jpg")
    write_mask(folder / "a.png", mask)
    return Catalog(("white",), (Record("a", folder / "a.jpg", (0,), folder / "a.png"),))


def test_training_samples_tell_the_photographs_own_size(tmp_path, monkeypatch):
    catalog = _large(tmp_path)
    shown = []
    monkeypatch.setattr(
        datasets, "_augment", lambda transform, **arrays: shown.append(arrays) or arrays
    )
    for data in (TaggedImages(catalog, 100, 0.4), MaskedImages(catalog, [tmp_path / "a.png"], 100, 0)):
        assert data[0]["size"].tolist() == [1203, 1599]
    assert [arrays["image"].shape[:2] for arrays in shown] == [(301, 400), (301, 400)]


def test_whole_photographs_are_never_reduced(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "read_reduced", None)
    catalog = _large(tmp_path)
    assert TaggedImages(catalog, 100, None)[0]["image"].shape == (3, 100, 100)
    tested = MaskedImages(catalog, [tmp_path / "a.png"], None, 400)[0]
    assert tested["image"].shape == (3, 301, 400) and tested["mask"].shape == (1203, 1599)


def test_the_mask_lies_on_a_reduced_photograph(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_augment", lambda transform, **arrays: arrays)
    sample = MaskedImages(_large(tmp_path), [tmp_path / "a.png"], 100, max_side=0)[0]
    bright, labels = sample["image"][..., 0].astype(float) / 255, sample["mask"]
    assert bright.shape == labels.shape == (301, 400) and set(np.unique(labels)) == {0, 1}
    assert np.abs(bright - labels).mean() < 0.004  # cells that the outline cuts are grey
    for axis in (0, 1):
        place = np.arange(labels.shape[axis])
        middles = [(m.sum(1 - axis) * place).sum() / m.sum() for m in (bright, labels)]
        assert abs(middles[0] - middles[1]) < 0.2


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
