"""Making one mask."""

import numpy as np
import pytest
from PIL import Image

from wsss.data.masks import read_mask, write_arrays
from wsss.errors import UserError
from wsss.settings import RefinementSettings
from wsss.stages.jobs import Job, mask_of_segmenter


class Whole:
    def __call__(self, image, scores, labels, probabilities, background, crf):
        return np.ones(image.shape[:2], np.uint8)


class Small:
    def __call__(self, image, scores, labels, probabilities, background, crf):
        return np.ones((2, 2), np.uint8)


class Nothing:
    def __call__(self, image, scores, labels, probabilities, background, crf):
        pass


@pytest.fixture
def job(tmp_path) -> Job:
    Image.new("RGB", (9, 6)).save(tmp_path / "photo.png")
    job = Job(tmp_path / "photo.png", None, tmp_path / "mask.png", tmp_path / "maps.npz")
    write_arrays(job.maps, scores=np.zeros((1, 3, 4), np.float32), labels=np.array([1]))
    return job


def _refine(job, own):
    settings = RefinementSettings(0.4, refinement=f"{__name__}.{own.__name__}")
    mask_of_segmenter(job, settings, np.full((2, 3, 4), 0.5, np.float32))


def test_a_refinement_of_ones_own_gives_a_mask_of_the_images_size(job):
    _refine(job, Whole)
    assert (read_mask(job.mask) == 1).all()
    job.mask.unlink()
    for own, got in ((Small, r"\(2, 2\)"), (Nothing, "NoneType")):
        with pytest.raises(UserError, match=rf"{own.__name__} must return a mask \(6, 9\) .*got {got}"):
            _refine(job, own)
    assert not job.mask.is_file()
