"""What the networks of a run see in a few of its photographs, for the report's pictures."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from wsss.api import Classifier, Segmenter
from wsss.data.catalog import Record
from wsss.data.images import read_image
from wsss.data.masks import read_mask, read_scores
from wsss.pictures.strip import Row, chain_row
from wsss.run_folder import RunFolder


def networks(run: RunFolder) -> Callable[[np.ndarray], tuple[np.ndarray | None, np.ndarray]]:
    """What tells, by the run's own networks, the slots and the mask of a photograph.

    It takes a photograph (H, W, 3) uint8 and returns the (K, h, w) float32 slots that the masks were
    made with, or None in a run without slots, and the segmenter's mask (H, W) uint8.
    """
    made = run["pseudo_masks"]
    how, size = replace(made.made_with, scales=(1.0,), flip=False), made.data().predict_size
    classifier = Classifier.load(run["classify"].checkpoint)
    segmenter = Segmenter.load(run["segment"].checkpoint)

    def look(image: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        dispatch = classifier.class_maps(image, how, size).dispatch
        return None if dispatch is None else dispatch[0].numpy(), segmenter.predict(image)

    return look


def chain_rows(run: RunFolder, count: int = 6) -> list[Row]:
    """`count` training photographs, evenly spaced in their list, through every step of a run."""
    made, refined = run["pseudo_masks"], run.stages.get("refined_masks")
    data = made.data()
    catalog = data.catalog(data.predict_split)
    names = ["background", *catalog.classes]
    look = networks(run)

    def row(record: Record) -> Row:
        image = read_image(record.image, catalog.white)
        seed, labels = read_scores(made.scores(record.id))
        masks = {"pseudo-mask": read_mask(made.mask(record.id))}
        if refined is not None:
            masks["refined"] = read_mask(refined.mask(record.id))
        dispatch, masks["segmenter"] = look(image)
        if record.mask is not None:
            masks["ground truth"] = read_mask(record.mask)
        tags, tagged = [catalog.classes[tag] for tag in record.tags], [names[i] for i in labels]
        return chain_row(image, tags, seed, tagged, dispatch, masks, names)

    spread = np.linspace(0, len(catalog.records) - 1, min(count, len(catalog.records)))
    return [row(catalog.records[int(index)]) for index in spread]
