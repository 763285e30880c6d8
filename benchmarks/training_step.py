"""A training step with the fast layers and without, in alternation: python benchmarks/training_step.py

Processes take turns, so that each begins with an allocator that was told nothing. Prints
milliseconds a step (the median) and the ratio to plain PyTorch layers.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from wsss.models.fast import PhasedConv2d, kept_memory
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.optim import freeze_norm
from wsss.tasks.segmentation import SegmentationTask

CLASSES = [str(number) for number in range(20)]
KINDS = ("plain", "phased", "kept memory", "both")


def steps(task: str, kind: str, count: int) -> list[float]:
    """Milliseconds of `count` steps of configs/voc-mobilenetv2's networks."""
    shared = {"freeze_norm": True, "freeze_stride": 8}
    if task == "classifier":
        network = ClassificationTask(CLASSES, "mobilenetv2_100", **shared).model
        images, target = torch.rand(16, 3, 320, 320) * 255, (torch.rand(16, 20) < 0.1).float()
    else:
        network = SegmentationTask(CLASSES, "DeepLabV3Plus", "mobilenetv2_100", **shared).model
        images, target = torch.rand(8, 3, 320, 320) * 255, torch.randint(21, (8, 320, 320))
    for layer in network.modules():
        if type(layer) is PhasedConv2d and kind in ("plain", "kept memory"):
            layer.__class__ = nn.Conv2d
    network.train()
    freeze_norm(network, every=True)
    times = []
    for _ in range(count + 1):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            out = network(images)
            if task == "classifier":
                loss = F.binary_cross_entropy_with_logits(out.logits, target)
            else:
                loss = F.cross_entropy(out.float(), target)
        loss.backward()
        times.append(1000 * (time.perf_counter() - start))
    return times[1:]


def main() -> None:
    """Take turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        with kept_memory() if args.one[1] in ("kept memory", "both") else nullcontext():
            print(json.dumps(steps(*args.one, args.steps)))
        return
    for task in ("classifier", "segmenter"):
        times = defaultdict(list)
        for _ in range(args.rounds):
            for kind in KINDS:
                words = [sys.executable, __file__, "--one", task, kind, "--steps", str(args.steps)]
                out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
                times[kind] += json.loads(out.splitlines()[-1])
        plain = statistics.median(times["plain"])
        for kind in KINDS:
            middle = statistics.median(times[kind])
            print(f"{task}, {kind}: {middle:.0f} ms, {middle / plain:.2f} of plain")


if __name__ == "__main__":
    main()
