"""Draw the figures of docs/method.md and of some notes in experiments.

python scripts/method_figure.py            # steps.png: the slot step on synthetic scenes
python scripts/method_figure.py runs/demo  # of a run: mosaic.png, scales.png, second_round.png,
                                           # masks.png, its masks from the best to the worst, and
                                           # learned.png where its slots were relabelled
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from wsss.api import Segmenter
from wsss.data.catalog import Record
from wsss.data.images import read_image
from wsss.data.labels import multi_hot
from wsss.data.masks import read_mask, read_scores
from wsss.data.synthetic import draw_scene
from wsss.explore import Entry, Run
from wsss.geometry import resize, resize_scores
from wsss.localize.cam import ClassMaps, class_maps, normalise_maps, seed_maps
from wsss.localize.pseudo_masks import probabilities_of_rounds, pseudo_mask
from wsss.localize.slots import cluster_slots, foreground_prior, propagate
from wsss.models.segmenter import predict_probabilities
from wsss.pictures.masks import Cell, heat, overlay, show_mask, thumbnail
from wsss.pictures.strip import Row, write_strip
from wsss.settings import ClassMapSettings, CRFSettings
from wsss.tasks.classification import make_mosaics

FIGURES = Path(__file__).parents[1] / "docs" / "method"
SIDE = 128


def steps(seed: int) -> list[np.ndarray]:
    """Panels (SIDE, SIDE, 3) uint8, in the order of the docs: from the scene to its mask.

    Colours take the place of a network's features, a spot that of its class map.
    """
    rng = np.random.default_rng(seed)
    image, truth = draw_scene(rng, SIDE)
    label = int(np.bincount(truth[truth > 0]).argmax())
    colours = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    colours = F.adaptive_avg_pool2d(colours, 32) - colours.mean((2, 3), keepdim=True)
    inside = cv2.distanceTransform((truth == label).astype(np.uint8), cv2.DIST_L2, 3)
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    spot = np.zeros((SIDE, SIDE), np.float32)
    spot[y, x] = 1
    spot = cv2.GaussianBlur(spot, (0, 0), SIDE / 10)
    cam = normalise_maps(F.adaptive_avg_pool2d(torch.from_numpy(spot)[None, None], 32))
    dispatch = cluster_slots(colours, temperature=0.3).dispatch
    averaged = normalise_maps(propagate(cam, dispatch))
    score = seed_maps(ClassMaps(torch.ones(1, 1), cam, dispatch))
    product = (cam * averaged).sqrt()
    prior = foreground_prior(product, dispatch)
    shades = np.random.default_rng(0).integers(40, 255, (64, 3), dtype=np.uint8)
    groups = shades[dispatch[0].argmax(0).numpy()]
    groups = cv2.resize(groups, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    mask = pseudo_mask(image, score[0].numpy(), [label], 0.4, CRFSettings())
    shown = [cv2.resize(m[0, 0].numpy(), (SIDE, SIDE)) for m in (cam, averaged, product, prior, score)]
    return [image, groups, *(heat(image, m) for m in shown), overlay(image, mask)]


def _batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy())[None]


@torch.inference_mode()
def training(run: Run) -> list[Row]:
    """A mosaic of four images with its class maps; maps of one image at every scale, and their mean."""
    records, size = run.data.catalog(run.data.predict_split).records[4:8], run.data.size
    images = torch.cat([_batch(thumbnail(read_image(record.image), size)) for record in records])
    torch.manual_seed(0)
    tags = torch.stack([multi_hot(record, len(run.classes)) for record in records])
    mosaics, parts = make_mosaics(images.float(), tags)

    def cell(caption: str, picture: torch.Tensor, score: torch.Tensor | None = None) -> Cell:
        shown = resize(picture.byte().permute(1, 2, 0).numpy(), SIDE, SIDE)
        if score is not None:
            shown = heat(shown, resize_scores(score[None].numpy(), SIDE, SIDE)[0])
        return Cell(caption, shown, [])

    places = ("upper left", "upper right", "lower left", "lower right")
    quadrants = [
        f"{place}: {', '.join(np.array(run.classes)[part.bool().numpy()])}"
        for place, part in zip(places, parts[0], strict=True)
    ]
    plain, network = ClassMapSettings((1.0,), False, "none"), run.classifier.network
    maps = zip(run.classes, class_maps(network, mosaics[:1], plain).cam[0], strict=True)
    shown = [cell(f"map of {name}", mosaics[0], score) for name, score in maps]
    mosaic = Row("; ".join(quadrants), [cell("mosaic", mosaics[0]), *shown])

    tag, cells = records[0].tags[0], [cell("image", images[0])]
    scales = run.made_with.scales
    views = {f"scale {scale:g}": ((scale,), False) for scale in scales}
    for caption, how in (views | {"mean, horizontal flip, too": (scales, True)}).items():
        score = class_maps(network, images[:1], ClassMapSettings(*how, "none")).cam[0, tag]
        cells.append(cell(caption, images[0], score))
    return [mosaic, Row(f"class map of {run.classes[tag]}", cells)]


@torch.inference_mode()
def second_round(run: Run) -> list[Row]:
    """Seed, what the first segmenter sees, both joined, and the masks, for one tag of four images."""
    names = ["background", *run.classes]
    segmenter = Segmenter.load(run.folder["segment_first"].checkpoint).network

    def row(entry: Entry) -> Row:
        record, image = entry.record, thumbnail(read_image(entry.record.image), SIDE)
        scores, labels = read_scores(run.maps / f"{record.id}.npz")
        x = _batch(thumbnail(read_image(record.image), run.mask_data.crop))
        probabilities = predict_probabilities(segmenter, x)[0].numpy()
        seen, own = probabilities_of_rounds(scores, labels, probabilities, run.background)
        joined = np.sqrt(seen * own)
        maps = {"seed": scores[0], "first segmenter": seen[1], "joined": joined[1] / joined.sum(0)}
        maps = {name: resize_scores(one[None], *image.shape[:2])[0] for name, one in maps.items()}
        masks = {"first mask": run.masks, "refined mask": run.learnt}
        paths = {caption: folder / f"{record.id}.png" for caption, folder in masks.items()}
        paths["ground truth"] = record.mask
        return Row(
            names[labels[0]],
            [
                Cell("photograph", image, []),
                *(Cell(caption, heat(image, score), []) for caption, score in maps.items()),
                *(show_mask(image, read_mask(path), names, caption) for caption, path in paths.items()),
            ],
        )

    entries = run.listed("masks")[::-1]
    return [row(entries[int(i)]) for i in np.linspace(0, len(entries) - 1, 6)[1:5]]


def learned(run: Run) -> list[Row]:
    """Scores before and after the relabelling of slots, at even steps of what it does to a mask."""
    names = ["background", *run.classes]
    changes = []
    for record in run.data.catalog(run.data.predict_split).records:
        name, truth = f"{record.id}.npz", read_mask(record.mask)
        before, labels = read_scores(run.masks.with_name("seeds") / name)
        after, _ = read_scores(run.maps / name)
        scores = [resize_scores(one, *truth.shape) for one in (before, after)]
        made = [pseudo_mask(np.zeros((*truth.shape, 3)), s, labels, run.background) for s in scores]
        iou = [100 * ((m == truth) & (m > 0)).sum() / ((m > 0) | (truth > 0)).sum() for m in made]
        changes.append((iou[1] - iou[0], iou, record, scores, made))
    changes.sort(key=lambda change: change[0])

    def row(iou: list[float], record: Record, scores: list[np.ndarray], made: list[np.ndarray]) -> Row:
        image = thumbnail(read_image(record.image), SIDE)
        cells = [Cell("photograph", image, [])]
        for what, score, mask in zip(("seed", "learned"), scores, made, strict=True):
            shown = resize_scores(score[:1], *image.shape[:2])[0]
            cells.append(Cell(what, heat(image, shown), []))
            cells.append(show_mask(image, mask, names, f"{what}: labels"))
        cells.append(show_mask(image, read_mask(record.mask), names, "ground truth"))
        return Row(f"{names[record.tags[0] + 1]}: IoU {iou[0]:.0f}, then {iou[1]:.0f} %", cells)

    return [row(*changes[int(i)][1:]) for i in np.linspace(0, len(changes) - 1, 6)]


def ranked(run: Run, count: int = 8) -> list[Row]:
    """Images at even steps in the order of their pseudo-masks' IoU, with every round's mask."""
    names = ["background", *run.classes]
    entries = run.listed("masks")[::-1]

    def row(entry: Entry) -> Row:
        image = thumbnail(read_image(entry.record.image), SIDE)
        masks = {"first": run.masks, "refined": run.learnt}
        paths = {caption: folder / f"{entry.record.id}.png" for caption, folder in masks.items()}
        paths["ground truth"] = entry.record.mask
        cells = [show_mask(image, read_mask(path), names, caption) for caption, path in paths.items()]
        tags = ", ".join(run.classes[tag] for tag in entry.record.tags)
        return Row(f"{tags}: IoU {entry.value:.0f} %", [Cell("photograph", image, []), *cells])

    return [row(entries[int(i)]) for i in np.linspace(0, len(entries) - 1, count)]


def main() -> None:
    """Write the figures."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 1:
        run = Run(sys.argv[1])
        mosaic, scales = training(run)
        write_strip(FIGURES / "mosaic.png", [mosaic])
        write_strip(FIGURES / "scales.png", [scales])
        write_strip(FIGURES / "second_round.png", second_round(run))
        if run.taught:
            write_strip(FIGURES / "learned.png", learned(run))
        return write_strip(FIGURES / "masks.png", ranked(run))
    rows = [np.concatenate(steps(seed), 1) for seed in (8, 16, 6)]
    cv2.imwrite(str(FIGURES / "steps.png"), np.concatenate(rows)[..., ::-1])


if __name__ == "__main__":
    main()
