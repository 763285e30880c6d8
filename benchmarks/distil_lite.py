"""How the weights of glnet_lite are made: GLMix blocks learn slots inside EfficientNet-Lite2.

The layers up to stride 16 are EfficientNet-Lite2's and stay. They look once at every photograph, and
what they give is kept. The GLMix blocks behind them, which change nothing at first, learn two things:

- Their dispatch maps are to be a good soft clustering of those features: of the mixture that
  `wsss.localize.slots.cluster_slots` fits in several steps of expectation-maximisation, they minimise
  the free energy, in one pass (`free_energy`).
- The deepest features stay what EfficientNet-Lite2 has there. The layers after the GLMix blocks learn
  with them, slowly, to take what they add.

Photographs alone are used, no tags and no masks.

    python benchmarks/distil_lite.py --photographs VOC2012/JPEGImages MORE --unseen val.txt \\
        --weights tf_efficientnet_lite2.safetensors --work DIR --out glnet_lite.safetensors

Run the same command again after a break. `DIR/log.csv` tells, on photographs of `--unseen`, the share
of the deepest features' variance that was changed, and the free energy of each block's slots, in nats;
`cluster_slots` of the same features in 1, 2, 3 and 10 steps stands in its first row.
"""

import argparse
import copy
import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from distil import precision, seen_and_unseen, view
from safetensors.torch import save_file
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.files import write_atomic
from wsss.localize.slots import cluster_slots
from wsss.models.backbone import build_backbone
from wsss.models.classifier import TagClassifier
from wsss.models.fast import autocast, fast_layers, kept_memory
from wsss.models.glnet import GLMixBlock
from wsss.models.glnet_lite import MIXED
from wsss.progress import progress
from wsss.tasks.optim import freeze_norm

CROPS = (15, 20)
"""Sides of the crops, in positions of stride 16, in turns."""
BATCH = 16
TEMPERATURE = 0.1
"""Of the mixture, as in `cluster_slots`."""
RATES = (1e-3, 1e-4)
"""Of the GLMix blocks and of the layers after them."""
WARMUP = 50
KEPT_EVERY = 100  # steps
CLUSTERINGS = (1, 2, 3, 10)


class Late(nn.Module):
    """The layers after stride 16 of a network, for kept features (B, C, h, w)."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        mixing = [block for block in backbone.blocks[MIXED] if isinstance(block, GLMixBlock)]
        self.mixing = nn.ModuleList(mixing)
        self.rest = nn.Sequential(*backbone.blocks[MIXED + 1 :], backbone.conv_head, backbone.bn2)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Deepest features (B, 1280, h, w), and the dispatch maps (B, K, h w) of each GLMix block."""
        maps = []
        for block in self.mixing:
            x, dispatch, *_ = block.mix(x)
            maps.append(dispatch)
        return self.rest(x), maps


def free_energy(dispatch: Tensor, features: Tensor) -> Tensor:
    """Of a mixture of von Mises-Fisher distributions, in nats for each position, without constants.

    With z the features scaled to unit length, D the dispatch maps and s_k the directions of the slots'
    means D z: the mean over the positions of ``sum_k D_k (log D_k - s_k . z / TEMPERATURE)``. Steps of
    expectation-maximisation lower it (Neal and Hinton, 1998).

    Args:
        dispatch: (B, K, N), summing to 1 over K.
        features: (B, C, N).
    """
    z = F.normalize(features, dim=1)
    slots = F.normalize(dispatch @ z.transpose(1, 2), dim=2)  # B K C
    likeness = slots @ z / TEMPERATURE
    return (dispatch * (dispatch.clamp_min(1e-6).log() - likeness)).sum(1).mean()


@torch.inference_mode()
def keep(classifier: TagClassifier, paths: Sequence[Path], to: Path) -> list[Path]:
    """Files with the features (C, h, w) float16 of stride 16 of each photograph."""
    to.mkdir(parents=True, exist_ok=True)
    files = [to / f"{index:06}.npy" for index in range(len(paths))]
    missing = [index for index, file in enumerate(files) if not file.is_file()]
    backbone = classifier.backbone
    last = [block for block in backbone.blocks[MIXED] if not isinstance(block, GLMixBlock)]
    early = nn.Sequential(backbone.conv_stem, backbone.bn1, *backbone.blocks[:MIXED], *last)
    for index in progress(missing, f"{to.name}: features"):
        image = torch.from_numpy(view(paths[index], index)).permute(2, 0, 1)[None].float()
        with autocast(precision(), "cpu"):
            features = early((image - classifier.mean) / classifier.std)
        array = features[0].half().numpy()
        write_atomic(files[index], lambda aside, array=array: _save(aside, array))
    return files


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def crops(files: Sequence[Path], steps: range) -> Iterator[Tensor]:
    """Batches (16, C, n, n) float32; step n's is the same wherever the training was taken up."""
    for step in steps:
        random = np.random.default_rng([1, step])
        side = CROPS[step % len(CROPS)]
        found: list[np.ndarray] = []
        while len(found) < BATCH:
            kept = np.load(files[random.integers(len(files))], mmap_mode="r")
            if min(kept.shape[1:]) < side:
                continue
            y, x = (random.integers(have - side + 1) for have in kept.shape[1:])
            crop = kept[:, y : y + side, x : x + side].astype(np.float32)
            found.append(crop[..., ::-1] if random.random() < 0.5 else crop)
        yield torch.from_numpy(np.stack(found)).to(memory_format=torch.channels_last)


def errors(late: Late, before: Late, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Squared change of the deepest features, and the free energies of the blocks' slots."""
    with autocast(precision(), "cpu"):
        with torch.no_grad():
            wanted, _ = before(x)
        found, maps = late(x)
    change = (found.float() - wanted.float()).square().sum(1).mean()
    return change, [free_energy(dispatch.float(), x.flatten(2)) for dispatch in maps]


@torch.no_grad()
def judge(late: Late, before: Late, files: Sequence[Path], variance: float) -> dict[str, float]:
    """Means over whole photographs."""
    late.eval()
    rows = []
    for file in files:
        change, energies = errors(late, before, torch.from_numpy(np.load(file)).float()[None])
        rows.append([100 * float(change) / variance, *map(float, energies)])
    names = ["changed, percent", *(f"block {number}" for number in range(len(late.mixing)))]
    return dict(zip(names, np.mean(rows, 0).round(4).tolist(), strict=True))


@torch.no_grad()
def look(before: Late, files: Sequence[Path]) -> tuple[float, dict[str, float]]:
    """Variance of the deepest features, and the free energies of `cluster_slots`."""
    finals, energies = [], []
    for file in files:
        x = torch.from_numpy(np.load(file)).float()[None]
        finals.append(before(x)[0][0].flatten(1))
        found = [cluster_slots(x, steps=steps).dispatch.flatten(2) for steps in CLUSTERINGS]
        energies.append([float(free_energy(dispatch, x.flatten(2))) for dispatch in found])
    variance = torch.stack([final.var(1, correction=0).sum() for final in finals]).mean()
    names = [f"clustering, {steps} steps" for steps in CLUSTERINGS]
    return float(variance), dict(zip(names, np.mean(energies, 0).round(4).tolist(), strict=True))


def train(
    late: Late, before: Late, seen: Sequence[Path], unseen: Sequence[Path], args: argparse.Namespace
) -> None:
    """Train to the last step, from the last state that was kept."""
    tuned, mixing = list(late.rest.parameters()), list(late.mixing.parameters())
    groups = [
        {"params": tuned, "weight_decay": 0.0, "peak": RATES[1]},
        {"params": [p for p in mixing if p.ndim >= 2], "weight_decay": 0.05, "peak": RATES[0]},
        {"params": [p for p in mixing if p.ndim < 2], "weight_decay": 0.0, "peak": RATES[0]},
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)
    state_file, log, first = args.work / "state.pt", args.work / "log.csv", 0
    variance, clusterings = look(before, unseen)
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        if state["steps"] != args.steps:
            raise UserError(
                f"{state_file} is of a training of {state['steps']} steps, not {args.steps}: give the "
                "same --steps, or another --work"
            )
        late.load_state_dict(state["late"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    else:
        _log(log, {"step": 0} | judge(late, before, unseen, variance) | clusterings, fresh=True)
    steps = range(first, args.steps)
    for step, x in enumerate(progress(crops(seen, steps), "distil", "steps", len(steps)), first):
        rate = min((step + 1) / WARMUP, 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        late.train()
        freeze_norm(late, every=True)  # ImageNet's statistics stay
        change, energies = errors(late, before, x)
        loss = change / variance + sum(energies) / len(energies)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*tuned, *mixing], 1.0)
        optimizer.step()
        done = step + 1
        if done % KEPT_EVERY == 0 or done == args.steps:
            _log(log, {"step": done} | judge(late, before, unseen, variance) | clusterings)
            state = {"late": late.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"step": done, "steps": args.steps}
            write_atomic(state_file, lambda aside, state=state: torch.save(state, aside))


def _log(path: Path, row: dict[str, float], fresh: bool = False) -> None:
    with path.open("w" if fresh else "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def main(words: Sequence[str] | None = None) -> None:
    """Keep the features, train on them, write the weights as float16."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, nargs="+", required=True, help="folders")
    parser.add_argument("--unseen", type=Path, required=True, help="list of names to test on")
    parser.add_argument("--weights", required=True, help="weight file of tf_efficientnet_lite2")
    parser.add_argument("--work", type=Path, required=True, help="folder for features and states")
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args(words)
    torch.manual_seed(0)
    paths = seen_and_unseen(args.photographs, args.unseen)
    classifier = fast_layers(TagClassifier("glnet_lite", 1)).eval()
    backbone = classifier.backbone
    start = build_backbone("tf_efficientnet_lite2", weights=args.weights).state_dict()
    backbone.load_state_dict(start, strict=False)  # the GLMix blocks are not among them
    args.work.mkdir(parents=True, exist_ok=True)
    with kept_memory():
        seen = keep(classifier, paths["seen"], args.work / "seen")
        unseen = keep(classifier, paths["unseen"][:160:4], args.work / "unseen")
        late = Late(backbone)
        train(late, copy.deepcopy(late).eval().requires_grad_(False), seen, unseen, args)
    state = {k: v.half() if v.is_floating_point() else v for k, v in backbone.state_dict().items()}
    state = {k: v.contiguous() for k, v in state.items()}
    write_atomic(args.out, lambda aside: save_file(state, aside))


if __name__ == "__main__":
    main()
