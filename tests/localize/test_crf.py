"""The dense CRF against its equation."""

import sys

import numpy as np
import pydensecrf.densecrf
import pytest

from wsss.errors import UserError
from wsss.localize.crf import dense_crf
from wsss.localize.pseudo_masks import pseudo_mask
from wsss.settings import CRFSettings


def _scene(height=60, width=90):
    image = np.full((height, width, 3), 40, np.uint8)
    image[15:45, 30:70] = (220, 60, 30)
    image = (image + np.random.default_rng(0).integers(0, 8, image.shape)).astype(np.uint8)
    target = np.zeros((height, width), bool)
    target[15:45, 30:70] = True
    return image, target


def test_crf_equals_pydensecrf_called_directly():
    image, _ = _scene()
    scores = np.random.default_rng(1).uniform(0.1, 1, (3, 60, 90)).astype(np.float32)
    settings = CRFSettings(side=90, iterations=5)
    probabilities = scores / scores.sum(0)
    crf = pydensecrf.densecrf.DenseCRF2D(90, 60, 3)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(probabilities).reshape(3, -1)))
    crf.addPairwiseGaussian(sxy=3 * 90 / 500, compat=3)
    crf.addPairwiseBilateral(sxy=50 * 90 / 500, srgb=5, rgbim=image.copy(), compat=10)
    expected = np.array(crf.inference(5)).reshape(3, 60, 90)
    np.testing.assert_allclose(dense_crf(image, scores, settings), expected, atol=1e-5)


@pytest.mark.parametrize("weights", [(4, 0), (0, 4)])
def test_crf_is_the_mean_field_of_its_equation(weights):
    """docs/method.md, step 6, summed over all pairs of pixels; the library's sums are approximate."""
    image = _scene(10, 12)[0]
    image[3:7, 4:9] = (220, 60, 30)
    scores = np.random.default_rng(2).uniform(0.2, 1, (3, 10, 12)).astype(np.float32)
    reach, colour, unit = 150, 40, 12 / 500
    settings = CRFSettings(12, 4, 60, weights[0], reach, colour, weights[1])
    y, x = (grid.ravel() for grid in np.mgrid[:10, :12])
    apart = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    colours = image.reshape(-1, 3).astype(float)
    unlike = ((colours[:, None] - colours) ** 2).sum(2)
    kernels = [
        np.exp(-apart / 2 / (60 * unit) ** 2),
        np.exp(-apart / 2 / (reach * unit) ** 2 - unlike / 2 / colour**2),
    ]
    pairs = 0
    for kernel, weight in zip(kernels, weights, strict=True):
        total = kernel.sum(1)
        pairs = pairs + weight * kernel / np.sqrt(total[:, None] * total)
    given = (scores / scores.sum(0)).reshape(3, -1)
    probabilities = given
    for _ in range(4):
        probabilities = given * np.exp(probabilities @ pairs)
        probabilities /= probabilities.sum(0)
    made = dense_crf(image, scores, settings).reshape(3, -1)
    assert np.abs(made - probabilities).mean() < 0.01 < 0.05 < np.abs(made - given).mean()


def test_missing_crf_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)  # as if it were not installed
    image, target = _scene()
    scores = np.stack([1 - target, target]).astype(np.float32)
    with pytest.raises(UserError, match=r"pip install pydensecrf2.*crf: null"):
        dense_crf(image, scores, CRFSettings())
    assert pseudo_mask(image, target[None].astype(np.float32), [7], 0.4).any()  # works without


def test_crf_pulls_a_blurred_score_to_the_edge():
    image, target = _scene()
    yy, xx = np.mgrid[:60, :90]
    blob = np.exp(-(((yy - 30) / 18) ** 2) - ((xx - 50) / 24) ** 2).astype(np.float32)[None]

    def iou(mask):
        return (target & (mask == 7)).sum() / (target | (mask == 7)).sum()

    plain = pseudo_mask(image, blob, [7], 0.4)
    sharp = pseudo_mask(image, blob, [7], 0.4, CRFSettings(side=90))
    assert iou(sharp) > iou(plain) + 0.1
    assert sharp.shape == (60, 90) and sharp.dtype == np.uint8
