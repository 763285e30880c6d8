"""A small GLNet and an image for it."""

import pytest
import timm
import torch
from small_glnet import recipe
from torch import Tensor, nn


@pytest.fixture(scope="module")
def nano() -> nn.Module:
    return recipe(timm.create_model("glnet_nano", num_classes=5)).eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 72, 104, generator=torch.Generator().manual_seed(0))
