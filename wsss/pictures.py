"""Pictures of results."""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw

from wsss.data.catalog import Catalog
from wsss.data.images import read_image
from wsss.data.masks import read_mask, write_atomic
from wsss.localize.crf import resize_scores
from wsss.tasks.segmentation import SegmentationTask
from wsss.voc import palette

_COLOURS = np.array(palette(), np.uint8).reshape(256, 3)


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lay a mask (H, W) in VOC colours over an image (H, W, 3) uint8; background stays as it is."""
    colours = _COLOURS[mask]
    mixed = (0.4 * image + 0.6 * colours).astype(np.uint8)
    return np.where((mask > 0)[..., None], mixed, image)


def heat(image: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Lay a score (H, W) in 0..1 over an image (H, W, 3) uint8 as a heat map."""
    colours = cv2.applyColorMap((255 * score.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return (0.4 * image + 0.6 * colours[..., ::-1]).astype(np.uint8)


def write_strip(path: Path, catalog: Catalog, masks: Path, segment: Path, count: int = 6) -> None:
    """Write a picture of `count` training images: tags, class map, pseudo-mask, segmenter, truth."""
    spread = np.linspace(0, len(catalog.records) - 1, min(count, len(catalog.records)))
    records = [catalog.records[int(index)] for index in spread]
    task = SegmentationTask.from_checkpoint(segment / "best.ckpt")
    columns = ["tags", "class map", "pseudo-mask", "segmenter", "truth"]
    cell, head = 160, 18
    sheet = Image.new("RGB", (cell * len(columns), head + len(records) * (cell + head)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(columns[1:], start=1):
        draw.text((number * cell + 4, 3), name, fill="black")
    for row, record in enumerate(records):
        image = read_image(record.image)
        with np.load(masks / "maps" / f"{record.id}.npz") as file:
            scores = file["scores"].astype(np.float32)
        best = resize_scores(scores, *image.shape[:2]).max(0) if len(scores) else 0 * image[..., 0]
        tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
        with torch.inference_mode():
            batch = {"image": tensor, "size": torch.tensor([image.shape[:2]])}
            predicted = task.predict_mask(batch).numpy()
        pictures = [
            image,
            heat(image, best),
            overlay(image, read_mask(masks / "masks" / f"{record.id}.png")),
            overlay(image, predicted),
        ]
        if record.mask is not None:
            pictures.append(overlay(image, read_mask(record.mask)))
        top = head + row * (cell + head)
        tags = ", ".join(catalog.classes[tag] for tag in record.tags) or "(no tag)"
        draw.text((4, top + 3), tags, fill="black")
        for column, picture in enumerate(pictures):
            small = Image.fromarray(picture)
            scale = (cell - 4) / max(small.size)
            small = small.resize([max(1, round(side * scale)) for side in small.size])
            sheet.paste(small, (column * cell + 2, top + head))
    write_atomic(path, lambda aside: sheet.save(aside, format="PNG"))
