"""Class maps at several scales, and the seeds made of them."""

import numpy as np
import pytest
import torch

from wsss.errors import UserError
from wsss.localize.cam import ClassMaps, class_maps, normalise_maps, seed_maps, seeds_of_maps
from wsss.models.classifier import ClassifierOutput, TagClassifier
from wsss.settings import ClassMapSettings, SeedSettings


class _BrightPixels:
    """A classifier whose one class map rises with the image's red channel, at a quarter of its size."""

    bias = torch.tensor([-2.0])
    size_multiple = 32

    def __call__(self, images, slots, slot_grid):
        red = torch.nn.functional.avg_pool2d(images[:, :1], 4)
        return ClassifierOutput(red.mean((2, 3)), red / 100, None)


def test_class_maps_average_scales_and_horizontal_flips():
    images = torch.zeros(2, 3, 64, 96)
    images[:, 0, :32, :32] = 200.0
    plain = class_maps(_BrightPixels(), images, ClassMapSettings((1.0,), False))
    flipped = class_maps(_BrightPixels(), images, ClassMapSettings((1.0,), True))
    torch.testing.assert_close(flipped.cam, plain.cam)  # undone before averaging
    several = class_maps(_BrightPixels(), images, ClassMapSettings((0.5, 1.0, 2.0), True))
    assert several.cam.shape == (2, 1, 16, 24)
    assert several.cam[0, 0, 2, 2] == pytest.approx(0.5, abs=1e-2)  # the sigmoid of 2 - 2
    assert several.cam[0, 0, -1, -1] == pytest.approx(1 / (1 + np.exp(2)), abs=1e-6)
    twice = class_maps(_BrightPixels(), images, ClassMapSettings((1.0, 1.0), False))
    assert torch.equal(twice.cam, plain.cam)
    only_half = class_maps(_BrightPixels(), images, ClassMapSettings((0.5,), False))
    assert not torch.allclose(only_half.cam, plain.cam)


def test_seed_maps_is_geometric_mean_of_map_and_slot_average():
    cam = torch.rand(1, 2, 4, 6)
    dispatch = torch.zeros(1, 2, 4, 6)
    dispatch[:, 0, :, :3], dispatch[:, 1, :, 3:] = 1, 1
    means = torch.cat([cam[..., :3].mean((2, 3)), cam[..., 3:].mean((2, 3))]).T  # class, half
    stretched = (means - means.amin(1, keepdim=True)) / (
        means.amax(1, keepdim=True) - means.amin(1, keepdim=True)
    )
    out = seed_maps(ClassMaps(None, cam, dispatch), SeedSettings(False))
    whole = (normalise_maps(cam)[0] * stretched.repeat_interleave(3, 1)[:, None]).sqrt()
    torch.testing.assert_close(out, normalise_maps(whole[None]))
    torch.testing.assert_close(seed_maps(ClassMaps(None, cam, None)), normalise_maps(cam))


def test_seed_maps_by_hand():
    """docs/method.md, steps 4 and 5, in numpy and with loops over slots."""
    rng = np.random.default_rng(0)
    cam, dispatch = rng.random((2, 7, 9)), rng.dirichlet(np.ones(4), (7, 9)).transpose(2, 0, 1)
    n = lambda m: (m - m.min((1, 2), keepdims=True)) / np.ptp(m, (1, 2), keepdims=True)  # noqa: E731
    spread = cam
    for _ in range(2):
        means = [[(m * d).sum() / d.sum() for d in dispatch] for m in spread]
        spread = np.einsum("nk,khw->nhw", means, dispatch)
    score = np.sqrt(n(cam) * n(spread))
    alike = [[(d * e).sum() / np.sqrt((d**2).sum() * (e**2).sum()) for e in dispatch] for d in dispatch]
    area = dispatch.sum((1, 2))
    prior = np.zeros_like(cam)
    for index, own in enumerate(score):
        sides = [(..., 0), (..., -1), (0, ...), (-1, ...)]
        length = np.array([sum((d * (1 - own))[side].sum() for side in sides) for d in dispatch])
        connected = alike @ length / np.sqrt(alike @ area)
        prior[index] = np.einsum("k,khw->hw", np.exp(-(connected**2) / 2), dispatch)
    maps = ClassMaps(None, torch.tensor(cam)[None], torch.tensor(dispatch)[None])
    for border_prior, expected in ((True, n(score * prior)), (False, n(score))):
        out = seed_maps(maps, SeedSettings(border_prior))
        np.testing.assert_allclose(out[0].numpy(), expected, atol=1e-5)


def _slots_at_the_border():
    """Dispatch maps (1, 3, 8, 10): around, inside, cut by the border; evidence (1, 1, 8, 10)."""
    dispatch = torch.zeros(1, 3, 8, 10)
    dispatch[:, 0] = 1
    dispatch[..., 2:6, 2:5] = torch.tensor([0.0, 1, 0])[:, None, None]  # inside
    dispatch[..., 3:, 6:8] = torch.tensor([0.0, 0, 1])[:, None, None]  # cut by the border
    evidence = dispatch * torch.tensor([0.6, 0.8, 0.2])[:, None, None]
    return dispatch, evidence.sum(1, keepdim=True)


@pytest.mark.parametrize("size", [(8, 10), (16, 20)])  # the class map's own size or another
def test_seed_maps_lower_what_runs_along_the_border(size):
    dispatch, evidence = _slots_at_the_border()
    cam = torch.nn.functional.interpolate(evidence, size)
    maps = ClassMaps(None, cam, dispatch)
    plain, out = seed_maps(maps, SeedSettings(False)), seed_maps(maps)
    assert plain[0, 0, 0, 0] > 0.6 and out[0, 0, 0, 0] < 0.3
    torch.testing.assert_close(out.amax((2, 3)), torch.ones(1, 1))
    torch.testing.assert_close(out.amin((2, 3)), torch.zeros(1, 1))


def test_seed_maps_keep_a_tag_that_fills_the_image():
    dispatch = torch.rand(1, 5, 8, 10, generator=torch.Generator().manual_seed(0)).softmax(1)
    out = seed_maps(ClassMaps(None, torch.rand(1, 2, 8, 10), dispatch))
    torch.testing.assert_close(out.amax((2, 3)), torch.ones(1, 2))


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_a_power_sharpens_glnets_own_slots(power):
    model = TagClassifier("glnet_nano", 5).eval()
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        own = ClassMapSettings((1.0,), slots="blocks", sharpen=power)
        maps = class_maps(model, images, own)
        probabilities = model(images, slots="blocks").dispatch.double() ** power
        clustered = class_maps(model, images, ClassMapSettings((1.0,), sharpen=power)).dispatch
        features = model(images, slots="features").dispatch
    expected = (probabilities / probabilities.sum(1, keepdim=True)).float()
    torch.testing.assert_close(maps.dispatch, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clustered, features)  # hard enough by their temperature


class OfOneClass:
    def __call__(self, maps):
        return maps.cam[:, :1]


class AsNumpy:
    def __call__(self, maps):
        return maps.cam.numpy()


@pytest.mark.parametrize(("own", "got"), [(OfOneClass, r"\[2, 1, 4, 4\]"), (AsNumpy, "a ndarray")])
def test_a_seed_of_ones_own_gives_scores_of_every_class(own, got):
    maps = ClassMaps(torch.rand(2, 3), torch.rand(2, 3, 4, 4), None)
    settings = SeedSettings(seed=f"{__name__}.{own.__name__}")
    with pytest.raises(UserError, match=rf"must return a tensor \[2, 3, h, w\].*got {got}"):
        seeds_of_maps(maps, settings)


def test_clustering_starts_from_the_grid_that_is_asked_for():
    model = TagClassifier("mobilenetv2_100", 2).eval()
    images = torch.rand(1, 3, 64, 64) * 255
    for grid in (2, 3):
        maps = class_maps(model, images, ClassMapSettings((1.0,), slots="features", slot_grid=grid))
        assert maps.dispatch.shape[1] == maps.slots.shape[1] == grid**2
    with pytest.raises(UserError, match="slot_grid must be 2 or more, got 1"):
        ClassMapSettings(slot_grid=1)
