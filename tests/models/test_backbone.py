"""Any family of backbones as classifier and segmenter: sizes, strides, class maps, slots, gradients."""

import numpy as np
import pytest
import timm
import torch
from tiny_backbones import FAMILIES, VIT

from wsss.errors import UserError
from wsss.localize.cam import class_maps
from wsss.models.backbone import check_backbone, dense_features, early_features
from wsss.models.classifier import TagClassifier
from wsss.models.segmenter import SegmentationNetwork
from wsss.models.slot_views import slot_views
from wsss.settings import ClassMapSettings
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask

STRIDES = {
    **dict.fromkeys(("dinov2", "dinov2_registers", "eva02"), (14, 14)),
    **dict.fromkeys(("vit", "deit3", "deit_distilled", "dinov3", "clip", "siglip", "xcit"), (16, 16)),
    **dict.fromkeys(("convnext", "convnextv2", "resnet", "efficientnet", "regnet", "glnet"), (16, 32)),
    "efficientvit_msra": (64, 32),
}
"""Output stride and multiple of the sides; 32 and 32 of all others."""

DECODERS = {
    "DeepLabV3Plus": ("convnext", "mobilenetv3"),
    "UPerNet": ("swin", "efficientvit_mit"),
}
"""Decoders of SMP with some of the families that they go with; Linear goes with all."""


def _images(height, width, count=2):
    chance = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=chance)


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    torch.manual_seed(0)
    return request.param


def test_classifier(family):
    """Class maps of its stride at every size and scale, slots, and a gradient for all weights."""
    stride, multiple = STRIDES.get(family, (32, 32))
    model = TagClassifier(f"tiny_{family}", 3).eval()
    assert (model.output_stride, model.size_multiple) == (stride, multiple)
    rows, columns = 2 * max(stride, multiple), 3 * max(stride, multiple)
    with torch.no_grad():
        maps = class_maps(model, _images(rows, columns), ClassMapSettings((0.5, 1.0, 1.5), flip=True))
        odd = model(_images(75, 101, 1)).class_map  # resized to what it takes
    assert maps.cam.shape == (2, 3, rows // stride, columns // stride)
    assert maps.cam.isfinite().all() and odd.isfinite().all()
    torch.testing.assert_close(maps.dispatch.sum(1), torch.ones_like(maps.dispatch[:, 0]))
    assert maps.slots.shape[:2] == (2, 64) and maps.slots.isfinite().all()
    image = _images(75, 101, 1)[0].permute(1, 2, 0).numpy()
    names = ["features", f"features.{model.slot_level}", "features.0"]
    chosen, same, first = slot_views(model, image, names, 2 * rows)
    assert np.array_equal(chosen.dispatch, same.dispatch) and first.dispatch.shape[0] == 64
    model.train()(_images(rows, columns)).logits.sum().backward()
    for name, parameter in model.named_parameters():
        # what a class token alone is for has none
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    first_weights = next(p for p in model.backbone.parameters() if p.ndim == 4)
    assert first_weights.grad.abs().max() > 0


@pytest.mark.parametrize("of_vit", ["vit", "dinov2_registers", "dinov3", "clip", "siglip", "swin"])
def test_features_lie_where_the_image_shows_them(of_vit):
    """Tokens are in the order of the patches, without those of class and registers."""
    if of_vit not in FAMILIES:
        pytest.skip("not in this release of timm")
    torch.manual_seed(0)
    model = TagClassifier(f"tiny_{of_vit}", 3).eval()
    stride = model.output_stride
    x = torch.randn(1, 3, 4 * stride, 6 * stride)
    for row, column in ((0, 5), (3, 0), (2, 4)):
        changed = x.clone()
        top, left = row * stride, column * stride
        changed[..., top : top + stride, left : left + stride] *= -1
        with torch.no_grad():
            for before, after in zip(model._features(x), model._features(changed), strict=True):
                moved = (before - after).abs().sum(1)[0]
                finer = moved.shape[0] // 4
                at = divmod(int(moved.argmax()), moved.shape[1])
                assert (at[0] // finer, at[1] // finer) == (row, column)


def test_segmenter(family):
    """Logits of any size, and a step that changes the network."""
    _, multiple = STRIDES.get(family, (32, 32))
    decoders = ["Linear", *(name for name, known in DECODERS.items() if family in known)]
    for decoder in decoders:
        network = SegmentationNetwork(decoder, f"tiny_{family}", 4)
        assert network.size_multiple == multiple
        logits = network(_images(75, 101))
        assert logits.shape == (2, 4, 75, 101)
        logits.square().mean().backward()
        for part in (network.net.encoder, network.net.decoder):
            grads = [p.grad for p in part.parameters() if p.grad is not None]
            assert all(g.isfinite().all() for g in grads) and max(g.abs().max() for g in grads) > 0


def test_a_vit_without_a_pyramid_says_which_decoder_goes():
    with pytest.raises(UserError, match=r"DeepLabV3Plus.*decoder Linear goes with any encoder"):
        SegmentationNetwork("DeepLabV3Plus", "tiny_dinov2", 4)
    with pytest.raises(UserError, match=r"DPT.*tiny_dinov2' do not work together.*decoder Linear"):
        SegmentationNetwork("DPT", "tiny_dinov2", 4)  # its pyramid is one of patches of 16


def test_dpt_takes_any_size_of_a_vit_with_patches_of_16():
    network = SegmentationNetwork("DPT", "tiny_vit", 4).eval()
    assert network.size_multiple == 32
    with torch.no_grad():
        assert network(_images(75, 101)).shape == (2, 4, 75, 101)


@pytest.mark.parametrize("of_vit", ["dinov2_registers", "clip", "dinov3", "swin"])
def test_a_segmenter_starts_from_what_the_classifier_has_learned(of_vit, tmp_path):
    if of_vit not in FAMILIES:
        pytest.skip("not in this release of timm")
    classifier = ClassificationTask(["a", "b"], f"tiny_{of_vit}")
    content = {"kind": "classify", "classes": ["a", "b"], "state_dict": classifier.state_dict()}
    torch.save(content | {"hyper_parameters": dict(classifier.hparams)}, tmp_path / "a.ckpt")
    decoder = "UPerNet" if of_vit == "swin" else "Linear"
    given = {"weights": str(tmp_path / "a.ckpt")}
    segmenter = SegmentationTask(["a", "b"], decoder, f"tu-tiny_{of_vit}", **given)
    x = torch.randn(1, 3, 96, 96) if decoder == "UPerNet" else torch.randn(1, 3, 112, 112)
    with torch.no_grad():
        learned = dense_features(classifier.eval().backbone, x, [0])[1][0]
        encoder = segmenter.eval().backbone
        begun = encoder(x)[2] if decoder == "UPerNet" else dense_features(encoder, x, [0])[1][0]
    torch.testing.assert_close(begun, learned)


@pytest.mark.parametrize(
    ("name", "args"), [("levit_128s", {}), ("beit_base_patch16_224", VIT), ("coatnet_pico_rw_224", {})]
)
def test_one_size_only_is_refused_in_a_sentence(name, args):
    with pytest.raises(UserError, match=f"{name} takes images of 224x224 pixels only.*choose another"):
        TagClassifier(name, 3, backbone_args=args)


def test_windows_that_cannot_be_padded_make_the_multiple():
    args = {"depths": (1, 1, 1, 1), "embed_dim": (32, 32, 32, 32), "stem_width": 16}
    model = TagClassifier("maxvit_rmlp_pico_rw_256", 3, backbone_args=args).eval()
    assert (model.sizes.step, model.size_multiple, model.output_stride) == (256, 256, 32)
    with torch.no_grad():
        assert model(_images(300, 500, 1)).class_map.shape == (1, 3, 8, 16)


def test_cnns_take_images_as_they_are():
    """Of any size, with not one number changed."""
    model = TagClassifier("tiny_resnet", 3).eval()
    images = _images(75, 101)
    with torch.no_grad():
        final = timm.models.ResNet.forward_features(
            model.backbone, (images.float() - model.mean) / model.std
        )
        assert torch.equal(model(images).class_map, model.head(final))


def test_a_vit_has_no_early_layers_to_freeze():
    with pytest.raises(UserError, match=r"no features at stride 8 or less: give freeze all or null"):
        ClassificationTask(["a"], "tiny_dinov2", freeze=8)
    with pytest.raises(UserError, match=r"no features at stride 8: raise freeze, or give all or null"):
        SegmentationTask(["a"], "Linear", "tiny_dinov2", freeze=8)
    frozen = SegmentationTask(["a"], "Linear", "tiny_resnet", freeze=8).backbone
    assert not frozen.conv1[0].weight.requires_grad and frozen.layer4[0].conv1.weight.requires_grad
    assert early_features(frozen, torch.zeros(1, 3, 64, 64), 8).shape[-1] == 8


def test_unknown_weights_are_named():
    check_backbone("vit_small_patch14_dinov2.lvd142m")
    with pytest.raises(UserError, match=r"resnet18\.none.*resnet18\.a1_in1k"):
        check_backbone("resnet18.none")
