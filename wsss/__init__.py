"""wsss: from photographs with image-level tags to pixel masks and a trained segmenter.

The names here are the Python API; each is imported when it is first used:

>>> import wsss
>>> image = wsss.read_image("photo.jpg")
>>> mask = wsss.Segmenter.load("runs/demo/segment/last.ckpt").predict(image)
>>> wsss.write_mask("mask.png", mask)
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from wsss.api import Classifier, Segmenter
    from wsss.data.catalog import Catalog, read_catalog
    from wsss.data.images import read_image
    from wsss.data.masks import read_mask, write_mask
    from wsss.errors import UserError
    from wsss.evaluation import Scores
    from wsss.exchange.evaluate import evaluate_folders
    from wsss.explore import Run
    from wsss.localize.cam import ClassMaps
    from wsss.pipeline import run_pipeline
    from wsss.settings import (
        CRFSettings,
        InferenceSettings,
        PseudoMaskSettings,
        RefinementSettings,
    )

__all__ = [
    "CRFSettings",
    "Catalog",
    "ClassMaps",
    "Classifier",
    "InferenceSettings",
    "PseudoMaskSettings",
    "RefinementSettings",
    "Run",
    "Scores",
    "Segmenter",
    "UserError",
    "__version__",
    "evaluate_folders",
    "read_catalog",
    "read_image",
    "read_mask",
    "run_pipeline",
    "write_mask",
]

_ROOMS = {
    "api": ("Classifier", "Segmenter"),
    "data.catalog": ("Catalog", "read_catalog"),
    "data.images": ("read_image",),
    "data.masks": ("read_mask", "write_mask"),
    "errors": ("UserError",),
    "evaluation": ("Scores",),
    "exchange.evaluate": ("evaluate_folders",),
    "explore": ("Run",),
    "localize.cam": ("ClassMaps",),
    "pipeline": ("run_pipeline",),
    "settings": ("CRFSettings", "InferenceSettings", "PseudoMaskSettings", "RefinementSettings"),
}
"""Where each name lives."""


if not TYPE_CHECKING:  # a checker is to find names that do not exist

    def __getattr__(name: str) -> Any:
        for room, names in _ROOMS.items():
            if name in names:
                found = getattr(importlib.import_module(f"wsss.{room}"), name)
                globals()[name] = found
                return found
        raise AttributeError(f"module 'wsss' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
