"""Speed of mask making, beside the field's way, with the mIoU of both.

    python benchmarks/masks.py --root VOC2012 --ckpt classify/last.ckpt --out OUT

Both make the pseudo-masks of the same images from the same classifier: class maps, slots, seeds,
relabelling, CRF. wsss works as `wsss classify predict` does: batches of images of one shape in
--precision, while other processes decode images and make masks. The field's way (IRN's, Ahn et al.,
CVPR 2019) is one image at a time in one process, a pass for each of four scales and each flip in
float32, the CRF by pydensecrf with all labels at the photograph's size and 10 steps.

Steps are also measured alone, a batch or an image after the other in this process; the whole beside
ways with other passes (`WAYS`), and the CRF beside others that take turns (`crfs`). Needs
`pip install pydensecrf2` (a compiler, Python below 3.13). Writes OUT/table.md and OUT/table.json.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import numpy as np

from wsss.machine import allowed_cores, share_cores

share_cores()  # as the program does, before torch is imported

import cv2  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from wsss.data.catalog import Catalog, Record  # noqa: E402
from wsss.data.images import read_image  # noqa: E402
from wsss.data.masks import read_mask, read_scores, write_arrays, write_mask  # noqa: E402
from wsss.data.modules import TagData  # noqa: E402
from wsss.evaluation import Evaluator  # noqa: E402
from wsss.files import write_text  # noqa: E402
from wsss.geometry import fit_long_side, resize, resize_scores  # noqa: E402
from wsss.localize.cam import ClassMaps, class_maps, seeds_of_maps  # noqa: E402
from wsss.localize.crf import dense_crf  # noqa: E402
from wsss.localize.pseudo_masks import corrected_scores, pseudo_mask  # noqa: E402
from wsss.localize.slots import cluster_slots, slot_means  # noqa: E402
from wsss.progress import progress  # noqa: E402
from wsss.resources import versions  # noqa: E402
from wsss.run_folder import MaskFiles  # noqa: E402
from wsss.settings import CRFSettings, PseudoMaskSettings  # noqa: E402
from wsss.stages.masks import learn_slot_classes, make_pseudo_masks  # noqa: E402
from wsss.tasks.classification import ClassificationTask  # noqa: E402
from wsss.tasks.trainer import Trainer  # noqa: E402

STEPS = ("decode", "network", "slots", "seeds", "relabelling", "CRF", "PNG")
FIELDS = CRFSettings(side=10**6, iterations=10)
"""The CRF as it is used: IRN's kernels at the photograph's size, 10 steps."""

FIELDS_MAPS = {"scales": (0.5, 1.0, 1.5, 2.0), "flip": True}
"""The class maps as they are used, IRN's."""

WAYS = {
    "wsss": {},
    "wsss, the field's scales and flips": FIELDS_MAPS,
    "wsss, scales 0.5 and 1": {"scales": (0.5, 1.0)},
    "wsss, scale 1": {"scales": (1.0,)},
}
"""What is made whole: the settings that differ from the default ones."""


class Data(TagData):
    """The first `limit` images of a split that have a ground truth."""

    limit: int | None = None

    def catalog(self, split: str, tagged: bool = True) -> Catalog:
        whole = super().catalog(split, tagged)
        return replace(whole, records=tuple(r for r in whole.records if r.mask)[: self.limit])


class Clock:
    """Seconds spent in each step, and how many images went through it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.images: dict[str, int] = defaultdict(int)

    @contextmanager
    def __call__(self, step: str, images: int = 1) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - start
        self.images[step] += images

    def rate(self, step: str) -> float:
        """Images a second."""
        return self.images[step] / self.seconds[step]


def pydensecrf(image: np.ndarray, scores: np.ndarray, settings: CRFSettings) -> np.ndarray:
    """`wsss.localize.crf.dense_crf` by pydensecrf."""
    from pydensecrf.densecrf import DenseCRF2D

    height, width = fit_long_side(*image.shape[:2], min(settings.side, max(image.shape[:2])))
    unit = max(height, width) / 500
    probabilities = np.clip(resize_scores(scores.astype(np.float32), height, width), 1e-5, None)
    probabilities /= probabilities.sum(0)
    crf = DenseCRF2D(width, height, len(scores))
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(probabilities).reshape(len(scores), -1)))
    crf.addPairwiseGaussian(sxy=settings.gaussian_sxy * unit, compat=settings.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_sxy * unit,
        srgb=settings.bilateral_srgb,
        rgbim=np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)),
        compat=settings.bilateral_compat,
    )
    found = np.array(crf.inference(settings.iterations), np.float32)
    return found.reshape(len(scores), height, width)


def crfs(own: CRFSettings) -> dict[str, tuple[Callable, CRFSettings]]:
    """What the CRF is compared with: a function and its settings."""
    return {
        "wsss": (dense_crf, own),
        "pydensecrf, same settings": (pydensecrf, own),
        "wsss, 5 steps": (dense_crf, replace(own, iterations=5)),
        "wsss, 125 px": (dense_crf, replace(own, side=125)),
        "wsss, 250 px": (dense_crf, replace(own, side=250)),
    }


class Ours:
    """Mask making by wsss, whole and step by step."""

    def __init__(
        self, task: ClassificationTask, data: Data, settings: PseudoMaskSettings, precision: str
    ) -> None:
        self.task, self.data, self.precision = task, data, precision
        self.catalog = data.catalog(data.predict_split)
        self.settings = settings.for_images(len(self.catalog.records))

    def masks(self, out: Path) -> float:
        """Make all masks; returns images a second, from first to last."""
        trainer = Trainer(accelerator="cpu", precision=self.precision, logger=False)
        start = time.perf_counter()
        # processes that make masks do not load this file: the program's own are as small
        with patch.object(sys.modules["__main__"], "__file__", None, create=True):
            make_pseudo_masks(self.task, self.data, self.settings, out / "masks", trainer)
        return len(self.catalog.records) / (time.perf_counter() - start)

    @torch.inference_mode()
    def steps(self, out: Path, count: int, clock: Clock) -> None:
        """Measure each step alone, on `count` images of those that have their masks in `out`."""
        model, records = self.task.model.eval(), self.catalog.records[:count]
        without = replace(self.settings, slots="none")
        with patch.object(self.data, "num_workers", 0):  # decoded here
            batches = iter(self.data.whole_images([record.id for record in records]))
        for _ in progress(range(count), "steps of wsss"):
            with clock("decode", 0):
                batch = next(batches, None)
            if batch is None:
                break
            images = len(batch["id"])
            clock.images["decode"] += images
            half = self.precision != "32-true"
            with clock("network", images), torch.autocast("cpu", torch.bfloat16, enabled=half):
                maps = class_maps(model, batch["image"], without)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                features = model.slot_features(batch["image"])
            with clock("slots", images):
                dispatch = cluster_slots(features, (self.settings.slot_grid,) * 2).dispatch
                slots = slot_means(features, dispatch)
            with clock("seeds", images):
                seeds_of_maps(maps._replace(dispatch=dispatch, slots=slots), self.settings)
        for record in progress(records, "masks of wsss"):
            scores, labels = read_scores(MaskFiles(out / "masks").scores(record.id))
            image = read_image(record.image)
            given = image, scores, labels, self.settings.background, self.settings.crf
            with clock("CRF"):
                mask = pseudo_mask(*given)
            with clock("PNG"):
                write_mask(out / "again.png", mask)
        files = MaskFiles(out / "masks")
        files.slot_classes.unlink()  # to be learned again
        with clock("relabelling", len(self.catalog.records)):
            learn_slot_classes(self.catalog, self.settings, files)


class Field:
    """The field's way."""

    def __init__(self, ours: Ours, out: Path) -> None:
        self.model = ours.task.model.eval()
        self.settings = replace(ours.settings, **FIELDS_MAPS)
        self.size, self.catalog = ours.data.predict_size, ours.catalog
        self.stride = ours.task.model.output_stride
        self.files, self.clock = MaskFiles(out / "masks"), Clock()

    @torch.inference_mode()
    def seeds(self, records: Sequence[Record]) -> None:
        """Seeds and slots, one image at a time."""
        clock, model = self.clock, self.model
        for record in progress(records, "the field's way, seeds"):
            with clock("decode"):
                image = read_image(record.image)
                small = resize(image, *fit_long_side(*image.shape[:2], self.size, model.size_multiple))
                x = torch.from_numpy(small).permute(2, 0, 1)[None].float()
            with clock("network"):
                cams = [self._view(x, s, flip) for s in self.settings.scales for flip in (False, True)]
                shape = [side // self.stride for side in x.shape[-2:]]  # of scale 1
                cam = torch.cat([F.interpolate(c, shape, mode="bilinear") for c in cams])
                features = model.slot_features(x)  # a by-product of scale 1
            with clock("slots"):
                dispatch = cluster_slots(features, (self.settings.slot_grid,) * 2).dispatch
                slots = slot_means(features, dispatch)
            with clock("seeds"):
                maps = ClassMaps(torch.empty(0), cam.mean(0, keepdim=True), dispatch, slots)
                scores = seeds_of_maps(maps, self.settings)[0, list(record.tags)]
                labels = np.array(record.tags) + 1
                seed = {"scores": scores.numpy(), "labels": labels, "dispatch": dispatch[0].numpy()}
                write_arrays(self.files.seed(record.id), **seed, slots=slots[0].numpy())

    def _view(self, x: torch.Tensor, scale: float, flip: bool) -> torch.Tensor:
        shape = [max(32, round(side * scale / 32) * 32) for side in x.shape[-2:]]
        view = F.interpolate(x, shape, mode="bilinear", antialias=scale < 1)
        cam = self.model(view.flip(3) if flip else view).class_map + self.model.bias[:, None, None]
        return (cam.flip(3) if flip else cam).sigmoid()

    def masks(self, records: Sequence[Record]) -> None:
        """Relabelling over all images, then CRF and PNG, one image at a time."""
        clock, files, floor = self.clock, self.files, self.settings.background
        with clock("relabelling", len(records)):
            catalog = replace(self.catalog, records=tuple(records))
            taught = learn_slot_classes(catalog, self.settings, files)
        for record in progress(records, "the field's way, masks"):
            with np.load(files.seed(record.id)) as seed, clock("relabelling", 0):
                own = taught.without(record.id).probabilities(seed["slots"], seed["labels"])
                scores = corrected_scores(seed["scores"], seed["dispatch"], own, floor)
            with clock("decode", 0):  # CAM and CRF are programs of their own
                image = read_image(record.image)
            with clock("CRF"):
                height, width = image.shape[:2]
                every = np.zeros((len(self.catalog.classes) + 1, height, width), np.float32)
                every[0] = floor
                every[np.array(record.tags, int) + 1] = resize_scores(scores, height, width)
                mask = pydensecrf(image, every, FIELDS).argmax(0)
            with clock("PNG"):
                write_mask(files.mask(record.id), mask)

    def rate(self) -> float:
        """Images a second, end to end."""
        return 1 / sum(1 / self.clock.rate(step) for step in STEPS)


def miou(
    records: Sequence[Record], classes: Sequence[str], mask: Callable[[Record], np.ndarray]
) -> float:
    """Of the masks of some images, in percent."""
    evaluator = Evaluator(classes)
    for record in records:
        target = read_mask(record.mask, len(classes) + 1)
        evaluator.update(torch.from_numpy(mask(record)), torch.from_numpy(target))
    return evaluator.compute().miou


def compare_crfs(ours: Ours, out: Path) -> dict[str, dict[str, float]]:
    """Images a second, mIoU and agreement with pydensecrf of each of `crfs`, taking turns."""
    clock, same, pixels, records = Clock(), defaultdict(int), 0, ours.catalog.records
    made: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for record in progress(records, "CRFs take turns"):
        image = read_image(record.image)
        scores, labels = read_scores(MaskFiles(out / "masks").scores(record.id))
        for name, (crf, settings) in crfs(ours.settings.crf).items():
            with patch("wsss.localize.pseudo_masks.dense_crf", crf), clock(name):
                made[name][record.id] = pseudo_mask(
                    image, scores, labels, ours.settings.background, settings
                )
        pixels += image[..., 0].size
        for name in made:
            theirs = made["pydensecrf, same settings"][record.id]
            same[name] += int((made[name][record.id] == theirs).sum())
    return {
        name: {
            "images/s": clock.rate(name),
            "mIoU": miou(records, ours.catalog.classes, lambda r, own=own: own[r.id]),
            "same pixels %": 100 * same[name] / pixels,
        }
        for name, own in made.items()
    }


def write_table(out: Path, result: dict) -> None:
    """Write OUT/table.json and OUT/table.md."""
    lines = ["| step alone | wsss, images/s | field's way, images/s | ratio |", "|---|---|---|---|"]
    for step, (ours, field) in result["steps"].items():
        lines.append(f"| {step} | {ours:.2f} | {field:.2f} | {ours / field:.1f} |")
    field = result["ways"]["field's way"][0]
    lines += ["", "| end to end | images/s | ratio | mIoU |", "|---|---|---|---|"]
    for name, (rate, miou) in result["ways"].items():
        lines.append(f"| {name} | {rate:.2f} | {rate / field:.1f} | {miou:.2f} |")
    lines += ["", "| CRF with the tags' labels | images/s | mIoU | % of pixels as pydensecrf |"]
    lines.append("|---|---|---|---|")
    for name, row in result["CRFs"].items():
        numbers = row["images/s"], row["mIoU"], row["same pixels %"]
        lines.append(f"| {name} | " + " | ".join(f"{n:.2f}" for n in numbers) + " |")
    write_text(out / "table.json", json.dumps(result, indent=1) + "\n")
    write_text(out / "table.md", "\n".join(lines) + "\n")


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="a data set in VOC's layout, with masks")
    parser.add_argument("--ckpt", required=True, help="last.ckpt of a classifier")
    parser.add_argument("--out", type=Path, required=True, help="new folder for masks and tables")
    parser.add_argument("--split", default="train_2007")
    parser.add_argument("--size", type=int, default=448, help="long side of the images at scale 1")
    parser.add_argument("--precision", default="bf16-mixed", help="of wsss")
    parser.add_argument("--limit", type=int, help="only that many images")
    parser.add_argument("--steps", type=int, default=40, help="images that steps are measured on")
    args = parser.parse_args(words)
    if args.out.exists():
        raise SystemExit(f"{args.out} exists: give a new folder as --out")
    if find_spec("pydensecrf") is None:
        raise SystemExit("the field's way needs `pip install pydensecrf2` (Python below 3.13)")
    data = Data(args.root, predict_split=args.split, size=args.size, batch_size=8)
    data.limit = args.limit
    task = ClassificationTask.from_checkpoint(args.ckpt)
    ways = {
        name: Ours(task, data, replace(PseudoMaskSettings(), **change), args.precision)
        for name, change in WAYS.items()
    }
    first = ways["wsss"]
    records, classes = first.catalog.records, first.catalog.classes
    places = {name: args.out / str(number) for number, name in enumerate(["field's way", *ways])}
    field = Field(first, places["field's way"])
    # the field's way before and after wsss, as other programs come and go
    field.seeds(records)
    rates = {name: ours.masks(places[name]) for name, ours in ways.items()}
    field.masks(records)
    rates = {"field's way": field.rate()} | rates
    clock = Clock()
    first.steps(places["wsss"], args.steps, clock)

    def quality(name: str) -> float:
        files = MaskFiles(places[name] / "masks")
        return miou(records, classes, lambda record: read_mask(files.mask(record.id)))

    result = {
        "images": len(records),
        "steps": {step: (clock.rate(step), field.clock.rate(step)) for step in STEPS},
        "ways": {name: (rate, quality(name)) for name, rate in rates.items()},
        "CRFs": compare_crfs(first, places["wsss"]),
        "cores": allowed_cores(),
        "settings": {name: str(value) for name, value in vars(args).items()},
        "versions": versions(),
    }
    write_table(args.out, result)
    print((args.out / "table.md").read_text())


if __name__ == "__main__":
    main()
