"""GLNet-Lite: EfficientNet-Lite2 as timm has it, GLMix blocks that rest at first, its slots."""

import pytest
import timm
import torch

import wsss.models.glnet_lite  # noqa: F401  (registers it in timm)
from wsss.models.classifier import TagClassifier
from wsss.models.glnet import GLMixBlock
from wsss.models.slot_views import block_names, default_blocks, slot_views


@pytest.fixture(scope="module")
def both():
    """A fresh one with the weights of a random EfficientNet-Lite2, and that one."""
    torch.manual_seed(0)
    plain = timm.create_model("tf_efficientnet_lite2", num_classes=7, output_stride=16).eval()
    ours = timm.create_model("glnet_lite", num_classes=7, output_stride=16).eval()
    missing = ours.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys and all(k.startswith("blocks.4.") for k in missing.missing_keys)
    return ours, plain


@torch.no_grad()
def test_fresh_blocks_change_nothing(both):
    ours, plain = both
    x = torch.randn(2, 3, 96, 130)
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-4, atol=1e-4)
    final, levels = plain.forward_intermediates(x)
    found = ours.forward_slots(x, attention=True)
    torch.testing.assert_close(found.features, final, rtol=1e-4, atol=1e-4)
    for a, b in zip(found.intermediates, levels, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert found.maps[0].attention.shape == (2, 5, 64, 64)


@torch.no_grad()
def test_trained_blocks_change_what_follows(both):
    ours, plain = both
    torch.manual_seed(0)
    one = timm.create_model("glnet_lite", num_classes=7, output_stride=16).eval()
    one.load_state_dict(ours.state_dict())
    for block in one.modules():
        if isinstance(block, GLMixBlock):
            torch.nn.init.normal_(block.relation_mha.out_proj.weight, std=0.1)
    x = torch.randn(1, 3, 64, 64)
    found, (final, levels) = one.forward_slots(x), plain.forward_intermediates(x)
    torch.testing.assert_close(found.intermediates[2], levels[2])
    assert not torch.allclose(found.intermediates[3], levels[3], atol=1e-2)
    assert not torch.allclose(found.features, final, atol=1e-4)
    torch.testing.assert_close(one.forward_intermediates(x)[0], found.features)
    torch.testing.assert_close(one.forward_features(x), found.features)


@torch.no_grad()
def test_its_slots_are_the_last_blocks():
    torch.manual_seed(0)
    classifier = TagClassifier("glnet_lite", 3).eval()
    classifier.backbone.blocks[4][-1].slot_scale.fill_(5)  # else the blocks, at rest, see the same
    images = 255 * torch.rand(1, 3, 64, 96)
    out = classifier(images, slots="blocks")
    assert out.class_map.shape == (1, 3, 4, 6) and out.dispatch.shape == (1, 64, 4, 6)
    torch.testing.assert_close(out.dispatch.sum(1), torch.ones(1, 4, 6))
    maps = classifier.backbone.forward_slots((images - classifier.mean) / classifier.std).maps
    assert [(m.stage, m.block) for m in maps] == [(3, 0), (3, 1)] == classifier.backbone.slot_blocks
    torch.testing.assert_close(out.dispatch, maps[1].dispatch)
    assert block_names(classifier)[:2] == ["3.0", "3.1"] and default_blocks(classifier) == ["3.1"]
    image = (images[0].permute(1, 2, 0)).byte().numpy()
    assert slot_views(classifier, image, ["3.1"], 96)[0].dispatch.shape == (64, 4, 6)


def test_options():
    model = timm.create_model(
        "glnet_lite", depth=1, num_slots=16, features_only=True, out_indices=(1, 3)
    )
    assert [tuple(f.shape[1:]) for f in model(torch.randn(1, 3, 64, 64))] == [(24, 16, 16), (120, 4, 4)]
    parameters = timm.create_model("glnet_lite", num_classes=0).parameters()
    assert sum(p.numel() for p in parameters) == 5_175_874
