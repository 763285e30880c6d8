"""The one import of albumentations, which would ask its package index for a newer version of itself."""

import os

_SWITCH = "NO_ALBUMENTATIONS_UPDATE"
_given = _SWITCH in os.environ
os.environ.setdefault(_SWITCH, "1")
try:
    import albumentations as A
    from albumentations.pytorch import ToTensorV2
finally:
    if not _given:
        del os.environ[_SWITCH]

__all__ = ["A", "ToTensorV2"]
