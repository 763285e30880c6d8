"""Training speed, part by part, as Markdown tables: python benchmarks/train.py > train.md

Parts are: decode (photographs at full and at reduced size, and what the pixels differ), augment (whole
samples), loader, step, frozen (early layers, whose output a cache might hold) and together. Ways of a
step are words joined by `+`: one of `float32` and `bf16`, `contiguous` (no channels_last), `compile`,
`unfused` (optimiser), `plain` (depthwise convolutions as PyTorch has them), `unkept` (freed
memory goes back to the system). Ways take turns, each in a process of its own; times are medians.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from wsss.data.datasets import MaskedImages, TaggedImages
from wsss.data.images import image_files, read_image, read_reduced
from wsss.data.masks import write_mask
from wsss.data.modules import MaskData, TagData
from wsss.data.synthetic import draw_scene
from wsss.geometry import resize
from wsss.machine import share_cores
from wsss.models.fast import FastDepthwiseConv2d, autocast
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.task import Task
from wsss.tasks.trainer import Trainer

CLASSES = [f"class{number}" for number in range(20)]
WAYS = (
    "bf16",
    "float32",
    "bf16+contiguous",
    "bf16+unfused",
    "bf16+plain",
    "bf16+unkept",
    "bf16+compile",
)
WORDS = {word for way in WAYS for word in way.split("+")}
PARTS = ("decode", "augment", "loader", "step", "frozen", "together")


def photographs(args: argparse.Namespace, root: Path, width: int, height: int) -> Path:
    """A data set of JPEGs of that size: scenes or `--sources`, with the noise of a camera."""
    folder = root / f"{width}x{height}"
    for name in ("images", "masks/images"):
        (folder / name).mkdir(parents=True)
    sources = image_files(args.sources)[: args.count] if args.sources else []
    rows = ["image,tags"]
    for index in range(args.count):
        rng = np.random.default_rng(index)
        image, mask = draw_scene(rng, 375)
        if sources:
            image = read_image(sources[index % len(sources)])
        image = resize(image, height, width).astype(np.float32)
        image += rng.normal(0, 4, image.shape).astype(np.float32)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(
            folder / "images" / f"{index}.jpg", quality=90
        )
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        write_mask(folder / "masks" / "images" / f"{index}.png", mask)
        rows.append(f"images/{index}.jpg,{';'.join(CLASSES[index :: args.count])}")
    (folder / "tags.csv").write_text("\n".join(rows) + "\n")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def data_of(args: argparse.Namespace, root: Path, workers: int) -> TagData | MaskData:
    """The data module of the task, its loader as on the device."""
    shared = {"train_split": "all", "batch_size": args.batch, "num_workers": workers}
    if args.task == "classifier":
        data = TagData(str(root), "folder", size=args.size, **shared)
    else:
        data = MaskData(str(root), "folder", crop=args.size, **shared)
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(args.device)))
    return data


def samples(args: argparse.Namespace, root: Path) -> TaggedImages | MaskedImages:
    """The data set of training crops."""
    return data_of(args, root, 0).train_dataloader().dataset


def in_turn(calls: dict[str, Callable[[int], object]], count: int) -> dict[str, float]:
    """Calls a second of this process's CPU time for each of `calls`, from the median."""
    seconds = defaultdict(list)
    for index in range(-1, count):
        for name, call in calls.items():
            start = time.process_time()
            call(index % count)
            if index >= 0:
                seconds[name].append(time.process_time() - start)
    return {name: 1 / max(statistics.median(values), 1e-9) for name, values in seconds.items()}


def decoding(args: argparse.Namespace, roots: dict[str, Path]) -> Iterator[str]:
    """Photographs a second of one core, whole and reduced; how far apart they are at crop size."""
    yield "| JPEG | decoded to | whole, images/s | reduced, images/s | ratio | mean difference |"
    yield "|---|---|---|---|---|---|"
    for name, root in roots.items():
        data, files = samples(args, root), image_files(root / "images")
        speed = in_turn(
            {
                "whole": lambda i, files=files: read_image(files[i]),
                "reduced": lambda i, files=files, data=data: read_reduced(files[i], data._spare),
            },
            len(files),
        )
        apart = []
        for file in files:
            small, _ = read_reduced(file, data._spare)
            pair = [resize(image, args.size, args.size) for image in (read_image(file), small)]
            apart.append(cv2.absdiff(*pair).mean())
        yield (
            f"| {name} | {small.shape[1]}x{small.shape[0]} | {speed['whole']:.1f} | "
            f"{speed['reduced']:.1f} | {speed['reduced'] / speed['whole']:.2f} | {np.mean(apart):.2f} |"
        )


def augmenting(args: argparse.Namespace, roots: dict[str, Path]) -> Iterator[str]:
    """Samples a second of one core, decoding included, from whole and from reduced photographs."""
    yield "| JPEG | sample from the whole, images/s | from the reduced | ratio |"
    yield "|---|---|---|---|"
    for name, root in roots.items():
        whole, reduced = samples(args, root), samples(args, root)
        whole._spare = lambda height, width: 1
        calls = {"whole": whole.__getitem__, "reduced": reduced.__getitem__}
        speed = in_turn(calls, len(whole))
        yield (
            f"| {name} | {speed['whole']:.1f} | {speed['reduced']:.1f} | "
            f"{speed['reduced'] / speed['whole']:.2f} |"
        )


def loading(args: argparse.Namespace, roots: dict[str, Path]) -> Iterator[str]:
    """Images a second of the loader alone, by worker processes."""
    yield "| JPEG | " + " | ".join(f"{n} workers, images/s" for n in args.workers) + " |"
    yield "|---|" + "---|" * len(args.workers)
    for name, root in roots.items():
        speeds = []
        for workers in args.workers:
            loader = data_of(args, root, workers).train_dataloader()
            list(loader)  # workers start
            start, seen = time.perf_counter(), 0
            while time.perf_counter() - start < args.seconds or not seen:
                seen += sum(len(batch["image"]) for batch in loader)
            speeds.append(seen / (time.perf_counter() - start))
        yield f"| {name} | " + " | ".join(f"{speed:.1f}" for speed in speeds) + " |"


def now_of(args: argparse.Namespace) -> Callable[[], float]:
    """What tells the time of steps, in seconds."""

    def now() -> float:
        if args.device == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if args.cpu_time else time.perf_counter()

    return now


class _Clock(pl.Callback):
    def __init__(self, args: argparse.Namespace) -> None:
        self.now, self.times, self.first = now_of(args), [], 0.0

    def on_train_start(self, *_: object) -> None:
        self.begun = time.perf_counter()

    def on_train_batch_end(self, *_: object) -> None:
        self.times.append(self.now())
        self.first = self.first or time.perf_counter() - self.begun


def task_of(args: argparse.Namespace) -> Task:
    """The task as the shipped recipe for MobileNetV2 trains it, but from random weights."""
    shared = {"freeze_norm": True, "freeze": 8}
    if args.task == "classifier":
        task = ClassificationTask(CLASSES, args.backbone, mosaic=0.5, **shared)
    else:
        task = SegmentationTask(CLASSES, "DeepLabV3Plus", args.backbone, **shared)
    task.given = True
    return task


def fit(args: argparse.Namespace, way: str, root: Path | None) -> list[float]:
    """Seconds of each of `--steps` steps and one before them; no root: of one ready batch."""
    words = set(way.split("+"))
    torch.manual_seed(0)
    task = task_of(args)
    if "contiguous" in words:
        task.model.to(memory_format=torch.contiguous_format)
    if "plain" in words:
        for layer in task.modules():
            if type(layer) is FastDepthwiseConv2d:
                layer.__class__ = nn.Conv2d
    if "compile" in words:
        task.model.compile()
    if "unfused" in words:
        configure = task.configure_optimizers

        def unfused() -> dict:
            found = configure()
            for group in found["optimizer"].param_groups:
                group["fused"] = False
            return found

        task.configure_optimizers = unfused
    clock = _Clock(args)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            callbacks=clock,
            accelerator="gpu" if args.device == "cuda" else "cpu",
            precision="bf16-mixed" if "bf16" in words else "32-true",
            max_steps=args.steps + 1,
            max_epochs=-1,
            limit_val_batches=0,
            logger=False,
            enable_progress_bar=False,
            default_root_dir=folder,
        )
        if root is not None:
            given = {"datamodule": data_of(args, root, args.workers[-1])}
        else:
            shape = (args.batch, 3, args.size, args.size)
            batch = {
                "image": torch.randint(256, shape, dtype=torch.uint8, device=args.device),
                "tags": (torch.rand(args.batch, 20, device=args.device) < 0.1).float(),
                "mask": torch.randint(21, (shape[0], *shape[2:]), device=args.device),
            }
            given = {"train_dataloaders": DataLoader([batch] * trainer.max_steps, batch_size=None)}
        if "unkept" in words:
            trainer.fit(task, **given)
        else:
            with trainer.at_work():
                trainer.fit(task, **given)
    return [clock.first, *np.diff(clock.times).tolist()]


def apart(args: argparse.Namespace, way: str, root: Path | None) -> list[float]:
    """`fit` or `frozen` in a process of its own, begun with an allocator that was told nothing."""
    words = [
        sys.executable,
        os.path.abspath(__file__),
        "--one",
        way,
        *(["--root", root] if root else []),
    ]
    for name in ("task", "backbone", "size", "batch", "device", "steps", "threads"):
        words += [f"--{name}", getattr(args, name)]
    words += ["--cpu-time"] if args.cpu_time else []
    words = [str(word) for word in [*words, "--workers", *args.workers]]
    with tempfile.TemporaryDirectory() as cache:  # nothing is compiled already
        env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
        out = subprocess.run(words, env=env, capture_output=True, text=True)
    if out.returncode:
        sys.exit(out.stderr)
    return json.loads(out.stdout.splitlines()[-1])


def stepping(args: argparse.Namespace, roots: dict[str, Path]) -> Iterator[str]:
    """Ways of a step; its first time, by the clock, has what must be done once, compiling too."""
    first, times = defaultdict(list), defaultdict(list)
    for _ in range(args.rounds):
        for way in args.ways:
            start, *rest = apart(args, way, None)
            first[way].append(start)
            times[way] += rest
    middle = {way: statistics.median(times[way]) for way in args.ways}
    yield f"| step | first, s | ms | images/s | time, of {args.ways[0]} |"
    yield "|---|---|---|---|---|"
    for way, seconds in middle.items():
        yield (
            f"| {way} | {statistics.median(first[way]):.1f} | {1000 * seconds:.0f} | "
            f"{args.batch / seconds:.1f} | {seconds / middle[args.ways[0]]:.2f} |"
        )


def frozen(args: argparse.Namespace) -> tuple[float, float]:
    """Seconds of the frozen layers up to stride 8, which have a forward pass alone, and of a step."""
    task = task_of(argparse.Namespace(**vars(args) | {"task": "classifier"})).to(args.device)
    backbone, levels = task.backbone.train(), task.model.reductions
    index = max(i for i, reduction in enumerate(levels) if reduction <= 8)
    images = torch.rand(args.batch, 3, args.size, args.size, device=args.device)
    images = images.contiguous(memory_format=torch.channels_last)
    tags = (torch.rand(args.batch, 20, device=args.device) < 0.1).float()
    task.on_train_epoch_start()

    def early() -> None:
        backbone.forward_intermediates(
            images, indices=[index], stop_early=True, intermediates_only=True
        )

    def whole() -> None:
        logits = task.model(255 * images).logits
        nn.functional.binary_cross_entropy_with_logits(logits, tags).backward()

    seconds, now = defaultdict(list), now_of(args)
    for number in range(args.steps + 1):
        for name, call in (("early", early), ("whole", whole)):
            start = now()
            with autocast("bf16-mixed", args.device):
                call()
            if number:
                seconds[name].append(now() - start)
    return statistics.median(seconds["early"]), statistics.median(seconds["whole"])


def freezing(args: argparse.Namespace, roots: dict[str, Path]) -> Iterator[str]:
    """What of a step a cache of the frozen layers' output could save at most."""
    part, all_ = apart(args, "frozen", None)
    yield "| classifier, bf16, frozen up to stride 8 | step, ms | frozen layers, ms | share |"
    yield "|---|---|---|---|"
    yield f"| {args.backbone} | {1000 * all_:.0f} | {1000 * part:.0f} | {part / all_:.0%} |"


def together(args: argparse.Namespace, roots: dict[str, Path]) -> Iterator[str]:
    """Training as `wsss classify` and `wsss segment` do it, beside the same steps on a ready batch."""
    way = args.ways[0]
    yield f"| JPEG | training, {args.workers[-1]} workers, {way}, images/s | steps alone | ratio |"
    yield "|---|---|---|---|"
    for name, root in roots.items():
        times = defaultdict(list)
        for _ in range(args.rounds):
            for where in (root, None):
                times[where] += apart(args, way, where)[1:]
        # the mean: of a loader that is too slow most steps are fast
        speed, alone = (args.batch / statistics.mean(times[where]) for where in (root, None))
        yield f"| {name} | {speed:.1f} | {alone:.1f} | {speed / alone:.2f} |"


def _side(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--task", choices=("classifier", "segmenter"), default="classifier")
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--size", type=int, default=448, help="side of the training crops")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, min(8, cores)])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of a step")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="of steps take the CPU's time: on a machine that is not idle, with --threads 1",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--photos", type=_side, nargs="+", default=[(500, 375), (4000, 3000)])
    parser.add_argument("--sources", type=Path, help="photographs to scale; scenes are drawn otherwise")
    parser.add_argument("--count", type=int, default=16, help="photographs of each size")
    parser.add_argument("--ways", nargs="+", default=WAYS)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each loader")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if unknown := {word for way in args.ways for word in way.split("+")} - WORDS:
        parser.error(f"--ways: {', '.join(sorted(unknown))} is none of {', '.join(sorted(WORDS))}")
    if args.one:
        torch.set_num_threads(args.threads)
        frozen_ = args.one == "frozen"
        print(json.dumps(frozen(args) if frozen_ else fit(args, args.one, args.root)))
        return
    share_cores()  # the processes that train are started as `wsss` starts
    machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    print(
        f"{args.task}, {args.backbone}, {args.size} px, batch {args.batch}; {machine}, {cores} cores, "
        f"{args.threads} threads{', CPU time of steps' if args.cpu_time else ''}; "
        f"torch {torch.__version__}, OpenCV {cv2.__version__}, Pillow {Image.__version__}"
    )
    cv2.setNumThreads(0)  # as in the loader's processes
    made = {
        "decode": decoding,
        "augment": augmenting,
        "loader": loading,
        "step": stepping,
        "frozen": freezing,
        "together": together,
    }
    with tempfile.TemporaryDirectory() as folder:
        needed = {"decode", "augment", "loader", "together"} & set(args.parts)
        roots = {
            f"{width}x{height}": photographs(args, Path(folder), width, height)
            for width, height in (args.photos if needed else ())
        }
        for part in args.parts:
            print()
            for row in made[part](args, roots):
                print(row, flush=True)


if __name__ == "__main__":
    main()
