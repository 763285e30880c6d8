"""COCO's JSON: the categories of an image's annotations are its tags."""

from wsss.data.coco import read_index
from wsss.data.tags.source import Form, Rows, Source


class Coco(Form):
    about = "COCO's JSON, the categories of an image's annotations"

    def read(self, source: Source) -> Rows | None:
        found = source.json
        lists = isinstance(found, dict) and {"images", "annotations", "categories"} & found.keys()
        if not lists or len(lists) < 2:
            return None
        document = read_index(source.path)
        rows = []
        for number, image in enumerate(document.images, start=1):
            place = f"image {number}"
            tags = [document.categories[category] for category in image.categories]
            rows.append((place, source.row(image.name, tags, place)))
        return rows
