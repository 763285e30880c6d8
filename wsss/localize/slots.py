"""Slots: a soft clustering of an image's own features, and the averaging of class maps over it.

A slot is one of K soft segments. Its dispatch map says, for every pixel, how much of that pixel
belongs to the slot. The maps come either from `cluster_slots`, which needs no training, or
from the GLMix blocks of a GLNet (Zhu et al., NeurIPS 2024, arXiv:2411.14429), which this clustering
imitates: slots start as an 8x8 average pool, and each pixel is described by a softmax over slots.

Everything here is a batched matrix product of size K x HW, so it runs on any device and costs
1-2 ms per image on one CPU core for 64 slots at stride 16.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.settings import SLOT_GRID


class SlotClustering(NamedTuple):
    """Soft segments of a batch of feature maps.

    Attributes:
        dispatch: Probability of each slot at each pixel, ``(B, K, H, W)``, float32 in
            [0, 1]; sums to 1 over the K slots at every pixel.
        slots: Mean feature of each slot under ``dispatch``, ``(B, K, C)``, float32 of unit length.
    """

    dispatch: Tensor
    slots: Tensor


def _float32(step: Callable) -> Callable:
    """Make a step compute in float32 inside autocast, too: bfloat16 probabilities do not sum to 1."""

    @functools.wraps(step)
    def run(*args: Any, **named: Any) -> Any:
        tensor = next(value for value in (*args, *named.values()) if isinstance(value, Tensor))
        with torch.autocast(tensor.device.type, enabled=False):
            return step(*args, **named)

    return run


@_float32
def cluster_slots(
    features: Tensor,
    grid: tuple[int, int] = (SLOT_GRID, SLOT_GRID),
    steps: int = 3,
    temperature: float = 0.1,
) -> SlotClustering:
    """Group the pixels of each image into soft segments by expectation-maximisation.

    With z the features scaled to unit length per pixel and s the slots, started as the normalised
    average of z over a grid of cells, ``steps`` times::

        dispatch = softmax over slots of (s . z / temperature)
        s        = normalise(dispatch @ z)

    This is a mixture of von Mises-Fisher distributions of equal weight and concentration
    1 / temperature (Banerjee et al., JMLR 2005), started like the slots of a GLMix block.

    Args:
        features: Feature maps ``(B, C, H, W)``, any float dtype; only their directions count.
        grid: Rows and columns of the initial slots; K is their product.
        steps: Rounds of expectation-maximisation, at least 1.
        temperature: Softness of the segments, on the scale of cosine similarities; above 0.

    Returns:
        Dispatch maps ``(B, K, H, W)`` and unit-length slots ``(B, K, C)``, both float32.

    Raises:
        ValueError: If ``features`` is not 4-dimensional, ``steps`` < 1 or ``temperature`` <= 0.
    """
    if features.ndim != 4:
        raise ValueError(f"features must be (B, C, H, W), got shape {tuple(features.shape)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    height, width = features.shape[-2:]
    z = F.normalize(features.float(), dim=1)  # B C H W
    slots = F.adaptive_avg_pool2d(z, grid).flatten(2)  # B C K
    slots = F.normalize(slots, dim=1).transpose(1, 2)  # B K C
    z = z.flatten(2)  # B C N
    z_by_pixel = z.transpose(1, 2).contiguous()  # B N C
    for _ in range(steps):
        dispatch = torch.bmm(slots / temperature, z).softmax(dim=1)  # B K N
        slots = F.normalize(torch.bmm(dispatch, z_by_pixel), dim=2)  # B K C
    return SlotClustering(dispatch.unflatten(2, (height, width)), slots)


@_float32
def slot_means(features: Tensor, dispatch: Tensor) -> Tensor:
    """What describes each slot: the mean of its pixels' features.

    Args:
        features: Feature maps ``(B, C, H, W)``, any float dtype; only their directions count.
        dispatch: Probability of each slot at each pixel, ``(B, K, h, w)``; resized as in
            `propagate`.

    Returns:
        ``(B, K, C)`` float32 of unit length; 0 for a slot without pixels.
    """
    to_pixels = _fit(dispatch, *features.shape[-2:]).flatten(2)  # B K HW
    z = F.normalize(features.float(), dim=1).flatten(2)  # B C HW
    return F.normalize(torch.bmm(to_pixels, z.transpose(1, 2)), dim=2)


@_float32
def propagate(maps: Tensor, dispatch: Tensor, steps: int = 2) -> Tensor:
    """Average maps over slots and hand the averages back to the pixels.

    One step is ``M <- ((M D^T) / (D 1)) D``: each slot takes the mean of the map over its pixels,
    each pixel then the mean of its slots' values. A constant map stays as it is, and no value
    leaves the range of the input. Several steps are a random walk among the slots, with the K x K
    matrix ``D D^T / (D 1)``, between one reading of the pixels and one handing back.

    Args:
        maps: Maps to smooth, for example class maps, ``(B, N, H, W)``.
        dispatch: Probability of each slot at each pixel, ``(B, K, h, w)``, summing to 1 over
            K. Where its size differs, it is resized to that of ``maps``: bilinear weights sum to 1,
            so the sum over slots still does.
        steps: How often to do it; 0 returns ``maps`` unchanged.

    Returns:
        Smoothed maps ``(B, N, H, W)``, float32.

    Raises:
        ValueError: If the batch sizes differ or ``steps`` is negative.
    """
    if maps.shape[0] != dispatch.shape[0]:
        raise ValueError(
            f"maps and dispatch must have the same batch size, got {maps.shape[0]} and "
            f"{dispatch.shape[0]}"
        )
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    height, width = maps.shape[-2:]
    to_pixels = _fit(dispatch, height, width).flatten(2)  # B K HW
    # A slot that no pixel belongs to would divide by zero; it gives nothing back either way.
    mass = to_pixels.sum(dim=2, keepdim=True).clamp_min(1e-12)
    to_slots = (to_pixels / mass).transpose(1, 2)  # B HW K
    flat = maps.float().flatten(2)  # B N HW
    for _ in range(steps):
        flat = torch.bmm(torch.bmm(flat, to_slots), to_pixels)
    return flat.unflatten(2, (height, width))


def sharpen_slots(dispatch: Tensor, power: float) -> Tensor:
    """Raise each pixel's slot probabilities to a power and let them sum to 1 again.

    A GLMix block that was trained for tags alone leaves its slots soft: nothing asks it to tell pixels
    apart as clearly as a mask must.

    Args:
        dispatch: Probability of each slot at each pixel, ``(B, K, h, w)``, summing to 1 over K.
        power: Above 1 for harder probabilities; 1 leaves them as they are.

    Returns:
        ``(B, K, h, w)`` float32, summing to 1 over K.
    """
    return (power * dispatch.float().clamp_min(1e-8).log()).softmax(1)


@_float32
def foreground_prior(scores: Tensor, dispatch: Tensor) -> Tensor:
    """Probability of each pixel's slots that do not run along the image's border, for every class.

    Sky, water, grass and walls leave the image over a long stretch of its border, objects lie inside or
    are cut on one side. With G the cosine similarity of the slots' dispatch maps, A = D 1 the slots'
    areas and L their lengths on the border, in pixels, of which a class's own scores S are taken off::

        c = (G L) / sqrt(G A)    where L = sum over the border of D (1 - S)
        prior = exp(-c^2 / 2) D

    The border connectivity c and its scale are those of Zhu et al., CVPR 2014 ("Saliency optimization
    from robust background detection"), with soft slots in the place of superpixels and their geodesic
    distances. That a class's own scores do not count against it spares what fills the image.

    Args:
        scores: How much speaks for each class, in 0..1, ``(B, N, H, W)``.
        dispatch: Probability of each slot at each pixel, ``(B, K, h, w)``, summing to 1 over
            K; resized as in `propagate`.

    Returns:
        ``(B, N, H, W)`` float32 in [0, 1]: near 0 for what runs along the border, 1 for what is not
        tied to it at all.
    """
    height, width = scores.shape[-2:]
    to_pixels = _fit(dispatch, height, width).flatten(2)  # B K HW
    border = to_pixels.new_zeros(height, width)
    for side in (border[0], border[-1], border[:, 0], border[:, -1]):
        side += 1  # a corner lies on two sides
    against = (1 - scores.float()) * border  # B N H W
    length = against.flatten(2) @ to_pixels.transpose(1, 2)  # B N K
    directions = F.normalize(to_pixels, dim=2)
    alike = directions @ directions.transpose(1, 2)  # B K K
    area = (to_pixels.sum(2)[:, None] @ alike).clamp_min(1e-12)  # B 1 K
    inside = (-(length @ alike).square() / (2 * area)).exp()  # B N K
    return (inside @ to_pixels).unflatten(2, (height, width))


def _fit(dispatch: Tensor, height: int, width: int) -> Tensor:
    """Dispatch maps (B, K, h, w) as float32 at another size; bilinear weights keep the sum of 1."""
    dispatch = dispatch.float()
    if dispatch.shape[-2:] == (height, width):
        return dispatch
    return F.interpolate(dispatch, size=(height, width), mode="bilinear", align_corners=False)
