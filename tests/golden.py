"""What the chain makes of three synthetic images and fixed networks, through the command line.

`python tests/golden.py` writes tests/golden.npz anew: for a change that is meant to change results.
With kinds, only those and the rest stays bit by bit: `python tests/golden.py mask refined` for another
CRF, which seeds and the segmenter's masks know nothing of.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from wsss.cli import main
from wsss.data.masks import read_mask, read_scores, write_mask
from wsss.data.synthetic import SYNTHETIC_CLASSES, draw_scene
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask

FILE = Path(__file__).with_name("golden.npz")
SLOTS = ("features", "blocks", "none")
SHAPES = ((64, 64), (64, 44), (50, 64))


def _images(root: Path) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    names = [f"{index}" for index in range(len(SHAPES))]
    for index, (height, width) in enumerate(SHAPES):
        image, mask = draw_scene(np.random.default_rng(20 + index), 64)
        # without losses, which decoders may take back in their own way
        Image.fromarray(image[:height, :width]).save(root / "JPEGImages" / f"{index}.jpg", "PNG")
        write_mask(root / "SegmentationClass" / f"{index}.png", mask[:height, :width])
        tags = [SYNTHETIC_CLASSES[label - 1] for label in np.unique(mask[:height, :width]) if label]
        objects = "".join(f"<object><name>{tag}</name></object>" for tag in tags)
        text = f"<annotation><filename>{index}.jpg</filename>{objects}</annotation>"
        (root / "Annotations" / f"{index}.xml").write_text(text)
    for split in ("train", "val"):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
    (root / "classes.txt").write_text("\n".join(SYNTHETIC_CLASSES))


def checkpoint(kind: str, path: Path) -> Path:
    """glnet_nano's own weights, and for the rest numbers that numpy draws alike everywhere."""
    if kind == "classify":
        task = ClassificationTask(list(SYNTHETIC_CLASSES), "glnet_nano", pretrained=True)
    else:
        task = SegmentationTask(list(SYNTHETIC_CLASSES), "Unet", "glnet_nano", pretrained=True)
    own = {id(p) for p in task.backbone.parameters()}
    chance = np.random.RandomState(0)
    with torch.no_grad():
        for parameter in task.model.parameters():
            if id(parameter) not in own and parameter.ndim > 1:
                spread = 2 / np.sqrt(parameter[0].numel())
                parameter.copy_(torch.from_numpy(spread * chance.randn(*parameter.shape)))
    content = {"kind": kind, "classes": task.classes, "state_dict": task.state_dict()}
    content |= {"hyper_parameters": dict(task.hparams), "pytorch-lightning_version": "2.6"}
    content |= {"inference": {"scales": [1.0, 1.5], "flip": True, "max_side": 96}}
    torch.save(content, path)
    return path


def _predict(kind: str, root: Path, ckpt: Path, folder: Path, **masks) -> None:
    config = {
        "data": {"root": str(root), "num_workers": 0, "batch_size": 2, "predict_split": "train"},
        "trainer": {"accelerator": "cpu", "logger": False, "enable_progress_bar": False},
        "masks": masks | {"workers": 1},
    }
    config["data"] |= {"size": 64} if kind == "classify" else {"crop": 64}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = [kind, "predict", "-c", str(folder / "config.yaml"), "--ckpt_path", str(ckpt)]
    assert main(words) == 0


def make(folder: Path) -> dict[str, np.ndarray]:
    """Seeds and masks of every way, by name."""
    root, found = folder / "data", {}
    _images(root)
    classify = checkpoint("classify", folder / "classify.ckpt")
    segment = checkpoint("segment", folder / "segment.ckpt")
    names = [f"{index}" for index in range(len(SHAPES))]
    for slots in SLOTS:
        first, second = folder / slots / "first", folder / slots / "second"
        how = {"out": str(first / "masks"), "slots": slots, "background": 0.4, "steps": 40}
        _predict("classify", root, classify, first, **how)
        how = {"out": str(second / "masks"), "maps": str(first / "maps"), "background": 0.4}
        _predict("segment", root, segment, second, **how)
        for name in names:
            found[f"seed {slots} {name}"] = read_scores(first / "maps" / f"{name}.npz")[0]
            found[f"mask {slots} {name}"] = read_mask(first / "masks" / f"{name}.png")
            found[f"refined {slots} {name}"] = read_mask(second / "masks" / f"{name}.png")
    words = ["predict", str(root / "JPEGImages"), "--ckpt", str(segment), "--device", "cpu"]
    assert main([*words, "--out", str(folder / "new")]) == 0
    for name in names:
        found[f"segmenter {name}"] = read_mask(folder / "new" / "masks" / f"{name}.png")
    return found


if __name__ == "__main__":
    kinds = tuple(sys.argv[1:])
    with tempfile.TemporaryDirectory() as place:
        arrays = make(Path(place))
    if kinds:
        with np.load(FILE) as before:
            arrays = {n: a if n.startswith(kinds) else before[n] for n, a in arrays.items()}
    np.savez_compressed(FILE, **arrays)
    print(f"{FILE}: {FILE.stat().st_size} bytes")
