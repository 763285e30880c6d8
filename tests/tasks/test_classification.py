"""Training the classifier."""

import pytest
import torch

from wsss.tasks.classification import ClassificationTask, make_mosaics, quadrants


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


def test_the_deepest_stage_learns_where_it_is_dilated():
    """At output stride 16 the last two stages have the same stride."""
    task = ClassificationTask(["a", "b"], "mobilenetv2_050", freeze=16)
    still = {name for name, p in task.model.backbone.named_parameters() if not p.requires_grad}
    assert "blocks.4.0.conv_pw.weight" in still and "blocks.5.0.conv_pw.weight" not in still
