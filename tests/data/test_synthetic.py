"""The synthetic data set."""

import numpy as np

from wsss.data.catalog import read_catalog
from wsss.data.masks import read_mask
from wsss.data.synthetic import SYNTHETIC_CLASSES, draw_dataset


def test_synthetic_data_is_exact_and_repeatable(drawn, tmp_path):
    draw_dataset(tmp_path / "again", train=24, val=8, size=64)
    one, other = (read_catalog("voc", root, "train") for root in (drawn, tmp_path / "again"))
    assert one.classes == SYNTHETIC_CLASSES and len(one.records) == 24
    for a, b in zip(one.records, other.records, strict=True):
        assert a.image.read_bytes() == b.image.read_bytes() and a.tags == b.tags
        labels = set(np.unique(read_mask(a.mask))) - {0}
        assert labels == {tag + 1 for tag in a.tags}
