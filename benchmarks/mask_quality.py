"""Quality of seeds and pseudo-masks: what each step gives, beside controls, from one configuration.

Tags are given, masks only measure. Every row has its own background score, the best of those in
the configuration on every second image; what is reported comes from the images in between, so
nothing is chosen on the numbers shown. The classifiers of the configuration are trained where they
are not there yet; every row is written when it is known, and the same command goes on after a break.

    python benchmarks/mask_quality.py --root DATA --weights mobilenetv2_100.safetensors --out OUT
    python benchmarks/mask_quality.py --root DATA --run runs/voc-mobilenetv2 --out OUT

With `--run`, the first classifier is that of the run, and its first segmenter gives the rows of the
second round. Superpixels need scikit-image (`pip install scikit-image`).
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

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from wsss.data.catalog import read_catalog
from wsss.data.datasets import fit_long_side, fit_within, resize
from wsss.data.images import read_image
from wsss.data.masks import read_mask, write_atomic
from wsss.evaluation import Evaluator
from wsss.localize.cam import class_maps, normalise_maps, seed_maps
from wsss.localize.crf import CRFSettings
from wsss.localize.pseudo_masks import pseudo_mask, refined_mask
from wsss.localize.slots import cluster_slots, foreground_prior, propagate
from wsss.progress import progress
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.cli import run_task
from wsss.tasks.segmentation import SegmentationTask, predict_probabilities
from wsss.tasks.writers import JOIN_SIDE
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
    shares = F.one_hot(groups).permute(2, 0, 1)[None].float()
    return propagate(cam, F.interpolate(shares, size, mode="area"), 1)


def dense_affinity(cam: Tensor, features: Tensor, temperature: float = 0.1) -> Tensor:
    """Control: two averages over all pixels, weighted by the similarity of their features."""
    features = F.interpolate(features, cam.shape[-2:], mode="bilinear", align_corners=False)
    z = F.normalize(features.flatten(2), dim=1)
    shares = ((z.transpose(1, 2) @ z) / temperature).softmax(2)  # 1 HW HW, rows sum to 1
    flat = cam.flatten(2).transpose(1, 2)
    return (shares @ (shares @ flat)).transpose(1, 2).reshape(cam.shape)


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


def boundary_hits(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Boundary pixels matched within 0.75 % of the diagonal (Perazzi et al., CVPR 2016).

    Args:
        prediction: (H, W) uint8 labels, 255 is void.
        truth: (H, W) uint8 labels, 255 is void; boundaries inside void are not counted.

    Returns:
        Matched predicted, predicted, matched true and true boundary pixels, (4,) int64.
    """
    known = truth != VOID
    # VOC draws void along every outline: the true edge is the object's rim there
    inside = known & (truth > 0)
    edges = []
    for mask in ((prediction != VOID) & (prediction > 0), inside):
        mask = mask.astype(np.uint8)
        edges.append((mask - cv2.erode(mask, np.ones((3, 3), np.uint8))).astype(bool))
    reach = max(1, round(0.0075 * float(np.hypot(*truth.shape))))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    near = [cv2.dilate(edge.astype(np.uint8), disk).astype(bool) for edge in edges]
    void = ~cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    guess = edges[0] & ~(void & ~near[1])
    hits = [guess & near[1], guess, edges[1] & near[0], edges[1]]
    return np.array([int(hit.sum()) for hit in hits])


class Quality:
    """Evaluator plus foreground precision and recall and boundary F of many masks."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.scores, self.boundary, self.area = Evaluator(classes), np.zeros(4), np.zeros(3)

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add one image, (H, W) uint8 labels each."""
        self.scores.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        self.boundary += boundary_hits(prediction, truth)
        known = (truth != VOID) & (prediction != VOID)
        guess, real = (prediction > 0) & known, (truth > 0) & known
        self.area += [(guess & real).sum(), guess.sum(), real.sum()]

    def compute(self) -> dict:
        """All numbers in percent."""
        hit, guess, real = self.area
        matched, drawn, found, true = self.boundary
        precision, recall = matched / max(drawn, 1), found / max(true, 1)
        return {
            **self.scores.compute().to_dict(),
            "precision": 100 * hit / max(guess, 1),
            "recall": 100 * hit / max(real, 1),
            "boundary_f": 200 * precision * recall / max(precision + recall, 1e-9),
        }


Job = tuple
"""A function that makes a mask and its arguments, for another process."""

TIMED = 20
"""Masks made in this process to time them."""


class Images:
    """Photographs with their truth, and their scores under every seed of the configuration."""

    def __init__(self, root: str, config: dict, limit: int | None, pool: Executor) -> None:
        self.config, self.pool = config, pool
        catalog = read_catalog("voc", root, config["split"])
        self.classes = catalog.classes
        self.records = [record for record in catalog.records if record.mask is not None][:limit]
        self.images = [read_image(record.image) for record in self.records]
        self.truth = [read_mask(r.mask, len(self.classes) + 1) for r in self.records]
        self.labels = [[tag + 1 for tag in record.tags] for record in self.records]

    @torch.inference_mode()
    def seeds(self, checkpoint: Path, names: Sequence[str]) -> tuple[dict[str, list], dict[str, float]]:
        """Scores (n, h, w) in 0..1 of every image's tags by seed, and milliseconds an image."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = ClassificationTask.from_checkpoint(checkpoint).model.to(device)
        found, times = {name: [] for name in names}, defaultdict(float)

        def timed(name: str, step: Callable[[], Tensor]) -> Tensor:
            start = time.perf_counter()
            result = step()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name] += 1000 * (time.perf_counter() - start) / len(self.records)
            return result

        kind = self.config["slots"]
        precise = self.config["precision"] == "32-true"
        for record, image in progress(list(zip(self.records, self.images, strict=True)), "seeds"):
            small = resize(image, *fit_long_side(*image.shape[:2], self.config["size"], multiple=32))
            x = torch.from_numpy(small).permute(2, 0, 1)[None].float().to(device)
            tags, scales = list(record.tags), self.config["scales"]
            with torch.autocast(device, torch.bfloat16, enabled=not precise):
                every = timed("maps", lambda x=x, s=scales: class_maps(model, x, s, True, kind))
            cam = every.cam[:, tags]
            own = normalise_maps(cam)
            build = {
                "centre": lambda c=cam: centre(c),
                "one scale": lambda x=x, t=tags: class_maps(model, x, (1.0,), False, "none").cam[:, t],
                "no slots": lambda c=cam: c,
                "blur": lambda c=cam: blur(c),
                "superpixels": lambda c=cam, i=image: superpixels(c, i),
                "dense affinity": lambda c=cam, x=x: dense_affinity(c, model.slot_features(x)),
                "slots": lambda c=cam, e=every: propagate(c, e.dispatch),
                "dense prior": lambda c=own, x=x: dense_prior(c, model.slot_features(x)),
                "prior": lambda c=own, e=every: c * foreground_prior(c, e.dispatch),
                "slots x own": lambda c=cam, e=every: seed_maps(e._replace(cam=c), 2, False),
                "slots x own x prior": lambda c=cam, e=every: seed_maps(e._replace(cam=c)),
                "unsharpened x own x prior": lambda c=cam, e=every, x=x: seed_maps(
                    e._replace(cam=c, dispatch=model(x, slots=kind).dispatch)
                ),
                "feature slots x own x prior": lambda c=cam, e=every, x=x: seed_maps(
                    e._replace(cam=c, dispatch=cluster_slots(model.slot_features(x)).dispatch)
                ),
            }
            for name in names:
                with torch.autocast(device, torch.bfloat16, enabled=not precise):
                    scores = timed(name, lambda make=build[name]: normalise_maps(make().float()))
                found[name].append(scores[0].cpu().numpy())
        return found, times

    @torch.inference_mode()
    def seen(self, checkpoint: Path) -> list[np.ndarray]:
        """A segmenter's probabilities (L, h, w) float16 of every image."""
        network, found = SegmentationTask.from_checkpoint(checkpoint).model, []
        for image in progress(self.images, "what the first segmenter sees"):
            x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
            out = predict_probabilities(network, x, self.config["refine_scales"], True)
            shape = fit_within(*image.shape[:2], JOIN_SIDE)
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
        """Choose the background score on every second image, measure on the others."""

        def quality(indices: Sequence[int], background: float) -> Quality:
            result = Quality(self.classes)
            masks = [self.pool.submit(*job(index, background)) for index in indices]
            for index, mask in zip(indices, masks, strict=True):
                result.update(mask.result(), self.truth[index])
            return result

        tuning, test = (range(start, len(self.records), 2) for start in (0, 1))
        tried = {b: quality(tuning, b).scores.compute().miou for b in self.config["backgrounds"]}
        background = max(tried, key=tried.get)
        row = quality(test, background).compute()
        start = time.perf_counter()
        for index in test[:TIMED]:
            make, *given = job(index, background)
            make(*given)
        row["mask_ms"] = 1000 * (time.perf_counter() - start) / len(test[:TIMED])
        return row | {"background": background, "tuning_miou": tried[background]}


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
        config["model"] |= ({"weights": weights} if weights else {}) | change
        logger = {"save_dir": str(out), "name": "", "version": "log"}
        config["trainer"] |= {
            "default_root_dir": str(out),
            "logger": {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": logger},
        }
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(yaml.safe_dump(config))
        words = ["fit", "-c", str(out / "config.yaml")]
        metrics = run_task("classify", words + (["--ckpt_path", str(last)] if last.is_file() else []))
        (out / "trained").write_text(f"{float(metrics.callback_metrics['val_mAP']):.1f}\n")
    return last


COLUMNS = ("miou", "tuning_miou", "precision", "recall", "boundary_f", "void", "background")
TIMES = ("maps_ms", "seed_ms", "mask_ms")


def write_table(path: Path, config: dict, rows: dict[str, dict]) -> None:
    """Write OUT/table.md and OUT/table.json, whole or not at all."""
    lines = ["| row | " + " | ".join(COLUMNS + TIMES) + " |"]
    lines.append("|" + "---|" * (len(COLUMNS + TIMES) + 1))
    for name, row in rows.items():
        digits = {"background": 2}
        cells = [f"{row[c]:.{digits.get(c, 1)}f}" if c in row else "" for c in COLUMNS + TIMES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    text = json.dumps({"config": config, "rows": rows}, indent=1)
    write_atomic(path / "table.json", lambda aside: aside.write_text(text + "\n"))
    write_atomic(path / "table.md", lambda aside: aside.write_text("\n".join(lines) + "\n"))


def main(words: Sequence[str] | None = None) -> None:
    """Read the configuration, train and measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="a data set in VOC's layout, with masks")
    parser.add_argument("--weights", help="weight file of the backbone")
    parser.add_argument("--run", type=Path, help="folder of a wsss run with the first classifier")
    parser.add_argument("--config", default=str(Path(__file__).with_suffix(".yaml")))
    parser.add_argument("--out", type=Path, default=Path("mask_quality"), help="folder of the table")
    parser.add_argument("--limit", type=int, help="only that many images")
    args = parser.parse_args(words)
    config = yaml.safe_load(Path(args.config).read_text())
    base = yaml.safe_load((Path(args.config).parent / config["base"]).read_text())
    config["precision"] = base["trainer"].get("precision", "32-true")
    config |= {name: str(getattr(args, name)) for name in ("root", "weights", "run", "limit")}
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
        rows["all background"] = images.measure(lambda k, _: (np.zeros_like, images.truth[k]))

    def add(name: str, job: Callable[[int, float], Job], **more: float) -> None:
        if name not in rows:
            rows[name] = images.measure(job) | more
            write_table(args.out, config, rows)
            print(f"{name}: {rows[name]['miou']:.1f}", flush=True)

    for number, (title, change) in enumerate(config["classifiers"].items()):
        plans = [(n, None) for n in config["seeds"]] + [(n, CRFSettings()) for n in config["crf"]]
        if number:
            plans = [(n, crf) for n in config["others"] for crf in (None, CRFSettings())]
        named = {f"{title}: {n}{' + CRF' if crf else ''}": (n, crf) for n, crf in plans}
        second = f"{title}: refined by the first segmenter"
        again = not number and args.run is not None
        refined = {second, second + " + CRF"} if again else set()
        if not (named.keys() | refined) - rows.keys():
            continue
        if again:
            checkpoint = args.run / "classify" / "last.ckpt"
        else:
            base = Path(args.config).parent / config["base"]
            name = "".join(c if c.isalnum() else "-" for c in title)
            checkpoint = train(args.root, args.weights, base, change, args.out / name)
        used = list(dict.fromkeys([n for n, _ in plans] + ["slots x own x prior"]))
        scores, times = images.seeds(checkpoint, used)
        for row, (n, crf) in named.items():
            add(row, partial(images.first, scores[n], crf), maps_ms=times["maps"], seed_ms=times[n])
        if again:
            seen = images.seen(args.run / "segment_first" / "last.ckpt")
            for crf in (None, CRFSettings()):
                job = partial(images.second, scores["slots x own x prior"], seen, crf)
                add(second + (" + CRF" if crf else ""), job)


if __name__ == "__main__":
    main()
