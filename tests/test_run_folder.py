"""What is read of a run's folder, whatever state it is in."""

import pytest

from wsss.errors import UserNotice, forget_notices
from wsss.run_folder import StageFolder


@pytest.fixture
def stage(tmp_path) -> StageFolder:
    """A training that was broken off and went on."""
    log = tmp_path / "classify" / "log"
    log.mkdir(parents=True)
    (log / "metrics.0.csv").write_text("epoch,step,train_loss\n0,9,0.9\n0,19,0.8\n1,29,0.111\n1")
    (log / "metrics.csv").write_text(
        "epoch,step,train_loss,val_mAP\n1,29,0.7,\n1,31,,55.5\n2,39,0.6,\n"
    )
    return StageFolder(log.parent)


def test_training_joins_the_logs_of_a_break(stage):
    log = stage.training()
    assert log["train_loss"] == ([9, 19, 29, 39], [0.9, 0.8, 0.7, 0.6])
    assert log["val_mAP"] == ([31], [55.5])


def test_damaged_rows_of_a_log_are_passed_over(stage):
    with (stage.log / "metrics.csv").open("a") as file:
        file.write("9,9,,1,2,3,4\n3,4x,0.5,\n3,49,0.5\0,\n4,nan,0.1,\n,,\n3,59,0.4")
    forget_notices()
    with pytest.warns(UserNotice, match=r"metrics\.csv has 3 damaged rows"):
        steps, losses = stage.training()["train_loss"]
    assert (steps, losses) == ([9, 19, 29, 39, 49, 59], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
