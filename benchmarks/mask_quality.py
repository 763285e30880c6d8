"""Quality of seeds and pseudo-masks: what each step gives, beside controls, from one configuration.

Tags are given, masks only measure. Every row has its own background score, the best of those in
the configuration on every second image (A); `miou` is of the images in between (B), so nothing is
chosen on it. Beside it stand B's mIoU at the recipe's background (`fixed`) and at the best one for B
(`best`, which uses ground truth). Every row is measured without and with the CRF. The classifiers of
the configuration are trained where they are not there yet; every row is written when it is known, and
the same command goes on after a break.

    python benchmarks/mask_quality.py --root DATA --weights mobilenetv2_100.safetensors --out OUT
    python benchmarks/mask_quality.py --root DATA --run runs/voc-mobilenetv2 --out OUT

With `--run`, the first classifier is that of the run, and the run's first segmenter gives the rows of
the second round; further runs of the same classifier with other seeds (`slots: none`) add theirs.
Superpixels need scikit-image (`pip install scikit-image`).
"""

import argparse
import json
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from wsss.data.catalog import read_catalog
from wsss.data.images import read_image
from wsss.data.masks import read_mask
from wsss.evaluation import Evaluator
from wsss.files import write_text
from wsss.geometry import fit_long_side, fit_within, resize
from wsss.lightning_cli import run_task
from wsss.localize.cam import ClassMaps, class_maps, normalise_maps, seed_maps
from wsss.localize.pseudo_masks import corrected_scores, pseudo_mask, refined_mask
from wsss.localize.slot_classes import learn_slots, slot_probabilities
from wsss.localize.slots import cluster_slots, foreground_prior, propagate, slot_means
from wsss.models.classifier import TagClassifier
from wsss.models.segmenter import predict_probabilities
from wsss.progress import progress
from wsss.run_folder import RunFolder
from wsss.settings import ClassMapSettings, CRFSettings, PseudoMaskSettings, SeedSettings
from wsss.stages.masks import JOIN_SIDE
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask
from wsss.voc import VOID


def blur(cam: Tensor) -> Tensor:
    """Control: a 5x5 average, which knows no image."""
    return F.avg_pool2d(cam, 5, stride=1, padding=2, count_include_pad=False)


def superpixels(cam: Tensor, image: np.ndarray) -> Tensor:
    """Control: average the maps (1, N, h, w) over 64 SLIC superpixels of the image."""
    from skimage.segmentation import slic  # for this control only

    size = cam.shape[-2:]
    small = cv2.resize(image, (size[1] * 4, size[0] * 4), interpolation=cv2.INTER_AREA)
    groups = torch.from_numpy(slic(small, n_segments=64, start_label=0)).long().to(cam.device)
    dispatch = F.one_hot(groups).permute(2, 0, 1)[None].float()
    return propagate(cam, F.interpolate(dispatch, size, mode="area"), 1)


def dense_affinity(cam: Tensor, features: Tensor, temperature: float = 0.1) -> Tensor:
    """Control: two averages over all pixels, weighted by the similarity of their features."""
    features = F.interpolate(features, cam.shape[-2:], mode="bilinear", align_corners=False)
    z = F.normalize(features.flatten(2), dim=1)
    weights = ((z.transpose(1, 2) @ z) / temperature).softmax(2)  # 1 HW HW, rows sum to 1
    flat = cam.flatten(2).transpose(1, 2)
    return (weights @ (weights @ flat)).transpose(1, 2).reshape(cam.shape)


def dense_prior(own: Tensor, features: Tensor, temperature: float = 0.2) -> Tensor:
    """Control: normalised class maps times a `foreground_prior` of pixels instead of slots."""
    features = F.interpolate(features, own.shape[-2:], mode="bilinear", align_corners=False)
    z = F.normalize(features.flatten(2), dim=1)
    alike = ((z.transpose(1, 2) @ z - 1) / temperature).exp()  # 1 HW HW
    border = own.new_zeros(own.shape[-2:])
    for side in (border[0], border[-1], border[:, 0], border[:, -1]):
        side += 1
    length = ((1 - own) * border).flatten(2) @ alike
    return own * (-length.square() / (2 * alike.sum(1, keepdim=True))).exp().reshape(own.shape)


def centre(cam: Tensor) -> Tensor:
    """Control: the same bump in the middle of every image for every tag."""
    y, x = (torch.linspace(-1, 1, side, device=cam.device) for side in cam.shape[-2:])
    return (-2 * (y[:, None] ** 2 + x**2)).exp().expand_as(cam).contiguous()


def boundary_hits(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Boundary pixels matched within 0.75 % of the diagonal (Perazzi et al., CVPR 2016).

    Args:
        prediction: (H, W) uint8 labels, 255 is void.
        target: (H, W) uint8 ground truth, 255 is void; boundaries inside void are not counted.

    Returns:
        Matched predicted, predicted, matched ground-truth and ground-truth boundary pixels, (4,) int64.
    """
    known = target != VOID
    # VOC draws void along every outline: the edge of the ground truth is the object's rim there
    inside = known & (target > 0)
    edges = []
    for mask in ((prediction != VOID) & (prediction > 0), inside):
        mask = mask.astype(np.uint8)
        edges.append((mask - cv2.erode(mask, np.ones((3, 3), np.uint8))).astype(bool))
    reach = max(1, round(0.0075 * float(np.hypot(*target.shape))))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    near = [cv2.dilate(edge.astype(np.uint8), disk).astype(bool) for edge in edges]
    void = ~cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    guess = edges[0] & ~(void & ~near[1])
    hits = [guess & near[1], guess, edges[1] & near[0], edges[1]]
    return np.array([int(hit.sum()) for hit in hits])


class Quality:
    """Evaluator plus precision, recall and boundary F of the foreground, whatever its classes."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.scores, self.boundary, self.area = Evaluator(classes), np.zeros(4), np.zeros(3)

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Add one image, (H, W) uint8 labels each."""
        self.scores.update(torch.from_numpy(prediction), torch.from_numpy(target))
        self.boundary += boundary_hits(prediction, target)
        known = (target != VOID) & (prediction != VOID)
        guess, real = (prediction > 0) & known, (target > 0) & known
        self.area += [(guess & real).sum(), guess.sum(), real.sum()]

    def compute(self) -> dict:
        """All numbers in percent."""
        hit, guess, real = self.area
        matched, predicted, found, true = self.boundary
        precision, recall = matched / max(predicted, 1), found / max(true, 1)
        return {
            **self.scores.compute().to_dict(),
            "fg_precision": 100 * hit / max(guess, 1),
            "fg_recall": 100 * hit / max(real, 1),
            "fg_boundary_f": 200 * precision * recall / max(precision + recall, 1e-9),
        }


Job = tuple
"""A function that makes a mask and its arguments, for another process."""

LEARNED = "learned slots"
"""The seed corrected by what the slots of the other images of the split teach."""

OF_SLOTS = (
    LEARNED,
    "slots",
    "prior",
    "slots x own",
    "slots x own x prior",
    "unsharpened x own x prior",
)
"""Seeds whose slots are clustered, unless the network has its own."""

CRFS = {"": None, " + CRF": CRFSettings()}

TIMED = 20
"""Masks made in this process to time them."""


class Images:
    """Photographs with their ground truth, and their scores under every seed of the configuration."""

    def __init__(self, root: str, config: dict, limit: int | None, pool: Executor) -> None:
        self.config, self.pool = config, pool
        catalog = read_catalog("voc", root, config["split"])
        self.classes = catalog.classes
        self.records = [record for record in catalog.records if record.mask is not None][:limit]
        self.images = [read_image(record.image) for record in self.records]
        self.targets = [read_mask(r.mask, len(self.classes) + 1) for r in self.records]
        self.labels = [[tag + 1 for tag in record.tags] for record in self.records]

    @torch.inference_mode()
    def seeds(
        self, checkpoint: Path, names: Sequence[str], kind: str
    ) -> tuple[dict[str, list], dict[str, dict[str, float]]]:
        """Scores (n, h, w) in 0..1 of every image's tags by seed, and its milliseconds an image.

        `kind` is where the slots come from, `features` or `blocks`. The features that are clustered or
        compared are a by-product of the maps, whose time is counted apart.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = ClassificationTask.from_checkpoint(checkpoint).model.to(device)
        found, times = {name: [] for name in names}, defaultdict(float)

        def timed(name: str, step: Callable[[], Tensor], network: bool = False) -> Tensor:
            start = time.perf_counter()
            with torch.autocast(device, torch.bfloat16, enabled=network and half):
                result = step()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name] += 1000 * (time.perf_counter() - start) / len(self.records)
            return result

        half = self.config["precision"] != "32-true"
        dispatches, means, seeds = [], [], []  # for LEARNED
        every = ClassMapSettings(tuple(self.config["scales"]), slots="none")

        def one_pass(x: Tensor, slots: str) -> ClassMaps:
            return class_maps(model, x, ClassMapSettings((1.0,), False, slots))

        for record, image in progress(list(zip(self.records, self.images, strict=True)), "seeds"):
            small = resize(
                image, *fit_long_side(*image.shape[:2], self.config["size"], model.size_multiple)
            )
            x = torch.from_numpy(small).permute(2, 0, 1)[None].float().to(device)
            tags = list(record.tags)
            maps = timed("maps", partial(class_maps, model, x, every), network=True)
            one = timed("one map", partial(one_pass, x, "none"), network=True)
            features = timed("features", partial(model.slot_features, x), network=True).float()
            clustered = timed("clustering", lambda f=features: cluster_slots(f).dispatch)
            dispatch = soft = clustered
            slots = slot_means(features, clustered)
            if kind == "blocks":
                sharp = partial(one_pass, x, "blocks")
                own_slots = timed("blocks", sharp, network=True)
                dispatch, slots = own_slots.dispatch, own_slots.slots
                soft = timed("soft", partial(model, x, slots="blocks"), network=True).dispatch
            maps = maps._replace(cam=maps.cam[:, tags], dispatch=dispatch)
            cam, own = maps.cam, normalise_maps(maps.cam)
            build = {
                "centre": lambda c=cam: centre(c),
                "one scale": lambda o=one, t=tags: o.cam[:, t],
                "no slots": lambda c=cam: c,
                "blur": lambda c=cam: blur(c),
                "superpixels": lambda c=cam, i=image: superpixels(c, i),
                "dense affinity": lambda c=cam, f=features: dense_affinity(c, f),
                "slots": lambda c=cam, d=dispatch: propagate(c, d),
                "dense prior": lambda c=own, f=features: dense_prior(c, f),
                "prior": lambda c=own, d=dispatch: c * foreground_prior(c, d),
                "slots x own": lambda m=maps: seed_maps(m, SeedSettings(border_prior=False)),
                "slots x own x prior": lambda m=maps: seed_maps(m),
                "unsharpened x own x prior": lambda m=maps, d=soft: seed_maps(m._replace(dispatch=d)),
                "feature slots x own x prior": lambda m=maps, d=clustered: seed_maps(
                    m._replace(dispatch=d)
                ),
            }
            for name in names:
                if name == LEARNED:
                    seeds.append(timed(name, lambda m=maps: seed_maps(m).float())[0].cpu())
                    dispatches.append(dispatch[0].cpu())
                    means.append(slots[0].cpu())
                    continue
                scores = timed(name, lambda make=build[name]: normalise_maps(make().float()))
                found[name].append(scores[0].cpu().numpy())
        if LEARNED in names:
            found[LEARNED] = timed(LEARNED, lambda: self._learned(seeds, dispatches, means))
        cost = {}
        for name in names:
            maps_ms = {"centre": 0.0, "one scale": times["one map"]}.get(name, times["maps"])
            clusters = name.startswith("feature") or (kind == "features" and name in OF_SLOTS)
            cost[name] = {
                "maps_ms": maps_ms,
                "seed_ms": times[name] + (times["clustering"] if clusters else 0.0),
            }
        return found, cost

    def _learned(
        self, seeds: list[Tensor], dispatches: list[Tensor], slots: list[Tensor]
    ) -> list[np.ndarray]:
        floor = self.config["background"]
        pairs = list(zip(seeds, dispatches, strict=True))
        names = [record.id for record in self.records]
        taught = learn_slots(
            names,
            torch.stack(slots),
            torch.stack([dispatch.mean((1, 2)) for dispatch in dispatches]),
            [slot_probabilities(seed, dispatch, floor) for seed, dispatch in pairs],
            self.labels,
            len(self.classes) + 1,
        )
        found = []
        for name, own, tags, (seed, dispatch) in zip(names, slots, self.labels, pairs, strict=True):
            q = taught.without(name).probabilities(own.numpy(), tags)
            found.append(corrected_scores(seed.numpy(), dispatch.numpy(), q, floor))
        return found

    @torch.inference_mode()
    def seen(self, checkpoint: Path) -> list[np.ndarray]:
        """A segmenter's probabilities (L, h, w) float16 of every image."""
        task, found = SegmentationTask.from_checkpoint(checkpoint), []
        network, largest = task.model, task.inference.max_side
        for image in progress(self.images, "what the first segmenter sees"):
            small = resize(image, *fit_within(*image.shape[:2], largest))
            x = torch.from_numpy(small).permute(2, 0, 1)[None].float()
            out = predict_probabilities(network, x, self.config["refine_scales"], True)
            shape = fit_within(*small.shape[:2], JOIN_SIDE)
            found.append(F.interpolate(out, shape, mode="area")[0].numpy().astype(np.float16))
        return found

    def first(self, scores: list[np.ndarray], crf: CRFSettings | None, index: int, floor: float) -> Job:
        """The first round's mask of one image with a background score."""
        return pseudo_mask, self.images[index], scores[index], self.labels[index], floor, crf

    def second(
        self,
        scores: list[np.ndarray],
        seen: list[np.ndarray],
        crf: CRFSettings | None,
        index: int,
        floor: float,
    ) -> Job:
        """The second round's mask of one image with a background score."""
        both = scores[index], self.labels[index], seen[index]
        return refined_mask, self.images[index], *both, floor, crf

    def measure(self, job: Callable[[int, float], Job]) -> dict:
        """Choose the background score on every second image (A), measure on the others (B)."""

        def quality(indices: Sequence[int], background: float) -> Quality:
            result = Quality(self.classes)
            masks = [self.pool.submit(*job(index, background)) for index in indices]
            for index, mask in zip(indices, masks, strict=True):
                result.update(mask.result(), self.targets[index])
            return result

        tuning, test = (range(start, len(self.records), 2) for start in (0, 1))
        tried = {b: quality(tuning, b).scores.compute().miou for b in self.config["backgrounds"]}
        background = max(tried, key=tried.get)
        rows = {b: quality(test, b).compute() for b in self.config["backgrounds"]}
        row = rows[background]
        row["fixed"] = rows[self.config["background"]]["miou"]
        row["best"] = max(other["miou"] for other in rows.values())
        start = time.perf_counter()
        for index in test[:TIMED]:
            make, *given = job(index, background)
            make(*given)
        row["mask_ms"] = 1000 * (time.perf_counter() - start) / len(test[:TIMED])
        return row | {"background": background, "miou_A": tried[background]}


def _average(class_map: Tensor) -> Tensor:
    """The mean (CAM; Zhou et al., CVPR 2016)."""
    return class_map.float().mean((2, 3))


def _gwrp(class_map: Tensor) -> Tensor:
    """Global weighted rank pooling, weight 0.996^rank (Kolesnikov & Lampert, ECCV 2016)."""
    values = class_map.float().flatten(2)
    weights = 0.996 ** torch.arange(values.shape[2], device=values.device)
    return (values.sort(2, descending=True).values * weights).sum(2) / weights.sum()


def _lse(class_map: Tensor) -> Tensor:
    """Log of the mean exponential (Pinheiro & Collobert, CVPR 2015, r = 1)."""
    values = class_map.float().flatten(2)
    return values.logsumexp(2) - torch.tensor(float(values.shape[2])).log()


POOLINGS = {"average": _average, "gwrp": _gwrp, "lse": _lse, "top20": TagClassifier.pool}
"""How a class map becomes a logit, in training; wsss has the last of them."""


def train(root: str, weights: str | None, base: Path, change: dict, out: Path) -> Path:
    """Train a classifier of the configuration unless it is there; returns its checkpoint."""
    last = out / "log" / "checkpoints" / "last.ckpt"
    if not (out / "trained").is_file():
        config = yaml.safe_load(base.read_text())
        change = dict(change)
        config["seed_everything"] = change.pop("seed", 0)
        data = config["data"]
        data.setdefault("predict_size", data["size"])  # stays, where training alone has other crops
        data |= {"root": root, "size": change.pop("size", data["size"])}
        pool = staticmethod(POOLINGS[change.pop("pooling", "top20")])
        config["model"] |= ({"weights": weights} if weights else {}) | change
        logger = {"save_dir": str(out), "name": "", "version": "log"}
        config["trainer"] |= {
            "default_root_dir": str(out),
            "logger": {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": logger},
        }
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(yaml.safe_dump(config))
        words = ["fit", "-c", str(out / "config.yaml")]
        words += ["--ckpt_path", str(last)] if last.is_file() else []
        with patch.object(TagClassifier, "pool", pool):
            metrics = run_task("classify", words)
        (out / "trained").write_text(f"{float(metrics.callback_metrics['val_mAP']):.1f}\n")
    return last


COLUMNS = (
    *("miou", "fixed", "best", "miou_A", "background", "void"),
    *("fg_precision", "fg_recall", "fg_boundary_f", "maps_ms", "seed_ms", "mask_ms"),
)


def write_table(path: Path, config: dict, rows: dict[str, dict]) -> None:
    """Write OUT/table.md and OUT/table.json, whole or not at all."""

    def table(columns: Sequence[str], cells: dict[str, dict]) -> list[str]:
        lines = ["| row | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
        for name, row in cells.items():
            values = [row.get(column) for column in columns]
            digits = [2 if column == "background" else 1 for column in columns]
            shown = ["" if v is None else f"{v:.{d}f}" for v, d in zip(values, digits, strict=True)]
            lines.append(f"| {name} | " + " | ".join(shown) + " |")
        return lines

    ious = {name: row["iou"] for name, row in rows.items()}
    lines = [*table(COLUMNS, rows), "", "IoU of each class on B:", ""]
    lines += table(list(next(iter(ious.values()))), ious)
    text = json.dumps({"config": config, "rows": rows}, indent=1)
    write_text(path / "table.json", text + "\n")
    write_text(path / "table.md", "\n".join(lines) + "\n")


def main(words: Sequence[str] | None = None) -> None:
    """Read the configuration, train and measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="a data set in VOC's layout, with masks")
    parser.add_argument("--weights", help="weight file of the backbone")
    parser.add_argument(
        "--run",
        type=Path,
        nargs="+",
        default=[],
        help="folder of a wsss run with the first classifier, and of others with the same",
    )
    parser.add_argument("--config", default=str(Path(__file__).with_suffix(".yaml")))
    parser.add_argument("--out", type=Path, default=Path("mask_quality"), help="folder of the table")
    parser.add_argument("--limit", type=int, help="only that many images")
    args = parser.parse_args(words)
    config = yaml.safe_load(Path(args.config).read_text())
    base = yaml.safe_load((Path(args.config).parent / config["base"]).read_text())
    config["precision"] = base["trainer"].get("precision", "32-true")
    config |= {name: str(getattr(args, name)) for name in ("root", "weights", "limit")}
    config["runs"] = [str(run) for run in args.run]
    if config["background"] not in config["backgrounds"]:
        raise SystemExit(f"{args.config}: background must be one of the backgrounds")
    if "superpixels" in config["seeds"] and find_spec("skimage") is None:  # told before the work
        raise SystemExit(
            f"the row superpixels of {args.config} needs scikit-image: install it, or leave the row out"
        )
    table, rows = args.out / "table.json", {}
    if table.is_file():
        before = json.loads(table.read_text())
        if before["config"] != config:
            raise SystemExit(f"{table} was made with another configuration: give another --out")
        rows = before["rows"]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        measure_rows(args, config, rows, Images(args.root, config, args.limit, pool))
    print((args.out / "table.md").read_text())


def measure_rows(args: argparse.Namespace, config: dict, rows: dict[str, dict], images: Images) -> None:
    """Add the rows that are not there yet."""
    if "all background" not in rows:
        rows["all background"] = images.measure(lambda k, _: (np.zeros_like, images.targets[k]))

    def add(name: str, job: Callable[[int, float], Job], **more: float) -> None:
        if name not in rows:
            rows[name] = images.measure(job) | more
            write_table(args.out, config, rows)
            print(f"{name}: {rows[name]['miou']:.1f}", flush=True)

    for number, (title, change) in enumerate(config["classifiers"].items()):
        own = {key: change[key] for key in ("slots", "seeds") if key in change}
        seeds = own.get("seeds", config["others" if number else "seeds"])
        named = {f"{title}: {seed}{end}": (seed, crf) for seed in seeds for end, crf in CRFS.items()}
        second = {}
        for run in args.run if not number else ():
            seed = run_seed(run)
            for end, crf in CRFS.items():
                second[f"{title}: {seed}, second round{end}"] = (run, seed, crf)
        if not (named.keys() | second.keys()) - rows.keys():
            continue
        if second:
            checkpoint = args.run[0] / "classify" / "last.ckpt"
        else:
            base = Path(args.config).parent / config["base"]
            name = "".join(c if c.isalnum() else "-" for c in title)
            training = {key: value for key, value in change.items() if key not in own}
            checkpoint = train(args.root, args.weights, base, training, args.out / name)
        used = list(dict.fromkeys([*seeds, *(seed for _, seed, _ in second.values())]))
        scores, times = images.seeds(checkpoint, used, own.get("slots", config["slots"]))
        for row, (seed, crf) in named.items():
            add(row, partial(images.first, scores[seed], crf), **times[seed])
        seen = {}
        for row, (run, seed, crf) in second.items():
            if run not in seen:
                seen[run] = images.seen(run / "segment_first" / "last.ckpt")
            add(row, partial(images.second, scores[seed], seen[run], crf))


def run_seed(run: Path) -> str:
    """The row whose seed the pseudo-masks of a run were made from."""
    made = PseudoMaskSettings.from_dict(RunFolder(run)["pseudo_masks"].config["masks"])
    if made.slots == "none":
        return "no slots"
    if made.relabel_slots:
        if not made.border_prior:
            raise SystemExit(f"{run}: no row has learned slots without the border prior")
        return LEARNED
    return "slots x own x prior" if made.border_prior else "slots x own"


if __name__ == "__main__":
    main()
