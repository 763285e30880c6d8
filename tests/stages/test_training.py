"""What a training starts from, and how long it is."""

from dataclasses import replace

import pytest
import torch

from wsss.data.modules import TagData
from wsss.stages.config import TASKS
from wsss.stages.recipe import stamp_catalog, with_defaults
from wsss.stages.training import for_rounds, network_of, seed_again


@pytest.mark.parametrize(
    ("limits", "twice"),
    [
        ({"max_steps": 3}, {"max_steps": 6}),
        ({"max_epochs": 2, "max_steps": 3}, {"max_epochs": 4, "max_steps": 6}),
        ({"max_epochs": None}, {"max_epochs": 2000}),
        ({"max_epochs": -1, "max_steps": 3}, {"max_epochs": -1, "max_steps": 6}),
    ],
)
def test_two_rounds_as_one_have_as_many_steps(limits, twice):
    assert for_rounds(limits, 1) == limits and for_rounds(limits, 2) == twice


def test_a_backbone_of_other_arguments_is_another_network():
    plain = {"model": {"encoder": "tu-glnet_nano"}}
    assert network_of({"model": {"backbone": "glnet_nano"}}) == network_of(plain)
    changed = {"model": {"backbone": "glnet_nano", "backbone_args": {"mlp_ratio": 2.0}}}
    assert network_of(changed) != network_of(plain)


def test_a_config_without_a_network_means_the_tasks_own():
    backbone, encoder = with_defaults(TASKS["classify"], {}), with_defaults(TASKS["segment"], {})
    assert network_of({}) == network_of({"model": {}}) == (backbone["backbone"], {})
    assert backbone["backbone"] == encoder["encoder"]


def test_a_training_that_goes_on_has_another_random_seed():
    torch.manual_seed(99)
    for random_seed, epochs in ((False, 3), (5, 0)):  # none is set, or is as the training began
        seed_again(random_seed, epochs)
        assert torch.initial_seed() == 99
    seed_again(5, 3)
    assert torch.initial_seed() == 8


def test_a_classifier_is_not_trained_again_for_masks(photographs):
    catalog = TagData(str(photographs), "folder").catalog("train")
    assert all(record.mask for record in catalog.records)
    bare = replace(catalog, records=tuple(replace(r, mask=None) for r in catalog.records))
    assert stamp_catalog(catalog, truth=False) == stamp_catalog(bare, truth=False)
    assert stamp_catalog(catalog) != stamp_catalog(bare)
