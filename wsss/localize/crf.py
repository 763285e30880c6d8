"""The dense CRF: the one place that imports pydensecrf. Needs numpy and OpenCV only, no torch."""

from dataclasses import asdict, dataclass

import cv2
import numpy as np

from wsss.errors import UserError

REFERENCE_SIDE = 500  # long side of VOC's images, which the field's CRF settings are meant for


@dataclass(frozen=True)
class CRFSettings:
    """Settings of the dense CRF (Krahenbuhl & Koltun, NIPS 2011); defaults are IRN's.

    Spatial deviations are in pixels of an image with a long side of 500, as in VOC, and are scaled to
    the size that the CRF works at: results do not depend on the camera's resolution.

    Attributes:
        side: long side in pixels that the CRF works at; a third of VOC's size costs nothing
            measurable in mIoU and is seven times as fast.
        iterations: mean-field steps.
        gaussian_sxy: deviation of the smoothness kernel.
        gaussian_compat: weight of the smoothness kernel.
        bilateral_sxy: spatial deviation of the appearance kernel.
        bilateral_srgb: colour deviation of the appearance kernel, of 0..255.
        bilateral_compat: weight of the appearance kernel.

    Raises:
        UserError: a size, deviation or number of steps is not positive, or a weight is negative.
    """

    side: int = 167
    iterations: int = 8
    gaussian_sxy: float = 3.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 5.0
    bilateral_compat: float = 10.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name.endswith("_compat") else 1 if name in ("side", "iterations") else 1e-3
            if not least <= value < float("inf"):
                raise UserError(f"crf.{name} must be {least} or more, got {value}")


def resize_scores(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (L, h, w) float32 bilinearly to (L, height, width)."""
    resized = [cv2.resize(score, (width, height), interpolation=cv2.INTER_LINEAR) for score in scores]
    return np.stack(resized)


def dense_crf(image: np.ndarray, scores: np.ndarray, settings: CRFSettings) -> np.ndarray:
    """Sharpen scores along the image's edges.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (L, h, w) float32, at least 0, any size; normalised to sum to 1 over the labels.
        settings: see `CRFSettings`.

    Returns:
        (L, h', w') float32 probabilities at the working size; resize them before taking the maximum.
    """
    try:
        import pydensecrf.densecrf as crf
    except ImportError as error:
        raise UserError(
            "the dense CRF needs pydensecrf: install it with `pip install pydensecrf2` (a C++ "
            "compiler is needed), or switch the CRF off with crf: null"
        ) from error
    height, width = image.shape[:2]
    shrink = min(1.0, settings.side / max(height, width))
    height, width = max(1, round(height * shrink)), max(1, round(width * shrink))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    unit = max(height, width) / REFERENCE_SIDE
    probabilities = np.clip(resize_scores(scores.astype(np.float32), height, width), 1e-5, None)
    probabilities /= probabilities.sum(0)
    labels = len(scores)
    field = crf.DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(probabilities).reshape(labels, -1)))
    field.addPairwiseGaussian(sxy=settings.gaussian_sxy * unit, compat=settings.gaussian_compat)
    field.addPairwiseBilateral(
        sxy=settings.bilateral_sxy * unit,
        srgb=settings.bilateral_srgb,
        rgbim=np.ascontiguousarray(small),
        compat=settings.bilateral_compat,
    )
    result = np.array(field.inference(settings.iterations), dtype=np.float32)
    return result.reshape(labels, height, width)
