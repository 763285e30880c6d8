"""Synthetic images with exact masks (`wsss.data.synthetic`), in the layout of VOC."""

from pathlib import Path

from wsss.data.layouts.voc import VOC
from wsss.data.synthetic import SYNTHETIC_CLASSES, draw_dataset


class Synthetic(VOC):
    """Made in the root when it is not there; the splits are train and val."""

    def classes(self, root: Path, tags: Path | None) -> tuple[str, ...]:
        return SYNTHETIC_CLASSES

    def prepare(self, root: Path) -> None:
        draw_dataset(root)
