"""Datasets: records on disk to samples of uint8 tensors.

Images stay uint8 RGB until they reach the network, which knows its own normalisation. A sample is a
dictionary: image (3, H, W) uint8, tags (N,) float32 multi-hot (`wsss.data.labels.targets` for the
classifier), id, path, size (original height, width) and, where asked for, mask (H, W) uint8 with 255
for void.
"""

import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wsss import distributed
from wsss.data import images
from wsss.data.albumentations import A, ToTensorV2
from wsss.data.catalog import Catalog, Record
from wsss.data.images import image_sizes, read_image, read_reduced
from wsss.data.labels import multi_hot, targets
from wsss.data.masks import read_mask
from wsss.errors import UserError
from wsss.geometry import fit_within, resize
from wsss.program import start_process
from wsss.voc import VOID

SPARE = "spare"
"""Key of a sample that stands in for none (`Share`)."""

RATIOS = (3 / 4, 4 / 3)
"""Least and largest ratio of the sides of what a classifier's training crop shows."""

# ImageNet's mean colour: padding looks like "no evidence" to a network that subtracts it
PAD_COLOUR = (124, 116, 104)


def mixed(*numbers: int) -> int:
    """A random seed of several numbers, 0 or more; another one where any of them differs."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Inside, torch's random numbers on the CPU are those of the numbers; outside, they go on."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mixed(*numbers))
        yield


class Reading:
    """What each process of a loader has read last, which can be told of one that was killed.

    Args:
        processes: how many there are.
    """

    _all: ClassVar[WeakSet["Reading"]] = WeakSet()

    def __init__(self, processes: int) -> None:
        # a line for each: its number, and the end of the image's path
        self.lines = torch.zeros(processes, 1024, dtype=torch.uint8).share_memory_()
        self._all.add(self)

    def start(self, place: int) -> None:
        """In the process of this place: set what it needs, and note from now on what it reads.

        The processes are the parallelism: OpenCV starts no threads in them.
        """
        cv2.setNumThreads(0)
        start_process()
        line = self.lines[place].numpy()

        def note(path: Path) -> None:
            told = os.fsencode(path)[-1000:]
            line[:] = np.frombuffer(f"{os.getpid():<20}".encode() + told.ljust(1004, b"\0"), np.uint8)

        images.note = note

    @classmethod
    def last(cls, process: int) -> Path | None:
        """The image that a process has read last, if it has read one."""
        for reading in cls._all:
            for line in reading.lines.numpy():
                told = line.tobytes()
                if told[:20].strip(b" \0") == str(process).encode():
                    return Path(os.fsdecode(told[20:].rstrip(b"\0")))
        return None


_KILLED = re.compile(r"DataLoader worker \(pid(?:\(s\))? (\d+)")


def killed_loader(error: BaseException) -> UserError | None:
    """What to say of torch's error that a process of a loader has died; None: it is another error."""
    found = _KILLED.search(str(error)) if isinstance(error, RuntimeError) else None
    if found is None:
        return None
    last = Reading.last(int(found[1]))
    why = "/dev/shm full" if "shared memory" in str(error) else "out of memory"
    return UserError(
        f"a process that loads images was killed ({why}?)"
        + (f", the last one that it read is {last}" if last else "")
        + ": the same command goes on with what is left; fewer data.num_workers take less memory"
    )


def _augment(transform: A.Compose, **arrays: np.ndarray) -> dict[str, Tensor]:
    """Albumentations ignores the global random seed; one from torch's generator repeats a training."""
    transform.set_random_seed(int(torch.randint(2**31, ())))
    return transform(**arrays)


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))  # (3, H, W)


class TaggedImages(Dataset):
    """Images and tags at one square size, for training and validating the classifier.

    Args:
        catalog: the images.
        size: side in pixels.
        min_scale: smallest share of the image's area in a random training crop; None gives whole
            images.
    """

    def __init__(self, catalog: Catalog, size: int, min_scale: float | None) -> None:
        self.catalog, self.size, self.min_scale = catalog, size, min_scale
        if min_scale is not None:
            steps = [
                A.RandomResizedCrop(
                    (size, size),
                    scale=(min_scale, 1.0),
                    ratio=RATIOS,
                    area_for_downscale="image",
                ),
                A.HorizontalFlip(),
                A.ColorJitter(0.3, 0.3, 0.3, 0.05, p=0.8),
            ]
        else:
            steps = [A.Resize(size, size, interpolation=cv2.INTER_AREA)]
        self.transform = A.Compose([*steps, ToTensorV2()])

    def __len__(self) -> int:
        return len(self.catalog.records)

    def _spare(self, height: int, width: int) -> float:
        """How many times smaller an image may be whose smallest training crop is not to be enlarged."""
        smallest = math.sqrt(height * width * self.min_scale * min(RATIOS))
        return min(height, width, smallest) / self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.catalog.records[index]
        if self.min_scale is None:
            image = read_image(record.image, self.catalog.white)
            size, shown = image.shape[:2], self.transform(image=image)
        else:
            image, size = read_reduced(record.image, self._spare, self.catalog.white)
            shown = _augment(self.transform, image=image)
        return {
            "image": shown["image"],
            "tags": targets(record, len(self.catalog.classes)),
            "id": record.id,
            "path": str(record.image),
            "size": torch.tensor(size),
        }


class Repeatable(Dataset):
    """A data set whose random augmentations depend on a seed and the item alone.

    They are the same in whatever order and in whichever process the items are read.
    """

    def __init__(self, whole: Dataset, seed: int) -> None:
        self.whole, self.seed = whole, seed

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with seeded(self.seed, index):
            return self.whole[index]


class Share(Dataset):
    """What this process has to do of a data set: every n-th item; none is done twice.

    A process for which nothing is left gets an item all the same, as its epoch is to begin and end as
    those of the others; `SPARE` tells that it does not count.
    """

    def __init__(self, whole: Dataset) -> None:
        self.whole = whole
        self.own = distributed.share(range(len(whole)))
        self.spare = not self.own

    def __len__(self) -> int:
        return max(1, len(self.own))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.whole[0] | {SPARE: True} if self.spare else self.whole[self.own[index]]


class SameShapeBatches(Dataset):
    """Whole images for prediction; an item is a batch of images of one shape.

    Images that come out equal in shape share a batch, so nothing is padded or cropped.

    Args:
        catalog: the images.
        shape: height and width of an image to those at which the network sees it.
        pixels: a batch holds at most so many pixels, but one image at least.
        wanted: ids of images; batches without any of them are left out. The others are as they always
            are: what a network sees in an image depends on its batch, in the last digits.
    """

    def __init__(
        self,
        catalog: Catalog,
        shape: Callable[[int, int], tuple[int, int]],
        pixels: int,
        wanted: Collection[str] | None = None,
    ) -> None:
        self.catalog = catalog
        shapes: dict[tuple[int, int], list[Record]] = {}
        sizes = image_sizes([record.image for record in catalog.records])
        for record, size in zip(catalog.records, sizes, strict=True):
            shapes.setdefault(shape(*size), []).append(record)
        self.batches = []
        for (height, width), records in shapes.items():
            count = max(1, pixels // (height * width))
            self.batches += [
                ((height, width), records[start : start + count])
                for start in range(0, len(records), count)
            ]
        if wanted is not None:
            self.batches = [b for b in self.batches if any(record.id in wanted for record in b[1])]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= len(self.batches):
            raise IndexError(index)
        (height, width), records = self.batches[index]
        images, sizes = [], []
        for record in records:  # of large photographs, one at a time is in memory
            image = read_image(record.image, self.catalog.white)
            sizes.append(image.shape[:2])
            images.append(_tensor(resize(image, height, width)))
        return {
            "image": torch.stack(images),
            "tags": torch.stack([multi_hot(r, len(self.catalog.classes)) for r in records]),
            "id": [record.id for record in records],
            "path": [str(record.image) for record in records],
            "size": torch.tensor(sizes),
        }


LONGEST = 2
"""Long side, in crops, of the largest image that a segmenter's training crop is cut from."""


class MaskedImages(Dataset):
    """Images and masks for the segmentation network.

    Args:
        catalog: the images.
        masks: file of each record's mask, in the order of the records.
        crop: side of the random training crops; None gives whole images.
        max_side: whole images longer than this are scaled down (their masks are not).
    """

    def __init__(
        self,
        catalog: Catalog,
        masks: Sequence[Path],
        crop: int | None,
        max_side: int,
    ) -> None:
        self.catalog, self.masks, self.crop, self.max_side = catalog, masks, crop, max_side
        self.num_labels = len(catalog.classes) + 1
        if crop is not None:
            self.transform = A.Compose(
                [
                    # long side of half to two crops: DeepLab's factors .5 to 2 for VOC at a crop of
                    # 512, and the same share of the image at any other crop or image size
                    A.LongestMaxSize(range(crop // 2, LONGEST * crop + 1), area_for_downscale="image"),
                    A.PadIfNeeded(crop, crop, border_mode=0, fill=PAD_COLOUR, fill_mask=VOID),
                    A.RandomCrop(crop, crop),
                    A.HorizontalFlip(),
                    A.ColorJitter(0.3, 0.3, 0.3, 0.05, p=0.8),
                    ToTensorV2(),
                ]
            )

    def __len__(self) -> int:
        return len(self.catalog.records)

    def _spare(self, height: int, width: int) -> float:
        """How many times smaller an image may be that is not to be enlarged."""
        return max(height, width) / (LONGEST * self.crop)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record, white = self.catalog.records[index], self.catalog.white
        if self.crop is None:
            image = read_image(record.image, white)
            shape = image.shape[:2]
        else:
            image, shape = read_reduced(record.image, self._spare, white)
        sample = {
            "tags": multi_hot(record, len(self.catalog.classes)),
            "id": record.id,
            "path": str(record.image),
            "size": torch.tensor(shape),
        }
        mask = read_mask(self.masks[index], self.num_labels)
        if mask.shape != shape:
            raise UserError(
                f"mask {self.masks[index]} is {mask.shape[1]}x{mask.shape[0]} pixels, but its image "
                f"{record.image} is {shape[1]}x{shape[0]}: make the mask again at the image's size"
            )
        if self.crop is None:  # evaluation: the mask keeps its original size, whatever the image's
            image = resize(image, *fit_within(*shape, self.max_side))
            return sample | {"image": _tensor(image), "mask": torch.from_numpy(mask)}
        if image.shape[:2] != shape:
            # of each cell the label in its middle, else the mask would lie beside the image
            mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        out = _augment(self.transform, image=image, mask=mask)
        return sample | {"image": out["image"], "mask": out["mask"]}
