"""The settings of each step: every default, with its unit and range, has its one home here.

They are frozen dataclasses of plain values. The same object is built from YAML (the fields are the
keys), goes through the stage, and is kept in checkpoints and beside results. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_args

from wsss.errors import UserError

T = TypeVar("T", bound="Settings")

BACKBONE = "tf_efficientnet_lite2"
"""Of timm, for one's own photographs, where nobody asks for another. Classifiers leave its weights as
they are: so `configs/voc-efficientnet-lite2`, where that was measured."""

Slots = Literal["none", "features", "blocks"]

SLOT_GRID = 8
"""Rows and columns of the grid that slots start from, as in a GLMix block."""

Part = str | dict[str, Any] | None
"""A class of one's own: its import path, or `class_path` and `init_args`; None: the one of wsss."""


@dataclass(frozen=True)
class Settings:
    """What all settings can do."""

    def __post_init__(self) -> None:
        """Refuse values out of their range."""

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for JSON, YAML and checkpoints."""
        return {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(self).items()}

    @classmethod
    def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
        """The settings from plain types, as `to_dict` gives them; unknown ones are passed over.

        Raises:
            UserError: a value is of a wrong type, or out of its range.
        """
        from wsss.schema import wrong_argument  # what it imports takes a while

        if not isinstance(values, Mapping):
            raise UserError(f"settings must be lines of `name: value`, got {values!r}")
        known = {field.name for field in fields(cls)}
        own = {name: value for name, value in values.items() if name in known}
        own |= {n: tuple(v) for n, v in own.items() if isinstance(v, list)}
        if isinstance(own.get("crf"), Mapping):
            own["crf"] = CRFSettings.from_dict(own["crf"])
        # scales say themselves what they can be
        if words := wrong_argument(cls, {n: v for n, v in own.items() if n != "scales"}):
            raise UserError(words)
        return cls(**own)


def _check_scales(settings: Any) -> None:
    """Let scales be a tuple of positive numbers."""
    given = settings.scales
    try:
        scales = tuple(map(float, given))
    except (TypeError, ValueError, OverflowError):
        scales = ()
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        shown = list(given) if isinstance(given, tuple | list) else repr(given)
        raise UserError(f"scales must be positive numbers, got {shown}")
    object.__setattr__(settings, "scales", scales)


def _check_crf(crf: Any) -> None:
    if not isinstance(crf, CRFSettings | None):
        raise UserError(f"crf must be CRFSettings, or None for no CRF, got {crf!r}")


@dataclass(frozen=True)
class CRFSettings(Settings):
    """Settings of the dense CRF (Krahenbuhl & Koltun, NIPS 2011); defaults are IRN's.

    Spatial standard deviations are in pixels of an image with a long side of 500, as in VOC, and are
    scaled to the size that the CRF works at: results do not depend on the camera's resolution.

    >>> wsss.CRFSettings(side=500, iterations=10).bilateral_sxy
    50.0

    Attributes:
        side: long side in pixels that the CRF works at; a third of VOC's size costs nothing
            measurable in mIoU and is five times as fast.
        iterations: mean-field steps.
        gaussian_sxy: standard deviation of the smoothness kernel.
        gaussian_compat: weight of the smoothness kernel.
        bilateral_sxy: spatial standard deviation of the appearance kernel.
        bilateral_srgb: colour standard deviation of the appearance kernel, of 0..255.
        bilateral_compat: weight of the appearance kernel.

    Raises:
        UserError: a size, standard deviation or number of steps is not positive, or a weight is
            negative.
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


@dataclass(frozen=True)
class ClassMapSettings(Settings):
    """How class maps are made (`wsss.localize.cam.class_maps`).

    Attributes:
        scales: image scales whose maps are averaged, above 0.
        flip: average with the horizontal flip.
        slots: where the slots come from: `features` (training-free clustering, any backbone),
            `blocks` (GLNet's own), or `none`.
        slot_grid: rows and columns of the grid that the clustering of `features` starts from, 2 or
            more; there are as many slots as it has cells.
        sharpen: power that the probabilities of `blocks` are raised to, as training for tags alone
            leaves them soft (`wsss.localize.slots.sharpen_slots`), above 0; 1: as they are.
    """

    scales: tuple[float, ...] = (0.5, 1.0, 1.5)
    flip: bool = False
    slots: Slots = "features"
    slot_grid: int = SLOT_GRID
    sharpen: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_scales(self)
        if self.slots not in get_args(Slots):
            raise UserError(f"slots must be one of {', '.join(get_args(Slots))}, got {self.slots!r}")
        if self.slot_grid < 2:
            raise UserError(f"slot_grid must be 2 or more, got {self.slot_grid}")
        if not self.sharpen > 0:
            raise UserError(f"sharpen is a power above 0, got {self.sharpen}")


@dataclass(frozen=True)
class SeedSettings(Settings):
    """How a seed is made of class maps (`wsss.localize.cam.seed_maps`).

    Attributes:
        border_prior: lower the scores of slots that run along the image's border, as sky and water do
            (`wsss.localize.slots.foreground_prior`); false where such things are among the classes.
        seed: a class of one's own that makes the seeds instead (docs/how-to/extend.md).
    """

    border_prior: bool = True
    seed: Part = None


@dataclass(frozen=True)
class SlotLabelSettings(Settings):
    """How slots are relabelled by what those of other images teach (`wsss.localize.slot_classes`).

    Attributes:
        relabel_slots: relabel the slots, and correct the seeds by them.
        folds: parts of the data set, each relabelled by what the others taught, 2 or more.
        rounds: how often labels are learned and corrected, 1 or more.
        steps: steps of a regression, few on purpose, 1 or more.
        sample: images that are learned from, at most, alike many of each class, 1 or more; null: all.
    """

    relabel_slots: bool = True
    folds: int = 8
    rounds: int = 5
    steps: int = 300
    sample: int | None = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("folds", 2), ("rounds", 1), ("steps", 1), ("sample", 1)):
            if (given := getattr(self, name)) is not None and given < least:
                raise UserError(f"{name} must be {least} or more, got {given}")


@dataclass(frozen=True)
class MaskSettings(Settings):
    """How scores become a mask (`wsss.localize.pseudo_masks`).

    Attributes:
        background: score of the background, 0..1; more makes objects smaller.
        crf: dense CRF, null for the plain maximum.
    """

    background: float = 0.4
    crf: CRFSettings | None = CRFSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_crf(self.crf)
        if self.background is None and isinstance(self, RefinementSettings):
            return  # as in the first round
        if self.background is None or not 0 <= self.background <= 1:
            raise UserError(f"background must lie in 0..1, got {self.background}")


@dataclass(frozen=True)
class PseudoMaskSettings(MaskSettings, SlotLabelSettings, SeedSettings, ClassMapSettings):
    """All that decides the pseudo-masks of a classifier: the settings of its four steps in one.

    >>> settings = wsss.PseudoMaskSettings(scales=(0.5, 1.0), slots="blocks", crf=None)
    >>> settings.background
    0.4
    """

    @property
    def relabels(self) -> bool:
        """Whether slots are relabelled: there are some, and it is wanted."""
        return self.relabel_slots and self.slots != "none"

    def for_images(self, count: int) -> "PseudoMaskSettings":
        """These settings as they decide the masks of so many images: a sample of all is none."""
        few = self.relabels and self.sample is not None and self.sample < count
        return self if few else replace(self, sample=None)


@dataclass(frozen=True)
class RefinementSettings(MaskSettings):
    """How a segmenter's probabilities refine pseudo-masks (`wsss.localize.pseudo_masks.refined_mask`).

    >>> wsss.RefinementSettings(background=0.3, crf=wsss.CRFSettings(iterations=4)).crf.iterations
    4

    Attributes:
        background: score of the background beside the first round's scores, 0..1; null: as it was
            there.
        crf: dense CRF, null for the plain maximum.
        refinement: a class of one's own that makes the masks instead (docs/how-to/extend.md).
    """

    background: float | None = None  # type: ignore[assignment]
    refinement: Part = None


@dataclass(frozen=True)
class Output(Settings):
    """Where masks are written, and by how many processes; they do not depend on it.

    Attributes:
        out: folder of the masks; what they are made from is kept beside it.
        workers: processes for the masks, 1 or more; null: one for each core that may be used, fewer
            where large photographs would fill the memory.
    """

    out: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is not None and self.workers < 1:
            raise UserError(
                f"workers must be 1 or more, or null to leave it to wsss, got {self.workers}"
            )


@dataclass(frozen=True)
class PseudoMaskConfig(Output, PseudoMaskSettings):
    """The key `masks` of `wsss classify predict`."""


@dataclass(frozen=True)
class SegmenterMaskConfig(Output, RefinementSettings):
    """The key `masks` of `wsss segment predict`.

    Attributes:
        maps: folder of the first round's maps, which are to be refined; null: the masks are those of
            the segmenter alone.
    """

    maps: str | None = None


SIDE = 448
"""Long side in pixels that a classifier sees photographs at, unless one is given."""

VIEWS = 4
"""Passes over the training images whose features a frozen backbone keeps, unless told otherwise."""

MAX_SIDE = 1024
"""Long side in pixels for checkpoints that do not tell theirs."""

TILE = 1024
"""Side in pixels of the window for whoever asks for a longer `max_side` than this without a `tile`."""


@dataclass(frozen=True)
class InferenceSettings(Settings):
    """What a mask of a segmenter depends on, beside its weights.

    The settings that a run's test is made with are those that `wsss predict`, `wsss app`, the report
    and the card of `wsss export model` take: a reported mIoU is that of the masks one gets.

    >>> segmenter = wsss.Segmenter.load("runs/demo/segment/last.ckpt")
    >>> segmenter.inference = wsss.InferenceSettings(scales=(0.75, 1.25), flip=True, max_side=512)

    Attributes:
        scales: image scales whose probabilities are averaged, above 0.
        flip: average with the horizontal flip, too.
        tile: side in pixels of a window slid over larger images, 32 or more; None: whole images.
        crf: dense CRF on the probabilities; None: none.
        max_side: longer images are scaled down to this long side in pixels, 32 or more.
        precision: of the arithmetic, as Lightning names it: 32-true, bf16-mixed or 16-mixed.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    tile: int | None = None
    crf: CRFSettings | None = None
    max_side: int = MAX_SIDE
    precision: str = "32-true"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_scales(self)
        _check_crf(self.crf)
        if self.tile is not None and self.tile < 32:
            raise UserError(f"tile must be 32 pixels or more, or null, got {self.tile}")
        if self.max_side < 32:
            raise UserError(f"max_side must be 32 pixels or more, got {self.max_side}")

    @classmethod
    def of_checkpoint(cls, checkpoint: Mapping[str, Any]) -> "InferenceSettings":
        """The settings in a checkpoint; those of earlier versions know their `max_side` at most."""
        before = {"max_side": checkpoint.get("max_side") or MAX_SIDE}
        return cls.from_dict(checkpoint.get("inference") or before)

    def with_options(self, **options: Any) -> "InferenceSettings":
        """With what a config or a command line gives instead.

        Args:
            options: by the names of the settings. None keeps a setting, 0 or false switches `tile` or
                `crf` off, and `crf: true` is that of these settings, or of the pseudo-masks.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if "scales" in given:
            given["scales"] = tuple(given["scales"])
        if "tile" in given:
            given["tile"] = given["tile"] or None
        if "crf" in given:
            crf = (self.crf or CRFSettings()) if given["crf"] is True else given["crf"] or None
            given["crf"] = CRFSettings.from_dict(crf) if isinstance(crf, Mapping) else crf
        return replace(self, **given)
