"""The data modules."""

import os
import shutil
import signal
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from wsss.data import datasets
from wsss.data.catalog import read_catalog
from wsss.data.modules import MaskData, TagData
from wsss.data.synthetic import SYNTHETIC_CLASSES
from wsss.errors import UserError, UserNotice, forget_notices
from wsss.tasks.trainer import Trainer


def test_class_without_image_is_named(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "copy")
    (tmp_path / "copy" / "classes.txt").write_text("\n".join([*SYNTHETIC_CLASSES, "unicorn"]))
    with pytest.raises(UserError, match="unicorn"):
        TagData(str(tmp_path / "copy")).train_dataloader()


def test_large_photographs_are_predicted_at_the_size_seen_in_training(drawn):
    data = MaskData(str(drawn), crop=32, max_side=48, batch_size=3, num_workers=0)
    for batch in data.predict_dataloader():
        height, width = batch["image"].shape[-2:]
        assert max(height, width) <= 48 and len(batch["image"]) * height * width <= 3 * 32**2
        for name, size in zip(batch["path"], batch["size"], strict=True):
            assert Image.open(name).size[::-1] == tuple(size.tolist())


def test_training_on_missing_masks_is_refused(drawn, tmp_path):
    with pytest.raises(UserError, match="24 of 24 images have no mask"):
        MaskData(str(drawn), mask_dir=str(tmp_path)).train_dataloader()


def test_training_tells_of_palettes_that_are_not_vocs(good):
    image = Image.fromarray(np.zeros((40, 56), np.uint8))
    image.putpalette([0, 128, 0])
    for record in read_catalog("folder", good, "all").records:
        path = good / "masks" / f"{record.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    data = MaskData(str(good), "folder", train_split="all", val_split="all", num_workers=0)
    for loader in (data.train_dataloader, data.test_dataloader):
        forget_notices()
        with pytest.warns(UserNotice, match="palette of 20 masks is not VOC's"):
            loader()


class _Threads(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return cv2.getNumThreads()


def test_opencv_starts_no_threads_in_the_loaders_processes(drawn):
    loader = MaskData(str(drawn), num_workers=1).predict_dataloader()
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        inner = DataLoader(
            _Threads(), num_workers=loader.num_workers, worker_init_fn=loader.worker_init_fn
        )
        assert next(iter(inner)).tolist() == [1] and cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_is_pinned_for_a_gpu_alone(device, drawn):
    data = TagData(str(drawn), num_workers=0)
    assert not data.train_dataloader().pin_memory  # nothing trains
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    assert data.train_dataloader().pin_memory == (device == "cuda")


def test_a_killed_loader_is_told_with_its_image(drawn, monkeypatch):
    data = TagData(str(drawn), size=64, batch_size=4, num_workers=1)
    read, parent = datasets.read_image, os.getpid()

    def large(path, white):
        image = read(path, white)
        if path.stem == "val_00005":
            assert os.getpid() != parent
            os.kill(os.getpid(), signal.SIGKILL)
        return image

    monkeypatch.setattr(datasets, "read_image", large)
    trainer, found = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False), []
    with pytest.raises(UserError) as told, trainer.at_work():
        for batch in data.val_dataloader():
            found += batch["id"]
    said = str(told.value)
    assert said.startswith("a process that loads images was killed (out of memory?), the last one that")
    assert f"it read is {drawn / 'JPEGImages' / 'val_00005.jpg'}: the same command goes on" in said
    assert "\n" not in said and found in ([], [f"val_0000{n}" for n in range(4)])


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (UserError("told"), "^told$"),
        (
            RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
            "^a process that loads imag",
        ),
        (ValueError("not for users"), None),
    ],
)
def test_what_a_user_is_told_is_not_hidden_by_what_comes_of_it(first, said):
    trainer = Trainer(accelerator="cpu", logger=False)
    wanted = pytest.raises(UserError, match=said) if said else pytest.raises(RuntimeError, match="iter")
    with wanted, trainer.at_work():
        try:
            raise first
        finally:  # as Lightning does where it ends what it had begun
            raise RuntimeError("Please call iter first")
