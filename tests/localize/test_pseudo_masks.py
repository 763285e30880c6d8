"""From scores to masks: the rules of pseudo-masks, their refinement and correction."""

import numpy as np
import pytest

from wsss.localize.pseudo_masks import (
    corrected_scores,
    probabilities_of_rounds,
    pseudo_mask,
    refined_mask,
)


def test_pseudo_mask_rules():
    image = np.zeros((4, 6, 3), np.uint8)
    scores = np.zeros((2, 4, 6), np.float32)
    scores[0, :2], scores[1, 2:] = 0.9, 0.5
    mask = pseudo_mask(image, scores, [3, 5], background=0.45)
    assert (mask[0] == 3).all() and (mask[3] == 5).all()
    assert (pseudo_mask(image, scores, [3, 5], background=0.6)[3] == 0).all()
    assert (pseudo_mask(image, scores[:0], [], background=0.6) == 0).all()


def test_refined_mask_joins_both_and_keeps_to_the_tags():
    image = np.zeros((4, 6, 3), np.uint8)
    scores = np.full((2, 2, 3), 0.4, np.float32)
    scores[0, :, 0] = 1.0  # the first round is sure of label 3 on the left, and knows nothing else
    seen = np.full((6, 4, 6), 1e-3, np.float32)
    seen[5, :, 4:] = 0.5  # the segmenter sees 5 on the right,
    seen[0, :, 2:4] = 0.5  # background in the middle,
    seen[1] = 0.9  # and label 1 everywhere, which is not a tag
    seen[3, :, :2] = seen[0, :, :2] = 0.04  # on the left it cannot tell 3 from background
    mask = refined_mask(image, scores, [3, 5], seen, background=0.4)
    assert (mask[:, :1] == 3).all() and (mask[:, 2:4] == 0).all() and (mask[:, 5:] == 5).all()
    assert set(np.unique(mask)) == {0, 3, 5} and mask.shape == (4, 6)
    # by hand at the upper left pixel: segmenter .04 / .04 (its maximum) for 3, .001 / .5 for 5;
    # first round 1 of 1.8 for 3
    expected = np.array([0.04, 1.0, 0.002])
    second, first = (s[:, 0, 0] for s in probabilities_of_rounds(scores, [3, 5], seen, 0.4))
    np.testing.assert_allclose(second, expected / expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(first, np.array([0.4, 1.0, 0.4]) / 1.8, rtol=1e-5)
    assert (refined_mask(image, scores[:0], [], seen, 0.4) == 0).all()


def test_refined_mask_keeps_a_tag_that_the_segmenter_has_not_learned():
    scores = np.zeros((1, 4, 6), np.float32)
    scores[0, :, :3] = 1.0
    seen = np.full((4, 4, 6), 1e-4, np.float32)
    seen[0] = 0.99  # background everywhere, label 3 a little more on the left
    seen[3, :, :3] = 1e-3
    mask = refined_mask(np.zeros((4, 6, 3), np.uint8), scores, [3], seen, background=0.4)
    assert (mask[:, :3] == 3).all() and (mask[:, 3:] == 0).all()


@pytest.mark.parametrize("background", [0.2, 0.4, 0.6])
def test_corrected_scores_by_hand(background):
    scores = np.array([[[1.0, 0.5, 0.1]], [[0.0, 0.3, 0.8]]], np.float32)
    dispatch = np.array([[[1.0, 0.5, 0.0]], [[0.0, 0.5, 1.0]]], np.float32)
    slots = np.array([[0.2, 0.6], [0.6, 0.1], [0.2, 0.3]], np.float32)
    got = corrected_scores(scores, dispatch, slots, background)
    q = np.einsum("lk,khw->lhw", slots, dispatch)
    q[1:] /= q[1:].max((1, 2), keepdims=True)
    r = np.concatenate([np.full((1, 1, 3), background), scores])
    joint = np.sqrt(q * r)  # probabilities of one pixel, up to a factor
    np.testing.assert_allclose(
        got, (joint[1:] / (joint[1:] + joint[0])) ** (np.log(background) / np.log(0.5)), rtol=1e-5
    )
    # the background's score parts them as the joint probabilities do
    image = np.zeros((1, 3, 3), np.uint8)
    assert np.array_equal(pseudo_mask(image, got, [1, 2], background), joint.argmax(0))


def test_corrected_scores_at_the_ends():
    scores, dispatch = np.zeros((0, 2, 2), np.float32), np.ones((1, 2, 2), np.float32)
    assert corrected_scores(scores, dispatch, np.ones((1, 1), np.float32), 0.4).shape == (0, 2, 2)
    scores = np.array([[[0.0, 1.0]]], np.float32)
    for background in (0.0, 1.0):
        got = corrected_scores(scores, dispatch[:, :1], np.full((2, 1), 0.5, np.float32), background)
        assert np.isfinite(got).all() and ((got >= 0) & (got <= 1)).all()
