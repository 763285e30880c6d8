"""GLNets with numbers that depend on the names of their parameters alone."""

from __future__ import annotations

import zlib

import numpy as np
import timm
import torch
from torch import nn

import wsss.models.glnet  # noqa: F401  (registers the models)

TINY = {"depths": (1, 1, 2, 1), "dims": (32, 32, 64, 64), "num_slots": 16, "num_classes": 5}


def recipe(model: nn.Module) -> nn.Module:
    """Fill a model with numbers that depend on the key names only (reference README)."""
    state = {}
    for key, value in model.state_dict().items():
        g = np.random.default_rng(zlib.crc32(key.encode()))
        shape = tuple(value.shape)
        if key.endswith("num_batches_tracked"):
            new = np.zeros(shape)
        elif key.endswith("running_var"):
            new = g.uniform(0.5, 1.5, shape)
        elif key.endswith("running_mean"):
            new = 0.1 * g.standard_normal(shape)
        elif key.endswith("slot_scale"):
            new = np.full(shape, 8.0)
        elif key.endswith("gamma"):
            new = g.uniform(0.5, 1, shape)
        elif key.endswith("init_slots"):
            new = g.standard_normal(shape)
        elif len(shape) >= 2:
            new = g.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        elif key.endswith("weight"):
            new = g.uniform(0.5, 1.5, shape)
        else:
            new = 0.1 * g.standard_normal(shape)
        state[key] = torch.from_numpy(np.asarray(new)).to(value.dtype)
    model.load_state_dict(state)
    return model


def tiny(**options: object) -> nn.Module:
    """A GLNet small enough to export and compile, with lively statistics."""
    return recipe(timm.create_model("glnet_nano", **{**TINY, **options})).eval()
