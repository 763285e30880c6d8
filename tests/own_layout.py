"""Layouts of a user's own, by their import paths."""

from pathlib import Path

from wsss.data.catalog import Catalog, Record
from wsss.data.layouts import Layout


class Albums(Layout):
    """ROOT/<split>/<class>/*.jpg: a folder for each split, in it one for each class."""

    def classes(self, root: Path, tags: Path | None) -> tuple[str, ...]:
        return tuple(sorted(folder.name for folder in (root / "train").iterdir()))

    def catalog(self, root: Path, split: str, tagged: bool, tags: Path | None) -> Catalog:
        classes = self.classes(root, tags)
        records = [
            Record(f"{path.parent.name}/{path.stem}", path, (classes.index(path.parent.name),), None)
            for path in sorted((root / split).glob("*/*.jpg"))
        ]
        return Catalog(classes, tuple(records))


class Underived:
    """Fits the protocol by its methods alone, and makes its data set itself."""

    def classes(self, root, tags):
        return ("thing",)

    def catalog(self, root, split, tagged, tags):
        files = sorted(root.glob("*.jpg"))
        return Catalog(("thing",), tuple(Record(path.stem, path, (0,), None) for path in files))

    def prepare(self, root):
        from odd_files import photo

        root.mkdir(exist_ok=True)
        photo(0).save(root / "made.jpg")


class Half:
    """Has classes, and no catalog of images."""

    def classes(self, root, tags):
        return ("thing",)


class Listing(Underived):
    """Gives a list where a catalog belongs."""

    def catalog(self, root, split, tagged, tags):
        return []

    def prepare(self, root):
        pass
