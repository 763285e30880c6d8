"""A synthetic data set with exact masks: the demo's and the tests' photographs.

An object's class is its shape together with its texture; its colours, size, turn and place are chance.
Backgrounds are smooth noise with clutter (lines and plain blobs) in random colours, so that colour
alone does not tell a class; an object's texture has more contrast than they have. Objects may cover
one another; an image holds one to three of them.
"""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from wsss.data.masks import write_mask
from wsss.errors import UserError
from wsss.progress import progress

SYNTHETIC_CLASSES = ("ball", "brick", "kite", "star")


def draw_scene(rng: np.random.Generator, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image and its mask.

    Returns:
        image (size, size, 3) uint8 and mask (size, size) uint8: 0 background, i + 1 for
        `SYNTHETIC_CLASSES[i]`. At least one object shows at least 1 % of the image.
    """
    while True:
        image = _background(rng, size)
        mask = np.zeros((size, size), np.uint8)
        kinds = rng.choice(len(SYNTHETIC_CLASSES), p=None, size=rng.choice(3, p=(0.5, 0.3, 0.2)) + 1)
        for kind in kinds:
            _draw_object(rng, image, mask, int(kind))
        shown = np.bincount(mask.ravel(), minlength=len(SYNTHETIC_CLASSES) + 1)[1:]
        if all(shown[kind] >= 0.01 * size * size for kind in kinds):
            noise = rng.normal(0, 6, image.shape)
            return np.clip(image + noise, 0, 255).astype(np.uint8), mask


def draw_dataset(
    root: str | Path, train: int = 1000, val: int = 200, size: int = 96, seed: int = 0
) -> None:
    """Draw the data set in the VOC layout, unless it is there already.

    Args:
        root: folder to make; it appears only when it is whole.
        train: number of images in split train.
        val: number of images in split val.
        size: side of the images in pixels.
        seed: random seed; the same one makes the same data set.

    Raises:
        UserError: `root` exists and holds something else.
    """
    root = Path(root)
    listing = root / "ImageSets" / "Segmentation" / "train.txt"
    if listing.is_file():
        return
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root} holds other files, no data set is made in it: choose another root")
    root.parent.mkdir(parents=True, exist_ok=True)
    aside = root.with_name(f".{root.name}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    for folder in ("JPEGImages", "Annotations", "ImageSets/Segmentation"):
        (aside / folder).mkdir(parents=True)
    for number, (split, count) in enumerate((("train", train), ("val", val))):
        names = [f"{split}_{index:05d}" for index in range(count)]
        for index, name in enumerate(progress(names, f"draw split {split}", brief=True)):
            image, mask = draw_scene(np.random.default_rng([seed, number, index]), size)
            Image.fromarray(image).save(aside / "JPEGImages" / f"{name}.jpg", quality=95)
            write_mask(aside / "SegmentationClass" / f"{name}.png", mask)
            tags = [SYNTHETIC_CLASSES[label - 1] for label in np.unique(mask) if label]
            objects = "".join(f"<object><name>{tag}</name></object>" for tag in tags)
            (aside / "Annotations" / f"{name}.xml").write_text(
                f"<annotation><filename>{name}.jpg</filename>{objects}</annotation>\n"
            )
        lists = aside / "ImageSets" / "Segmentation"
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (aside / "classes.txt").write_text("".join(f"{name}\n" for name in SYNTHETIC_CLASSES))
    try:
        if root.exists():
            root.rmdir()
        os.replace(aside, root)
    except OSError:
        if not listing.is_file():
            raise
        shutil.rmtree(aside)  # another process has drawn the same meanwhile


def _noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """(size, size) smooth noise in 0..1 with about `cells` bumps along a side."""
    coarse = rng.uniform(0, 1, (cells + 2, cells + 2))
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    low, high = rng.uniform(70, 185, (2, 3))
    blend = 0.6 * _noise(rng, size, 3) + 0.4 * _noise(rng, size, 12)
    image = low + blend[..., None] * (high - low)
    for _ in range(rng.integers(4, 10)):
        colour = rng.uniform(50, 205, 3).tolist()
        start, end = rng.integers(0, size, (2, 2)).tolist()
        if rng.random() < 0.5:
            cv2.line(image, start, end, colour, int(rng.integers(1, 3)), cv2.LINE_AA)
        else:
            axes = (int(rng.integers(2, size // 8)), int(rng.integers(2, size // 8)))
            cv2.ellipse(image, start, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return image


def _draw_object(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, kind: int) -> None:
    size = mask.shape[0]
    radius = rng.uniform(0.17, 0.3) * size
    centre = rng.uniform(0.6 * radius, size - 0.6 * radius, 2)
    turn = rng.uniform(0, 2 * np.pi)
    yy, xx = np.mgrid[:size, :size]
    across = (xx - centre[0]) * np.cos(turn) + (yy - centre[1]) * np.sin(turn)
    along = (yy - centre[1]) * np.cos(turn) - (xx - centre[0]) * np.sin(turn)
    distance, angle = np.hypot(across, along), np.arctan2(along, across)
    if kind == 0:  # ball: disc with dots
        inside = distance < radius
        period = 9.0
        dots = np.hypot(across % period - period / 2, along % period - period / 2)
        texture = dots < 0.3 * period
    elif kind == 1:  # brick: rectangle with a chequer
        inside = (abs(across) < radius) & (abs(along) < 0.6 * radius)
        texture = (np.floor(across / 7) + np.floor(along / 7)) % 2 == 0
    elif kind == 2:  # kite: diamond with stripes
        inside = abs(across) / radius + abs(along) / (0.7 * radius) < 1.15
        texture = across % 6 < 3
    else:  # star: five points with rings
        wave = np.abs((angle / (2 * np.pi / 5)) % 1 - 0.5) * 2  # 1 at a point, 0 in a notch
        inside = distance < radius * (0.5 + 0.65 * wave)
        texture = distance % 12 < 6
    first, second = rng.uniform(150, 250, 3), rng.uniform(5, 105, 3)
    image[inside] = np.where(texture[..., None], first, second)[inside]
    mask[inside] = kind + 1
