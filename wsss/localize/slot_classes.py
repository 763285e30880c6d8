"""Classes of slots, learned over many images from their own seeds.

A seed is made from one image, and what stands beside an object in it is easily taken for the object.
Slots of different images can be compared, as the network that describes them is the same: sky beside
aeroplanes looks like sky beside birds. So a linear classifier of slots learns from the seeds of other
images what a slot is, and corrects them; the corrected seeds are learned from again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.localize.slot_classifier import SlotClasses
from wsss.settings import SlotLabelSettings


@torch.inference_mode(False)
def learn_slots(
    images: Sequence[str],
    features: Tensor,
    areas: Tensor,
    seeds: Sequence[Tensor],
    labels: Sequence[Sequence[int]],
    num_labels: int,
    settings: SlotLabelSettings = SlotLabelSettings(),  # noqa: B008  (frozen)
    along: Callable[[Iterable], Iterable] = iter,
) -> SlotClasses:
    """Learn to tell the classes of slots: for each image from images other than itself.

    With r the seed's probabilities in a slot, and q = r at first, ``settings.rounds`` times: each slot
    gets the label of its largest sqrt(q r). A softmax regression of those labels on the slots'
    features, weighted by their areas, is learned on all images but one part of them, for each of
    ``settings.folds`` parts. Then q are its probabilities for that part's slots, cut to background and
    tags, each tag's divided by its maximum in the image, summing to 1. The regression ends after few
    steps, which keeps q soft: trained to its end it takes over the errors of the seeds
    (experiments/2026-11-27-relabelled-slots.md). What is so soft covers too much beside the background:
    in the end each class gets the factor with which it covers in all no more than its seeds do
    (`area_factors`).

    Args:
        images: Ids of I images.
        features: What describes each slot, ``(I, K, C)``.
        areas: Share of its image that each slot covers, ``(I, K)``.
        seeds: For each image, ``(n + 1, K)`` probabilities of background and tags in each slot.
        labels: The n mask labels of each image's tags.
        num_labels: Background and all classes.
        settings: Folds, rounds and steps.
        along: Wraps the steps of the work, for a progress bar.

    Returns:
        The last regressions, to be asked about these images and others.
    """
    count = len(features)
    features, areas = features.float(), areas.float()
    probabilities = seeds = [seed.float() for seed in seeds]
    mean, std = features.mean((0, 1)), features.std((0, 1)).clamp_min(1e-6)
    x = (features - mean).div_(std)
    part = torch.arange(count) % settings.folds
    folds = range(min(settings.folds, count))
    # an image alone teaches itself
    learned = [(part != fold if count > 1 else part == 0).nonzero().flatten() for fold in folds]
    for _ in along(range(settings.rounds)):
        pairs = zip(labels, probabilities, seeds, strict=True)
        targets = torch.stack([torch.tensor([0, *own])[(q * r).argmax(0)] for own, q, r in pairs])
        weight, bias = _regressions(x, targets, areas, learned, num_labels, settings.steps)
        ones = np.ones(num_labels, np.float32)
        taught = SlotClasses(weight.numpy(), bias.numpy(), ones, np.array(images))
        asked = [taught.without(image) for image in images]
        found = zip(asked, x.numpy(), labels, strict=True)
        probabilities = [torch.from_numpy(one.probabilities(own, tags)) for one, own, tags in found]
    weight = weight / std  # for features as they are
    factors = area_factors(probabilities, seeds, areas, labels, num_labels)
    bias = bias - weight @ mean
    return taught._replace(weight=weight.numpy(), bias=bias.numpy(), factors=factors.numpy())


def area_factors(
    probabilities: Sequence[Tensor],
    seeds: Sequence[Tensor],
    areas: Tensor,
    labels: Sequence[Sequence[int]],
    num_labels: int,
    steps: int = 12,
) -> Tensor:
    """Factors of the classes, 1 at most, with which none covers more than it does in the seeds.

    With q times the factors and r the seeds, sqrt(q r), summing to 1 in each slot, covers over all
    images as much of each class as r does; less where it does with the factor 1. Found step by step.

    Args:
        probabilities: For each of I images q, ``(n + 1, K)``, the background first.
        seeds: For each image r, alike.
        areas: Share of its image that each slot covers, ``(I, K)``.
        labels: The n mask labels of each image's tags.
        num_labels: Background and all classes, L.
        steps: Corrections of the factors.

    Returns:
        ``(L,)`` float32 in (0, 1], 1 for the background and for classes that no image has.
    """
    most = max(len(own) for own in labels) + 1
    shape = (len(labels), most, areas.shape[1])
    q, r = torch.zeros(shape), torch.zeros(shape)
    names = torch.full(shape[:2], num_labels)  # beyond an image's tags: a label of no area
    for index, own in enumerate(labels):
        count = len(own) + 1
        q[index, :count], r[index, :count] = probabilities[index], seeds[index]
        names[index, :count] = torch.tensor([0, *own])

    def covered(shares: Tensor) -> Tensor:
        shares = shares / shares.sum(1, keepdim=True).clamp_min(1e-9)
        by_label = (shares * areas[:, None]).sum(2).flatten()
        return torch.zeros(num_labels + 1).index_add_(0, names.flatten(), by_label)

    wanted, factors = covered(r), torch.ones(num_labels + 1)
    for _ in range(steps):
        found = covered((q * factors[names][..., None] * r).sqrt())
        ratio = (wanted / found.clamp_min(1e-9)).clamp(0.25, 4)
        factors = torch.where(found > 0, factors * ratio**1.5, factors).clamp_max(1)
        factors[0] = 1
    return factors[:num_labels]


def slot_probabilities(scores: Tensor, dispatch: Tensor, background: float) -> Tensor:
    """Probabilities (n + 1, K) that background and tags have in each slot, of scores (n, h, w) in 0..1.

    The background has the score `background` everywhere; a slot's probability is the mean over its
    pixels, by the dispatch map (K, h', w').
    """
    if scores.shape[1:] != dispatch.shape[1:] and len(scores):
        scores = F.interpolate(scores[None], dispatch.shape[1:], mode="bilinear")[0]
    floor = torch.full_like(dispatch[:1], background)
    probabilities = torch.cat([floor, scores.to(floor)]) if len(scores) else floor
    probabilities = probabilities / probabilities.sum(0).clamp_min(1e-6)
    weights = dispatch.flatten(1)
    return probabilities.flatten(1) @ (weights / weights.sum(1, keepdim=True).clamp_min(1e-12)).T


def _regressions(
    x: Tensor,
    targets: Tensor,
    areas: Tensor,
    learned: Sequence[Tensor],
    num_labels: int,
    steps: int,
    batch: int = 512,
) -> tuple[Tensor, Tensor]:
    """Softmax regressions, each on the slots of its own images and stopped early, all at once.

    Their samples are fixed: the same input gives the same regressions.

    Returns:
        Weights (F, L, C) and biases (F, L) of F regressions.
    """
    slots, channels = x.shape[1:]
    chances = [torch.Generator().manual_seed(0) for _ in learned]
    weight = torch.zeros(len(learned), channels, num_labels, requires_grad=True)
    bias = torch.zeros(len(learned), 1, num_labels, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=2e-3, weight_decay=0.05)
    areas = areas / areas.mean()
    with torch.enable_grad():
        for _ in range(steps):
            sampled = [
                torch.randint(len(images) * slots, (batch,), generator=chance)
                for images, chance in zip(learned, chances, strict=True)
            ]
            image = torch.stack([own[d // slots] for own, d in zip(learned, sampled, strict=True)])
            slot = torch.stack(sampled) % slots
            logits = torch.baddbmm(bias, x[image, slot], weight)  # folds, batch, labels
            loss = F.cross_entropy(
                logits.flatten(0, 1), targets[image, slot].flatten(), reduction="none"
            )
            optimizer.zero_grad()
            (loss * areas[image, slot].flatten()).sum().div(batch).backward()
            optimizer.step()
    return weight.detach().mT.contiguous(), bias.detach()[:, 0]
