"""Settings of masks in the form before wsss 0.2, as callbacks of the trainer; read until 0.3."""

from dataclasses import dataclass

import pytorch_lightning as pl

from wsss.errors import UserError
from wsss.settings import PseudoMaskConfig, SegmenterMaskConfig


class OldForm(pl.Callback):
    """Does nothing: what it says stands under the key `masks` now."""


@dataclass(frozen=True)
class PseudoMaskWriter(PseudoMaskConfig, OldForm):
    """The key `masks` of `wsss classify predict`."""

    void_below: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _no_void(self.void_below)


@dataclass(frozen=True)
class RefinedMaskWriter(SegmenterMaskConfig, OldForm):
    """The key `masks` of `wsss segment predict`, to refine masks."""

    void_below: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _no_void(self.void_below)


@dataclass(frozen=True)
class MaskWriter(SegmenterMaskConfig, OldForm):
    """The key `masks` of `wsss segment predict`."""


def _no_void(below: float) -> None:
    if below:
        raise UserError(f"there is no setting void_below any more, got {below}: leave it out")
