"""What a format of masks has to do, and what it is given for that."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from wsss.data.masks import mask_fault, read_mask, tell_palettes
from wsss.errors import UserError, notice
from wsss.exchange.classes import label_of
from wsss.exchange.names import Photos, shown_in
from wsss.progress import progress

Masks = Iterator[tuple[str, np.ndarray | None]]
"""Name of a photograph -> its mask (H, W) uint8, None if nothing is marked in it."""


@dataclass(frozen=True)
class MaskFiles:
    """Masks to be written.

    Attributes:
        masks: name (no suffix, relative) -> mask.
        photos: name -> photograph; may be empty where a format does not need them.
        folder: the folder of the photographs.
        classes: foreground class names.
    """

    masks: dict[str, Path]
    photos: dict[str, Path]
    folder: Path | None
    classes: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[str, str | None, np.ndarray]]:
        """Yield (name, the photograph's name with its suffix, mask (H, W) uint8).

        Raises:
            UserError: a mask has no photograph, another size or unknown labels.
        """
        missing = [name for name in self.masks if self.photos and name not in self.photos]
        if missing:
            raise UserError(
                f"{len(missing)} masks have no photograph (first: {self.masks[missing[0]]}): check "
                "--photos; of photographs that share the name of a mask, move away those that were not "
                "used"
            )
        foreign: list[str] = []
        for name, path in progress(self.masks.items(), "export masks", brief=True):
            photo = self.photos.get(name)
            if photo and (fault := mask_fault(path, photo, len(self.classes) + 1)):
                raise UserError(fault)
            mask = read_mask(path, len(self.classes) + 1, foreign)
            yield name, photo and photo.relative_to(self.folder).as_posix(), mask
        tell_palettes(foreign)


@dataclass
class LeftOut:
    """Entries of a file that are left out: one that is broken does not refuse the others.

    Attributes:
        faults: what is wrong with each.
        marks: marks with an outline, and those that belong to nothing.
        drawn: those of them that could be used.
    """

    faults: list[str] = field(default_factory=list)
    marks: int = 0
    drawn: int = 0

    def out(self, fault: str) -> None:
        """One more, and what is wrong with it."""
        self.faults.append(fault)

    def tell(self, nothing: bool) -> None:
        """Name them; `nothing`: no image is left.

        Raises:
            UserError: no image is left, or no mark at all could be used.
        """
        if self.faults and (nothing or (self.marks and not self.drawn)):
            more = len(self.faults) - 1
            raise UserError(self.faults[0] + (f" ({more} more faults like it)" if more else ""))
        for fault in self.faults[:10]:
            notice(f"left out: {fault}")
        if len(self.faults) > 10:
            notice(f"left out: {len(self.faults) - 10} more")


@dataclass
class Source:
    """A file or folder to read masks from.

    Attributes:
        path: the file or folder, perhaps where an archive was unpacked.
        told: its name for the user.
        photos: the photographs.
        labels: class name -> label of ours.
        left: gets what is left out.
        foreign: gets a word on palettes that are not VOC's, where indices count.
    """

    path: Path
    told: Path
    photos: Photos
    labels: dict[str, int]
    left: LeftOut = field(default_factory=LeftOut)
    foreign: list[str] = field(default_factory=list)

    def find(self, pattern: str) -> list[Path]:
        """Files and folders of that pattern, the highest first."""
        return sorted(shown_in(self.path, pattern), key=lambda path: (len(path.parts), str(path)))

    def label(self, name: str, where: Path) -> int:
        """Our label of a class that `where` names."""
        return label_of(name, self.labels, where)


class Format(Protocol):
    """A format that another tool reads and, perhaps, writes; its options are fields of the object.

    Attributes:
        name: as the command line has it.
        about: what is written, in some words.
        signs: what it is known by in a folder, in some words; empty where nothing is read.
        suffixes: suffixes of what is written; the empty one is a folder.
        needs_photos: writing needs the photographs.
        classes: the only classes that it has; None: any.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    signs: ClassVar[str] = ""
    suffixes: ClassVar[tuple[str, ...]] = ("", ".zip")
    needs_photos: ClassVar[bool] = True
    classes: ClassVar[tuple[str, ...] | None] = None

    def write(self, given: MaskFiles, out: Path) -> str:
        """Write into a new file or folder `out`; returns what else the user is told."""
        ...

    def read(self, source: Source) -> Masks | None:
        """The masks; None: the source is not of this format."""
        return None

    def lacks(self, source: Source) -> str | None:
        """What a folder lacks that has this format's list of classes, and nothing to read."""
        return None
