"""The dense CRF (Krahenbuhl & Koltun, NIPS 2011) by mean field. Needs no torch."""

from collections.abc import Callable

import cv2
import numpy as np

from wsss.geometry import resize_scores
from wsss.localize.lattice import Lattice
from wsss.settings import CRFSettings

REFERENCE_SIDE = 500  # long side of VOC's images, which the field's CRF settings are meant for


def dense_crf(image: np.ndarray, scores: np.ndarray, settings: CRFSettings) -> np.ndarray:
    """Sharpen scores along the image's edges.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (L, h, w) float32, at least 0, any size; normalised to sum to 1 over the labels.
        settings: see `CRFSettings`.

    Returns:
        (L, h', w') float32 probabilities at the working size; resize them before taking the maximum.
    """
    height, width = image.shape[:2]
    shrink = min(1.0, settings.side / max(height, width))
    height, width = max(1, round(height * shrink)), max(1, round(width * shrink))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    given = np.clip(resize_scores(scores.astype(np.float32), height, width), 1e-5, None)
    logits = np.log(given / given.sum(0)).reshape(len(scores), -1)  # L HW
    q = _softmax(logits)
    kernels = _kernels(small, settings)
    total = sum(kernel(np.ones_like(q[:1])) for kernel in kernels)
    for _ in range(settings.iterations):
        # q sums to 1: the first label's messages are what the others leave of the total
        messages = sum((kernel(q[1:]) for kernel in kernels), np.zeros_like(q[1:]))
        q = logits.copy()
        q[1:] += messages
        q[:1] += total - messages.sum(0)
        q = _softmax(q)
    return q.reshape(-1, height, width)


def _softmax(logits: np.ndarray) -> np.ndarray:
    probabilities = np.exp(logits - logits.max(0))
    probabilities /= probabilities.sum(0)
    return probabilities


Filter = Callable[[np.ndarray], np.ndarray]
"""A linear map of images (n, HW) float32."""


def _kernels(image: np.ndarray, settings: CRFSettings) -> list[Filter]:
    """Smoothness and appearance of an image at the working size, weighted and normalised."""
    height, width = image.shape[:2]
    unit = max(height, width) / REFERENCE_SIDE
    kernels: list[Filter] = []
    if settings.gaussian_compat:
        blur = _blur(height, width, settings.gaussian_sxy * unit)
        kernels.append(_normalised(blur, settings.gaussian_compat, height * width))
    if settings.bilateral_compat:
        places = np.indices((height, width))[::-1].reshape(2, -1).T / (settings.bilateral_sxy * unit)
        colours = image.reshape(-1, 3) / settings.bilateral_srgb
        lattice = Lattice(np.hstack([places, colours]))
        kernels.append(_normalised(lattice, settings.bilateral_compat, height * width))
    return kernels


def _normalised(kernel: Filter, weight: float, pixels: int) -> Filter:
    """weight k_ij / sqrt(sum_m k_im sum_m k_jm)"""
    norm = np.sqrt(weight / kernel(np.ones((1, pixels), np.float32)))
    return lambda values: norm * kernel(norm * values)


def _blur(height: int, width: int, std: float) -> Filter:
    """A Gaussian of a standard deviation in pixels; there is nothing beyond the border."""
    reach = min(int(np.ceil(4 * std)), max(height, width))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / std) ** 2).astype(np.float32)

    def blur(values: np.ndarray) -> np.ndarray:
        blurred = np.empty_like(values)
        for one, out in zip(values, blurred, strict=True):
            picture = one.reshape(height, width)
            out[:] = cv2.sepFilter2D(picture, -1, taps, taps, borderType=cv2.BORDER_CONSTANT).ravel()
        return blurred

    return blur
