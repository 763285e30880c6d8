"""Quality of seeds and pseudo-masks with and without slots, beside controls, from one classifier.

Tags are given, masks only measure. Every row has its own background score, the best of those in
the configuration on every second image; what is reported comes from the images in between, so
nothing is chosen on the numbers shown. Two cores take about ten minutes for 311 images.

    python benchmarks/mask_quality.py --root DATA --checkpoint runs/voc-mobilenetv2/.../best.ckpt
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from wsss.data.catalog import Record, read_catalog
from wsss.data.images import read_image
from wsss.data.masks import read_mask
from wsss.evaluation import Evaluator
from wsss.localize.cam import ClassMaps, class_maps, normalise_maps, seed_maps
from wsss.localize.crf import CRFSettings
from wsss.localize.pseudo_masks import pseudo_mask
from wsss.localize.slots import propagate
from wsss.tasks.classification import ClassificationTask
from wsss.voc import VOID


def blur(cam: Tensor) -> Tensor:
    """Control: a 5x5 average, which knows no image."""
    return F.avg_pool2d(cam, 5, stride=1, padding=2, count_include_pad=False)


def superpixels(cam: Tensor, image: np.ndarray) -> Tensor:
    """Control: average the maps (1, N, h, w) over 64 SLIC superpixels of the image."""
    from skimage.segmentation import slic  # for this control only

    size = cam.shape[-2:]
    small = cv2.resize(image, (size[1] * 4, size[0] * 4), interpolation=cv2.INTER_AREA)
    groups = torch.from_numpy(slic(small, n_segments=64, start_label=0)).long()
    shares = F.one_hot(groups).permute(2, 0, 1)[None].float()
    return propagate(cam, F.interpolate(shares, size, mode="area"), 1)


def dense_affinity(cam: Tensor, features: Tensor, temperature: float = 0.1) -> Tensor:
    """Control: two averages over all pixels, weighted by the similarity of their features."""
    z = F.normalize(features.flatten(2), dim=1)
    shares = ((z.transpose(1, 2) @ z) / temperature).softmax(2)  # 1 HW HW, rows sum to 1
    flat = cam.flatten(2).transpose(1, 2)
    return (shares @ (shares @ flat)).transpose(1, 2).reshape(cam.shape)


def centre(cam: Tensor) -> Tensor:
    """Control: the same bump in the middle of every image for every tag."""
    y, x = (torch.linspace(-1, 1, side) for side in cam.shape[-2:])
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


class Images:
    """Class maps of all images under every seed of the configuration."""

    def __init__(self, task: ClassificationTask, config: dict, times: dict[str, float]) -> None:
        self.model, self.config, self.times = task.model, config, times

    def _timed(self, name: str, step: Callable[[], Tensor]) -> Tensor:
        start = time.perf_counter()
        result = step()
        self.times[name] += time.perf_counter() - start
        return result

    @torch.inference_mode()
    def seeds(self, record: Record) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The image (H, W, 3) and the scores (n, h, w) of its tags in 0..1 by seed."""
        image = read_image(record.image)
        factor = self.config["size"] / max(image.shape[:2])
        width, height = (max(32, round(n * factor / 32) * 32) for n in image.shape[1::-1])
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        x = torch.from_numpy(small).permute(2, 0, 1)[None].float()
        tags = list(record.tags)
        one = self._timed("one scale", lambda: class_maps(self.model, x, (1.0,), False, "none"))
        every = self._timed(
            "no slots", lambda: class_maps(self.model, x, self.config["scales"], True, "features")
        )
        cam = every.cam[:, tags]
        features = self.model._features((x - self.model.mean) / self.model.std)[1]
        features = F.interpolate(features, cam.shape[-2:], mode="bilinear", align_corners=False)
        build = {
            "centre": lambda: centre(cam),
            "one scale": lambda: one.cam[:, tags],
            "no slots": lambda: cam,
            "blur": lambda: blur(cam),
            "superpixels": lambda: superpixels(cam, image),
            "dense affinity": lambda: dense_affinity(cam, features),
            "slots": lambda: propagate(cam, every.dispatch),
            "slots x own": lambda: seed_maps(ClassMaps(every.probabilities, cam, every.dispatch)),
        }
        found = {}
        for name in self.config["seeds"]:
            scores = self._timed(name, lambda make=build[name]: normalise_maps(make()))
            found[name] = scores[0].numpy()
        return image, found


def measure(images: list, name: str, background: float, crf: CRFSettings | None) -> Quality:
    """Quality of the masks of one seed at one background score."""
    quality = Quality(images[0]["classes"])
    for item in images:
        labels = [tag + 1 for tag in item["tags"]]
        mask = pseudo_mask(item["image"], item["seeds"][name], labels, background, crf)
        quality.update(mask, item["truth"])
    return quality


def main() -> None:
    """Read the configuration, measure every row, write a table and a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="a data set in VOC's layout, with masks")
    parser.add_argument("--checkpoint", required=True, help="best.ckpt of wsss classify")
    parser.add_argument("--config", default=str(Path(__file__).with_suffix(".yaml")))
    parser.add_argument("--out", default="mask_quality", help="writes OUT.md and OUT.json")
    parser.add_argument("--limit", type=int, help="only that many images")
    args = parser.parse_args()
    config = yaml.safe_load(Path(args.config).read_text())
    catalog = read_catalog("voc", args.root, config["split"])
    records = [record for record in catalog.records[: args.limit] if record.mask is not None]
    task, times = ClassificationTask.from_checkpoint(args.checkpoint), defaultdict(float)
    maker, items = Images(task, config, times), []
    for record in records:
        image, seeds = maker.seeds(record)
        truth = read_mask(record.mask, len(catalog.classes) + 1)
        common = {"classes": catalog.classes, "tags": record.tags}
        items.append({"image": image, "seeds": seeds, "truth": truth, **common})
    tuning, test = items[::2], items[1::2]
    rows = {"all background": measure(test, config["seeds"][0], 1.0, None).compute()}
    for crf in (None, CRFSettings()):
        for name in config["seeds" if crf is None else "crf"]:
            start = time.perf_counter()
            tried = {
                value: measure(tuning, name, value, crf).scores.compute().miou
                for value in config["backgrounds"]
            }
            background = max(tried, key=tried.get)
            row = measure(test, name, background, crf).compute()
            took = (time.perf_counter() - start) / (len(tuning) * len(tried) + len(test))
            row |= {"background": background, "mask_ms": 1000 * took}
            row["maps_ms"] = 1000 * times[name] / len(items)
            rows[name + (" + CRF" if crf else "")] = row
            print(f"{name}{' + CRF' if crf else ''}: {row['miou']:.1f}", flush=True)
    columns = ["miou", "precision", "recall", "boundary_f", "void", "background"]
    columns += ["maps_ms", "mask_ms"]
    lines = ["| seed | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    for name, row in rows.items():
        digits = {"background": 2}
        cells = [f"{row[c]:.{digits.get(c, 1)}f}" if c in row else "" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    Path(args.out + ".md").write_text("\n".join(lines) + "\n")
    Path(args.out + ".json").write_text(json.dumps({"config": config, "rows": rows}, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
