"""CVAT for images: an XML file with the tags, and the labels of shapes, of each image.

https://docs.cvat.ai/docs/manual/advanced/xml_format/
"""

from typing import ClassVar

from wsss.data.cells import SPLITS
from wsss.data.tags.source import Form, Rows, Source
from wsss.errors import UserError


class Cvat(Form):
    about = "tags of images (CVAT for images)"
    files: ClassVar = ("annotations.xml",)

    def read(self, source: Source) -> Rows | None:
        root = source.xml
        if root is None or root.tag != "annotations":
            return None
        images = root.findall("image")
        if not images:
            what = " (it has tracks: CVAT for video)" if root.find("track") is not None else ""
            raise UserError(f"{source.path} lists no image{what}: export it as CVAT for images")
        rows = []
        for number, image in enumerate(images, start=1):
            place = f"image {image.get('id', number)}"
            # one element for each tag and shape
            labels = [mark.get("label") for mark in image]
            if None in labels:
                kind = image[labels.index(None)].tag
                raise UserError(f"{source.path} {place} has a <{kind}> without label: export it again")
            subset = image.get("subset", "")
            # a subset may be called as one likes; its first one is "default"
            split = source.split(subset, place) if subset.casefold() in SPLITS else None
            rows.append((place, source.row(image.get("name", ""), labels, place, split)))
        return rows
