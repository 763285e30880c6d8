"""Training the classifier."""

import pytest
import torch

from wsss.data.labels import UNKNOWN
from wsss.tasks.classification import ClassificationTask, make_mosaics, quadrants, tag_loss


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Default folders of the trainer are relative to where one is."""
    monkeypatch.chdir(tmp_path)


def test_mosaics_and_quadrants_agree():
    images = torch.rand(4, 3, 8, 12)
    tags = torch.eye(4)
    mosaics, quadrant_tags = make_mosaics(images, tags)
    parts = quadrants(mosaics)
    small = torch.nn.functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    for mosaic in range(4):
        assert sorted(quadrant_tags[mosaic].argmax(1).tolist()) == [0, 1, 2, 3]
        for part in range(4):
            source = quadrant_tags[mosaic, part].argmax()
            torch.testing.assert_close(parts[mosaic, part], small[source])


def test_the_loss_is_the_mean_over_what_was_looked_for():
    torch.manual_seed(0)
    logits = torch.randn(6, 3, requires_grad=True)
    whole = (torch.rand(6, 3) < 0.5).float()
    usual = torch.nn.functional.binary_cross_entropy_with_logits(logits, whole)
    assert tag_loss(logits, whole).equal(usual)  # to the last digit, where all was looked for
    known = torch.rand(6, 3) < 0.5
    loss = tag_loss(logits, torch.where(known, whole, UNKNOWN))
    chances = logits.sigmoid()
    each = -torch.where(whole == 1, chances, 1 - chances).log()
    torch.testing.assert_close(loss, each[known].mean())
    loss.backward()
    assert (logits.grad[~known] == 0).all() and (logits.grad[known] != 0).all()
    assert tag_loss(logits, torch.full((6, 3), UNKNOWN)) == 0


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_training_leaves_out_what_nobody_looked_for(mosaic, monkeypatch):
    """The class that nobody looked for gets no gradient; what it is said to be does not matter."""
    torch.manual_seed(0)
    task = ClassificationTask(["a", "b"], "glnet_nano", mosaic=mosaic)
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    targets = torch.tensor([[1, UNKNOWN], [0, UNKNOWN]]).repeat(2, 1)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    task.training_step({"image": images, "tags": targets}, 0).backward()
    heads = [p.grad for p in task.model.parameters() if p.grad is not None and p.shape[:1] == (2,)]
    assert heads and all(grad[0].any() and not grad[1].any() for grad in heads)


def test_the_deepest_stage_learns_where_it_is_dilated():
    """At output stride 16 the last two stages have the same stride."""
    task = ClassificationTask(["a", "b"], "mobilenetv2_050", freeze=16)
    still = {name for name, p in task.model.backbone.named_parameters() if not p.requires_grad}
    assert "blocks.4.0.conv_pw.weight" in still and "blocks.5.0.conv_pw.weight" not in still
