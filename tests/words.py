"""Words of the command line that tests share, and small networks to be named by them."""

import shutil
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from small_pipeline import PROJECT

from wsss.cli import main
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask

CONFIGS = sorted(PROJECT.glob("configs/*/*.yaml"))
QUICK = ["--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu", "--trainer.precision", "32"]
QUICK += ["--data.num_workers", "0", "--data.batch_size", "2"]
SMALL = ["--model.encoder", "glnet_nano", *QUICK]


def random_weights(network: str, folder: Path) -> Path:
    path = folder / f"{network}.safetensors"
    save_file(timm.create_model(network).state_dict(), path)
    return path


def random_network(kind: str, folder: Path) -> list[str]:
    """A checkpoint of the synthetic classes, and the words that name it."""
    make, name = {
        "classify": (ClassificationTask, "backbone"),
        "segment": (SegmentationTask, "encoder"),
    }[kind]
    task = make(["ball", "brick", "kite", "star"], **{name: "glnet_nano"})
    content = {"kind": kind, "classes": task.classes, "state_dict": task.state_dict()}
    content |= {"hyper_parameters": dict(task.hparams), "pytorch-lightning_version": "2.6"}
    path = folder / f"{kind}.ckpt"
    torch.save(content, path)
    return [f"--model.{name}", "glnet_nano", "--ckpt_path", str(path)]


def trainaug(root: Path) -> None:
    lists = root / "ImageSets" / "Segmentation"
    shutil.copy(lists / "train.txt", lists / "trainaug.txt")


def main_ok(words):
    assert main(words) == 0
