"""What a run's networks see in photographs, for the report's pictures."""

import numpy as np
import torch

from wsss.api import Segmenter
from wsss.data.images import read_image
from wsss.geometry import resize
from wsss.localize.slots import sharpen_slots
from wsss.report.examples import chain_rows, networks
from wsss.run_folder import RunFolder
from wsss.tasks.classification import ClassificationTask


def test_slots_and_masks_are_those_of_the_run(small_run):
    run = RunFolder(small_run)
    image = read_image(run["pseudo_masks"].data().catalog("train").records[0].image)
    dispatch, mask = networks(run)(image)
    small = torch.from_numpy(resize(image, 64, 64)).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        model = ClassificationTask.from_checkpoint(run["classify"].checkpoint).model
        plain = model(small, slots="blocks").dispatch
    expected = sharpen_slots(plain, 4.0)[0].numpy()
    np.testing.assert_allclose(dispatch, expected, atol=1e-5)
    assert not np.allclose(plain[0].numpy(), expected, atol=1e-3)
    segmenter = Segmenter.load(run["segment"].checkpoint)
    np.testing.assert_array_equal(mask, segmenter.predict(image))


def test_a_run_of_two_rounds_shows_both(small_run):
    rows = chain_rows(RunFolder(small_run), count=2)
    captions = [
        "photograph",
        "seed",
        "slot groups",
        "pseudo-mask",
        "refined",
        "segmenter",
        "ground truth",
    ]
    assert [[cell.caption for cell in row.cells] for row in rows] == [captions] * 2
