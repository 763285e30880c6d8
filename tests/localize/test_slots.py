"""The slot step against plain loops over pixels and slots, and its invariants."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import (
    FakeTensorMode,  # has no public home; missing, it is noticed here
)

from wsss.localize.cam import class_maps, seed_maps
from wsss.localize.slots import cluster_slots, foreground_prior, propagate, sharpen_slots, slot_means
from wsss.models.classifier import ClassifierOutput, pool_class_map
from wsss.settings import ClassMapSettings
from wsss.tasks.classification import make_mosaics, quadrants


def unit(v):
    return v / max(np.linalg.norm(v), 1e-12)


def pooled_cells(z, grid):
    """Adaptive average pooling by hand: cell i of n covers floor(i*L/n) .. ceil((i+1)*L/n)."""
    height, width, _ = z.shape
    cells = []
    for i in range(grid[0]):
        for j in range(grid[1]):
            rows = slice(i * height // grid[0], -(-(i + 1) * height // grid[0]))
            cols = slice(j * width // grid[1], -(-(j + 1) * width // grid[1]))
            cells.append(unit(z[rows, cols].mean(axis=(0, 1))))
    return cells


def reference_clustering(features, grid, steps, temperature):
    """One image (C, H, W) in float64, one pixel and one slot at a time."""
    channels, height, width = features.shape
    z = np.stack([[unit(features[:, y, x]) for x in range(width)] for y in range(height)])
    slots = pooled_cells(z, grid)
    dispatch = np.zeros((len(slots), height, width))
    for _ in range(steps):
        for y in range(height):
            for x in range(width):
                score = np.exp([float(s @ z[y, x]) / temperature for s in slots])
                dispatch[:, y, x] = score / score.sum()
        new = []
        for k in range(len(slots)):
            total = np.zeros(channels)
            for y in range(height):
                for x in range(width):
                    total += dispatch[k, y, x] * z[y, x]
            new.append(unit(total))
        slots = new
    return dispatch, np.array(slots)


def reference_propagation(maps, dispatch, steps):
    maps = maps.copy()
    count, height, width = maps.shape
    for _ in range(steps):
        out = np.zeros_like(maps)
        for n in range(count):
            for d in dispatch:
                mean = (maps[n] * d).sum() / d.sum()
                for y in range(height):
                    for x in range(width):
                        out[n, y, x] += d[y, x] * mean
        maps = out
    return maps


def reference_prior(scores, dispatch):
    """One class (H, W) of one image (K, H, W) in float64, one pixel and one slot at a time."""
    count, height, width = dispatch.shape
    area, length = np.zeros(count), np.zeros(count)
    for k in range(count):
        for y in range(height):
            for x in range(width):
                sides = (y == 0) + (y == height - 1) + (x == 0) + (x == width - 1)
                area[k] += dispatch[k, y, x]
                length[k] += sides * dispatch[k, y, x] * (1 - scores[y, x])
    out = np.zeros((height, width))
    for k in range(count):
        alike = [float(unit(dispatch[k].ravel()) @ unit(other.ravel())) for other in dispatch]
        connectivity = np.dot(alike, length) / np.sqrt(np.dot(alike, area))
        out += np.exp(-(connectivity**2) / 2) * dispatch[k]
    return out


@pytest.mark.parametrize(
    ("size", "grid", "steps", "temperature"),
    [((9, 9), (3, 3), 3, 0.1), ((7, 12), (3, 2), 2, 0.3), ((5, 4), (8, 8), 1, 0.05)],
)
def test_clustering_equals_loops(size, grid, steps, temperature):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, *size, generator=generator)
    got = cluster_slots(features, grid, steps, temperature)
    assert got.dispatch.shape == (2, grid[0] * grid[1], *size)
    assert got.slots.shape == (2, grid[0] * grid[1], 6)
    for image in range(2):
        dispatch, slots = reference_clustering(
            features[image].double().numpy(), grid, steps, temperature
        )
        np.testing.assert_allclose(got.dispatch[image].numpy(), dispatch, atol=2e-4)
        np.testing.assert_allclose(got.slots[image].numpy(), slots, atol=2e-4)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_propagation_equals_loops(steps):
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 3, 5, 8, generator=generator)
    dispatch = torch.randn(2, 4, 5, 8, generator=generator).mul(2).softmax(dim=1)
    got = propagate(maps, dispatch, steps)
    for image in range(2):
        want = reference_propagation(
            maps[image].double().numpy(), dispatch[image].double().numpy(), steps
        )
        np.testing.assert_allclose(got[image].numpy(), want, atol=1e-5)


@pytest.mark.parametrize("size", [(5, 8), (9, 4)])
def test_prior_equals_loops(size):
    generator = torch.Generator().manual_seed(2)
    dispatch = torch.randn(2, 6, *size, generator=generator).mul(3).softmax(1)
    scores = torch.rand(2, 3, *size, generator=generator)
    got = foreground_prior(scores, dispatch)
    for image in range(2):
        for label in range(3):
            want = reference_prior(
                scores[image, label].double().numpy(), dispatch[image].double().numpy()
            )
            np.testing.assert_allclose(got[image, label].numpy(), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", [16, 48])
def test_prior_is_high_inside_and_low_along_the_border_at_any_resolution(side):
    dispatch = torch.zeros(1, 3, side, side)
    dispatch[:, 0] = 1  # sky
    dispatch[..., side // 4 : side // 2, side // 4 : side // 2] = torch.tensor([0, 1, 0])[:, None, None]
    dispatch[..., side // 2 :, side // 2 : 3 * side // 4] = torch.tensor([0, 0, 1])[:, None, None]
    rows, columns = [0, side // 3, -1], [0, side // 3, side * 5 // 8]
    scores = torch.stack([torch.zeros(side, side), torch.ones(side, side)])[None]
    sky, inside, cut = foreground_prior(scores, dispatch)[0, 0, rows, columns]
    assert inside == pytest.approx(1)
    assert sky < 0.01
    # its length on the border is the root of half its area: exp(-(1/4)^2 / (2 * 1/8)), at any size
    assert cut == pytest.approx(np.exp(-0.25), abs=1e-5)
    # the second class fills the image: its own scores do not count against it
    torch.testing.assert_close(foreground_prior(scores, dispatch)[0, 1], torch.ones(side, side))


def test_prior_of_resized_dispatch():
    scores, dispatch = torch.rand(1, 2, 6, 9), torch.rand(1, 4, 12, 18).softmax(1)
    small = torch.nn.functional.interpolate(dispatch, (6, 9), mode="bilinear")
    torch.testing.assert_close(foreground_prior(scores, dispatch), foreground_prior(scores, small))


def test_pixels_are_shared_out_completely():
    dispatch, slots = cluster_slots(torch.randn(2, 16, 13, 22))
    torch.testing.assert_close(dispatch.sum(dim=1), torch.ones(2, 13, 22))
    torch.testing.assert_close(slots.norm(dim=2), torch.ones(2, 64))
    assert dispatch.min() >= 0


def test_only_the_direction_of_features_counts():
    features = torch.randn(1, 8, 6, 9)
    scale = torch.rand(1, 1, 6, 9) * 10 + 0.1
    torch.testing.assert_close(
        cluster_slots(features * scale).dispatch,
        cluster_slots(features).dispatch,
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize("dispatch_size", [(10, 14), (20, 28), (5, 9)])
def test_propagation_keeps_constants_range_and_size_at_any_dispatch_size(dispatch_size):
    dispatch = torch.randn(2, 5, *dispatch_size).mul(3).softmax(dim=1)
    constant = torch.full((2, 2, 10, 14), 0.7)
    torch.testing.assert_close(propagate(constant, dispatch), constant)
    maps = torch.rand(2, 2, 10, 14)
    out = propagate(maps, dispatch)
    assert out.shape == maps.shape
    assert out.min() >= maps.min() - 1e-6 and out.max() <= maps.max() + 1e-6


def test_two_regions_are_found_and_a_spot_fills_its_region_only():
    features = torch.zeros(1, 4, 16, 24)
    features[:, 0, :, :10] = 1.0
    features[:, 1, :, 10:] = 1.0
    maps = torch.zeros(1, 1, 16, 24)
    maps[..., 4:8, 2:6] = 1.0
    out = propagate(maps, cluster_slots(features).dispatch)[0, 0]
    assert out[:, :10].min() > 5 * out[:, 10:].max()
    torch.testing.assert_close(out[:, :10], out[0, 0].expand(16, 10), rtol=1e-3, atol=1e-4)


def test_batch_equals_single_images():
    features = torch.randn(3, 8, 9, 11)
    together = cluster_slots(features).dispatch
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], cluster_slots(features[i : i + 1]).dispatch)


def test_half_precision_features_give_float32_maps():
    features = torch.randn(1, 8, 9, 11)
    got = cluster_slots(features.bfloat16()).dispatch
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, cluster_slots(features.bfloat16().float()).dispatch)


def test_an_empty_slot_gives_no_nan():
    dispatch = torch.zeros(1, 3, 4, 4)
    dispatch[:, 0] = 1.0
    maps = torch.rand(1, 2, 4, 4)
    out = propagate(maps, dispatch, steps=1)
    torch.testing.assert_close(out, maps.mean(dim=(2, 3), keepdim=True).expand_as(maps))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cluster_slots(torch.rand(4, 5, 5)), "B, C, H, W"),
        (lambda: cluster_slots(torch.rand(1, 4, 5, 5), steps=0), "steps"),
        (lambda: cluster_slots(torch.rand(1, 4, 5, 5), temperature=0), "temperature"),
        (lambda: propagate(torch.rand(1, 1, 4, 4), torch.rand(2, 3, 4, 4)), "batch size"),
        (lambda: propagate(torch.rand(1, 1, 4, 4), torch.rand(1, 3, 4, 4), -1), "negative"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_propagation_is_a_walk_in_slot_space():
    generator = torch.Generator().manual_seed(5)
    maps = torch.rand(2, 3, 6, 5, generator=generator)
    dispatch = torch.rand(2, 8, 6, 5, generator=generator).softmax(1)
    d = dispatch.flatten(2).double()
    read = d / d.sum(2, keepdim=True)  # B K N, rows sum to 1
    walk = read @ d.transpose(1, 2)  # B K K
    torch.testing.assert_close(walk.sum(2), torch.ones(2, 8, dtype=torch.float64))
    slots = read @ maps.flatten(2).double().transpose(1, 2)  # B K classes
    for steps in (1, 2, 4):
        expected = (d.transpose(1, 2) @ torch.linalg.matrix_power(walk, steps - 1) @ slots).mT
        out = propagate(maps, dispatch, steps).flatten(2).double()
        torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)


def test_sharpened_probabilities_are_powers_that_sum_to_one():
    probabilities = torch.rand(2, 6, 4, 5).mul(4).softmax(1)
    torch.testing.assert_close(sharpen_slots(probabilities, 1.0), probabilities)
    got = sharpen_slots(probabilities, 3.0)
    for image, row, column in ((0, 0, 0), (1, 3, 4)):
        here = [float(one) ** 3 for one in probabilities[image, :, row, column]]
        expected = torch.tensor([one / sum(here) for one in here])
        torch.testing.assert_close(got[image, :, row, column], expected)
    assert torch.isfinite(
        sharpen_slots(torch.eye(6)[None, :, :, None], 50.0)
    ).all()  # probabilities of 0


def test_float32_inside_autocast_too():
    features, maps = torch.randn(2, 8, 6, 7), torch.rand(2, 3, 6, 7)
    outside = cluster_slots(features, (2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        inside = cluster_slots(features, grid=(2, 3))
        got = [step(maps, dispatch=inside.dispatch) for step in (propagate, foreground_prior)]
    expected = [step(maps, outside.dispatch) for step in (propagate, foreground_prior)]
    for one, other in zip((*inside, *got), (*outside, *expected), strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


def test_every_step_stays_on_the_device_of_its_input():
    """No GPU is needed: fake tensors tell the device and refuse what lies on two of them."""
    with FakeTensorMode():
        features = torch.empty(2, 16, 14, 20, device="cuda")
        dispatch = cluster_slots(features).dispatch
        images = torch.empty(2, 3, 224, 320, device="cuda")

        def classifier(view, slots, slot_grid):
            maps = F.avg_pool2d(view, 16)
            return ClassifierOutput(pool_class_map(maps), maps, dispatch, features)

        classifier.bias, classifier.size_multiple = torch.empty(3, device="cuda"), 32
        maps = class_maps(classifier, images, ClassMapSettings((1.0, 0.5), True, "blocks"))
        made = [dispatch, propagate(maps.cam, dispatch), foreground_prior(maps.cam, dispatch)]
        made += [*maps, seed_maps(maps), sharpen_slots(dispatch, 4.0)]
        made += [pool_class_map(maps.cam)]
        made += [*make_mosaics(images, torch.empty(2, 3, device="cuda")), quadrants(maps.cam)]
        assert {tensor.device.type for tensor in made} == {"cuda"}
        with pytest.raises(RuntimeError, match="device"):
            features + torch.empty(20)


def test_slot_means_are_means_of_directions():
    rng = np.random.default_rng(0)
    features = torch.tensor(rng.normal(size=(2, 6, 3, 4)), dtype=torch.float32)
    dispatch = torch.tensor(rng.normal(size=(2, 5, 3, 4)), dtype=torch.float32).softmax(1)
    means = slot_means(features * 7, dispatch)
    z = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    for image in range(2):
        for slot in range(5):
            mean = (z[image] * dispatch[image, slot].numpy()).sum((1, 2))
            np.testing.assert_allclose(means[image, slot], mean / np.linalg.norm(mean), atol=1e-6)
