"""The two networks as Python objects: from a checkpoint to what they see in a photograph.

Images are (H, W, 3) uint8 RGB, upright, as `wsss.read_image` gives them. Masks are (H, W) uint8 labels:
0 is the background, i + 1 the class `classes[i]`. Whatever needs a trained network asks it here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import timm
import torch
from torch import nn

from wsss.errors import UserError
from wsss.geometry import fit_long_side, fit_within, resize
from wsss.localize.cam import ClassMaps, class_maps, seeds_of_maps
from wsss.localize.pseudo_masks import pseudo_mask
from wsss.localize.slot_maps import SlotView
from wsss.models.backbone import check_backbone
from wsss.models.classifier import TagClassifier
from wsss.models.fast import autocast
from wsss.models.segmenter import mask_of, predict_probabilities
from wsss.models.slot_views import block_names, check_blocks, default_blocks, slot_views
from wsss.settings import (
    SIDE,
    ClassMapSettings,
    InferenceSettings,
    PseudoMaskSettings,
    SeedSettings,
)
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask

T = TypeVar("T", bound="_Network")


class _Network:
    """A trained network on a device.

    Attributes:
        network: the network, in eval mode.
        classes: names of the classes, in the order of their labels 1, 2, ...
        white: what is white in photographs of 16 bits, for `wsss.read_image`, or None.
    """

    def __init__(self, network: nn.Module, classes: Sequence[str], white: int | None = None) -> None:
        self.network: Any = network.eval()
        self.classes, self.white = list(classes), white

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.mean.device

    def to(self: T, device: str) -> T:
        """Move the network to a device, `cpu` or `cuda`; returns this object.

        Raises:
            UserError: the device cannot be used.
        """
        try:
            # the one line that makes a network ready for a device
            self.network = self.network.to(device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device '{device}' cannot be used ({error}): try cpu") from error
        return self

    def _batch(self, image: np.ndarray, height: int, width: int) -> torch.Tensor:
        """An image resized, as a batch (1, 3, height, width) uint8 on the network's device."""
        small = resize(image, height, width)
        return torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1)))[None].to(self.device)


def _require_image(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray):
        raise UserError(f"an image is an array (H, W, 3) of uint8, RGB, not a {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(
            f"an image is an array (H, W, 3) of uint8, RGB, got {image.shape} of {image.dtype}: "
            "read it by wsss.read_image"
        )


def _require_size(size: int) -> None:
    if size < 32:
        raise UserError(f"a size of {size} pixels is too small for any network: give 32 or more")


def own_weights(backbone: str) -> str:
    """The weight file that comes with wsss.

    Raises:
        UserError: there is no such model, or none of its weights come with wsss.
    """
    check_backbone(backbone)
    cfg = timm.get_pretrained_cfg(backbone)
    if cfg is None or not cfg.file:
        raise UserError(
            f"no weights of the backbone {backbone} come with wsss, and the slots of a network that "
            "has not been trained show nothing: give its weight file (weights)"
        )
    return cfg.file


class Classifier(_Network):
    """A tag classifier, and the class maps and slots that it sees.

    >>> image = wsss.read_image("photo.jpg")
    >>> classifier = wsss.Classifier.load("runs/demo/classify/last.ckpt")
    >>> classifier.classes
    ['ball', 'brick', 'kite', 'star']
    >>> mask = classifier.pseudo_mask(image, ["ball", "star"], size=128)
    >>> mask.shape == image.shape[:2], set(mask.flat) <= {0, 1, 4}
    (True, True)

    Args:
        network: the network.
        classes: names of its classes.
        white: what is white in photographs of 16 bits.
        precision: of the arithmetic, as Lightning names it: 32-true, bf16-mixed or 16-mixed.
    """

    def __init__(
        self,
        network: TagClassifier,
        classes: Sequence[str],
        white: int | None = None,
        precision: str = "32-true",
    ) -> None:
        super().__init__(network, classes, white)
        self.precision = precision

    @classmethod
    def load(cls, path: str | Path) -> "Classifier":
        """The classifier of a checkpoint, on the CPU.

        Args:
            path: `last.ckpt` of `wsss classify` or of the folder `classify` of a run.

        Raises:
            UserError: the file is no such checkpoint.
        """
        task = ClassificationTask.from_checkpoint(path)
        return cls(task.model, task.classes, task.white)

    @classmethod
    def of_backbone(cls, backbone: str, weights: str | Path | None = None) -> "Classifier":
        """A backbone with the head of one untrained class, to look at its slots.

        >>> wsss.Classifier.of_backbone("glnet_nano").blocks
        ['0.0', '1.0', '2.0', '2.2', 'features', 'features.0', 'features.1', 'features.2', 'features.3']

        Args:
            backbone: name of a timm model, GLNet's among them.
            weights: its weight file; None: the one that comes with wsss.

        Raises:
            UserError: there is no such model, none of its weights come with wsss, or the file does not
                fit.
        """
        weights = str(weights or own_weights(backbone))
        return cls(TagClassifier(backbone, 1, weights=weights), ["untrained"])

    def probabilities(self, image: np.ndarray, size: int = SIDE) -> np.ndarray:
        """Probability of each class.

        >>> classifier = wsss.Classifier.load("runs/demo/classify/last.ckpt")
        >>> classifier.probabilities(wsss.read_image("photo.jpg"), size=128).shape
        (4,)

        Args:
            image: (H, W, 3) uint8 RGB.
            size: long side in pixels that the network sees, 32 or more.

        Returns:
            (N,) float32 in 0..1.
        """
        plain = ClassMapSettings((1.0,), False, "none")
        return self.class_maps(image, plain, size).probabilities[0].numpy()

    def class_maps(
        self, image: np.ndarray, settings: ClassMapSettings | None = None, size: int = SIDE
    ) -> ClassMaps:
        """Where the network sees each class, and its slots.

        >>> classifier = wsss.Classifier.load("runs/demo/classify/last.ckpt")
        >>> settings = wsss.PseudoMaskSettings(scales=(1.0,), slots="blocks")
        >>> maps = classifier.class_maps(wsss.read_image("photo.jpg"), settings, size=128)
        >>> maps.cam.shape, maps.dispatch.shape
        (torch.Size([1, 4, 8, 8]), torch.Size([1, 64, 8, 8]))

        Args:
            image: (H, W, 3) uint8 RGB.
            settings: scales, horizontal flip and slots; None: the defaults.
            size: long side in pixels that the network sees at scale 1, 32 or more.

        Returns:
            Maps of a batch of this one image, on the CPU.
        """
        _require_image(image)
        _require_size(size)
        height, width = image.shape[:2]
        batch = self._batch(image, *fit_long_side(height, width, size, self.network.size_multiple))
        with torch.inference_mode(), autocast(self.precision, self.device):
            maps = class_maps(self.network, batch, settings or PseudoMaskSettings())
        return ClassMaps(*(None if part is None else part.cpu() for part in maps))

    def pseudo_mask(
        self,
        image: np.ndarray,
        tags: Sequence[str | int],
        settings: PseudoMaskSettings | None = None,
        size: int = SIDE,
    ) -> np.ndarray:
        """The mask of a photograph whose tags are known.

        Made from this image alone: `wsss.Run.pseudo_mask` also relabels its slots by what those of a
        run's other images have taught.

        Args:
            image: (H, W, 3) uint8 RGB.
            tags: names, or indices into `classes`, of what is in the image.
            settings: how it is made; None: the defaults.
            size: long side in pixels that the network sees at scale 1, 32 or more.

        Returns:
            (H, W) uint8 labels.

        Raises:
            UserError: the network does not know a tag.
        """
        settings = settings or PseudoMaskSettings()
        labels = sorted({1 + tag for tag in tag_indices(tags, self.classes)})
        seed = seeds_of(self.class_maps(image, settings, size), settings)
        scores = seed[[label - 1 for label in labels]]
        return pseudo_mask(image, scores, labels, settings.background, settings.crf)

    @property
    def blocks(self) -> list[str]:
        """All places that `slots` can show, GLMix blocks first."""
        return block_names(self.network)

    @property
    def default_blocks(self) -> list[str]:
        """The first GLMix block of each stage; where there is none, `features`."""
        return default_blocks(self.network)

    def check_blocks(self, blocks: Sequence[str]) -> list[str]:
        """`blocks`, with "all" spelt out and nothing twice; empty means the default ones.

        Raises:
            UserError: there is no such block.
        """
        return check_blocks(self.network, blocks)

    def slots(self, image: np.ndarray, blocks: Sequence[str] = (), size: int = SIDE) -> list[SlotView]:
        """What the slots of some places in the network hold together.

        >>> classifier = wsss.Classifier.of_backbone("glnet_nano")
        >>> view, = classifier.slots(wsss.read_image("photo.jpg"), ["2.0"], size=128)
        >>> view.name, view.dispatch.shape  # 64 slots, and their probabilities at each pixel
        ('2.0', (64, 8, 8))

        Args:
            image: (H, W, 3) uint8 RGB.
            blocks: STAGE.BLOCK of a GLNet, `features`, `features.LEVEL`, or `all`; none: the default
                ones.
            size: long side in pixels that the network sees, 32 or more.

        Returns:
            One view for each block.

        Raises:
            UserError: there is no such block.
        """
        _require_image(image)
        _require_size(size)
        return slot_views(self.network, image, self.check_blocks(blocks), size)


def tag_indices(tags: Sequence[str | int], classes: Sequence[str]) -> list[int]:
    """Indices into `classes` of tags that are names or indices.

    Raises:
        UserError: there is no such class.
    """
    found: dict[str | int, int] = {index: index for index in range(len(classes))}
    found |= {name: index for index, name in enumerate(classes)}
    if unknown := [tag for tag in tags if tag not in found]:
        raise UserError(f"the tag {unknown[0]!r} is unknown: this network's are {', '.join(classes)}")
    return [found[tag] for tag in tags]


def seeds_of(maps: ClassMaps, settings: SeedSettings) -> np.ndarray:
    """The seed of every class, (N, h, w) float32 in 0..1, of the maps of one image."""
    with torch.inference_mode():
        return seeds_of_maps(maps, settings)[0].float().numpy()


class Segmenter(_Network):
    """A segmentation network, which needs no tags.

    >>> image = wsss.read_image("photo.jpg")
    >>> segmenter = wsss.Segmenter.load("runs/demo/segment/last.ckpt").to("cpu")
    >>> mask = segmenter.predict(image)
    >>> mask.shape == image.shape[:2], mask.dtype.name
    (True, 'uint8')

    Args:
        network: the network.
        classes: names of its classes.
        inference: what its masks depend on beside its weights; may be changed.
        white: what is white in photographs of 16 bits.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        inference: InferenceSettings | None = None,
        white: int | None = None,
    ) -> None:
        super().__init__(network, classes, white)
        self.inference = inference or InferenceSettings()

    @classmethod
    def load(cls, path: str | Path) -> "Segmenter":
        """The segmenter of a checkpoint, on the CPU, with the settings that it was tested with.

        Args:
            path: `last.ckpt` of `wsss segment` or of the folder `segment` of a run.

        Raises:
            UserError: the file is no such checkpoint.
        """
        task = SegmentationTask.from_checkpoint(path)
        return cls(task.model, task.classes, task.inference, task.white)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Probability of each label at each position, before any CRF.

        >>> segmenter = wsss.Segmenter.load("runs/demo/segment/last.ckpt")
        >>> segmenter.inference = wsss.InferenceSettings(max_side=64)
        >>> segmenter.probabilities(wsss.read_image("photo.jpg")).shape
        (5, 64, 64)

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (L, h, w) float32, the background first, summing to 1 over L; of the image's size, or of
            `inference.max_side` where that is smaller.
        """
        return self._look(image)[1][0].cpu().numpy()

    def predict(self, image: np.ndarray) -> np.ndarray:
        """The mask of a photograph, as this network's test makes it.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (H, W) uint8 labels.
        """
        batch, probabilities = self._look(image)
        height, width = image.shape[:2]
        with torch.inference_mode():
            mask = mask_of(probabilities, batch, (height, width), self.inference.crf)
        return mask.cpu().numpy()

    def _look(self, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """What the network saw (1, 3, h, w), and the probabilities that it gave (1, L, h, w)."""
        _require_image(image)
        how, (height, width) = self.inference, image.shape[:2]
        batch = self._batch(image, *fit_within(height, width, how.max_side))
        with torch.inference_mode(), autocast(how.precision, self.device):
            seen = predict_probabilities(self.network, batch, how.scales, how.flip, how.tile)
        return batch, seen
