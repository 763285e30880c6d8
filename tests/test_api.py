"""What `import wsss` gives: few names, at no cost before they are used, and the networks."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import wsss
from wsss.localize.cam import class_maps
from wsss.settings import ClassMapSettings
from wsss.tasks.classification import ClassificationTask

CLASSES = ["ball", "brick", "kite", "star"]


@pytest.fixture(scope="module")
def classifier(networks) -> wsss.Classifier:
    return wsss.Classifier.load(networks / "classify" / "last.ckpt")


@pytest.fixture
def segmenter(networks) -> wsss.Segmenter:
    return wsss.Segmenter.load(networks / "segment" / "last.ckpt")


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_import_costs_nothing_before_a_name_is_used():
    code = (
        "import sys, wsss; assert not {'torch', 'numpy', 'cv2', 'PIL'} & set(sys.modules); "
        "wsss.UserError, wsss.InferenceSettings; assert 'torch' not in sys.modules; "
        "from wsss import ClassMaps; assert 'torch' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_there_are_few_names_and_each_is_there():
    assert len(wsss.__all__) <= 20
    assert all(getattr(wsss, name) is not None for name in wsss.__all__)
    assert set(wsss.__all__) <= set(dir(wsss))
    with pytest.raises(AttributeError, match="'wsss' has no attribute 'nothing'"):
        _ = wsss.nothing


@pytest.mark.parametrize("slots", ["none", "features", "blocks"])
def test_class_maps_are_those_of_the_chain(slots, classifier, networks):
    task = ClassificationTask.from_checkpoint(networks / "classify" / "last.ckpt")
    image, how = _noise(64, 96), ClassMapSettings((1.0, 0.5), True, slots)
    found = classifier.class_maps(image, how, size=96)
    with torch.inference_mode():
        wanted = class_maps(task.model, torch.from_numpy(image).permute(2, 0, 1)[None], how)
    for name, one, other in zip(wanted._fields, found, wanted, strict=True):
        assert (one is None) == (other is None) == (slots == "none" and name in ("dispatch", "slots"))
        if one is not None:
            torch.testing.assert_close(one, other, msg=name)
    probabilities = classifier.probabilities(image, size=96)
    np.testing.assert_allclose(probabilities, wanted.probabilities[0], rtol=1e-5)


def test_pseudo_masks_have_the_labels_of_the_tags(classifier):
    image = _noise(70, 45)
    settings = wsss.PseudoMaskSettings(scales=(1.0,), background=0.2, crf=None)
    mask = classifier.pseudo_mask(image, ["star", "brick"], settings, size=64)
    assert mask.shape == (70, 45) and mask.dtype == np.uint8
    assert {2, 4} <= set(mask.flat) <= {0, 2, 4}
    same = classifier.pseudo_mask(image, [1, np.int64(3), "star"], settings, size=64)
    np.testing.assert_array_equal(same, mask)
    assert not classifier.pseudo_mask(image, [], settings, size=64).any()
    for wrong in ("dog", 4, -1):
        with pytest.raises(wsss.UserError, match=f"tag {wrong!r} is unknown.*ball, brick, kite, star"):
            classifier.pseudo_mask(image, [wrong], settings)


def test_slots_of_a_checkpoint(classifier):
    views = classifier.slots(_noise(40, 130), ["2.0", "features"], size=128)
    assert [(v.name, v.dispatch.shape) for v in views] == [
        ("2.0", (64, 2, 8)),
        ("features", (64, 2, 8)),
    ]
    assert [v.name for v in classifier.slots(_noise(32, 32), size=64)] == classifier.default_blocks
    with pytest.raises(wsss.UserError, match=r"no block '7\.0'"):
        classifier.slots(_noise(32, 32), ["7.0"])


def test_backbones_that_cannot_be_had_are_told():
    with pytest.raises(
        wsss.UserError, match=r"no weights of the backbone mobilenetv2_050.*\(weights\)"
    ):
        wsss.Classifier.of_backbone("mobilenetv2_050")
    for name, hint in (
        ("glnet_nono", "did you mean one of glnet_4g"),
        ("xyzzy", "see timm.list_models"),
    ):
        with pytest.raises(wsss.UserError, match=f"'{name}' is no timm model: {hint}"):
            wsss.Classifier.of_backbone(name)


@pytest.mark.parametrize("size", [0, -64, 31])
def test_sizes_that_no_network_can_see_are_told(size, classifier):
    image = _noise(40, 40)
    for ask in (
        lambda: classifier.probabilities(image, size),
        lambda: classifier.class_maps(image, size=size),
        lambda: classifier.pseudo_mask(image, [0], size=size),
        lambda: classifier.slots(image, size=size),
    ):
        with pytest.raises(wsss.UserError, match=f"a size of {size} pixels.*32 or more"):
            ask()


def test_a_segmenters_mask_is_its_largest_probability(segmenter):
    image = _noise(64, 96)
    segmenter.inference = wsss.InferenceSettings(max_side=96)
    assert segmenter.classes == CLASSES and segmenter.white is None
    probabilities = segmenter.probabilities(image)
    assert probabilities.shape == (5, 64, 96)
    np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-4)
    np.testing.assert_array_equal(segmenter.predict(image), probabilities.argmax(0))
    segmenter.inference = wsss.InferenceSettings(max_side=48)
    assert segmenter.probabilities(image).shape == (5, 32, 48)
    assert segmenter.predict(image).shape == (64, 96)


def test_what_is_no_image_is_told(classifier, segmenter):
    for wrong in (_noise(8, 8)[..., 0], _noise(8, 8) / 255, _noise(8, 8)[:0], "photo.jpg"):
        for ask in (classifier.probabilities, classifier.slots, segmenter.predict):
            with pytest.raises(wsss.UserError, match=r"an image is an array \(H, W, 3\) of uint8"):
                ask(wrong)


def test_devices(segmenter, networks):
    assert segmenter.to("cpu") is segmenter and segmenter.device.type == "cpu"
    for device in ("abacus", *(() if torch.cuda.is_available() else ("cuda",))):
        with pytest.raises(wsss.UserError, match=f"device '{device}' cannot be used .*: try cpu$"):
            segmenter.to(device)
    with pytest.raises(wsss.UserError, match="checkpoint of `wsss segment`, not of `wsss classify`"):
        wsss.Classifier.load(networks / "segment" / "last.ckpt")
