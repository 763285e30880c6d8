"""VOC's XML, one file for each photograph, beside it or in a folder of their own."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from wsss.data.cache import remembered
from wsss.data.images import IMAGE_SUFFIXES, look_through
from wsss.data.tags.source import Form, Rows, Source, read_xml
from wsss.errors import UserError
from wsss.progress import progress


class Voc(Form):
    about = "XML files of photographs, the names of their objects (VOC)"

    def read(self, source: Source) -> Rows | None:
        if source.xml is not None and source.xml.tag == "annotation":
            raise UserError(
                f"{source.path} is VOC's XML of one photograph: give the folder with all of them"
            )
        files = xml_files(source.path)
        if not files:
            return None
        rows = []
        for path, found in zip(files, remembered("voc-tags", files, _read), strict=True):
            place = path.relative_to(source.path).as_posix()
            if found is None:
                source.note("XML files of something else, passed over", place)
                continue
            name, tags = found
            own = next((p for p in map(path.with_suffix, IMAGE_SUFFIXES) if p.is_file()), None)
            if own is not None and own.is_relative_to(source.root):
                name = own.relative_to(source.root).as_posix()
            rows.append((place, source.row(name, tags, place)))
        return rows or None


def xml_files(folder: Path) -> list[Path]:
    """The XML files in a folder and its sub-folders; none of what is no folder."""
    if not folder.is_dir():
        return []
    found = look_through(folder)
    return [here / name for here, _, names in found for name in names if name.lower().endswith(".xml")]


def _read(paths: Sequence[Path]) -> Iterator[tuple[str, list[str]] | None]:
    """The name of the photograph and of its objects; None of an XML file of something else."""
    for path in progress(paths, "read annotations", brief=True):
        root = read_xml(path)
        if root.tag != "annotation":
            yield None
            continue
        names = [node.findtext("name", "") for node in root.iter("object")]
        yield root.findtext("filename", "").strip() or path.stem, names
