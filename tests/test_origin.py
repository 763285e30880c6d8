"""Results of two settings are never mixed in one folder."""

import json

import pytest

from wsss.errors import UserError
from wsss.origin import BEFORE, NOTE, claim, differences
from wsss.settings import CRFSettings, PseudoMaskSettings


def test_the_same_settings_go_on_and_others_are_refused(tmp_path):
    settings = PseudoMaskSettings().to_dict() | {"network": {"crf": CRFSettings()}}
    claim({tmp_path / "a": "a is of others", tmp_path / "b": "b is of others"}, settings)
    claim({tmp_path / "a": "a is of others"}, settings)
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="b is of others"):
        claim({tmp_path / "c": "", tmp_path / "b": "b is of others"}, settings | {"background": 0.5})
    assert not (tmp_path / "c" / NOTE).exists()  # refused, nothing is noted


def test_notes_of_earlier_versions(tmp_path):
    settings = PseudoMaskSettings(steps=BEFORE["steps"]).to_dict()
    noted = {k: v for k, v in settings.items() if k not in ("seed", "folds", "rounds", "steps")}
    (tmp_path / NOTE).write_text(json.dumps(noted | {"void_below": 0.0}))
    claim({tmp_path: "of others"}, settings)
    with pytest.raises(UserError):  # which had these steps
        claim({tmp_path: "of others"}, settings | {"steps": 40})
    (tmp_path / NOTE).write_text(json.dumps(noted | {"void_below": 0.3}))
    with pytest.raises(UserError):
        claim({tmp_path: "of others"}, settings)


def test_differences_in_words():
    before = {"lr": 0.1, "crf": {"side": 3}, "tile": None, "scales": [1.0]}
    now = {"lr": 0.2, "crf": None, "flip": False, "scales": [1.0]}
    assert differences(before, now) == ["lr 0.1 (now 0.2)", "crf with other settings (now not set)"]
