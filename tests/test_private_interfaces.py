"""What wsss uses of other packages beside their public interface is there and behaves as assumed.

Where one of these fails after an update, the place that its docstring names needs another way.
"""

import inspect
import logging

import pytest
import timm
import torch
from pytorch_lightning.cli import LightningCLI
from torch import nn
from torch.optim.lr_scheduler import LinearLR, PolynomialLR, SequentialLR


def test_torch_schedulers_in_sequence():
    """`Task.on_train_start` in wsss/tasks/task.py reads the steps that a rate was planned for."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 1.0)
    parts = [LinearLR(optimizer, 0.1, total_iters=3), PolynomialLR(optimizer, 7)]
    both = SequentialLR(optimizer, parts, [3])
    assert both._schedulers == parts
    other = SequentialLR(
        optimizer, [LinearLR(optimizer, 0.1, total_iters=1), PolynomialLR(optimizer, 1)], [1]
    )
    other.load_state_dict(both.state_dict())  # as a checkpoint's takes the place of a fresh one's
    assert [part.total_iters for part in other._schedulers] == [3, 7]


def test_lightnings_parser_of_a_subcommand():
    """`TaskCLI` in wsss/lightning_cli.py asks it for the defaults."""
    assert list(inspect.signature(LightningCLI._parser).parameters) == ["self", "subcommand"]


def test_timm_logs_unexpected_keys_by_the_name_of_its_builder(caplog):
    """`quiet` in wsss/tasks/trainer.py leaves it out: an encoder has no use for a class head."""
    state = timm.create_model("mobilenetv2_050", num_classes=3).state_dict()
    overlay = {"state_dict": state, "num_classes": 3}
    with caplog.at_level(logging.WARNING, "timm.models._builder"):
        timm.create_model(
            "mobilenetv2_050", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True
        )
    told = [record for record in caplog.records if record.name == "timm.models._builder"]
    assert [r for r in told if r.getMessage().startswith("Unexpected keys")]


@pytest.mark.parametrize("name", ["adapt_input_conv", "checkpoint", "resolve_pretrained_cfg"])
def test_timm_exports_what_glnet_takes(name):
    assert name in dir(timm.models)
