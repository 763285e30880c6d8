"""The slots of a network's blocks and features, by their names."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from wsss.errors import UserError
from wsss.models.classifier import TagClassifier
from wsss.models.slot_views import block_names, check_blocks, default_blocks, slot_views


@pytest.fixture(scope="module")
def glnet():
    torch.manual_seed(0)
    return TagClassifier("glnet_nano", 3).eval()


def _photograph(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_blocks_have_the_names_of_the_network(glnet):
    assert block_names(glnet)[:4] == ["0.0", "1.0", "2.0", "2.2"]
    assert default_blocks(glnet) == ["0.0", "1.0", "2.0"] == check_blocks(glnet, [])
    assert check_blocks(glnet, ["2.2", "features", "2.2"]) == ["2.2", "features"]
    assert check_blocks(glnet, ["all"]) == block_names(glnet)
    with pytest.raises(UserError, match=r"no block '2\.1' .* 2\.0, 2\.2, features"):
        check_blocks(glnet, ["2.1"])
    plain = TagClassifier("mobilenetv2_050", 1).eval()
    assert default_blocks(plain) == ["features"] and "0.0" not in block_names(plain)


def test_views_are_the_networks_own_slots(glnet):
    image = _photograph(40, 130)
    views = slot_views(glnet, image, ["2.0", "0.0", "features", "features.0"], 128)
    assert [v.name for v in views] == ["2.0", "0.0", "features", "features.0"]
    assert [v.dispatch.shape for v in views] == [(64, 2, 8), (64, 8, 32), (64, 2, 8), (64, 8, 32)]
    for view in views:
        np.testing.assert_allclose(view.dispatch.sum(0), 1, atol=1e-5)
    # the clustering is the one that the chain uses
    small = torch.from_numpy(np.asarray(Image.fromarray(image).resize((128, 32))).copy())
    with torch.inference_mode():
        tensor = small.permute(2, 0, 1)[None]
        chain = glnet(tensor, slots="features").dispatch[0].numpy()
    same = slot_views(glnet, small.numpy(), ["features"], 128)[0].dispatch
    np.testing.assert_allclose(same, chain, atol=1e-5)


def test_networks_with_another_number_of_slots():
    network = TagClassifier("glnet_nano", 1).eval()
    network.backbone = timm.create_model("glnet_nano", num_classes=0, num_slots=10, learned_slots=True)
    image = _photograph(50, 120)
    view = slot_views(network.eval(), image, ["1.0"], 96)[0]
    assert view.dispatch.shape == (10, 4, 12)
