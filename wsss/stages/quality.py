"""How good masks and seeds are, where the ground truth of some is known."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wsss.data.catalog import Catalog, Record
from wsss.data.masks import read_mask, read_scores
from wsss.distributed import is_first, share
from wsss.errors import NotMeasurable, notice
from wsss.evaluation import Evaluator, compare_files, threshold_curve, write_counts
from wsss.progress import progress
from wsss.run_folder import MaskFiles, StageFolder


def judge_masks(stage: StageFolder, catalog: Catalog) -> tuple[list[Record], dict[str, Any]]:
    """Measure the masks of a stage, and keep the pixel counts of each image in `masks.json`.

    Args:
        stage: where they are.
        catalog: the images that masks were made of.

    Returns:
        The images whose ground truth is known, and the scores in percent; nothing where nothing can be
        measured.
    """
    records = [record for record in catalog.records if record.mask is not None]
    if not records:
        return [], {}
    pairs = [(stage.mask(record.id), record.mask) for record in records]
    evaluator = Evaluator(catalog.classes)
    # strict: asked once more after the last image, it tells of what is not measurable
    images = zip((record.id for record in records), compare_files(pairs, evaluator), strict=True)
    try:
        if is_first():
            write_counts(stage.masks.with_suffix(".json"), catalog.classes, images)
        else:
            deque(images, maxlen=0)
    except NotMeasurable as error:
        notice(f"mIoU of {stage.name} is not measurable: {error}")
        return [], {}
    return records, {"mask": evaluator.compute().to_dict()}


def judge_seed(
    files: MaskFiles, records: Sequence[Record], num_labels: int, background: float
) -> dict[str, Any]:
    """mIoU in percent of the scores that masks are made from, at every threshold.

    Args:
        files: where they are.
        records: the images whose ground truth is known.
        num_labels: background and all classes.
        background: score of the background in use, 0..1.
    """

    def found() -> Iterator[tuple[np.ndarray, list[int], np.ndarray]]:
        for record in progress(share(records), "sweep the seed's threshold"):
            truth = read_mask(record.mask, num_labels)
            yield *read_scores(files.scores(record.id)), truth

    curve = threshold_curve(found(), num_labels, also=[background])
    best = max(curve, key=lambda point: point[1])
    return {
        "seed_curve": curve,
        "seed_miou_fixed": min(curve, key=lambda point: abs(point[0] - background))[1],
        "seed_miou_best": best[1],
        "seed_threshold_best": best[0],
    }
