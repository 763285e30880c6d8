"""The tag classifier with any backbone: class maps, pooling and slots."""

import numpy as np
import pytest
import torch

from wsss.errors import UserError
from wsss.models.classifier import TagClassifier, pool_class_map
from wsss.tasks.classification import ClassificationTask


def test_pooling_is_the_mean_of_the_largest_fifth():
    values = torch.randn(2, 3, 5, 7)
    largest = np.sort(values.flatten(2).numpy())[:, :, ::-1][:, :, :7]
    np.testing.assert_allclose(pool_class_map(values).numpy(), largest.mean(2), rtol=1e-5, atol=1e-5)
    assert torch.equal(pool_class_map(values[..., :1, :2]), values[..., :1, :2].amax((2, 3)))


def test_a_checkpoint_of_another_pooling_is_refused(tmp_path):
    task = ClassificationTask(["a", "b"], "glnet_nano")
    content = {"kind": "classify", "classes": ["a", "b"], "state_dict": task.state_dict()}
    for pooling in ("top20", "average"):
        hyper = dict(task.hparams) | {"pooling": pooling}
        torch.save(content | {"hyper_parameters": hyper}, tmp_path / f"{pooling}.ckpt")
    ClassificationTask.from_checkpoint(tmp_path / "top20.ckpt")
    with pytest.raises(UserError, match=r"average\.ckpt was trained with pooling average"):
        ClassificationTask.from_checkpoint(tmp_path / "average.ckpt")


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
    torch.testing.assert_close(out.logits, pool_class_map(out.class_map) + model.bias)
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


def test_own_slots_are_those_of_the_first_block_of_the_deepest_stage():
    classifier = TagClassifier("glnet_nano", 3).eval()
    images = 255 * torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        found = classifier.backbone.forward_slots((images - classifier.mean) / classifier.std)
        stages = [block.stage for block in found.maps]
        expected = found.maps[stages.index(max(stages))]
        assert expected.block == 0 and stages.count(max(stages)) > 1
        out = classifier(images, slots="blocks")
    torch.testing.assert_close(out.dispatch, expected.dispatch)
    torch.testing.assert_close(out.middle, found.intermediates[max(stages)])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert classifier(images, slots="blocks").dispatch.dtype == torch.float32
