"""Lightning data modules: which images go to which stage."""

import errno
import os
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from wsss import distributed
from wsss.data.catalog import Catalog, largest_image, read_catalog, read_classes
from wsss.data.datasets import (
    MaskedImages,
    Reading,
    Repeatable,
    SameShapeBatches,
    Share,
    TaggedImages,
)
from wsss.data.layouts import layout_of
from wsss.data.masks import read_mask, tell_palettes
from wsss.data.names import Files
from wsss.errors import UserError, notice
from wsss.geometry import MULTIPLE, fit_long_side, fit_within
from wsss.machine import allowed_cores, free_shared_memory
from wsss.settings import SIDE


class _Data(pl.LightningDataModule):
    def __init__(self, root: str, layout: str, num_workers: int | None, tags: str | None) -> None:
        super().__init__()
        _require_name(root=root, tags=tags)
        self.root, self.layout, self.tags = Path(root), layout, tags
        cores = max(1, allowed_cores() // distributed.processes_here())
        self.num_workers = min(8, cores) if num_workers is None else num_workers
        self.catalogs: dict[tuple, Catalog] = {}  # read so far; the stages of a run share them
        self.white: int | None = None  # `Catalog.white`, once a catalog was read
        self.views: Any = None  # batches to train on instead of the images (`wsss.tasks.views`)
        _at_least(0, num_workers=self.num_workers)
        layout_of(layout)  # one that nobody knows is refused here

    @property
    def classes(self) -> list[str]:
        """Foreground class names; class i has mask label i + 1."""
        return list(distributed.first(lambda: read_classes(self.layout, self.root, self.tags)))

    def train_dataloader(self) -> Any:
        return self.training_batches() if self.views is None else self.views

    def training_batches(self, seed: int | None = None) -> DataLoader:
        """Batches of augmented images of one epoch, in random order; of the same seed the same."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Make what the layout can make where it is not there yet."""
        layout_of(self.layout).prepare(self.root)

    def catalog(self, split: str, tagged: bool = True) -> Catalog:
        """The images of a split, read once."""
        key = (self.layout, str(self.root), split, tagged, self.tags and str(self.tags))
        if key not in self.catalogs:

            def read() -> Catalog:
                self.prepare_data()
                return read_catalog(self.layout, self.root, split, tagged, self.tags)

            catalog = distributed.first(read)
            if not distributed.in_step():  # the others have none, and would ask for it
                return catalog
            self.catalogs[key] = catalog
        self.white = self.catalogs[key].white
        return self.catalogs[key]

    def _loader(
        self,
        dataset: Dataset,
        batch_size: int | None,
        batch_bytes: int,
        train: bool = False,
        seed: int | None = None,
    ) -> DataLoader:
        """Batches of a data set; of several processes each has its part.

        In training the parts of a batch lie in all processes, and `batch_size` counts them together:
        an epoch has as many steps as with one process, and the learning rate is the same.
        """
        several, sampler = distributed.world_size(), None
        drop_last = train and len(dataset) >= (batch_size or 1)
        generator = None
        if seed is not None:
            dataset, generator = Repeatable(dataset, seed), torch.Generator().manual_seed(seed)
        if train and several > 1:
            self.require_parts(len(dataset))
            batch_size, batch_bytes = batch_size // several, batch_bytes // several
            if seed is None:
                seed = distributed.first(torch.initial_seed)
            sampler = DistributedSampler(
                dataset, several, distributed.rank(), drop_last=True, seed=seed % 2**32
            )
        elif several > 1:
            dataset = Share(dataset)
        workers = workers_that_fit(self.num_workers, batch_bytes)
        return DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=train and sampler is None,
            sampler=sampler,
            generator=generator,
            drop_last=drop_last,
            num_workers=workers,
            worker_init_fn=Reading(workers).start if workers else None,
            persistent_workers=workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )

    def require_parts(self, images: int) -> None:
        """See that a training batch can be dealt out to all processes.

        Args:
            images: of the training split.

        Raises:
            UserError: it cannot.
        """
        several, batch = distributed.world_size(), self.batch_size
        if several > 1 and (batch % several or min(batch, images) < 2 * several):
            raise UserError(
                f"data.batch_size {batch} is that of all {several} processes together, which take the "
                f"same number of images, two or more: give a multiple of {several}, {2 * several} or "
                f"more (the training split has {images} images)"
            )


def workers_that_fit(wanted: int, batch_bytes: int) -> int:
    """Loader processes whose batches find room in the shared memory, through which they come.

    Each prepares two batches ahead; half of what is free is left to other loaders. Docker gives 64 MB
    unless told otherwise, and a full /dev/shm kills a loader in the middle of a training.

    Args:
        wanted: as many as are asked for.
        batch_bytes: of the largest batch.

    Returns:
        At most `wanted`; 0: images are read in the process that trains.
    """
    free = free_shared_memory()
    if not wanted or 2 * wanted * batch_bytes <= free / 2:
        return wanted
    fitting = int(free / 2 / (2 * batch_bytes))
    notice(
        f"/dev/shm has {free / 2**20:.0f} MB free, and {wanted} loader processes with batches of "
        f"{batch_bytes / 2**20:.0f} MB need {4 * wanted * batch_bytes / 2**20:.0f}: "
        + (f"{fitting} are used" if fitting else "images are read without them, which takes longer")
        + " (docker run --shm-size gives more)"
    )
    return fitting


def _require_name(**places: str | None) -> None:
    for name, place in places.items():
        try:
            os.stat(place or ".")
        except (OSError, ValueError) as error:  # characters or lengths that no name has
            if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
                raise UserError(
                    f"data.{name} is {place!r}, which no file can be called: correct it"
                ) from error


def _at_least(least: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < least:
            raise UserError(f"data.{name} must be {least} or more, got {value}")


class TagData(_Data):
    """Images with tags: for the classifier and the making of pseudo-masks.

    Args:
        root: folder of the data set.
        layout: "voc" (VOC development kit), "coco" (instances in JSON: `wsss.data.layouts.coco`),
            "folder" (images and tags.csv), "synthetic" (made into the root when it is not there, then
            read as `voc`), or the import path of a class of one's own (`wsss.data.layouts.Layout`).
        train_split: list of the images to train on.
        val_split: list of the images to validate on.
        predict_split: list of the images to make pseudo-masks for.
        size: side of the square training crops, in pixels.
        predict_size: side of the square validation images and long side of the images that maps are
            made from at scale 1; None: `size`. Larger than `size` is better, since the crops of
            training enlarge what they show (Touvron et al., NeurIPS 2019, arXiv 1906.06423).
        min_scale: smallest share of the image's area in a training crop.
        batch_size: images per step, of all devices together; for map making, the pixels of so many
            squares of `predict_size`.
        num_workers: loader processes; None: one for each core that may be used, at most
            eight, and no more than /dev/shm has room for.
        tags: for "folder", a table of tags outside the root; None: the root's own.
    """

    def __init__(
        self,
        root: str,
        layout: str = "voc",
        train_split: str = "train",
        val_split: str = "val",
        predict_split: str = "train",
        size: int = SIDE,
        predict_size: int | None = None,
        min_scale: float = 0.4,
        batch_size: int = 16,
        num_workers: int | None = None,
        tags: str | None = None,
    ) -> None:
        super().__init__(root, layout, num_workers, tags)
        self.train_split, self.val_split = train_split, val_split
        self.predict_split = predict_split
        self.size, self.predict_size = size, predict_size or size
        self.min_scale, self.batch_size = min_scale, batch_size
        _at_least(1, batch_size=batch_size)
        _at_least(32, size=size, predict_size=self.predict_size)
        if not 0 < min_scale <= 1:
            raise UserError(f"data.min_scale is a share of the area, above 0 to 1, got {min_scale}")

    def training_batches(self, seed: int | None = None) -> DataLoader:
        catalog = self.catalog(self.train_split)
        missing = set(range(len(catalog.classes))) - {t for r in catalog.records for t in r.tags}
        if missing:
            names = ", ".join(catalog.classes[index] for index in sorted(missing))
            raise UserError(
                f"no image of split '{self.train_split}' in {self.root} has the tag {names}: "
                "add such images, or list only the classes in use in classes.txt"
            )
        dataset = TaggedImages(catalog, self.size, self.min_scale)
        return self._loader(dataset, self.batch_size, self._pixels(self.size), True, seed)

    def _pixels(self, side: int) -> int:
        """Bytes of a batch of squares."""
        return 3 * self.batch_size * side**2

    def val_dataloader(self) -> DataLoader:
        dataset = TaggedImages(self.catalog(self.val_split), self.predict_size, min_scale=None)
        return self._loader(dataset, self.batch_size, self._pixels(self.predict_size))

    def predict_dataloader(self) -> DataLoader:
        return self.whole_images()

    def whole_images(
        self, wanted: Collection[str] | None = None, multiple: int = MULTIPLE
    ) -> DataLoader:
        """Batches of whole images of one shape, for class maps.

        Args:
            wanted: as in `SameShapeBatches`.
            multiple: both sides are rounded to multiples of it, the classifier's `size_multiple`.
        """
        catalog = self.catalog(self.predict_split)
        shape = partial(fit_long_side, long_side=self.predict_size, multiple=multiple)
        pixels = self.batch_size * self.predict_size**2
        return self._loader(SameShapeBatches(catalog, shape, pixels, wanted), None, 3 * pixels)


def _look_at_palettes(masks: list[Path], most: int = 20) -> None:
    """Give notice of palettes that are not VOC's; some masks stand for all."""
    foreign: list[str] = []
    for path in masks[:: -(-len(masks) // most) or 1]:
        read_mask(path, None, foreign)
    tell_palettes(foreign)


class MaskData(_Data):
    """Images with masks: for the segmentation network.

    Args:
        root: folder of the data set.
        layout: as in `TagData`.
        mask_dir: folder of the masks to train on, `<id>.png` (pseudo-masks); None: the ground truth.
        train_split: list of the images to train on.
        val_split: list of the images to validate and test on, always with the ground truth.
        predict_split: list of the images to predict.
        crop: side of the square training crops, in pixels.
        max_side: images longer than this are scaled down before they enter the network at test
            and prediction; None: one and a half crops, well inside what training shows.
        batch_size: crops per training step, of all devices together, and the pixels of so many in
            prediction; whole images are validated and tested one at a time.
        num_workers: loader processes; None: one for each core that may be used, at most
            eight, and no more than /dev/shm has room for.
        tags: for "folder", a table of tags outside the root; None: the root's own.
    """

    def __init__(
        self,
        root: str,
        layout: str = "voc",
        mask_dir: str | None = None,
        train_split: str = "train",
        val_split: str = "val",
        predict_split: str = "val",
        crop: int = 512,
        max_side: int | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
        tags: str | None = None,
    ) -> None:
        super().__init__(root, layout, num_workers, tags)
        _require_name(mask_dir=mask_dir)
        self.mask_dir = Path(mask_dir) if mask_dir else None
        self.train_split, self.val_split = train_split, val_split
        self.predict_split = predict_split
        self.crop, self.max_side, self.batch_size = crop, max_side or crop * 3 // 2, batch_size
        _at_least(1, batch_size=batch_size)
        _at_least(32, crop=crop, max_side=self.max_side)

    def require_parts(self, images: int) -> None:
        if min(self.batch_size, images) < 2:
            raise UserError(
                f"{images} images of split '{self.train_split}' in {self.root}, data.batch_size "
                f"{self.batch_size}: a segmenter learns from two images a step or more"
            )
        super().require_parts(images)

    def training_batches(self, seed: int | None = None) -> DataLoader:
        catalog = self.catalog(self.train_split, tagged=False)
        if self.mask_dir is None:
            masks = self.true_masks(catalog, self.train_split)
        else:
            files = Files(self.mask_dir)
            masks = [files.find(f"{record.id}.png") for record in catalog.records]
            if None in masks:
                first = catalog.records[masks.index(None)].id
                raise UserError(
                    f"{masks.count(None)} of {len(masks)} images have no mask in {self.mask_dir} "
                    f"(first: {first}.png): make the pseudo-masks of split "
                    f"'{self.train_split}' first, or take them with wsss import masks --rest"
                )
        self.require_parts(len(masks))
        _look_at_palettes(masks)
        dataset = MaskedImages(catalog, masks, self.crop, self.max_side)
        return self._loader(dataset, self.batch_size, 4 * self.batch_size * self.crop**2, True, seed)

    def val_dataloader(self) -> DataLoader | list:
        catalog = self.catalog(self.val_split, tagged=False)
        if not any(record.mask for record in catalog.records):
            return []  # who has tags only trains without validation
        return self.test_dataloader()

    def test_dataloader(self) -> DataLoader:
        catalog = self.catalog(self.val_split, tagged=False)
        masked = tuple(record for record in catalog.records if record.mask)
        # lists of VOC are official: all of their images are judged
        if self.layout != "voc" and 0 < len(masked) < len(catalog.records):
            notice(
                f"{len(masked)} of {len(catalog.records)} images of split '{self.val_split}' have a "
                "ground-truth mask: the scores are those of these images alone"
            )
            catalog = replace(catalog, records=masked)
        masks = self.true_masks(catalog, self.val_split)
        _look_at_palettes(masks)
        # the mask is as large as the photograph
        pixels = 3 * self.max_side**2 + largest_image(catalog.records)
        return self._loader(MaskedImages(catalog, masks, None, self.max_side), 1, pixels)

    def predict_dataloader(self) -> DataLoader:
        return self.whole_images()

    def whole_images(self, wanted: Collection[str] | None = None) -> DataLoader:
        """Batches of whole images of one shape for the segmenter; `wanted` as in `SameShapeBatches`."""
        catalog = self.catalog(self.predict_split, tagged=False)
        shape = partial(fit_within, max_side=self.max_side)
        pixels = self.batch_size * self.crop**2
        batches = SameShapeBatches(catalog, shape, pixels, wanted)
        return self._loader(batches, None, 3 * max(pixels, self.max_side**2))

    def true_masks(self, catalog: Catalog, split: str) -> list[Path]:
        """Masks of all records of a split; a UserError names what is missing."""
        missing = [record.id for record in catalog.records if record.mask is None]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(catalog.records)} images of split '{split}' in {self.root} "
                f"have no ground-truth mask (first: {missing[0]}): add them, or choose another split"
            )
        return [record.mask for record in catalog.records]
