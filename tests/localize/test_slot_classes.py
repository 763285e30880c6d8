"""Slots that learn from those of other images what they are, and scores corrected by it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.localize.slot_classes import area_factors, learn_slots, slot_probabilities
from wsss.settings import SlotLabelSettings

BOAT, BIRD = 1, 2
KINDS = {"water": (1.0, 0.0, 0.0), "boat": (0.0, 1.0, 0.0), "bird": (0.0, 0.0, 1.0)}


FEWER = SlotLabelSettings(steps=400)


def classify_slots(features, areas, seeds, labels, num_labels, settings=FEWER):
    """What others say of each image's slots, and what they have taught."""
    names = [str(index) for index in range(len(features))]
    taught = learn_slots(names, features, areas, seeds, labels, num_labels, settings)
    asked = zip(names, features.numpy(), labels, strict=True)
    return [
        torch.from_numpy(taught.without(name).probabilities(x, tags)) for name, x, tags in asked
    ], taught


def _lake(count=48):
    """Boats and birds on water. The seeds of boats take water with them, those of birds do not."""
    rng = np.random.default_rng(0)
    features, seeds, labels, kinds = [], [], [], []
    for index in range(count):
        tag = BOAT if index % 3 == 0 else BIRD
        own = ["water"] * 5 + ["boat" if tag == BOAT else "bird"] * 3
        features.append([np.array(KINDS[kind]) + 0.1 * rng.normal(size=3) for kind in own])
        taken = 2 if tag == BOAT else 0  # slots of water
        foreground = np.array([0.7] * taken + [0.2] * (5 - taken) + [0.9] * 3)
        seeds.append(torch.tensor(np.stack([1 - foreground, foreground])))
        labels.append([tag])
        kinds.append(own)
    features = torch.tensor(np.array(features))
    return features, torch.full(features.shape[:2], 1 / 8), seeds, labels, kinds


def test_what_one_class_takes_others_give_back():
    features, areas, seeds, labels, kinds = _lake()
    probabilities, taught = classify_slots(features, areas, seeds, labels, 3)
    assert len(taught.weight) == FEWER.folds
    for index, (q, r, own) in enumerate(zip(probabilities, seeds, kinds, strict=True)):
        torch.testing.assert_close(q.sum(0), torch.ones(8))
        is_object = torch.tensor([kind != "water" for kind in own])
        assert torch.equal((q * r).argmax(0) > 0, is_object), index
        assert labels[index] == [BIRD] or not torch.equal(r.argmax(0) > 0, is_object)  # it was wrong
        mean = taught.without("new").probabilities(features[index].numpy(), labels[index])
        assert torch.equal((torch.from_numpy(mean) * r).argmax(0) > 0, is_object)


def test_probabilities_are_those_of_torch():
    features, areas, seeds, labels, _ = _lake()
    taught = classify_slots(features, areas, seeds, labels, 3)[1]
    for index in (0, 9):
        fold = index % FEWER.folds
        logits = features[index].float() @ torch.tensor(taught.weight[fold]).T
        q = (logits + torch.tensor(taught.bias[fold])).softmax(1)[:, [0, *labels[index]]]
        q[:, 1] = q[:, 1] / q[:, 1].max() * float(taught.factors[labels[index][0]])
        wanted = (q / q.sum(1, keepdim=True)).T
        found = taught.without(str(index)).probabilities(features[index].numpy(), labels[index])
        assert found.dtype == np.float32
        torch.testing.assert_close(torch.from_numpy(found), wanted)


@pytest.mark.parametrize("strength", [50.0, 0.02])
def test_classes_cover_no_more_than_in_their_seeds(strength):
    generator = torch.Generator().manual_seed(0)
    labels = [[1], [1, 2], [2], [1], []]
    areas = torch.rand(5, 6, generator=generator)
    made = [[torch.rand(len(own) + 1, 6, generator=generator) for own in labels] for _ in range(2)]
    q, r = ([part / part.sum(0) for part in parts] for parts in made)
    for part in q:
        part[1:] *= strength
    factors = area_factors(q, r, areas, labels, 4, steps=30)

    def covered(shares):
        total = torch.zeros(4)
        for share, area, own in zip(shares, areas, labels, strict=True):
            total[[0, *own]] += (share / share.sum(0) * area).sum(1)
        return total

    if strength < 1:  # they cover less
        assert torch.equal(factors, torch.ones(4))
        return
    assert factors[0] == factors[3] == 1 and (factors[1:3] < 0.1).all()
    scaled = [part * factors[[0, *own]][:, None] for part, own in zip(q, labels, strict=True)]
    joint = [(a * b).sqrt() for a, b in zip(scaled, r, strict=True)]
    torch.testing.assert_close(covered(joint), covered(r), rtol=0.01, atol=0.01)


def test_an_image_does_not_teach_itself():
    once = replace(FEWER, rounds=1)
    features, areas, seeds, labels, _ = _lake()
    one = classify_slots(features, areas, seeds, labels, 3, settings=once)[1]
    seeds[0] = seeds[0].flip(0)
    other = classify_slots(features, areas, seeds, labels, 3, settings=once)[1]
    same = [np.array_equal(a, b) for a, b in zip(one.weight, other.weight, strict=True)]
    assert same == [True] + [False] * (FEWER.folds - 1)  # the first part is the image's own


def test_what_was_corrected_is_learned_from_again():
    features, areas, seeds, labels, _ = _lake()
    made = []
    for rounds in (1, 2):
        how = replace(FEWER, rounds=rounds)
        made.append(torch.cat(classify_slots(features, areas, seeds, labels, 3, settings=how)[0]))
    assert (made[0] - made[1]).abs().max() > 0.01


def test_only_differences_between_slots_count():
    features, areas, seeds, labels, _ = _lake()
    moved = features + torch.tensor([3.0, -2.0, 5.0])
    ways = [classify_slots(f, areas, seeds, labels, 3)[0][0] for f in (features, moved)]
    torch.testing.assert_close(*ways, atol=1e-3, rtol=1e-3)


def test_large_slots_count_more():
    features, areas, seeds, labels, _ = _lake()
    heavy = areas.clone()
    heavy[:, :2] = 5.0  # the water that boats take
    light, more = (classify_slots(features, a, seeds, labels, 3)[0] for a in (areas, heavy))
    assert more[0][1, 0] > light[0][1, 0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_and_images_without_tags(count):
    features, areas, seeds, labels, _ = _lake(count)
    labels[-1], seeds[-1] = [], torch.ones(1, 8)
    probabilities, _ = classify_slots(features, areas, seeds, labels, 3)
    assert [q.shape for q in probabilities] == [(len(own) + 1, 8) for own in labels]
    assert torch.equal(probabilities[-1], torch.ones(1, 8))
    assert all(q.isfinite().all() for q in probabilities)


def test_probabilities_of_slots_are_means_over_their_pixels():
    rng = np.random.default_rng(0)
    scores = torch.tensor(rng.random((2, 3, 4)), dtype=torch.float32)
    dispatch = torch.tensor(rng.random((5, 3, 4)), dtype=torch.float32).softmax(0)
    probabilities = slot_probabilities(scores, dispatch, 0.4)
    for slot in range(5):
        total, weight = np.zeros(3), 0.0
        for y in range(3):
            for x in range(4):
                own = np.array([0.4, *scores[:, y, x].tolist()])
                total += dispatch[slot, y, x].item() * own / own.sum()
                weight += dispatch[slot, y, x].item()
        np.testing.assert_allclose(probabilities[:, slot], total / weight, rtol=1e-5)
    torch.testing.assert_close(slot_probabilities(scores[:0], dispatch, 0.4), torch.ones(1, 5))
    finer = F.interpolate(dispatch[None], (6, 8))[0]
    assert slot_probabilities(scores, finer, 0.4).shape == (3, 5)
