"""Masks as VOC's development kit has them, and CVAT and labelme write them."""

import warnings
from pathlib import Path

from wsss.commands.class_lists import LISTS, find_list, mask_labels, read_names
from wsss.commands.export import VOID_NAME
from wsss.commands.import_names import (
    Masks,
    Photos,
    composed,
    label_of,
    name_in,
    orientation_of,
    shown_in,
    turned,
)
from wsss.errors import UserError, notice


def read_voc(
    root: Path, source: Path, photos: Photos, labels: dict[str, int], foreign: list[str]
) -> Masks:
    """The masks in a folder of `source` that holds SegmentationClass.

    Their classes are told by a list in it or above it: by colour of a labelmap.txt, else by index.
    `foreign` gets a word on palettes that are not VOC's, where indices count.
    """
    from wsss.data.catalog import read_lines

    # older releases of labelme have both, and no PNG in the first
    places = [root / name for name in ("SegmentationClass", "SegmentationClassPNG")]
    folder = next((place for place in places if shown_in(place, "*.png")), places[0])
    listing = find_list(root, *(place for place in root.parents if place.is_relative_to(source)))
    labelmap = listing if listing and listing.name == "labelmap.txt" else None
    if labelmap:
        colours, order = _read_labelmap(labelmap, labels)
    else:
        names = mask_labels(read_names(listing)) if listing else _assumed(photos.source, labels)
    files = {name_in(folder, path): path for path in shown_in(folder, "*.png")}
    lists = shown_in(root / "ImageSets" / "Segmentation", "*.txt")
    # a line is a name, with spaces or not
    listed = [
        composed(name) for path in lists for line in read_lines(path) if (name := line.strip(' "'))
    ]
    for name in dict.fromkeys([*files, *listed]):
        ours, size = photos.find(name, suffix=False)
        path = files.get(name)
        if path is None:  # CVAT writes no mask of an image in which nothing is marked
            yield ours, None
            continue
        if labelmap:
            mask = _by_colour(path, colours, order, labelmap)
        else:
            mask = _by_index(path, names, labels, listing or photos.source, foreign)
        photo = photos.files[ours]
        if mask.shape != size and mask.shape == size[::-1] and (how := orientation_of(photo)) >= 5:
            mask = turned(mask, how)
            notice(f"{photos.source} has masks of photographs before EXIF turns them: they are turned")
        if mask.shape != size:
            raise UserError(
                f"mask {path} is {mask.shape[1]}x{mask.shape[0]} pixels, but {photo} is "
                f"{size[1]}x{size[0]}: give the photographs that were annotated"
            )
        yield ours, mask


def _assumed(source: Path, labels: dict[str, int]) -> dict[int, str]:
    """Label -> class name of masks that come without a list: ours, which is told."""
    names = {label: name for name, label in labels.items() if name not in ("background", VOID_NAME)}
    order = ", ".join(f"{label} {name}" for label, name in names.items())
    notice(
        f"{source} has no list of its classes ({', '.join(LISTS)}): the labels in its masks are taken "
        f"for ours, {order}"
    )
    return names


def _read_labelmap(path: Path, labels: dict[str, int]) -> tuple[dict[int, int], list[int]]:
    """Colour as one number -> our label, and our labels in the order of the lines."""
    from wsss.data.catalog import read_lines
    from wsss.voc import VOID, palette

    standard = palette()
    colours: dict[int, int] = {}
    order: list[int] = []
    for line in read_lines(path):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, colour = line.strip().partition(":")
        label = label_of(name, labels, path)
        words = colour.split(":")[0].split(",")
        if words == [""]:  # no colour: VOC's, by place
            rgb = standard[3 * len(order) : 3 * len(order) + 3]
        elif len(words) == 3 and all(w.strip().isdecimal() and int(w) < 256 for w in words):
            rgb = [int(word) for word in words]
        else:
            raise UserError(f"{path} has the line '{line}': it must be name:red,green,blue::")
        colours[rgb[0] << 16 | rgb[1] << 8 | rgb[2]] = label
        order.append(label)
    colours.setdefault(0, 0)
    colours.setdefault(224 << 16 | 224 << 8 | 192, VOID)
    return colours, order


def _by_index(
    path: Path, names: dict[int, str], labels: dict[str, int], source: Path, foreign: list[str]
):
    """(H, W) uint8 labels of a mask whose indices mean the classes `names`."""
    import numpy as np

    from wsss.data.masks import read_mask
    from wsss.voc import VOID

    mask = read_mask(path, max(names, default=0) + 1, foreign)
    table = np.zeros(256, np.uint8)
    for label in np.unique(mask).tolist():
        known = {0: "background", VOID: VOID_NAME} | names
        if label not in known:
            raise UserError(f"mask {path} has the label {label}, which {source} does not name")
        table[label] = label_of(known[label], labels, source)
    return table[mask]


def _by_colour(path: Path, colours: dict[int, int], order: list[int], labelmap: Path):
    """(H, W) uint8 labels of a mask in the colours of a labelmap, or grey with its indices."""
    import numpy as np
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.mode == "L" or image.mode.startswith("I"):
                    values, table = np.array(image), dict(enumerate(order)) | {255: 255}
                else:
                    rgb = np.array(image.convert("RGB"), dtype=np.int32)
                    values = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
                    table = colours
    except Exception as error:
        raise UserError(f"mask {path} cannot be read ({error}): export it again") from error
    found, inverse = np.unique(values, return_inverse=True)
    for value in found.tolist():
        if value not in table:
            rgb = f"{value >> 16},{value >> 8 & 255},{value & 255}" if table is colours else value
            raise UserError(f"mask {path} has the colour {rgb}, which is not in {labelmap.name}")
    return np.array([table[v] for v in found.tolist()], np.uint8)[inverse].reshape(values.shape)
