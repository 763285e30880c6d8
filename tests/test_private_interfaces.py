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


def test_a_schedulers_state_holds_what_was_set_on_it():
    """`adamw` in wsss/tasks/optim.py keeps the steps that a rate was planned for there."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 1.0)

    def both(steps: int) -> SequentialLR:
        made = SequentialLR(optimizer, [LinearLR(optimizer), PolynomialLR(optimizer, steps)], [3])
        made.planned = steps
        return made

    other = both(1)
    other.load_state_dict(both(7).state_dict())  # as a checkpoint's takes the place of a fresh one's
    assert other.planned == 7


def test_lightning_reads_a_checkpoints_settings_by_itself():
    """`TaskCLI` in wsss/lightning_cli.py does it instead, as the settings may have earlier names."""
    assert "hyper_parameters" in inspect.getsource(LightningCLI._parse_ckpt_path)
    assert "self._parse_ckpt_path()" in inspect.getsource(LightningCLI.__init__)


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
