"""Data that the tests make, and the places of real data."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from wsss.machine import allowed_cores, share_cores

share_cores()  # as the program does, before torch is imported
if (
    "PYTEST_XDIST_WORKER_COUNT" in os.environ
):  # each of several processes of tests has its share of the cores
    share = max(1, allowed_cores() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))


from wsss.data.masks import read_mask  # noqa: E402
from wsss.data.synthetic import draw_dataset  # noqa: E402

PROJECT = Path(__file__).parent.parent


TRAINING = {"small_run", "judged", "in_place", "shared", "voc_root"}
"""Fixtures whose making trains a network, or that are large."""

LONG = {
    "benchmarks", "commands/test_slots.py", "exchange/test_model.py", "localize/test_slot_classes.py",
    "report/test_page.py", "tasks", "test_any_backbone_run.py", "test_distil.py", "test_distributed.py",
    "test_extend.py", "test_imports.py", "test_installation.py", "test_lightning_cli.py",
    "test_locks.py", "test_machine.py", "test_mask_quality.py", "test_metrics.py", "test_no_network.py",
    "test_own_photos.py", "test_own_photos_run.py", "test_own_photos_tutorial.py", "test_pipeline.py",
    "test_progress.py", "test_project_page.py", "test_tour.py",
}  # fmt: skip
"""Files and folders of tests that train a network, look long at one or start many programs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        long = place.as_posix() in LONG or place.parts[0] in LONG
        if long or TRAINING & set(getattr(item, "fixturenames", ())):
            item.add_marker("trains")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory) -> None:
    """What is remembered of data is nobody's own, in the programs that tests start, too."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A synthetic data set in VOC layout: 24 train and 8 val images of 64 pixels."""
    root = tmp_path_factory.mktemp("data") / "drawn"
    draw_dataset(root, train=24, val=8, size=64)
    return root


@pytest.fixture(scope="session")
def small_run(drawn, tmp_path_factory) -> Path:
    """The folder of a whole run on the synthetic data, one epoch for each network."""
    from small_pipeline import small_pipeline

    from wsss.pipeline import run_pipeline

    folder = tmp_path_factory.mktemp("small")
    out = folder / "run"
    run_pipeline(small_pipeline(folder / "configs"), out, str(drawn))
    return out


@pytest.fixture(scope="session")
def photographs(drawn, tmp_path_factory) -> Path:
    """The synthetic images as a folder with tags.csv and masks."""
    root = tmp_path_factory.mktemp("data") / "folder"
    shutil.copytree(drawn / "JPEGImages", root)
    shutil.copytree(drawn / "SegmentationClass", root / "masks")
    lines = ["image,tags,split"]
    for path in sorted(root.glob("*.jpg")):
        labels = sorted(set(np.unique(read_mask(root / "masks" / f"{path.stem}.png"))) - {0})
        names = "|".join(("ball", "brick", "kite", "star")[label - 1] for label in labels)
        lines.append(f"{path.name},{names},{path.stem.split('_')[0]}")
    (root / "tags.csv").write_text("\n".join(lines))
    return root


@pytest.fixture
def good(tmp_path) -> Path:
    """A clean folder of one's own photographs."""
    from own_folder import make_folder

    return make_folder(tmp_path / "good")


@pytest.fixture(scope="session")
def networks(tmp_path_factory) -> Path:
    """`classify/last.ckpt` and `segment/last.ckpt` of glnet_nano: random weights, untrained."""
    from golden import checkpoint

    folder = tmp_path_factory.mktemp("networks")
    for kind in ("classify", "segment"):
        (folder / kind).mkdir()
        checkpoint(kind, folder / kind / "last.ckpt")
    return folder


@pytest.fixture
def place(drawn, networks, tmp_path, monkeypatch) -> Path:
    """The working folder of the examples: `photo.jpg`, `data`, and networks in `runs/demo`."""
    run = tmp_path / "runs" / "demo"
    (run / "pseudo_masks").mkdir(parents=True)
    for kind in ("classify", "segment"):
        (run / kind).symlink_to(networks / kind)
    (run / "pseudo_masks" / "masks").symlink_to(drawn / "SegmentationClass")
    (tmp_path / "data").symlink_to(drawn)
    (tmp_path / "photo.jpg").symlink_to(drawn / "JPEGImages" / "train_00000.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def voc_root() -> Path:
    """Real VOC photographs, from the environment variable WSSS_VOC_ROOT."""
    if "WSSS_VOC_ROOT" not in os.environ:
        pytest.skip("WSSS_VOC_ROOT is not set")
    root = Path(os.environ["WSSS_VOC_ROOT"])
    assert (root / "JPEGImages").is_dir(), f"WSSS_VOC_ROOT={root} holds no JPEGImages"
    return root


@pytest.fixture(scope="session")
def shared() -> Path:
    """Weights and reference outputs, from the environment variable WSSS_SHARED."""
    if "WSSS_SHARED" not in os.environ:
        pytest.skip("WSSS_SHARED is not set")
    root = Path(os.environ["WSSS_SHARED"])
    assert root.is_dir(), f"WSSS_SHARED={root} is no folder"
    return root
