"""Whether time and memory stay flat from a hundred images to a hundred thousand.

    python benchmarks/scale.py --out OUT                                  # 100, 1,000 and 10,000 images
    python benchmarks/scale.py --out OUT --images 100 1000 10000 100000

For each number of images a fresh process makes masks of a VOC data set of so many links to the same few
drawn images: class maps by `glnet_nano`, seeds, slots that learn from a sample of them, masks with the
CRF, and their measurement. OUT/scale.md and OUT/scale.png tell images a second of each step, beside it
the CPU time of an image, which other programs on the machine change less, and the largest memory of the
process itself, of those that make masks, and what those that load images do not share with it. What was
measured before with the same settings stays. Linux only: memory is read in /proc.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SCENES = 32
"""Drawn images that all others are links to."""

STEPS = {"catalog": "read catalog", "seeds": "seeds", "masks": "masks", "judged": "measure masks"}
"""Steps whose time goes with the number of images, and what each is called."""

PROCESSES = {"main": "main", "masks": "one for masks", "loader": "one for images, its own"}
"""Kinds of processes, and what each is called."""

HOW = ("size", "loaders", "workers", "steps")
"""Settings that rows of one table share."""

MIB = 2**20


def link_dataset(root: Path, count: int, size: int) -> None:
    """A data set in VOC's layout of `count` images, links to `SCENES` drawn ones."""
    from wsss.data.synthetic import draw_dataset

    scenes = root / "scenes"
    draw_dataset(scenes, train=SCENES, val=1, size=size)
    listing = Path("ImageSets") / "Segmentation" / "train.txt"
    scene_names = (scenes / listing).read_text().split()
    folders = {"JPEGImages": ".jpg", "Annotations": ".xml", "SegmentationClass": ".png"}
    names = [f"{index:07d}" for index in range(count)]
    for folder, suffix in folders.items():
        (root / folder).mkdir()
        for index, name in enumerate(names):
            scene = scene_names[index % SCENES]
            (root / folder / f"{name}{suffix}").symlink_to(scenes / folder / f"{scene}{suffix}")
    (root / listing).parent.mkdir(parents=True)
    (root / listing).write_text("\n".join(names) + "\n")
    shutil.copy(scenes / "classes.txt", root)


def make(root: Path, out: Path, size: int, loaders: int, workers: int, steps: int) -> dict[str, float]:
    """The chain from images to measured masks; returns seconds of each step and MiB of the process."""
    from wsss.machine import share_cores

    share_cores()  # as the program does
    import torch

    from wsss.data.modules import TagData
    from wsss.data.synthetic import SYNTHETIC_CLASSES
    from wsss.run_folder import StageFolder
    from wsss.settings import PseudoMaskSettings
    from wsss.stages.masks import learn_slot_classes, make_pseudo_masks, make_seeds
    from wsss.stages.quality import judge_masks, judge_seed
    from wsss.tasks.classification import ClassificationTask
    from wsss.tasks.trainer import Trainer

    torch.manual_seed(0)
    task = ClassificationTask(list(SYNTHETIC_CLASSES), "glnet_nano", pretrained=True).eval()
    data = TagData(str(root), predict_split="train", size=size, num_workers=loaders)
    settings = PseudoMaskSettings((1.0,), flip=False, steps=steps)
    stage = StageFolder(out)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        start, used = time.perf_counter(), sum(os.times()[:4])
        yield
        seconds[step] = time.perf_counter() - start
        seconds[f"{step} CPU"] = sum(os.times()[:4]) - used  # of processes that ended, too
        print(f"{step}: {seconds[step]:.1f} s, peak {peak(os.getpid()) / MIB:.0f} MiB", flush=True)

    with timed("catalog"):
        catalog = data.catalog("train")
    with timed("seeds"):
        make_seeds(task, data, settings, stage, trainer)
    with timed("learn"):
        learn_slot_classes(catalog, settings.for_images(len(catalog.records)), stage)
    with timed("masks"):
        make_pseudo_masks(task, data, settings, stage.masks, trainer, workers)
    with timed("judged"):
        records, _ = judge_masks(stage, catalog)
        judge_seed(stage, records, len(catalog.classes) + 1, settings.background)
    return seconds | {"main MiB": peak(os.getpid()) / MIB}


def peak(process: int) -> int:
    """Largest memory of a process so far, in bytes; 0 where it is gone."""
    return _field(Path(f"/proc/{process}/status"), "VmHWM:")


def own(process: int) -> int:
    """Memory that a process shares with no other, in bytes; 0 where it is gone."""
    return _field(Path(f"/proc/{process}/smaps_rollup"), "Private_Dirty:")


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def _children(process: int) -> list[int]:
    try:
        children = Path(f"/proc/{process}/task").glob("*/children")
        return [int(word) for path in children for word in path.read_text().split()]
    except OSError:
        return []


def watch(process: int, most: dict[str, int], ended: Callable[[], bool]) -> None:
    """Note the largest memory of the processes that a process starts, by `PROCESSES`."""
    while not ended():
        for child in _children(process):
            try:
                line = Path(f"/proc/{child}/cmdline").read_bytes()
            except OSError:
                continue
            if b"spawn_main" in line:
                most["masks"] = max(most["masks"], peak(child))
            elif b"--measure" in line:  # forked
                size = own(child)
                if peak(process):  # what the main process leaves at its end counts as the other's own
                    most["loader"] = max(most["loader"], size)
        time.sleep(0.1)


def measure(count: int, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of each step and MiB of each kind of process for so many images."""
    place = args.out / "data"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    link_dataset(place / "root", count, args.size)
    command = [sys.executable, __file__, "--measure", str(place), "--out", str(args.out)]
    command += [f"--{name}={getattr(args, name)}" for name in HOW]
    process = subprocess.Popen(command)
    most = {"masks": 0, "loader": 0}
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(process.pid, most, ended.is_set))
    watcher.start()
    try:
        if process.wait():
            raise SystemExit(f"{count} images: broken off")
    finally:
        ended.set()
        watcher.join()
    row = json.loads((place / "row.json").read_text())
    shutil.rmtree(place)
    return row | {f"{kind} MiB": size / MIB for kind, size in most.items()}


def write_table(out: Path, rows: dict[str, dict[str, float]]) -> None:
    """Write OUT/scale.md and OUT/scale.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    numbers = sorted(map(int, rows))
    rates = {step: [count / rows[str(count)][step] for count in numbers] for step in STEPS}
    memory = {kind: [rows[str(count)][f"{kind} MiB"] for count in numbers] for kind in PROCESSES}
    head = ["images", *(f"{name}, images/s (CPU ms)" for name in STEPS.values()), "learn slots, s"]
    head += [f"{name}, MiB" for name in PROCESSES.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for index, count in enumerate(numbers):
        used = [1000 * rows[str(count)][f"{step} CPU"] / count for step in STEPS]
        cells = [f"{count:,}"]
        cells += [f"{rates[s][index]:.0f} ({ms:.1f})" for s, ms in zip(STEPS, used, strict=True)]
        cells += [f"{rows[str(count)]['learn']:.1f}"]
        cells += [f"{memory[kind][index]:.0f}" for kind in PROCESSES]
        lines.append("| " + " | ".join(cells) + " |")
    (out / "scale.md").write_text("\n".join(lines) + "\n")
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for one, values, names, label in (
        (axes[0], rates, STEPS, "images a second"),
        (axes[1], memory, PROCESSES, "peak memory of a process, MiB"),
    ):
        for key, name in names.items():
            one.plot(numbers, values[key], "o-", label=name)
        one.set(xscale="log", xlabel="images", ylabel=label)
        one.legend(fontsize="small")
    axes[0].set_yscale("log")
    axes[1].set_ylim(bottom=0)
    figure.savefig(out / "scale.png", dpi=100)
    plt.close(figure)


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet, and write table and plot."""
    from wsss.locks import locked

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of table and plot")
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--loaders", type=int, default=1, help="processes that load images")
    parser.add_argument("--workers", type=int, default=1, help="processes that make masks")
    parser.add_argument("--steps", type=int, default=600, help="steps in which slots are learned")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # in the fresh process
    args = parser.parse_args(words)
    args.out = args.out.resolve()
    how = {name: getattr(args, name) for name in HOW}
    if args.measure:
        row = make(args.measure / "root", args.measure / "made", **how)
        (args.measure / "row.json").write_text(json.dumps(row))
        return
    with locked(args.out, "a measurement"):
        measure_all(args, how)


def measure_all(args: argparse.Namespace, how: dict[str, int]) -> None:
    """Measure all numbers of images that are not measured yet."""
    kept, rows = args.out / "scale.json", {}
    if kept.is_file():
        before = json.loads(kept.read_text())
        if before["how"] != how:
            raise SystemExit(f"{kept} was measured with other settings: give another --out")
        rows = before["rows"]
    for count in args.images:
        if str(count) not in rows:
            rows[str(count)] = measure(count, args)
            kept.write_text(json.dumps({"how": how, "rows": rows}, indent=1) + "\n")
        write_table(args.out, rows)
    print((args.out / "scale.md").read_text())


if __name__ == "__main__":
    main()
