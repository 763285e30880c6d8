"""The dense CRF: the one place that imports pydensecrf. Needs numpy and OpenCV only, no torch."""

import cv2
import numpy as np

from wsss.errors import UserError
from wsss.geometry import resize_scores
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
