"""The layouts in which data sets are read: one file for each, and classes of one's own.

`data.layout` names one of `LAYOUTS`, or gives the import path of a class that fits `Layout`
(docs/how-to/extend.md). A new layout is a file here and a line in `LAYOUTS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from wsss.errors import UserError
from wsss.parts import make_part

if TYPE_CHECKING:
    from wsss.data.catalog import Catalog

LAYOUTS = {
    "voc": "wsss.data.layouts.voc.VOC",
    "folder": "wsss.data.layouts.folder.Folder",
    "coco": "wsss.data.layouts.coco.Coco",
    "synthetic": "wsss.data.layouts.synthetic.Synthetic",
}
"""Name of a layout -> import path of its class."""


@runtime_checkable
class Layout(Protocol):
    """How a data set lies on the disk. Classes that derive from this one need no `prepare`."""

    def classes(self, root: Path, tags: Path | None) -> tuple[str, ...]:
        """Foreground class names in the order of their mask labels; `tags`: a table elsewhere."""
        ...

    def catalog(self, root: Path, split: str, tagged: bool, tags: Path | None) -> Catalog:
        """The images of one split; `tagged`: their tags are asked for. `root` is there."""
        ...

    def prepare(self, root: Path) -> None:
        """Make what can be made of a data set that is not there yet; called before each catalog."""


def layout_of(name: str) -> Layout:
    """The layout of a name in `LAYOUTS`, or of the import path of a class.

    Raises:
        UserError: there is none, it cannot be imported, or it does not fit `Layout`.
    """
    path = LAYOUTS.get(name, name)
    if "." not in path:
        raise UserError(
            f"data layout '{name}' is unknown: use {', '.join(LAYOUTS)}, or the import path of a class "
            "of your own (mypackage.MyLayout)"
        )
    return make_part(path, Layout, "data.layout")


def recognised(root: Path) -> str:
    """The layout that a data set has by its files: voc, coco or folder."""
    if (root / "JPEGImages").is_dir():
        return "voc"
    signs = ("annotations/instances_*.json", "*/_annotations.coco.json")
    tables = [root / "tags.csv", root / "tags.json", root / "tags.xlsx"]
    coco = any(any(root.glob(sign)) for sign in signs) and not any(map(Path.is_file, tables))
    return "coco" if coco else "folder"


def existing(root: str | Path) -> Path:
    """The data set's folder, refused where it is not there."""
    if not Path(root).is_dir():
        raise UserError(
            f"data root {root} does not exist: pass the data set's folder as --data.root (`wsss run`: "
            "--root), or correct data.root in the config if it was moved"
        )
    return Path(root)
