"""Configs of earlier versions in the form of today."""

import pytest
import yaml

from wsss.config_files import upgrade, upgrade_words
from wsss.errors import UserNotice, forget_notices


def test_the_one_pooling_is_no_setting_any_more():
    model = {"backbone": "glnet_nano", "pooling": "top20"}
    assert upgrade({"model": model}) == {"model": {"backbone": "glnet_nano"}}
    assert model["pooling"] == "top20"  # what was given stays as it is
    other = {"model": {"pooling": "average"}, "trainer": {"callbacks": ["EMA"]}}
    assert upgrade(other) == other  # refused where it is read, as any setting that there is none of


def test_words_before_and_today(tmp_path):
    writer = [
        "--trainer.callbacks",
        "wsss.tasks.writers.PseudoMaskWriter",
        "--trainer.callbacks.out",
        "m",
    ]
    more = ["--trainer.callbacks.learn_slots=false", "--trainer.callbacks.void_below", "0"]
    words = ["predict", *writer, *more, "--model.head_factor", "2", "--model.pooling=top20"]
    (tmp_path / "a.yaml").write_text("masks: {learn_slots: true}")
    (tmp_path / "b.yaml").write_text("masks: {relabel_slots: true}")
    words += ["-c", str(tmp_path / "a.yaml"), "-c", str(tmp_path / "b.yaml"), "-c", "nowhere.yaml"]
    forget_notices()
    with pytest.warns(UserNotice) as told:
        now = upgrade_words(words, "wsss classify")
    assert now[:5] == [
        "predict",
        "--masks.out",
        "m",
        "--masks.relabel_slots=false",
        "--model.head_lr_multiplier",
    ]
    assert now[5:7] == ["2", "-c"] and yaml.safe_load(now[7]) == {"masks": {"relabel_slots": True}}
    assert now[8:] == ["-c", str(tmp_path / "b.yaml"), "-c", "nowhere.yaml"]
    assert len(told) == 2
    callbacks = ["fit", "--trainer.callbacks", "EMAWeightAveraging", "--trainer.callbacks.decay", "0.9"]
    assert upgrade_words(callbacks, "x") == callbacks
    assert upgrade_words(["--masks.void_below", "0.3"], "x") == ["--masks.void_below=0.3"]


def test_every_way_in_which_words_gave_a_writer():
    name = "wsss.tasks.writers.PseudoMaskWriter"
    one = f"{{class_path: {name}, init_args: {{out: m, scales: [1]}}}}"
    more = ["--trainer.callbacks.init_args.out=m", "--trainer.callbacks.crf.side", "100"]
    forget_notices()
    with pytest.warns(UserNotice):
        given = upgrade_words([f"--trainer.callbacks+={name}", *more], "x")
        as_dict = upgrade_words(["--trainer.callbacks", one], "x")
        as_list = upgrade_words([f"--trainer.callbacks=[EMA, {one}]"], "x")
    assert given == ["--masks.out=m", "--masks.crf.side", "100"]
    assert as_dict == ["--masks.out=m", "--masks.scales=[1]"]
    assert as_list == ['--trainer.callbacks=["EMA"]', *as_dict]
    assert upgrade_words(["--model.pooling=["], "x") == ["--model.pooling=["]  # refused when parsed
