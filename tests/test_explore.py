"""A run to look around in: its masks are made again as they were, its images are listed by quality."""

import json
import shutil

import numpy as np
import pytest
import torch
from odd_files import unreadable_uploads

from wsss.data.images import read_image
from wsss.data.masks import read_mask
from wsss.errors import UserError
from wsss.explore import Run, areas, mask_picture, uncertainty
from wsss.localize.pseudo_masks import pseudo_mask
from wsss.settings import CRFSettings, InferenceSettings


@pytest.fixture(scope="module")
def run(small_run) -> Run:
    return Run(small_run)


def test_masks_are_those_of_the_run(run, small_run):
    entry = run.listed("masks")[5]
    found = run.analyse_file(entry.record.image)
    assert found.image.shape == (64, 64, 3) and found.scores.shape[0] == 4
    made = run.pseudo_mask(found, list(entry.record.tags), run.background, crf=True)
    stored = read_mask(small_run / "pseudo_masks" / "masks" / f"{entry.record.id}.png")
    assert (made != stored).mean() < 0.01  # the stored scores are float16
    names = [run.classes[tag] for tag in reversed(entry.record.tags)]  # in any order, and twice
    same = run.pseudo_mask(found, [*names, *entry.record.tags], run.background, crf=True)
    np.testing.assert_array_equal(same, made)
    for wrong in ("dog", 4, -1):
        with pytest.raises(UserError, match=f"tag {wrong!r} is unknown.*ball, brick, kite, star"):
            run.scores(found, [wrong], run.background)
    other = run.pseudo_mask(found, list(entry.record.tags), 0.95, crf=False)
    assert (other > 0).sum() < (made > 0).sum()
    assert found.predicted.shape == (64, 64)


def test_pseudo_masks_are_those_of_the_run_where_slots_learned(small_run, tmp_path):
    stage, run = small_run / "pseudo_masks", Run(small_run)
    wrong = np.zeros(3)  # pixels unlike the run's: as shown, by what all taught, without slots
    records = run.data.catalog("train").records[:9]
    for record in records:
        found, tags = run.analyse_file(record.image), list(record.tags)
        theirs = read_mask(stage / "masks" / f"{record.id}.png")
        ways = [run.pseudo_mask(found, tags, run.background, crf=True)]
        shutil.copy(record.image, tmp_path / "elsewhere.jpg")
        new = run.analyse_file(tmp_path / "elsewhere.jpg")  # nobody's photograph
        ways.append(run.pseudo_mask(new, tags, run.background, crf=True))
        labels = [tag + 1 for tag in tags]
        ways.append(pseudo_mask(found.image, found.scores[tags], labels, run.background, run.crf))
        wrong += [(way != theirs).mean() / len(records) for way in ways]
    assert wrong[0] < 1e-3 < wrong[1] < 0.2 and wrong[0] < 0.1 * wrong[2]


def test_a_run_is_shown_as_its_masks_were_made(small_run, tmp_path):
    """Defaults of the code, or the config, may have changed since."""
    shutil.copytree(small_run, tmp_path / "run")
    note = tmp_path / "run" / "pseudo_masks" / "masks" / "settings.json"
    before = json.loads(note.read_text())
    del before["relabel_slots"], before["border_prior"]  # of before there were such settings
    note.write_text(json.dumps(before | {"background": 0.25}))
    assert Run(small_run).taught
    run = Run(tmp_path / "run")
    assert run.background == 0.25 and not run.taught and not run.made_with.border_prior


def test_the_segmenter_is_used_as_its_test_uses_it(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    path = tmp_path / "run" / "segment" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["inference"] |= {"scales": [0.5, 1.5], "flip": True, "crf": {"side": 40}}
    torch.save(content, path)
    run = Run(tmp_path / "run")
    wanted = InferenceSettings((0.5, 1.5), True, None, CRFSettings(side=40), max_side=96)
    assert run.segmenter.inference == wanted
    photograph = run.listed("segmenter")[0].record.image
    made = run.analyse_file(photograph).predicted
    np.testing.assert_array_equal(made, run.segmenter.predict(read_image(photograph)))


def test_tags_where_none_is_likely(run):
    found = run.analyse_file(run.listed("masks")[0].record.image)
    found.probabilities = np.array([0.1, 0.6, 0.2, 0.5], np.float32)
    assert run.likely_tags(found) == [1, 3]
    found.probabilities = np.array([0.1, 0.3, 0.2, 0.2], np.float32)
    assert run.likely_tags(found) == [1]


def test_order_of_the_images_by_hand(run, small_run, drawn):
    def iou(folder, record):
        made = read_mask(small_run / folder / f"{record.id}.png")
        target = read_mask(drawn / "SegmentationClass" / f"{record.id}.png")
        pairs = [(made == i, target == i) for i in set(np.unique(made)) | set(np.unique(target))]
        return np.mean([(one & other).sum() / (one | other).sum() for one, other in pairs])

    # what the segmenter learnt from, and its own masks of images that it has not seen
    for order, folder, count in (
        ("masks", "refined_masks/masks", 24),
        ("segmenter", "segment/test", 8),
    ):
        worst = run.listed(order)
        assert len(worst) == count
        values = [100 * iou(folder, entry.record) for entry in worst]
        np.testing.assert_allclose([entry.value for entry in worst], values)
        assert values == sorted(values) and values[0] < values[-1]
    unsure = [entry.value for entry in run.listed("unsure")]
    assert unsure == sorted(unsure, reverse=True) and 0 <= unsure[-1] < unsure[0] <= 1
    assert all(2 in entry.record.tags for entry in run.listed("masks", tag=2))
    captions = ["photograph", "seed", "pseudo-mask", "refined", "segmenter", "ground truth"]
    for order, wanted in (("masks", captions), ("segmenter", [*captions[:2], *captions[4:]])):
        pictures = run.pictures(run.listed(order)[0])
        assert [c for _, c in pictures] == wanted
        assert all(p.shape == (640, 640, 3) for p, _ in pictures)


def test_a_run_lists_what_it_has(small_run, tmp_path):
    broken_off = tmp_path / "run"
    shutil.copytree(small_run, broken_off, ignore=shutil.ignore_patterns("segment", "refined_masks"))
    run = Run(broken_off)
    assert run.orders == ["masks", "unsure"]
    assert {entry.mask.parent for entry in run.listed("masks")} == {
        broken_off / "pseudo_masks" / "masks"
    }
    assert [what for _, what in run.pictures(run.listed("unsure")[0])][2:] == [
        "pseudo-mask",
        "ground truth",
    ]
    (broken_off / "pseudo_masks" / "masks.json").unlink()  # no ground truth is known
    assert run.orders == ["unsure"]


def test_uncertainty_of_sure_and_unsure_images():
    assert uncertainty(np.zeros((0, 4, 4), np.float32), 0.4) == 0
    assert uncertainty(np.zeros((2, 4, 4), np.float32), 0.4) == pytest.approx(0, abs=1e-6)
    assert uncertainty(np.full((2, 4, 4), 0.4, np.float32), 0.4) == pytest.approx(1)


def test_areas_and_names_of_a_mask():
    mask = np.zeros((10, 40), np.uint8)
    mask[:, 20:] = 2
    mask[0, 0] = 255
    assert areas(mask, ["ball", "brick"]) == {"brick": 50.0, "background": 49.75, "void": 0.25}
    grey = np.full((10, 40, 3), 90, np.uint8)
    picture = mask_picture(grey, mask, ["ball", "brick"])
    assert picture.shape == (160, 640, 3) and (picture[5, 30] == 90).all()
    right = picture[:, 330:]
    assert (right == 255).all(2).any() and not (picture[20:, 20:300] == 255).all(2).any()  # the name


def test_bad_photographs_and_folders_are_told(run, tmp_path):
    text, huge = unreadable_uploads(tmp_path)
    with pytest.raises(UserError, match=r"^image holiday <b>\.jpg cannot be read \("):
        run.analyse_file(text)
    with pytest.raises(UserError, match=r"huge\.png has 9000x6000 pixels, more than 50 million"):
        run.analyse_file(huge)
    with pytest.raises(UserError, match=r"no classify/last\.ckpt"):
        Run(tmp_path)
