"""Settings: plain types and back, and values out of their range."""

from dataclasses import FrozenInstanceError, fields

import pytest

from wsss.errors import UserError
from wsss.settings import (
    ClassMapSettings,
    CRFSettings,
    InferenceSettings,
    MaskSettings,
    PseudoMaskConfig,
    PseudoMaskSettings,
    RefinementSettings,
    SlotLabelSettings,
)


@pytest.mark.parametrize(
    "settings",
    [
        PseudoMaskSettings((1.0, 2.0), slots="blocks", crf=None, seed={"class_path": "a.B"}),
        PseudoMaskConfig(out="m", workers=2, crf=CRFSettings(side=9)),
        RefinementSettings(background=0.3),
        InferenceSettings((0.5,), True, 64, CRFSettings(iterations=1), 99, "bf16-mixed"),
    ],
)
def test_plain_types_and_back(settings):
    again = type(settings).from_dict(settings.to_dict() | {"unknown": 1})
    assert again == settings
    with pytest.raises(FrozenInstanceError):
        settings.crf = None


@pytest.mark.parametrize(
    ("make", "wrong", "said"),
    [
        (ClassMapSettings, {"scales": ()}, "scales must be positive"),
        (ClassMapSettings, {"scales": (1.0, -1.0)}, "scales must be positive"),
        (ClassMapSettings, {"slots": "block"}, "slots must be one of none, features, blocks, got"),
        (ClassMapSettings, {"sharpen": -1.0}, "sharpen is a power above 0, got -1"),
        (SlotLabelSettings, {"folds": 1}, "folds must be 2 or more, got 1"),
        (SlotLabelSettings, {"rounds": 0}, "rounds must be 1 or more"),
        (SlotLabelSettings, {"sample": 0}, "sample must be 1 or more, got 0"),
        (ClassMapSettings, {"scales": (10**400,)}, "scales must be positive"),
        (ClassMapSettings, {"scales": (float("nan"),)}, "scales must be positive"),
        (ClassMapSettings, {"scales": 1.0}, "scales must be positive numbers, got 1.0"),
        (ClassMapSettings, {"scales": "x"}, "scales must be positive numbers, got 'x'"),
        (MaskSettings, {"background": 1.5}, "background must lie in 0..1, got 1.5"),
        (PseudoMaskSettings, {"background": None}, "background must lie in 0..1, got None"),
        (MaskSettings, {"crf": True}, "crf must be CRFSettings, or None for no CRF, got True"),
        (InferenceSettings, {"crf": {"side": 3}}, "crf must be CRFSettings"),
        (PseudoMaskConfig, {"workers": 0}, "workers must be 1 or more, or null"),
        (PseudoMaskSettings, {"steps": 0}, "steps must be 1 or more"),
        (PseudoMaskSettings, {"sharpen": 0}, "sharpen"),
        (CRFSettings, {"side": 0}, "crf.side must be 1 or more, got 0"),
        (InferenceSettings, {"tile": 8}, "tile must be 32"),
        (InferenceSettings, {"max_side": 8}, "max_side must be 32"),
        (InferenceSettings, {"scales": ()}, "scales must be positive"),
    ],
)
def test_values_out_of_range_are_told(make, wrong, said):
    with pytest.raises(UserError, match=said):
        make(**wrong)


def test_the_settings_of_all_steps_are_those_of_each():
    """Each default has one home: the settings in one repeat none."""
    steps = (ClassMapSettings, SlotLabelSettings, MaskSettings)
    whole = PseudoMaskSettings()
    for step in steps:
        for field in fields(step):
            assert getattr(whole, field.name) == getattr(step(), field.name)
    assert whole.relabels and not PseudoMaskSettings(slots="none").relabels


def test_a_sample_of_all_images_is_none():
    settings = PseudoMaskSettings(sample=10)
    assert settings.for_images(11) == settings
    assert settings.for_images(10).sample is None and PseudoMaskSettings(sample=None).sample is None
    for without in ({"relabel_slots": False}, {"slots": "none"}):  # nothing is learned
        assert PseudoMaskSettings(sample=10, **without).for_images(11).sample is None


def test_options_over_settings():
    tested = InferenceSettings((0.5, 1.0), True, 64, CRFSettings(side=9), 99)
    assert tested.with_options(scales=None, flip=None, tile=None, crf=None) == tested
    bare = tested.with_options(scales=[1.0], flip=False, tile=0, crf=False)
    assert bare == InferenceSettings(max_side=99)
    assert tested.with_options(crf=True).crf == CRFSettings(side=9)
    assert bare.with_options(crf=True).crf == CRFSettings()
    assert bare.with_options(crf={"side": 7}).crf == CRFSettings(side=7)


def test_scales_are_a_tuple_of_numbers():
    assert ClassMapSettings([1, 2]) == ClassMapSettings((1.0, 2.0))
