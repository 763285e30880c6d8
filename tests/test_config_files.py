"""Configs of earlier versions in the form of today."""

from wsss.config_files import upgrade


def test_the_one_pooling_is_no_setting_any_more():
    model = {"backbone": "glnet_nano", "pooling": "top20"}
    assert upgrade({"model": model}) == {"model": {"backbone": "glnet_nano"}}
    assert model["pooling"] == "top20"  # what was given stays as it is
    other = {"model": {"pooling": "average"}, "trainer": {"callbacks": ["EMA"]}}
    assert upgrade(other) == other  # refused where it is read, as any setting that there is none of
