"""The segmenter's probabilities: scales, horizontal flip, and windows over large images."""

import pytest
import torch
from torch import nn

from wsss.models.segmenter import predict_probabilities


def test_sliding_windows_and_horizontal_flip_agree_with_whole_images():
    def network(x):  # every pixel on its own: windows and flips must change nothing
        return torch.cat([x[:, :1] / 50, x[:, 1:2] / 50], 1)

    images = torch.randint(0, 256, (1, 3, 50, 70)).float()
    whole = predict_probabilities(network, images)
    torch.testing.assert_close(predict_probabilities(network, images, (1.0,), True, 32), whole)
    torch.testing.assert_close(whole, network(images).softmax(1))
    scaled = predict_probabilities(network, images, (0.5, 1.0), True)
    assert scaled.shape == whole.shape and not torch.allclose(scaled, whole)
    torch.testing.assert_close(scaled.sum(1), torch.ones(1, 50, 70))


@pytest.mark.parametrize(("height", "width", "tile"), [(97, 131, 33), (100, 64, 48), (30, 90, 64)])
def test_windows_are_averaged_by_the_count_of_those_that_see_a_pixel(height, width, tile):
    """A network that looks around, so that it matters which windows there are, in plain loops."""
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 5, padding=2)
    images = 255 * torch.rand(1, 3, height, width)
    total, count = torch.zeros(1, 4, height, width), torch.zeros(1, 1, height, width)
    with torch.no_grad():
        for top in [*range(0, max(0, height - tile), tile // 2), max(0, height - tile)]:
            for left in [*range(0, max(0, width - tile), tile // 2), max(0, width - tile)]:
                bottom, right = min(top + tile, height), min(left + tile, width)
                total[..., top:bottom, left:right] += network(images[..., top:bottom, left:right])
                count[..., top:bottom, left:right] += 1
        probabilities = predict_probabilities(network, images, tile=tile)
    torch.testing.assert_close(probabilities, (total / count).softmax(1))
