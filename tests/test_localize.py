"""Class maps, CRF, pseudo-masks."""

import sys

import numpy as np
import pydensecrf.densecrf
import pytest
import torch

from wsss.data.masks import read_scores
from wsss.errors import UserError
from wsss.localize.cam import ClassMaps, class_maps, normalise_maps, seed_maps
from wsss.localize.crf import dense_crf
from wsss.localize.pseudo_masks import pseudo_mask, refined_mask
from wsss.models.classifier import ClassifierOutput, TagClassifier, pool_class_map
from wsss.settings import ClassMapSettings, CRFSettings, SeedSettings
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.writers import PseudoMaskWriter


def _scene(height=60, width=90):
    image = np.full((height, width, 3), 40, np.uint8)
    image[15:45, 30:70] = (220, 60, 30)
    image = (image + np.random.default_rng(0).integers(0, 8, image.shape)).astype(np.uint8)
    truth = np.zeros((height, width), bool)
    truth[15:45, 30:70] = True
    return image, truth


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
    shares = given
    for _ in range(4):
        shares = given * np.exp(shares @ pairs)
        shares /= shares.sum(0)
    made = dense_crf(image, scores, settings).reshape(3, -1)
    assert np.abs(made - shares).mean() < 0.01 < 0.05 < np.abs(made - given).mean()


def test_missing_crf_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)  # as if it were not installed
    image, truth = _scene()
    scores = np.stack([1 - truth, truth]).astype(np.float32)
    with pytest.raises(UserError, match=r"pip install pydensecrf2.*crf: null"):
        dense_crf(image, scores, CRFSettings())
    assert pseudo_mask(image, truth[None].astype(np.float32), [7], 0.4).any()  # works without


def test_crf_pulls_a_blurred_score_to_the_edge():
    image, truth = _scene()
    yy, xx = np.mgrid[:60, :90]
    blob = np.exp(-(((yy - 30) / 18) ** 2) - ((xx - 50) / 24) ** 2).astype(np.float32)[None]

    def iou(mask):
        return (truth & (mask == 7)).sum() / (truth | (mask == 7)).sum()

    plain = pseudo_mask(image, blob, [7], 0.4)
    sharp = pseudo_mask(image, blob, [7], 0.4, CRFSettings(side=90))
    assert iou(sharp) > iou(plain) + 0.1
    assert sharp.shape == (60, 90) and sharp.dtype == np.uint8


def test_pseudo_mask_rules():
    image = np.zeros((4, 6, 3), np.uint8)
    scores = np.zeros((2, 4, 6), np.float32)
    scores[0, :2], scores[1, 2:] = 0.9, 0.5
    mask = pseudo_mask(image, scores, [3, 5], background=0.45, void_below=0.6)
    assert (mask[0] == 3).all()  # 0.9 of 1.35
    assert (mask[3] == 255).all()  # 0.5 of 0.95
    assert (pseudo_mask(image, scores, [3, 5], background=0.6)[3] == 0).all()
    assert (pseudo_mask(image, scores[:0], [], background=0.6) == 0).all()


def test_refined_mask_joins_both_and_keeps_to_the_tags():
    image = np.zeros((4, 6, 3), np.uint8)
    scores = np.full((2, 2, 3), 0.4, np.float32)
    scores[0, :, 0] = 1.0  # the first round is sure of label 3 on the left, and knows nothing else
    seen = np.full((6, 4, 6), 1e-3, np.float32)
    seen[5, :, 4:] = 0.5  # the segmenter sees 5 on the right,
    seen[0, :, 2:4] = 0.5  # background in the middle,
    seen[1] = 0.9  # and label 1 everywhere, which is not a tag
    seen[3, :, :2] = seen[0, :, :2] = 0.04  # on the left it cannot tell 3 from background
    mask = refined_mask(image, scores, [3, 5], seen, background=0.4)
    assert (mask[:, :1] == 3).all() and (mask[:, 2:4] == 0).all() and (mask[:, 5:] == 5).all()
    assert set(np.unique(mask)) == {0, 3, 5} and mask.shape == (4, 6)
    # shares by hand at the upper left pixel: segmenter .04 / .04 (its maximum) for 3, .001 / .5 for 5;
    # first round 1 of 1.8 for 3
    share = np.array([0.04, 1.0, 0.002])
    own = np.sqrt(share / share.sum() * np.array([0.4, 1.0, 0.4]) / 1.8)
    void = own.max() / own.sum()
    for below, expected in ((void - 0.01, 3), (void + 0.01, 255)):
        made = refined_mask(image, scores, [3, 5], seen, 0.4, void_below=below)
        assert made[0, 0] == expected
    assert (refined_mask(image, scores[:0], [], seen, 0.4) == 0).all()


def test_refined_mask_keeps_a_tag_that_the_segmenter_has_not_learned():
    scores = np.zeros((1, 4, 6), np.float32)
    scores[0, :, :3] = 1.0
    seen = np.full((4, 4, 6), 1e-4, np.float32)
    seen[0] = 0.99  # background everywhere, label 3 a little more on the left
    seen[3, :, :3] = 1e-3
    mask = refined_mask(np.zeros((4, 6, 3), np.uint8), scores, [3], seen, background=0.4)
    assert (mask[:, :3] == 3).all() and (mask[:, 3:] == 0).all()


class _BrightPixels:
    """A classifier whose one class map rises with the image's red channel, at a quarter of its size."""

    bias = torch.tensor([-2.0])

    def __call__(self, images, slots):
        red = torch.nn.functional.avg_pool2d(images[:, :1], 4)
        return ClassifierOutput(red.mean((2, 3)), red / 100, None)


def test_class_maps_average_scales_and_mirror_images():
    images = torch.zeros(2, 3, 64, 96)
    images[:, 0, :32, :32] = 200.0
    plain = class_maps(_BrightPixels(), images, ClassMapSettings((1.0,), False))
    mirrored = class_maps(_BrightPixels(), images, ClassMapSettings((1.0,), True))
    torch.testing.assert_close(mirrored.cam, plain.cam)  # undone before averaging
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


def test_pooling_against_plain_formulas():
    values = torch.randn(2, 3, 5, 7)
    flat = np.sort(values.flatten(2).numpy())[:, :, ::-1]
    weights = 0.996 ** np.arange(35)
    expected = {
        "average": flat.mean(2),
        "gwrp": (flat * weights).sum(2) / weights.sum(),
        "top20": flat[:, :, :7].mean(2),
        "lse": np.log(np.exp(flat).mean(2)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(pool_class_map(values, name).numpy(), value, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="median"):
        pool_class_map(values, "median")


@pytest.mark.parametrize(
    ("backbone", "stride"),
    [
        ("mobilenetv2_100", 16),
        ("glnet_nano", 16),
        ("resnet18", 32),
        ("swin_tiny_patch4_window7_224", 32),
        ("vit_tiny_patch16_224", None),
    ],
)
def test_any_backbone_gives_maps_and_slots(backbone, stride):
    model = TagClassifier(backbone, 5, output_stride=stride or 32).eval()
    stride = stride or 16  # ViT has one stride only
    with torch.no_grad():
        out = model(torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8), slots="features")
    assert out.class_map.shape == (2, 5, 64 // stride, 96 // stride)
    torch.testing.assert_close(out.logits, pool_class_map(out.class_map, "top20") + model.bias)
    torch.testing.assert_close(out.dispatch.sum(1), torch.ones_like(out.dispatch[:, 0]))


def test_own_slots_of_glnet_only():
    model = TagClassifier("glnet_nano", 5).eval()
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        out, plain = model(images, slots="blocks"), model(images)
    torch.testing.assert_close(out.logits, plain.logits)
    torch.testing.assert_close(out.dispatch.sum(1), torch.ones_like(out.dispatch[:, 0]))
    with pytest.raises(UserError, match="no GLMix blocks"):
        TagClassifier("resnet18", 5)(images, slots="blocks")


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_the_writers_power_sharpens_glnets_own_slots(tmp_path, power):
    model = TagClassifier("glnet_nano", 5).eval()
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    writer = PseudoMaskWriter(str(tmp_path), scales=(1.0,), slots="blocks", sharpen=power)
    with torch.no_grad():
        maps = class_maps(model, images, writer.map_settings)
        shares = model(images, slots="blocks").dispatch.double() ** power
        clustered = class_maps(model, images, ClassMapSettings((1.0,), sharpen=power)).dispatch
        features = model(images, slots="features").dispatch
    expected = (shares / shares.sum(1, keepdim=True)).float()
    torch.testing.assert_close(maps.dispatch, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clustered, features)  # hard enough by their temperature


def test_no_process_for_the_masks_is_refused(tmp_path):
    with pytest.raises(UserError, match="workers must be 1 or more, or null"):
        PseudoMaskWriter(str(tmp_path), workers=0)


def test_a_power_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"sharpen.*-1"):
        PseudoMaskWriter(str(tmp_path), sharpen=-1.0)


def test_arguments_reach_the_backbone(tmp_path):
    model = TagClassifier("glnet_nano", 5, backbone_args={"slot_scale_init": 0.1})
    assert model.backbone.stages[0].blocks[0].slot_scale.item() == pytest.approx(0.1)
    with pytest.raises(UserError, match=r"glnet_nano cannot be built.*number_of_slots"):
        TagClassifier("glnet_nano", 5, backbone_args={"number_of_slots": 9})
    task = ClassificationTask(["a", "b"], "glnet_nano", backbone_args={"num_slots": 16})
    state = {"kind": "classify", "classes": ["a", "b"], "state_dict": task.state_dict()}
    torch.save(state | {"hyper_parameters": dict(task.hparams)}, tmp_path / "a.ckpt")
    loaded = ClassificationTask.from_checkpoint(tmp_path / "a.ckpt")
    images = torch.zeros(1, 3, 64, 96)
    assert loaded.model(images, slots="blocks").dispatch.shape[1] == 16


def test_unknown_backbone_is_named():
    with pytest.raises(UserError, match="mobilenetv9"):
        TagClassifier("mobilenetv9", 5)


@pytest.mark.parametrize("border_prior", [True, False])
def test_writer_hands_on_whether_the_border_counts(tmp_path, border_prior):
    dispatch, evidence = _slots_at_the_border()
    cam = evidence.repeat(1, 2, 1, 1)
    maps = ClassMaps(None, cam, dispatch, torch.ones(1, dispatch.shape[1], 2))
    writer = PseudoMaskWriter(str(tmp_path / "masks"), border_prior=border_prior)
    batch = {"id": ["a"], "path": ["a.jpg"], "tags": torch.tensor([[0, 1]])}
    writer.write_on_batch_end(None, None, maps, None, batch, 0, 0)
    expected = seed_maps(maps, SeedSettings(border_prior))[0, 1:]
    scores, labels = read_scores(tmp_path / "seeds" / "a.npz")
    torch.testing.assert_close(torch.from_numpy(scores), expected, atol=1e-3, rtol=1e-3)
    assert labels == [2]
    other = seed_maps(maps, SeedSettings(not border_prior))[0, 1:]
    assert (expected - other).abs().max() > 0.1
