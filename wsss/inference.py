"""How a trained segmenter is shown photographs: settings that travel with its checkpoint."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from wsss.errors import UserError
from wsss.localize.crf import CRFSettings

MAX_SIDE = 1024
"""Long side in pixels for checkpoints that do not tell theirs."""

TILE = 1024
"""Side in pixels of the window for whoever asks for a longer `max_side` than this without a `tile`."""


@dataclass(frozen=True)
class InferenceSettings:
    """What a mask of a segmenter depends on, beside its weights.

    The settings that a run's test is made with are those that `wsss predict`, `wsss app`, the report
    and the card of `wsss export model` take: a reported mIoU is that of the masks one gets.

    Attributes:
        scales: image scales whose probabilities are averaged, above 0.
        flip: average with the horizontal flip, too.
        tile: side in pixels of a window slid over larger images, 32 or more; None: whole images.
        crf: dense CRF on the probabilities; None: none.
        max_side: longer images are scaled down to this long side in pixels, 32 or more.
        precision: of the arithmetic, as Lightning names it: 32-true, bf16-mixed or 16-mixed.

    Raises:
        UserError: a value is out of its range.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    tile: int | None = None
    crf: CRFSettings | None = None
    max_side: int = MAX_SIDE
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"scales must be positive numbers, got {list(self.scales)}")
        if self.tile is not None and self.tile < 32:
            raise UserError(f"tile must be 32 pixels or more, or null, got {self.tile}")
        if self.max_side < 32:
            raise UserError(f"max_side must be 32 pixels or more, got {self.max_side}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "InferenceSettings":
        """The settings from plain types, as `to_dict` gives them; unknown ones are passed over."""
        known = {field.name for field in fields(cls)}
        own = {name: value for name, value in values.items() if name in known}
        own["scales"] = tuple(own.get("scales", (1.0,)))
        if isinstance(own.get("crf"), Mapping):
            own["crf"] = CRFSettings(**own["crf"])
        return cls(**own)

    @classmethod
    def of_checkpoint(cls, checkpoint: Mapping[str, Any]) -> "InferenceSettings":
        """The settings in a checkpoint; those of earlier versions know their `max_side` at most."""
        before = {"max_side": checkpoint.get("max_side") or MAX_SIDE}
        return cls.from_dict(checkpoint.get("inference") or before)

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for JSON and checkpoints."""
        return asdict(self) | {"scales": list(self.scales)}

    def autocast(self, device: torch.device | str) -> Any:
        """The context of the arithmetic, as Lightning's trainer enters it."""
        kind = torch.device(device).type
        if not self.precision.endswith("-mixed"):
            return nullcontext()
        half = torch.bfloat16 if self.precision.startswith("bf16") else torch.float16
        if kind == "cpu" and half is torch.float16:
            return nullcontext()  # float16 is for GPUs
        return torch.autocast(kind, half, cache_enabled=False)
