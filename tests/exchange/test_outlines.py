"""Outlines, drawn as pycocotools draws them."""

import numpy as np
from pycocotools import mask as coco_mask

from wsss.exchange.outlines import outlines


def test_outlines_of_single_pixels_and_rings():
    random = np.random.default_rng(0)
    for _ in range(50):
        where = random.random((9, 13)) < 0.5
        where = np.repeat(np.repeat(where, 6, 0), 6, 1)
        drawn = coco_mask.decode(
            coco_mask.merge(coco_mask.frPyObjects(outlines(where), *where.shape))
        ).astype(bool)
        assert (drawn != where).mean() < 0.05
    assert outlines(np.zeros((5, 4), bool)) == []
