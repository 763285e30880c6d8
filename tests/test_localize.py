"""PseudoMaskWriter hands its settings on."""

import pytest
import torch

from wsss.data.masks import read_scores
from wsss.errors import UserError
from wsss.localize.cam import ClassMaps, class_maps, seed_maps
from wsss.models.classifier import TagClassifier
from wsss.settings import ClassMapSettings, SeedSettings
from wsss.tasks.writers import PseudoMaskWriter


def _slots_at_the_border():
    """Dispatch maps (1, 3, 8, 10): around, inside, cut by the border; evidence (1, 1, 8, 10)."""
    dispatch = torch.zeros(1, 3, 8, 10)
    dispatch[:, 0] = 1
    dispatch[..., 2:6, 2:5] = torch.tensor([0.0, 1, 0])[:, None, None]  # inside
    dispatch[..., 3:, 6:8] = torch.tensor([0.0, 0, 1])[:, None, None]  # cut by the border
    evidence = dispatch * torch.tensor([0.6, 0.8, 0.2])[:, None, None]
    return dispatch, evidence.sum(1, keepdim=True)


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
