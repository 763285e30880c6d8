"""Draw the figures of docs/method.md.

python scripts/method_figure.py            # steps.png: the slot step on drawn scenes
python scripts/method_figure.py runs/demo  # masks.png: a run's pseudo-masks, from the best to the worst
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from wsss.data.masks import read_mask
from wsss.data.synthetic import draw_scene
from wsss.explore import Entry, Run
from wsss.localize.cam import ClassMaps, normalise_maps, seed_maps
from wsss.localize.crf import CRFSettings
from wsss.localize.pseudo_masks import pseudo_mask
from wsss.localize.slots import cluster_slots, foreground_prior, propagate
from wsss.pictures import Cell, Row, heat, overlay, show_mask, thumbnail, write_strip

FIGURES = Path(__file__).parents[1] / "docs" / "method"
SIDE = 128


def steps(seed: int) -> list[np.ndarray]:
    """Panels (SIDE, SIDE, 3) uint8: scene, slots, seed, its slot average, product, prior, score, mask.

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
    maps = ClassMaps(torch.ones(1, 1), cam, dispatch)
    product, score = seed_maps(maps, border_prior=False), seed_maps(maps)
    prior = foreground_prior(product, dispatch)
    shades = np.random.default_rng(0).integers(40, 255, (64, 3), dtype=np.uint8)
    groups = shades[dispatch[0].argmax(0).numpy()]
    groups = cv2.resize(groups, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    mask = pseudo_mask(image, score[0].numpy(), [label], 0.4, CRFSettings())
    shown = [cv2.resize(m[0, 0].numpy(), (SIDE, SIDE)) for m in (cam, averaged, product, prior, score)]
    return [image, groups, *(heat(image, m) for m in shown), overlay(image, mask)]


def ranked(run: Run, count: int = 8) -> list[Row]:
    """Images at even steps in the order of their pseudo-masks' IoU, with every round's mask."""
    names = ["background", *run.classes]
    entries = run.listed("masks")[::-1]

    def row(entry: Entry) -> Row:
        image = thumbnail(entry.record.image, SIDE)
        masks = {"first": run.masks, "refined": run.learnt}
        paths = {caption: folder / f"{entry.record.id}.png" for caption, folder in masks.items()}
        paths["truth"] = entry.record.mask
        cells = [show_mask(image, read_mask(path), names, caption) for caption, path in paths.items()]
        tags = ", ".join(run.classes[tag] for tag in entry.record.tags)
        return Row(f"{tags}: IoU {entry.value:.0f} %", [Cell("photograph", image, []), *cells])

    return [row(entries[int(i)]) for i in np.linspace(0, len(entries) - 1, count)]


def main() -> None:
    """Write one of the figures."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 1:
        return write_strip(FIGURES / "masks.png", ranked(Run(sys.argv[1])))
    rows = [np.concatenate(steps(seed), 1) for seed in (8, 16, 6)]
    cv2.imwrite(str(FIGURES / "steps.png"), np.concatenate(rows)[..., ::-1])


if __name__ == "__main__":
    main()
