"""Relabelling of slots: steps of a regression, number of slots, classes that keep to their areas.

A frozen backbone's features of VOC's photographs are made once and kept; a class head learns from them,
seeds are made from its maps (scales .5, 1 and 1.5, no horizontal flip), and their slots are relabelled
by the project's own functions. Prints the seeds' mIoU against the ground truth at a third of its size,
background .4, in percent, on all images and on both halves of those of 2007.

    python experiments/relabel_areas.py --root VOC2012 --backbone tf_efficientnet_lite2 \\
        --weights tf_efficientnet_lite2.safetensors --work DIR --seed 0
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.data.catalog import Record, read_catalog
from wsss.data.images import read_image
from wsss.data.masks import read_arrays, read_mask, write_arrays
from wsss.evaluation import Evaluator
from wsss.geometry import fit_long_side, resize, resize_scores
from wsss.localize.cam import ClassMaps, seed_maps
from wsss.localize.pseudo_masks import corrected_scores
from wsss.localize.slot_classes import learn_slots, slot_probabilities
from wsss.localize.slots import cluster_slots, sharpen_slots, slot_means
from wsss.models.classifier import TagClassifier, pool_class_map
from wsss.models.fast import fast_layers, kept_memory
from wsss.progress import progress
from wsss.settings import PseudoMaskSettings, SlotLabelSettings

SCALES = (0.5, 1.0, 1.5)
EPOCHS, BATCH, RATE, MOSAICS = 12, 16, 2e-3, 0.5
SETTINGS = PseudoMaskSettings()


@torch.inference_mode()
def keep_features(args: argparse.Namespace, records: Sequence[Record]) -> None:
    """Write deepest features at each scale, middle ones and, of a GLNet, dispatch maps at scale 1."""
    network = fast_layers(TagClassifier(args.backbone, 1, weights=args.weights)).eval()
    own = hasattr(network.backbone, "forward_slots")
    for record in progress(records, "features"):
        file = args.work / f"{record.id}.npz"
        if file.is_file():
            continue
        image = read_image(record.image)
        image = resize(image, *fit_long_side(*image.shape[:2], 448, multiple=32))
        whole = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        found = {}
        for scale in SCALES:
            shape = [round(side * scale / 32) * 32 for side in image.shape[:2]]
            x = F.interpolate(whole, shape, mode="bilinear", antialias=scale < 1)
            x = network.normalised(x)
            if scale == 1 and own:
                out = network.backbone.forward_slots(x)
                deepest = max(block.stage for block in out.maps)
                final, middle = out.features, out.intermediates[deepest]
                blocks = [block for block in out.maps if block.stage == deepest]
                found |= {f"{b.stage}.{b.block}": b.dispatch[0].numpy() for b in blocks}
            else:
                final, middle = network._features(x)
            found[f"scale {scale}"] = final[0].numpy()
            if scale == 1:
                found["middle"] = middle[0].numpy()
        write_arrays(file, **found)


def tags_of(records: Sequence[Record], count: int) -> Tensor:
    """(I, N) multi-hot."""
    tags = torch.zeros(len(records), count)
    for index, record in enumerate(records):
        tags[index, list(record.tags)] = 1
    return tags


def learn_head(
    args: argparse.Namespace, records: Sequence[Record], count: int
) -> tuple[Tensor, Tensor]:
    """Weights (N, C) and biases (N,) of a class head: crops at scale 1, quadrants at scale .5."""
    random = np.random.default_rng(args.seed)
    tags = tags_of(records, count)
    kept = [read_arrays(args.work / f"{r.id}.npz") for r in progress(records, "read features")]
    near = [torch.from_numpy(one["scale 1.0"]) for one in kept]
    far = [torch.from_numpy(one["scale 0.5"]) for one in kept]
    unit = torch.stack([one.flatten(1).std(1).mean() for one in near[:100]]).mean()
    torch.manual_seed(args.seed)
    weight = (0.01 * torch.randn(count, len(near[0]))).requires_grad_()
    bias = torch.full((count,), 1.5 / count).logit().requires_grad_()
    parameters = [{"params": [weight], "weight_decay": 0.01}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(parameters, lr=RATE)
    each = len(records) // BATCH
    for step in progress(range(EPOCHS * each), f"head, random seed {args.seed}", "steps"):
        if step % each == 0:
            order = random.permutation(len(records))
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / (EPOCHS * each)) ** 0.9
        small, logits = random.random() < MOSAICS, []
        chosen = order[step % each * BATCH :][:BATCH]
        for index in chosen:
            features = far[index] if small else near[index]
            if not small and random.random() < 0.7:
                rows, columns = features.shape[1:]
                share = random.uniform(0.4, 1) ** 0.5
                height, width = (max(8, int(side * share)) for side in (rows, columns))
                y, x = random.integers(rows - height + 1), random.integers(columns - width + 1)
                features = features[:, y : y + height, x : x + width]
            logits.append(pool_class_map(class_map(features, weight / unit)[None])[0])
        loss = F.binary_cross_entropy_with_logits(torch.stack(logits) + bias, tags[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (weight / unit).detach(), bias.detach()


def class_map(features: Tensor, weight: Tensor) -> Tensor:
    """(C, h, w) to (N, h, w)."""
    return torch.einsum("nc,chw->nhw", weight, features)


def seed_of(
    record: Record,
    arrays: dict[str, np.ndarray],
    weight: Tensor,
    bias: Tensor,
    args: argparse.Namespace,
) -> dict[str, Tensor]:
    """Scores (n, h, w) of an image's tags, dispatch maps (K, h, w), what describes the slots (K, C)."""
    kept = {name: torch.from_numpy(array) for name, array in arrays.items()}
    size, middle, cam = kept["scale 1.0"].shape[1:], kept["middle"][None], 0.0
    for scale in SCALES:
        one = class_map(kept[f"scale {scale}"], weight) + bias[:, None, None]
        cam = cam + F.interpolate(one.sigmoid()[None], size, mode="bilinear") / len(SCALES)
    if args.slots == "features":
        dispatch = cluster_slots(middle, (args.grid, args.grid)).dispatch
    else:
        dispatch = sharpen_slots(kept[args.slots][None], args.sharpen)
    scores = seed_maps(ClassMaps(cam, cam, dispatch), SETTINGS)[0, list(record.tags)]
    return {"scores": scores, "dispatch": dispatch[0], "slots": slot_means(middle, dispatch)[0]}


def relabelled(
    records: Sequence[Record], seeds: Sequence[dict[str, Tensor]], count: int, steps: int, factors: bool
) -> list[np.ndarray]:
    """Corrected scores of every image."""
    names, labels = [r.id for r in records], [[t + 1 for t in r.tags] for r in records]
    floor = SETTINGS.background
    taught = learn_slots(
        names,
        torch.stack([seed["slots"] for seed in seeds]),
        torch.stack([seed["dispatch"].mean((1, 2)) for seed in seeds]),
        [slot_probabilities(seed["scores"], seed["dispatch"], floor) for seed in seeds],
        labels,
        count + 1,
        replace(SlotLabelSettings(), steps=steps),
        lambda rounds: progress(rounds, f"learn slots, {steps} steps", "rounds"),
    )
    if not factors:
        taught = taught._replace(factors=np.ones_like(taught.factors))
    found = []
    for name, tags, seed in zip(names, labels, seeds, strict=True):
        asked = taught.without(name).probabilities(seed["slots"].numpy(), tags)
        scores, dispatch = seed["scores"].numpy(), seed["dispatch"].numpy()
        found.append(corrected_scores(scores, dispatch, asked, floor))
    return found


def judge(
    records: Sequence[Record],
    masks: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    classes: list[str],
) -> dict[str, float]:
    """mIoU in percent of all images, and of the halves of those of 2007."""
    early = [index for index, record in enumerate(records) if record.id.startswith("2007_")]
    parts = {"all": range(len(records)), "A": early[::2], "B": early[1::2]}
    found = {}
    for name, part in parts.items():
        evaluator = Evaluator(classes)
        for index in part:
            truth = masks[index]
            one = resize_scores(np.asarray(scores[index], np.float32), *truth.shape)
            floor = np.full((1, *truth.shape), SETTINGS.background, np.float32)
            labels = np.array([0, *(tag + 1 for tag in records[index].tags)], np.uint8)
            guess = labels[np.concatenate([floor, one]).argmax(0)]
            evaluator.update(torch.from_numpy(guess), torch.from_numpy(truth))
        found[name] = round(evaluator.compute().miou, 1)
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="VOC's folder")
    parser.add_argument("--split", default="train")
    parser.add_argument("--backbone", default="tf_efficientnet_lite2", help="a timm model")
    parser.add_argument("--weights", help="its weight file")
    parser.add_argument("--slots", default="features", help="or a GLMix block, for example 2.2")
    parser.add_argument(
        "--grid", type=int, default=SETTINGS.slot_grid, help="that clustering starts from"
    )
    parser.add_argument(
        "--sharpen", type=float, default=SETTINGS.sharpen, help="power of a block's probabilities"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for features and the table")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the head")
    parser.add_argument("--steps", type=int, nargs="+", default=[150, 300, 600])
    args = parser.parse_args(words)
    catalog = read_catalog("voc", args.root, args.split)
    records, classes = catalog.records, catalog.classes
    args.work.mkdir(parents=True, exist_ok=True)
    with kept_memory():
        keep_features(args, records)
    weight, bias = learn_head(args, records, len(classes))
    kept = (read_arrays(args.work / f"{record.id}.npz") for record in records)
    seeds = [
        seed_of(record, one, weight, bias, args) for record, one in zip(records, kept, strict=True)
    ]
    masks = [read_mask(record.mask)[1::3, 1::3] for record in records]
    rows = [{"steps": "", "factors": ""} | judge(records, masks, [s["scores"] for s in seeds], classes)]
    print(rows[-1], flush=True)
    for steps in args.steps:
        for factors in (False, True):
            scores = relabelled(records, seeds, len(classes), steps, factors)
            row = {"steps": steps, "factors": factors} | judge(records, masks, scores, classes)
            rows.append(row)
            print(row, flush=True)
    name = f"{args.backbone}, {args.slots}, grid {args.grid}, random seed {args.seed}.csv"
    with (args.work / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
