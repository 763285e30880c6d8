"""Seeds, masks and refined masks as functions of network, data, settings and folder."""

import errno
import os
import threading
from concurrent.futures.process import _ExecutorManagerThread
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import die

from wsss.data.catalog import Record
from wsss.data.masks import read_arrays, read_mask, read_scores
from wsss.data.modules import MaskData, TagData
from wsss.errors import UserError
from wsss.localize.cam import class_maps, seed_maps
from wsss.localize.pseudo_masks import corrected_scores
from wsss.localize.slot_classifier import SlotClasses, SlotClassifier
from wsss.run_folder import MaskFiles
from wsss.settings import PseudoMaskSettings, RefinementSettings
from wsss.stages import masks
from wsss.stages.jobs import Job
from wsss.stages.masks import make_pseudo_masks, predict_masks, refine_masks
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.trainer import Trainer

CLASSES = ["ball", "brick", "kite", "star"]
QUICK = PseudoMaskSettings((1.0,), flip=False, steps=20, crf=None)

PARTS = """
import numpy as np

class LeftHalf:
    \"\"\"Every tag in the left half of its image.\"\"\"

    def __call__(self, maps):
        scores = maps.cam.new_zeros(maps.cam.shape)
        scores[..., : scores.shape[-1] // 2] = 1
        return scores

class Everywhere:
    \"\"\"The first tag at every pixel.\"\"\"

    def __call__(self, image, scores, labels, probabilities, background, crf):
        return np.full(image.shape[:2], labels[0], np.uint8)
"""


@pytest.fixture
def parts(tmp_path, monkeypatch) -> str:
    (tmp_path / "halves.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # goes to the processes that make masks, too
    return "halves"


@pytest.fixture(scope="module")
def classifier() -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask(CLASSES, "glnet_nano").eval()


def _trainer() -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)


def _data(drawn, **more) -> TagData:
    return TagData(str(drawn), predict_split="val", size=64, num_workers=0, **more)


@pytest.mark.parametrize("border_prior", [True, False])
@pytest.mark.parametrize("relabel_slots", [True, False])
def test_scores_are_those_of_the_settings(border_prior, relabel_slots, classifier, drawn, tmp_path):
    settings = replace(QUICK, border_prior=border_prior, relabel_slots=relabel_slots)
    data, out = _data(drawn), tmp_path / "masks"
    make_pseudo_masks(classifier, data, settings, out, _trainer(), workers=1)
    files, made = MaskFiles(out), 0
    for batch in data.predict_dataloader():
        with torch.inference_mode():
            wanted = seed_maps(class_maps(classifier.model, batch["image"], settings), settings)
        for index, name in enumerate(batch["id"]):
            tags = batch["tags"][index].nonzero().flatten().tolist()
            place = files.seed(name) if relabel_slots else files.scores(name)
            scores, labels = read_scores(place)
            assert labels == [tag + 1 for tag in tags]
            np.testing.assert_allclose(scores, wanted[index, tags], atol=1e-3)
            made += 1
    assert made == len(list(out.glob("*.png"))) == 8
    assert files.seeds.exists() == files.slot_classes.exists() == relabel_slots


def test_what_was_made_is_not_made_again(classifier, drawn, tmp_path, monkeypatch):
    predict = ClassificationTask.predict_step
    for relabel_slots in (True, False):
        settings = replace(QUICK, relabel_slots=relabel_slots)
        out = tmp_path / str(relabel_slots) / "masks"
        make_pseudo_masks(classifier, _data(drawn, batch_size=4), settings, out, _trainer(), 1)
        made = sorted(out.glob("*.png"))
        before = {path: path.read_bytes() for path in made}
        made[2].unlink()
        asked = []
        with monkeypatch.context() as spy:
            spy.setattr(
                ClassificationTask,
                "predict_step",
                lambda self, batch, i, to=asked: to.extend(batch["id"]) or predict(self, batch, i),
            )
            make_pseudo_masks(classifier, _data(drawn, batch_size=4), settings, out, _trainer(), 1)
        assert {path: path.read_bytes() for path in made} == before
        assert asked == ([] if relabel_slots else [p.stem for p in made[:4]])  # its batch, if no seed


def test_a_sample_shows_all_classes_alike():
    tags = [(0,)] * 80 + [(1,)] * 10 + [(0, 2)] * 2 + [()] * 8
    records = [Record(str(k), Path(f"{k}.jpg"), own, None) for k, own in enumerate(tags)]
    assert masks.sample_images(records, 100) is masks.sample_images(records, None) is records
    chosen = [int(record.id) for record in masks.sample_images(records, 19)]  # four a class
    # of class 0 the 82 images' 1st, 21st, ..., of class 2 both
    assert chosen == [0, 20, 41, 61, 80, 82, 85, 87, 90, 91, 92, 94, 96, 98]
    assert [int(record.id) for record in masks.sample_images(records, 1)] == [0, 80, 90, 92]


def test_slots_are_learned_from_a_sample(classifier, drawn, tmp_path):
    settings, data, out = replace(QUICK, sample=4), _data(drawn), tmp_path / "masks"
    chosen = masks.sample_images(data.catalog("val").records, 4)
    make_pseudo_masks(classifier, data, settings, out, _trainer(), workers=1)
    files, ids = MaskFiles(out), [record.id for record in data.catalog("val").records]
    taught = SlotClasses(**read_arrays(files.slot_classes))
    assert taught.images.tolist() == [record.id for record in chosen]
    assert len(taught.weight) == len(chosen) < len(ids)
    factors = taught.factors
    mean = SlotClassifier(taught.weight.mean(0), taught.bias.mean(0), factors)
    others = {name: fold for fold, name in enumerate(taught.images.tolist())}
    asked = {
        name: SlotClassifier(taught.weight[k], taught.bias[k], factors) for name, k in others.items()
    }
    for name in ids:
        seed = read_arrays(files.seed(name))
        shares = asked.get(name, mean).probabilities(seed["slots"], seed["labels"])
        wanted = corrected_scores(seed["scores"], seed["dispatch"], shares, settings.background)
        np.testing.assert_allclose(read_scores(files.scores(name))[0], wanted, atol=1e-3)
    for other in (None, 2048, 8):
        with pytest.raises(UserError, match="other settings"):  # they learn from all
            make_pseudo_masks(classifier, data, replace(QUICK, sample=other), out, _trainer(), 1)


def test_what_slots_were_learned_stays_until_images_come(classifier, drawn, tmp_path, monkeypatch):
    data, out, learned = _data(drawn), tmp_path / "masks", []
    learn = masks.learn_slots

    def noted(names, *more):
        learned.append(names)
        return learn(names, *more)

    monkeypatch.setattr(masks, "learn_slots", noted)
    whole = data.catalog("val")
    few = replace(whole, records=whole.records[::2])
    for catalog in (few, few, whole, whole):
        with monkeypatch.context() as less:
            less.setattr(TagData, "catalog", lambda self, split, to=catalog: to)
            make_pseudo_masks(classifier, data, QUICK, out, _trainer(), 1)
        made = sorted(path.stem for path in out.glob("*.png"))
        assert made == [record.id for record in catalog.records]
        next(out.glob("*.png")).unlink()  # something is left to do
    assert learned == [[record.id for record in catalog.records] for catalog in (few, whole)]
    # a sample that holds all images is none
    make_pseudo_masks(classifier, data, replace(QUICK, sample=8), out, _trainer(), 1)
    assert len(learned) == 2


def test_a_seed_of_ones_own(parts, classifier, drawn, tmp_path):
    settings = replace(QUICK, seed=f"{parts}.LeftHalf", relabel_slots=False)
    make_pseudo_masks(classifier, _data(drawn), settings, tmp_path / "masks", _trainer(), 1)
    made = [read_mask(path) for path in (tmp_path / "masks").glob("*.png")]
    assert len(made) == 8
    for mask in made:
        assert mask[:, :24].all() and not mask[:, 40:].any()


def test_a_refinement_of_ones_own(parts, classifier, drawn, tmp_path):
    first = tmp_path / "first" / "masks"
    settings = replace(QUICK, relabel_slots=False)
    make_pseudo_masks(classifier, _data(drawn), settings, first, _trainer(), 1)
    torch.manual_seed(0)
    segmenter = SegmentationTask(CLASSES, "Unet", "glnet_nano").eval()
    data = MaskData(str(drawn), crop=64, num_workers=0)
    maps, plain, own = MaskFiles(first).maps, tmp_path / "plain", tmp_path / "own"
    refine_masks(segmenter, data, RefinementSettings(crf=None), maps, plain, _trainer(), 1)
    how = RefinementSettings(refinement=f"{parts}.Everywhere")
    refine_masks(segmenter, data, how, maps, own, _trainer(), 1)
    for path in own.glob("*.png"):
        label = read_scores(maps / f"{path.stem}.npz")[1][0]
        assert (read_mask(path) == label).all() and (read_mask(plain / path.name) != label).any()
    # the background is that of the first round where nobody says else
    assert '"background": 0.4' in (plain / "settings.json").read_text()


def test_masks_of_the_segmenter_alone(drawn, tmp_path):
    torch.manual_seed(0)
    segmenter = SegmentationTask(CLASSES, "Unet", "glnet_nano").eval()
    data = MaskData(str(drawn), crop=64, num_workers=0)
    predict_masks(segmenter, data, tmp_path / "masks", _trainer())
    for batch in data.test_dataloader():
        made = read_mask(tmp_path / "masks" / f"{batch['id'][0]}.png")
        with torch.inference_mode():
            assert (made == segmenter.predict_mask(batch).numpy()).mean() > 0.99


def test_a_limit_of_batches_is_told(drawn, tmp_path):
    segmenter = SegmentationTask(CLASSES, "Unet", "glnet_nano").eval()
    data = MaskData(str(drawn), crop=64, num_workers=0, batch_size=2)
    limited = Trainer(accelerator="cpu", logger=False, limit_predict_batches=1)
    with pytest.raises(UserError, match="images have no mask: run again without a limit"):
        predict_masks(segmenter, data, tmp_path / "masks", limited)


def test_a_killed_process_is_told_with_its_image(tmp_path):
    jobs = [Job(Path(name), None, tmp_path, tmp_path) for name in ("small", "large", "last")]
    with (
        pytest.raises(UserError) as told,
        masks.MaskPool([], workers=1) as pool,
    ):
        for job in jobs:
            pool.submit(die, job)
    said = str(told.value)
    assert said.startswith("a process that makes masks was killed (out of memory?) at large: the same")
    with masks.MaskPool([], workers=1) as pool:  # the next time
        pool.submit(die, jobs[0])


@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)), ValueError("bad value(s) in fds_to_keep")],
)
def test_a_process_that_is_killed_as_it_starts_is_told(error, tmp_path, monkeypatch):
    def broken(*_):
        pool.pool._broken = "a child died"
        raise error

    told = pytest.raises(UserError, match="a process that makes masks was killed")
    with told, masks.MaskPool([], workers=1) as pool:
        monkeypatch.setattr(pool.pool, "submit", broken)
        pool.submit(die, Job(Path("small"), None, tmp_path, tmp_path))


def test_a_process_that_starts_while_another_dies_is_not_waited_for(tmp_path, monkeypatch):
    terminate = BaseProcess.terminate

    def not_by_the_pool(process):
        if threading.current_thread() is threading.main_thread():
            terminate(process)

    # as if it was not there yet when the pool ends its processes
    monkeypatch.setattr(BaseProcess, "terminate", not_by_the_pool)
    for name in ("shutdown_workers", "_shutdown_workers"):
        monkeypatch.setattr(_ExecutorManagerThread, name, lambda _: None, raising=False)
    with pytest.raises(UserError, match="was killed"), masks.MaskPool([], workers=2) as pool:
        for name in ("small", "large", "last"):
            pool.submit(die, Job(Path(name), None, tmp_path, tmp_path))
    assert not pool.pool._processes  # all have ended
