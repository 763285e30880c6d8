"""Every reader, what a good input of it is, and how the input is damaged.

A reader is given inputs that a seeded generator has damaged. It may take them, or say in a UserError
what is wrong; whatever else it raises is a fault. `tests/test_fuzz.py` does some of each,
`benchmarks/fuzz.py` as many as one likes.
"""

import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch
import yaml
from golden import checkpoint
from mutate import damage_arrays, damage_checkpoint, damage_text, damaged_bytes
from PIL import Image
from small_coco import small_coco

import wsss.report.sections
from wsss.data.catalog import read_catalog
from wsss.data.masks import LEARNED, SEED, read_arrays, read_scores, write_arrays, write_mask
from wsss.errors import UserError
from wsss.evaluation import write_counts
from wsss.exchange.masks import import_masks
from wsss.files import write_json
from wsss.models.weights import read_weights
from wsss.pipeline import run_pipeline
from wsss.report.judged import judged_masks
from wsss.run_folder import RunFolder
from wsss.settings import PseudoMaskSettings
from wsss.stages.config import StageConfig
from wsss.tasks.checkpoints import checkpoint_kind
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask

CLASSES = ["ball", "brick", "kite", "star"]

Reader = Callable[[Random], None]
"""Damages an input and reads it."""


def faults(reader: Reader, seed: int, count: int) -> Iterator[str]:
    """What a reader raised beside a UserError, of `count` damaged inputs: number and traceback."""
    for number in range(count):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                reader(Random(f"{seed} {number}"))
            except UserError as error:
                if not str(error).strip() or len(str(error)) > 5000:
                    yield f"input {number}: no sentence: {str(error)[:300]!r}"
            except Exception:
                yield f"input {number}:\n{traceback.format_exc(limit=-6)}"


def voc(folder: Path, drawn: Path) -> Reader:
    """Lists, annotations and class names of VOC's layout."""
    root = folder / "voc"
    shutil.copytree(drawn, root)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    files = [*root.glob("ImageSets/*/train.txt"), *sorted(root.glob("Annotations/train*.xml"))[:3]]
    contents = {path: path.read_bytes() for path in [*files, root / "classes.txt"]}

    def read(chance: Random) -> None:
        path = chance.choice(list(contents))
        path.write_bytes(damaged_bytes(contents[path], chance))
        try:
            read_catalog("voc", root, "train")
        finally:
            path.write_bytes(contents[path])

    return read


def coco(folder: Path) -> Reader:
    """COCO's file as a layout."""
    crowd = {"counts": [100, 50, 2250], "size": [40, 60]}
    marks = [{}, {"image_id": 9}, {"segmentation": crowd, "image_id": 9, "iscrowd": 1}]
    root = small_coco(folder / "coco", marks)
    path = root / "annotations" / "instances_s.json"
    good = folder / "good.json"
    shutil.copy(path, good)

    def read(chance: Random) -> None:
        damage_text(good, chance, path)
        catalog = read_catalog("coco", root, "s")
        for record in catalog.records:
            if record.mask is not None:
                record.mask.unlink(missing_ok=True)
                wsss.read_mask(record.mask)

    return read


def coco_import(folder: Path) -> Reader:
    """COCO's file as `wsss import masks` reads it."""
    root = small_coco(folder / "import", [{}, {"image_id": 9}, {"segmentation": [[1, 1, 9, 1, 9, 9]]}])
    good, file = root / "annotations" / "instances_s.json", root / "new.json"
    (root / "classes.txt").write_text("\n".join(CLASSES))

    def read(chance: Random) -> None:
        damage_text(good, chance, file)
        out = root / "out"
        shutil.rmtree(out, ignore_errors=True)
        import_masks(file, root / "s", out, classes=root / "classes.txt")

    return read


def arrays(folder: Path) -> Reader:
    """Scores, seeds, and what slots have taught."""
    number = np.random.default_rng(0).random
    labels = np.array([1, 3])
    folder.mkdir(parents=True, exist_ok=True)
    scores, seed, taught, new = (folder / f"{name}.npz" for name in ("scores", "seed", "taught", "new"))
    write_arrays(scores, scores=number((2, 4, 5)), labels=labels)
    write_arrays(
        seed, scores=number((2, 4, 5)), labels=labels, slots=number((6, 8)), dispatch=number((6, 4, 5))
    )
    write_arrays(taught, weight=number((2, 5, 8)), bias=number((2, 5)), images=np.array(["a", "b"]))

    def read(chance: Random) -> None:
        which = chance.choice([scores, seed, taught])
        damage_arrays(which, chance, new)
        if which is scores:
            found, labels = read_scores(new)
            assert len(found) == len(labels) and found.dtype == np.float32
        else:
            read_arrays(new, *([SEED] if which is seed else LEARNED))

    return read


def stage_yaml(folder: Path, drawn: Path, configs: Path) -> Reader:
    """The configs of stages, and what is made of them but the network."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [configs / f"{name}.yaml" for name in ("classify", "pseudo_masks", "segment", "refine")]
    new = folder / "new.yaml"

    def read(chance: Random) -> None:
        file = chance.choice(files)
        damage_text(file, chance, new)
        kind = "classify" if file.stem in ("classify", "pseudo_masks") else "segment"
        makes_masks = file.stem in ("pseudo_masks", "refine")
        config = StageConfig(kind, makes_masks, new, str(drawn))
        config.data()
        if makes_masks:
            config.masks()
        config.trainer(logger=False)

    return read


def pipeline_yaml(folder: Path, configs: Path) -> Reader:
    """The file of a pipeline; it is refused before anything is made, or because a stage is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / "pipeline.yaml"

    def read(chance: Random) -> None:
        damage_text(configs / "pipeline.yaml", chance, new)
        run_pipeline(new, folder / "out", str(folder / "nowhere"))

    return read


def made_run(folder: Path, drawn: Path) -> RunFolder:
    """The notes and numbers of a finished run, without networks and masks."""
    run = RunFolder(folder / "run")
    root = {"root": str(drawn), "layout": "synthetic"}
    names = ("classify", "pseudo_masks", "segment")
    for name in names:
        stage = run[name]
        stage.path.mkdir(parents=True)
        trainer = {"max_epochs": 2, "default_root_dir": str(stage.path)}
        config = {"model": {"lr": 0.001}, "data": root, "trainer": trainer}
        (stage.path / "config.yaml").write_text(yaml.safe_dump(config))
        note = {"minutes": 1.5, "fingerprint": "a1", "method": 1, "inputs": ["-"], "written": "b2"}
        note |= {"memory_gb": 1.0, "gpu_memory_gb": None, "device": "CPU", "versions": {"torch": "2.9"}}
        settings = {
            "model": {"lr": 0.001},
            "data": {"layout": "synthetic"},
            "trainer": {"max_epochs": 2},
        }
        write_json(
            stage.path / "done.json", note | {"settings": settings | {"callbacks": [], "masks": {}}}
        )
        write_json(
            stage.path / "metrics.json", {"val_mAP": 47.5, "val_AP/ball": 12.5, "val_AP/kite": None}
        )
        stage.log.mkdir()
        (stage.log / "metrics.csv").write_text(
            "epoch,step,train_loss,val_mAP\n0,9,0.9,\n0,19,,30.5\n1,29,0.7,\n1,31,,55.5\n"
        )
    made = run["pseudo_masks"]
    write_json(made.masks / "settings.json", PseudoMaskSettings().to_dict())
    iou = {name: 12.5 for name in ("background", *CLASSES)}
    quality = {"miou": 12.5, "iou": iou, "pixel_accuracy": 80.0, "void": 0.0, "images": 24}
    write_json(
        made.path / "metrics.json",
        {"mask": quality, "seed_curve": [[0.0, 3.0], [0.4, 20.0], [1.0, 9.0]]},
    )
    counts = [("val_00000", [(0, 0, 4000), (1, 1, 50), (2, 0, 46)]), ("val_00001", [(0, 0, 4096)])]
    write_counts(run["segment"].test.with_suffix(".json"), CLASSES, counts)
    counts = [("train_00000", [(0, 0, 4000), (1, 1, 50), (2, 255, 46)])]
    write_counts(made.masks.with_suffix(".json"), CLASSES, counts)
    numbers = {"cls_map_val": 47.5, "mask_miou": 12.5, "seg_miou_val": None, "minutes": 4.5}
    write_json(run.path / "metrics.json", numbers | {"minutes_per_stage": dict.fromkeys(names, 1.5)})
    return run


def run_files(folder: Path, drawn: Path) -> Reader:
    """The notes and numbers of a run, through all that the report says of them; it draws nothing."""
    run = made_run(folder, drawn)
    stages = [run[name] for name in ("classify", "pseudo_masks", "segment")]
    files = [run.path / "metrics.json", stages[1].masks / "settings.json"]
    files += [path for stage in stages for path in stage.notes]
    files += [stage.log / "metrics.csv" for stage in stages]
    files += [stages[1].masks.with_suffix(".json"), stages[2].test.with_suffix(".json")]
    contents = {path: path.read_bytes() for path in files}
    sections = wsss.report.sections

    def read(chance: Random) -> None:
        path = chance.choice(files)
        if path.suffix == ".csv":
            path.write_bytes(damaged_bytes(contents[path], chance))
        else:
            damage_text(path, chance, path)
        drawing, images = sections.chart, sections._images
        sections.chart, sections._images = (lambda *what: None), (lambda judged: None)
        try:
            fresh = RunFolder(run.path)
            fresh.require_finished()
            final = fresh["pseudo_masks"]
            sections.gather(fresh, judged_masks(fresh, final), final)
        finally:
            sections.chart, sections._images = drawing, images
            path.write_bytes(contents[path])

    return read


def checkpoints(folder: Path) -> Reader:
    """The content of checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {"classify": ClassificationTask, "segment": SegmentationTask}
    contents = {}
    for kind in tasks:
        path = checkpoint(kind, folder / f"{kind}.ckpt")
        contents[kind] = torch.load(path, weights_only=True) | {
            "epoch": 1,
            "global_step": 9,
            "white": None,
        }
    contents["segment"]["inference"] = {"scales": [1.0], "flip": False, "tile": None, "max_side": 512,
                                        "crf": {"side": 167, "iterations": 8}}  # fmt: skip
    new = folder / "new.ckpt"

    def read(chance: Random) -> None:
        kind = chance.choice(list(tasks))
        damage_checkpoint(contents[kind], chance, new)
        checkpoint_kind(new)
        if chance.random() < 0.2:
            read_weights(new)
        tasks[kind].from_checkpoint(new)

    return read


def masks(folder: Path) -> Reader:
    """Mask files."""
    folder.mkdir(parents=True, exist_ok=True)
    good, new = folder / "good.png", folder / "new.png"
    write_mask(good, np.arange(80).reshape(8, 10) % 5)

    def read(chance: Random) -> None:
        new.write_bytes(damaged_bytes(good.read_bytes(), chance))
        wsss.read_mask(new, 5)

    return read


def photographs(folder: Path) -> Reader:
    """Photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    files = [folder / f"good.{suffix}" for suffix in ("jpg", "png", "tif", "webp", "bmp")]
    for path in files:
        Image.fromarray(noise).save(path)

    def read(chance: Random) -> None:
        good = chance.choice(files)
        new = good.with_stem("new")
        new.write_bytes(damaged_bytes(good.read_bytes(), chance))
        wsss.read_image(new)

    return read


def readers(folder: Path, drawn: Path, configs: Path) -> dict[str, Reader]:
    """All readers by name; their inputs lie in `folder`."""
    return {
        "voc": voc(folder / "a", drawn),
        "coco": coco(folder / "b"),
        "coco import": coco_import(folder / "c"),
        "arrays": arrays(folder / "d"),
        "stage yaml": stage_yaml(folder / "e", drawn, configs),
        "pipeline yaml": pipeline_yaml(folder / "f", configs),
        "run files": run_files(folder / "g", drawn),
        "checkpoints": checkpoints(folder / "h"),
        "masks": masks(folder / "i"),
        "photographs": photographs(folder / "j"),
    }
