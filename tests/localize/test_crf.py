"""The dense CRF against its equation, and against pydensecrf."""

import sys

import numpy as np
import pytest

from wsss.data.synthetic import draw_scene
from wsss.geometry import resize_scores
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


def _score_of_blobs(height, width, labels):
    """Smooth scores as a network's are."""
    coarse = np.random.default_rng(1).uniform(0.1, 1, (labels, 6, 8)).astype(np.float32)
    return resize_scores(coarse, height, width)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="pydensecrf2 has no build for Python 3.13")
@pytest.mark.parametrize("labels", [2, 3, 21])
def test_crf_labels_as_pydensecrf_does(labels):
    from pydensecrf.densecrf import DenseCRF2D

    image = draw_scene(np.random.default_rng(3), 120)[0][:90]
    image = np.clip(image + np.random.default_rng(0).normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    scores = _score_of_blobs(90, 120, labels)
    crf = DenseCRF2D(120, 90, labels)
    given = scores / scores.sum(0)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(given).reshape(labels, -1)))
    crf.addPairwiseGaussian(sxy=3 * 120 / 500, compat=3)
    crf.addPairwiseBilateral(sxy=50 * 120 / 500, srgb=5, rgbim=image.copy(), compat=10)
    expected = np.array(crf.inference(8)).reshape(labels, 90, 120)
    made = dense_crf(image, scores, CRFSettings(side=120))
    assert made.shape == expected.shape and made.dtype == np.float32
    np.testing.assert_allclose(made.sum(0), 1, rtol=1e-5)
    same = (made.argmax(0) == expected.argmax(0)).mean()
    changed = (given.argmax(0) != expected.argmax(0)).mean()
    assert same > 0.995 and changed > 0.02, (same, changed)
    assert np.abs(made - expected).mean() < 0.004 * np.abs(given - expected).mean() + 0.004


@pytest.mark.parametrize("weights, near", [((4, 0), 1e-5), ((0, 4), 0.01), ((2, 2), 0.01)])
def test_crf_is_the_mean_field_of_its_equation(weights, near):
    """docs/method.md, step 7, summed over all pairs of pixels; the lattice's sums are approximate."""
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
    assert np.abs(made - probabilities).mean() < near < 0.04 < np.abs(made - given).mean()


@pytest.mark.parametrize("height, width", [(1, 1), (1, 40), (7, 5)])
def test_crf_of_odd_sizes_and_settings(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    scores = np.random.default_rng(1).uniform(0.1, 1, (2, height, width)).astype(np.float32)
    off = CRFSettings(gaussian_compat=0, bilateral_compat=0)
    np.testing.assert_allclose(dense_crf(image, scores, off), scores / scores.sum(0), rtol=1e-5)
    assert (dense_crf(image, scores[:1], CRFSettings()) == 1).all()  # one label
    for more in ({"gaussian_sxy": 1e3, "bilateral_sxy": 1e3}, {"gaussian_sxy": 0.001}, {}):
        found = dense_crf(image, scores, CRFSettings(bilateral_srgb=0.001, **more))
        assert found.shape == scores.shape and np.isfinite(found).all()


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
