"""What of the machine may be used: cores, memory, shared memory, a cluster's environment."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

import wsss.localize.crf
import wsss.machine
from wsss.cli import main
from wsss.data import modules
from wsss.data.masks import write_arrays
from wsss.data.modules import MaskData, TagData, workers_that_fit
from wsss.errors import UserNotice, forget_notices
from wsss.localize.pseudo_masks import pseudo_mask
from wsss.stages import masks


def _group(tmp_path, monkeypatch, **files: str) -> None:
    """This process in a control group `box/inner`; the limits are those of `box`."""
    (tmp_path / "box" / "inner").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "box" / name.replace("_", ".")).write_text(text + "\n")
    monkeypatch.setattr(wsss.machine, "_CGROUPS", tmp_path)
    read = wsss.machine._read
    monkeypatch.setattr(
        wsss.machine, "_read", lambda p: "0::/box/inner" if p == "/proc/self/cgroup" else read(p)
    )


def test_cores_are_those_allowed(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7, 9, 11}, raising=False)
    assert wsss.machine.allowed_cores() == 5
    _group(tmp_path, monkeypatch, cpu_max="250000 100000")  # docker run --cpus 2.5
    assert wsss.machine.allowed_cores() == 2
    (tmp_path / "box" / "cpu.max").write_text("max 100000")
    assert wsss.machine.allowed_cores() == 5
    assert TagData("-").num_workers == 5


def test_memory_is_what_the_container_has_left(monkeypatch, tmp_path):
    assert 0 < wsss.machine.free_memory() < float("inf")
    _group(tmp_path, monkeypatch, memory_max=str(10**9), memory_current=str(4 * 10**8))
    assert wsss.machine.free_memory() == 6e8


def test_processes_for_masks_fit_into_cores_and_memory(monkeypatch):
    monkeypatch.setattr(masks, "allowed_cores", lambda: 16)
    monkeypatch.setattr(masks, "free_memory", lambda: 8e9)
    assert masks.workers_for(500 * 375) == 16
    assert masks.workers_for(108_000_000) == 2
    assert masks.workers_for(10**10) == 1
    monkeypatch.setattr(masks, "free_memory", lambda: float("inf"))
    assert masks.workers_for(10**10) == 16


def test_a_pool_is_made_of_the_processes_that_are_allowed(small_run, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(masks, "allowed_cores", lambda: 3)
    made = []
    pool = masks.ProcessPoolExecutor

    def spy(workers, **how):
        made.append(workers)
        return pool(1, **how)

    monkeypatch.setattr(masks, "ProcessPoolExecutor", spy)
    words = f"classify predict -c {small_run}/pseudo_masks/config.yaml --data.root {drawn}"
    words += f" --ckpt_path {small_run}/classify/last.ckpt --masks.out {tmp_path}/a/masks"
    assert main(words.split()) == 0
    assert made == [3]


MASK = """
image = np.zeros((4000, 6000, 3), np.uint8)
from wsss.localize.pseudo_masks import pseudo_mask
pseudo_mask(image, found["scores"], found["labels"].tolist(), 0.4)
"""
SWEEP = """
from wsss.evaluation import threshold_curve
threshold_curve([(found["scores"], found["labels"], np.zeros((4000, 6000), np.uint8))], 13)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux gives it")
@pytest.mark.parametrize("what", [MASK, SWEEP])
def test_memory_of_a_mask_does_not_grow_with_its_tags(what, tmp_path):
    """Of 24 megapixels: all scores of 12 tags at full size would take another gigabyte."""
    rng = np.random.default_rng(0)
    for tags in (2, 12):
        scores = rng.random((tags, 20, 30), dtype=np.float32)
        write_arrays(tmp_path / f"{tags}.npz", scores=scores, labels=np.arange(1, tags + 1))
    code = f"""
import resource, sys, numpy as np
from wsss.data.masks import read_arrays
found = read_arrays(__import__("pathlib").Path(sys.argv[1]))
{what}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
"""
    peaks = []
    for tags in (2, 12):
        words = [sys.executable, "-c", code, str(tmp_path / f"{tags}.npz")]
        peaks.append(float(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 100  # MB


def test_masks_label_by_label_are_those_of_the_largest_score():
    rng = np.random.default_rng(0)
    scores = rng.random((3, 9, 7), dtype=np.float32)
    scores[1] = scores[0]  # of equals the first one wins
    image = np.zeros((31, 45, 3), np.uint8)
    whole = np.stack([np.full((31, 45), 0.5, np.float32), *(
        wsss.localize.crf.resize_scores(scores, 31, 45))])  # fmt: skip
    wanted = np.array([0, 7, 2, 4], np.uint8)[whole.argmax(0)]
    np.testing.assert_array_equal(pseudo_mask(image, scores, [7, 2, 4], 0.5), wanted)
    assert {0, 7, 4} == set(np.unique(wanted))


def test_loaders_fit_into_shared_memory(monkeypatch):
    monkeypatch.setattr(modules, "free_shared_memory", lambda: 64 * 2**20)
    assert workers_that_fit(8, 2**20) == 8
    forget_notices()
    with pytest.warns(UserNotice, match=r"64 MB free, and 8 loader.*12 MB.*1 are used.*--shm-size"):
        assert workers_that_fit(8, 12 * 2**20) == 1
    with pytest.warns(UserNotice, match="read without them"):
        assert workers_that_fit(2, 108 * 2**20) == 0
    assert workers_that_fit(0, 108 * 2**20) == 0


def test_shared_memory_that_cannot_be_used_is_told(small_run, drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert wsss.machine.free_shared_memory() == 0
    monkeypatch.undo()

    def full(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(wsss.machine.multiprocessing, "Lock", full)
    config = str(small_run.parent / "configs" / "pipeline.yaml")
    assert main(["run", "-c", config, "--root", str(drawn), "--out", str(tmp_path / "run")]) == 2
    assert "/dev/shm cannot be used (Read-only file system)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()  # before anything is trained


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trainer.num_nodes", "2"], "started by torchrun or srun"),
        (["--trainer.strategy", "fsdp"], "trainer.strategy fsdp is not supported: take auto"),
        (["--trainer.devices", "[0, 1]"], "`devices` selected with `CPUAccelerator` should be an int"),
    ],
)
def test_several_devices_and_nodes_are_told(words, told, drawn, tmp_path, capsys):
    more = f"--data.root {drawn} --model.backbone glnet_nano --trainer.accelerator cpu".split()
    more += ["--trainer.default_root_dir", str(tmp_path)]
    assert main(["classify", "fit", *more, *words]) == 2
    assert told in capsys.readouterr().err


def test_data_modules_ask_for_what_their_batches_take(drawn, monkeypatch):
    asked = []
    monkeypatch.setattr(modules, "workers_that_fit", lambda wanted, size: asked.append(size) or 0)
    tags = TagData(str(drawn), size=64, predict_size=96, batch_size=4)
    masks = MaskData(str(drawn), crop=64, max_side=48, batch_size=4)
    for loader in (
        tags.train_dataloader(), tags.val_dataloader(), tags.predict_dataloader(),
        masks.train_dataloader(), masks.test_dataloader(), masks.predict_dataloader(),
    ):  # fmt: skip
        batch = next(iter(loader))
        size = sum(t.nbytes for name, t in batch.items() if name in ("image", "mask"))
        assert size <= asked.pop(0), loader.dataset
    assert masks.test_dataloader().dataset[0]["mask"].nbytes == 64 * 64  # a byte a pixel


@pytest.mark.parametrize("process", ["0", "3"])
def test_a_job_of_slurm_with_several_tasks(process, drawn, tmp_path):
    """`#SBATCH -n 4` asks for cores, and wsss works on one device."""
    job = {"NTASKS": "4", "JOB_ID": "77", "JOB_NAME": "train", "PROCID": process, "LOCALID": process}
    job |= {"NODEID": "0", "JOB_NODELIST": "n1"}
    words = f"classify fit --data.root {drawn} --model.backbone glnet_nano --data.size 64"
    words += " --data.num_workers 0 --trainer.accelerator cpu --trainer.max_epochs 1"
    done = subprocess.run(
        [sys.executable, "-m", "wsss.cli", *words.split()],
        env=os.environ | {f"SLURM_{name}": value for name, value in job.items()},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("last.ckpt")) and list(tmp_path.rglob("metrics.csv"))


@pytest.mark.parametrize("given", [None, "3"])
def test_opencv_starts_one_thread_in_the_program(given):
    """Loaders and the CRF are processes already; what the user has set stays."""
    code = "import sys; from wsss.cli import main; main(['check', 'nowhere']); import cv2; "
    environment = {k: v for k, v in os.environ.items() if k != "OPENCV_FOR_THREADS_NUM"}
    environment |= {"OPENCV_FOR_THREADS_NUM": given} if given else {}
    words = [sys.executable, "-c", code + "print(cv2.getNumThreads())"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == (given or "1")
