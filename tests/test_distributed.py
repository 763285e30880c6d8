"""Several processes do what one does: the same masks and numbers, however they are started."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from processes import agents, children, ended, start, tasks, until

from wsss.distributed import first, gather, in_order, share
from wsss.run_folder import StageFolder
from wsss.stages.quality import judge_masks, judge_seed

STEPS = ("pseudo_masks", "segment_first", "refined_masks", "segment")


def _files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder of masks, but for the notes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


@pytest.fixture
def half_run(small_run, tmp_path):
    """A run whose classifier is trained, and the words that go on with it."""
    out = tmp_path / "run"
    shutil.copytree(small_run, out)
    for name in STEPS:
        shutil.rmtree(out / name)
    (out / "metrics.json").unlink()
    (out / "report.html").unlink()
    return out


def test_a_run_killed_with_two_processes_goes_on_with_three(half_run, small_run, drawn, tmp_path):
    config = str(small_run.parent / "configs" / "pipeline.yaml")
    words = ["run", "-c", config, "--root", str(drawn), "--out", str(half_run)]
    two = start([*words, "--devices", "2"], tmp_path)
    until(lambda: any((half_run / "pseudo_masks" / "seeds").glob("*.npz")) or two.poll() is not None)
    os.kill(children(two)[0], signal.SIGKILL)
    codes, said = ended([two], 60)
    assert codes == [1]
    assert said.count("error: process 2 of 2 has died") == 1 and "Traceback" not in said
    codes, said = ended(agents(words, [tmp_path], each=3))
    assert codes == [0], said
    assert said.count("classify: done before") == said.count("pseudo_masks: goes on") == 1
    assert (
        said.count("report in") == said.count("\nsegmenter, mIoU on val") == 1 and "Warning" not in said
    )
    stage, config = StageFolder(half_run / "pseudo_masks"), Path(config).with_name("pseudo_masks.yaml")
    words = ["classify", "predict", "-c", str(config), "--data.root", str(drawn)]
    words += ["--ckpt_path", str(half_run / "classify" / "last.ckpt")]
    codes, said = ended([start([*words, "--masks.out", str(tmp_path / "one" / "masks")], tmp_path)])
    assert codes == [0], said
    assert len(_files(stage.masks)) == 24 and _files(stage.masks) == _files(tmp_path / "one" / "masks")
    # this process measures them again
    counts, catalog = (
        (half_run / "pseudo_masks" / "masks.json").read_bytes(),
        stage.data().catalog("train"),
    )
    records, metrics = judge_masks(stage, catalog)
    metrics |= judge_seed(stage, records, 5, stage.settings["masks"]["background"])
    assert json.loads(json.dumps(metrics)) == stage.metrics
    assert (half_run / "pseudo_masks" / "masks.json").read_bytes() == counts
    assert (half_run / "report.html").is_file()
    tested = json.loads((half_run / "segment" / "test.json").read_text())["images"]
    one = json.loads((small_run / "segment" / "test.json").read_text())["images"]
    assert list(tested) == list(one) and len(_files(half_run / "segment" / "test")) == len(one) == 8


NUMBERS = """
import json, sys
from wsss.lightning_cli import run_task
found = run_task(sys.argv[1], sys.argv[2:]).callback_metrics
from wsss.distributed import is_first, leave
if is_first():
    print("NUMBERS", json.dumps({name: float(value) for name, value in found.items()}))
leave(0)
"""


@pytest.mark.parametrize("kind", ["classify", "segment"])
def test_metrics_on_two_machines_are_those_of_one_process(kind, small_run, drawn, tmp_path):
    """Eight images of val, in batches, by two agents of torchrun."""
    (tmp_path / "measure.py").write_text(NUMBERS)
    words = [kind, "validate" if kind == "classify" else "test", "--data.root", str(drawn)]
    words += ["--ckpt_path", str(small_run / kind / "last.ckpt"), "--trainer.accelerator", "cpu"]
    words += ["--data.num_workers", "0", "--data.batch_size", "3", "--trainer.logger", "false"]
    words += ["--data.size" if kind == "classify" else "--data.crop", "64"]
    program = [str(tmp_path / "measure.py")]
    numbers = []
    for started in ([start(words, tmp_path, program)], agents(words, [tmp_path] * 2, 1, program)):
        codes, said = ended(started)
        assert not any(codes), said
        assert said.count("NUMBERS") == 1
        numbers.append(json.loads(said.partition("NUMBERS ")[2].partition("\n")[0]))
    assert len(numbers[0]) > 5 and numbers[0] == pytest.approx(numbers[1], abs=1e-6)


def test_more_processes_than_images(small_run, drawn, tmp_path):
    """One of three has nothing to do; no mask is missing."""
    root = tmp_path / "two"
    shutil.copytree(drawn, root)
    split = root / "ImageSets" / "Segmentation" / "val.txt"
    split.write_text("".join(split.read_text().splitlines(keepends=True)[:2]))
    for number in (1, 3):
        words = ["segment", "predict", "--data.root", str(root), "--data.crop", "64"]
        words += ["--ckpt_path", str(small_run / "segment" / "last.ckpt"), "--data.batch_size", "1"]
        words += ["--trainer.accelerator", "cpu", "--masks.out", str(tmp_path / str(number))]
        codes, said = ended([start([*words, "--trainer.devices", str(number)], tmp_path)])
        assert codes == [0], said
    assert len(_files(tmp_path / "1")) == 2 and _files(tmp_path / "1") == _files(tmp_path / "3")


@pytest.fixture
def machines(small_run, tmp_path):
    """Two folders as of two machines, with the same configs."""
    folders = [tmp_path / "0", tmp_path / "1"]
    for folder in folders:
        shutil.copytree(small_run.parent / "configs", folder / "configs")
    return folders


def test_other_settings_on_another_machine(machines, drawn):
    changed = machines[1] / "configs" / "segment.yaml"
    changed.write_text(changed.read_text().replace("max_epochs: 1", "max_epochs: 2"))
    words = ["run", "-c", "configs/pipeline.yaml", "--root", str(drawn), "--out", "run"]
    codes, said = ended(tasks(words, machines), 100)
    assert codes == [2, 2], said
    assert said.count("error: ") == 1
    assert "has another setting in segment.yaml than the first one" in said
    assert "max_epochs 1 (now 2)" in said
    assert not (machines[0] / "run").exists()  # before anything is trained


def test_a_folder_that_is_not_shared(machines, drawn):
    words = ["run", "-c", "configs/pipeline.yaml", "--root", str(drawn), "--out", "run"]
    codes, said = ended(tasks(words, machines), 100)
    assert codes == [2, 2], said
    assert said.count("error: ") == 1
    assert f"{machines[1] / 'run'} of process 2 of 2" in said and "all machines share" in said
    assert not list(machines[0].rglob("begun.json"))


def test_a_batch_that_cannot_be_dealt_out(small_run, drawn, tmp_path):
    config = str(small_run.parent / "configs" / "pipeline.yaml")
    words = ["run", "-c", config, "--root", str(drawn), "--out", str(tmp_path / "new")]
    codes, said = ended([start([*words, "--devices", "4"], tmp_path)], 100)
    assert codes == [2]
    assert said.count("error: ") == 1
    assert "classify.yaml: data.batch_size 6 is that of all 4 processes together" in said
    assert not (tmp_path / "new" / "classify").exists()  # before anything is trained


ALIKE = """
import sys, torch
from wsss import distributed
from wsss.cli import main
from wsss.errors import UserError
from wsss.tasks.segmentation import SegmentationTask

def fails():
    raise UserError("told once")

def work(words):
    distributed.launch()
    assert distributed.first(lambda: distributed.first(distributed.rank)) == 0
    assert distributed.gather(distributed.rank()) == [0, 1]
    assert distributed.in_order(distributed.gather(distributed.share(range(7)))) == list(range(7))
    torch.manual_seed(0)
    task = SegmentationTask(["a", "b"], encoder="tu-mobilenetv2_050", decoder="Unet")
    task.eval()  # BatchNorm's own statistics are the same for any part of the batch
    task.log = lambda *a, **k: None
    image = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8)
    mask = torch.randint(0, 3, (4, 64, 64))
    mask[0, :40] = mask[1] = 255  # what is void differs between the parts
    own = slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
    loss = task.training_step({"image": image[own], "mask": mask[own]}, 0)
    loss.backward()
    found = [p.grad for p in task.parameters() if p.grad is not None]
    distributed.average_(found)
    task.zero_grad()
    whole = torch.nn.functional.cross_entropy(task.model(image).float(), mask, ignore_index=255)
    whole.backward()
    wanted = [p.grad for p in task.parameters() if p.grad is not None]
    assert len(found) == len(wanted) > 50
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    print("ALIKE", flush=True)
    distributed.first(fails)

import wsss.cli
wsss.cli._call = lambda command, words: work(words)
sys.exit(main(["check"]))
"""


def test_what_processes_tell_each_other(tmp_path):
    """Work of the first, shares, errors; and the gradient of a batch that two have in parts."""
    (tmp_path / "alike.py").write_text(ALIKE)
    program = [str(tmp_path / "alike.py")]
    codes, said = ended(tasks([], [tmp_path] * 2, program), 100)
    assert codes == [2, 2], said
    assert said.count("ALIKE") == 2
    assert said.count("error: told once") == 1 and "Traceback" not in said


def test_a_process_alone():
    assert first(lambda: 3) == 3 and gather(4) == [4] and share([1, 2]) == [1, 2]
    assert in_order([[0, 3, 6], [1, 4], [2, 5]]) == list(range(7)) and in_order([[], []]) == []
