"""Folders of masks compared from Python, with plain arguments."""

import numpy as np
import pytest
from exchange_helpers import masks_on_disk

from wsss.data.masks import write_mask
from wsss.errors import UserError
from wsss.evaluation import evaluate_files
from wsss.exchange.evaluate import evaluate_folders


@pytest.fixture
def folders(tmp_path):
    """Predictions a, b of classes kite and ball; of b half the rows are right."""
    masks_on_disk(tmp_path / "true", "ab", 2)
    masks_on_disk(tmp_path / "made", "a", 2)
    wrong = np.zeros((20, 30), np.uint8)
    wrong[:10] = 2
    write_mask(tmp_path / "made" / "b.png", wrong)
    return tmp_path / "made", tmp_path / "true"


def test_all_or_some(folders):
    made, true = folders
    pairs = [(made / f"{name}.png", true / f"{name}.png") for name in "ab"]
    scores = evaluate_folders(made, true, classes=["kite", "ball"])
    assert scores == evaluate_files(pairs, ["kite", "ball"])
    assert scores.images == 2 and scores.iou["ball"] == pytest.approx(100 * 10 / 15)
    assert scores.iou["kite"] is None
    one = evaluate_folders(str(made), str(true), ["a"], ("kite", "ball"))
    assert one.images == 1 and one.miou == pytest.approx(100)


def test_files_for_names_and_classes(folders, tmp_path):
    (tmp_path / "names.txt").write_text("b further columns\n")
    (tmp_path / "classes.txt").write_text("kite\nball\n")
    scores = evaluate_folders(*folders, tmp_path / "names.txt", tmp_path / "classes.txt")
    assert scores.images == 1 and list(scores.iou) == ["background", "kite", "ball"]
    for words in ((tmp_path / "no.txt", None), (None, str(tmp_path / "no.txt"))):
        with pytest.raises(UserError, match=r"there is no file .*no\.txt"):
            evaluate_folders(*folders, *words)
    with pytest.raises(UserError, match=r"c\.png"):
        evaluate_folders(*folders, ["c"], ["kite", "ball"])
