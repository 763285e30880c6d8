"""Draw docs/method/steps.png: the slot step on a drawn scene, with colours in place of features.

python scripts/method_figure.py
"""

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from wsss.data.synthetic import draw_scene
from wsss.localize.cam import ClassMaps, normalise_maps, seed_maps
from wsss.localize.crf import CRFSettings
from wsss.localize.pseudo_masks import pseudo_mask
from wsss.localize.slots import cluster_slots, propagate
from wsss.pictures import heat, overlay

SIDE = 128


def steps(seed: int) -> list[np.ndarray]:
    """Panels (SIDE, SIDE, 3) uint8: scene, seed, its slot average, product, slots, mask."""
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
    product = seed_maps(ClassMaps(torch.ones(1, 1), cam, dispatch))
    shades = np.random.default_rng(0).integers(40, 255, (64, 3), dtype=np.uint8)
    groups = shades[dispatch[0].argmax(0).numpy()]
    groups = cv2.resize(groups, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    mask = pseudo_mask(image, product[0].numpy(), [label], 0.4, CRFSettings())
    maps = [cv2.resize(m[0, 0].numpy(), (SIDE, SIDE)) for m in (cam, averaged, product)]
    return [image, groups, *(heat(image, m) for m in maps), overlay(image, mask)]


def main() -> None:
    """Write the figure, one scene a row."""
    rows = [np.concatenate(steps(seed), 1) for seed in (1, 3, 4)]
    picture = np.concatenate(rows)[..., ::-1]
    out = Path(__file__).parents[1] / "docs/method/steps.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out), picture)


if __name__ == "__main__":
    main()
