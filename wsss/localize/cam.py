"""Class maps of whole images: several scales and the horizontal flip, present classes, slots."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.errors import UserError
from wsss.geometry import fit_multiple
from wsss.localize.slots import foreground_prior, propagate, sharpen_slots, slot_means
from wsss.parts import make_part
from wsss.settings import ClassMapSettings, SeedSettings


class ClassMaps(NamedTuple):
    """Maps of a batch of images of one shape.

    >>> classifier = wsss.Classifier.load("runs/demo/classify/last.ckpt")
    >>> maps = classifier.class_maps(wsss.read_image("photo.jpg"), size=64)
    >>> maps.probabilities.shape, maps.cam.shape, maps.dispatch.shape[1]  # 4 classes, 64 slots
    (torch.Size([1, 4]), torch.Size([1, 4, 4, 4]), 64)

    Attributes:
        probabilities: (B, N) float32 in 0..1, at scale 1.
        cam: (B, N, h, w) float32 in 0..1, averaged over scales and horizontal flips.
        dispatch: (B, K, h', w') float32 slot probabilities at scale 1, or None.
        slots: (B, K, C) float32, what describes the slots (`wsss.localize.slots.slot_means`), or None.
    """

    probabilities: Tensor
    cam: Tensor
    dispatch: Tensor | None
    slots: Tensor | None = None


def class_maps(
    classifier: Any,
    images: Tensor,
    settings: ClassMapSettings = ClassMapSettings(),  # noqa: B008  (frozen)
) -> ClassMaps:
    """Run the classifier at several scales and average the probabilities of its positions.

    The probability of a position is the sigmoid of its evidence and the class bias: what the classifier
    would say of an image that looks like this everywhere. A ReLU, as for the original CAM (Zhou et al.,
    CVPR 2016), lets single strong positions push the rest of an object down when a map is stretched to
    0..1; measured in experiments/2026-11-26-joining-maps.md.

    Args:
        classifier: a `TagClassifier`, or what has its `bias` and `size_multiple`.
        images: (B, 3, H, W), RGB in 0..255.
        settings: scales, horizontal flip and slots. Sides are rounded to multiples of the
            classifier's `size_multiple`; the slots are those at scale 1.

    Returns:
        Maps at the class map's resolution of scale 1.
    """
    height, width = images.shape[-2:]
    scales, flip = tuple(dict.fromkeys(settings.scales)), settings.flip
    views = [1.0] + [scale for scale in scales if scale != 1.0]
    total, size, probabilities, dispatch, means = 0.0, None, None, None, None
    for scale in views:
        shape = [fit_multiple(side * scale, classifier.size_multiple) for side in (height, width)]
        view = images.float()
        if shape != [height, width]:
            view = F.interpolate(view, shape, mode="bilinear", antialias=scale < 1)
        count = len(view)
        if flip:
            view = torch.cat([view, view.flip(3)])  # one batch of 2B
        slots = settings.slots if scale == 1.0 else "none"
        out = classifier(view, slots=slots, slot_grid=settings.slot_grid)
        cam = (out.class_map + classifier.bias[:, None, None]).sigmoid()
        if size is None:  # scale 1 comes first
            size = cam.shape[-2:]
            probabilities = out.logits[:count].sigmoid()
            dispatch = None if out.dispatch is None else out.dispatch[:count]
            if settings.slots == "blocks":
                dispatch = sharpen_slots(dispatch, settings.sharpen)
            if out.middle is not None:
                means = slot_means(out.middle[:count], dispatch)
        if flip:
            cam = (cam[:count] + cam[count:].flip(3)) / 2
        if scale in scales:
            total = total + F.interpolate(cam, size, mode="bilinear", align_corners=False)
    return ClassMaps(probabilities, total / len(scales), dispatch, means)


def normalise_maps(maps: Tensor) -> Tensor:
    """Stretch every map (B, N, H, W) to 0..1 by its own minimum and maximum."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-6)


@runtime_checkable
class Seed(Protocol):
    """What makes seeds of class maps; `seed_maps` is the one of wsss."""

    def __call__(self, maps: ClassMaps) -> Tensor:
        """Scores (B, N, h, w) in 0..1 for every class of a batch."""


def seed_maps(
    maps: ClassMaps,
    settings: SeedSettings = SeedSettings(),  # noqa: B008  (frozen)
    steps: int = 2,
) -> Tensor:
    """Foreground scores (B, N, h, w) in 0..1 for the pseudo-masks.

    With slots: the geometric mean of the class map and of its average over the slots, each
    normalised, so that a pixel needs evidence of its own and of its group; times the slots'
    `foreground_prior` unless `settings.border_prior` is off. Normalised again, so that no tag is lost.
    Without slots: the class map.
    """
    own = normalise_maps(maps.cam)
    if maps.dispatch is None:
        return own
    scores = (own * normalise_maps(propagate(maps.cam, maps.dispatch, steps))).sqrt()
    if settings.border_prior:
        scores = scores * foreground_prior(scores, maps.dispatch)
    return normalise_maps(scores)


def seeds_of_maps(maps: ClassMaps, settings: SeedSettings) -> Tensor:
    """Scores (B, N, h, w) by `seed_maps`, or by the class that `settings.seed` names.

    Raises:
        UserError: there is no such class, or what it returns has another shape.
    """
    if settings.seed is None:
        return seed_maps(maps, settings)
    scores = make_part(settings.seed, Seed, "masks.seed")(maps)
    batch, classes = maps.cam.shape[:2]
    if not isinstance(scores, Tensor) or scores.ndim != 4 or scores.shape[:2] != (batch, classes):
        got = list(scores.shape) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise UserError(
            f"masks.seed {settings.seed} must return a tensor [{batch}, {classes}, h, w] of scores "
            f"for every class of the batch, got {got}: see docs/how-to/extend.md"
        )
    return scores
