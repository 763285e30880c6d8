"""Masks as VOC's development kit has them, and CVAT and labelme read and write them."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.data.masks import read_mask, write_mask
from wsss.data.upright import orientation_of, turned
from wsss.errors import UserError, notice
from wsss.exchange.classes import LISTS, VOID_NAME, find_list, label_of, mask_labels, read_names
from wsss.exchange.format import Format, MaskFiles, Masks, Source
from wsss.exchange.names import composed, name_in, shown_in
from wsss.exchange.output import write_lines
from wsss.files import read_lines
from wsss.voc import VOID, palette


@dataclass(frozen=True)
class Voc(Format):
    """Palette PNGs, lists and labelmap.txt: CVAT's "Segmentation mask 1.1"."""

    name = "voc"
    about = "palette PNGs, lists and labelmap.txt (CVAT: Segmentation mask 1.1)"
    signs = "VOC (labelmap.txt, SegmentationClass)"

    def write(self, given: MaskFiles, out: Path) -> str:
        wrong = next((name for name in given.classes if ":" in name or "#" in name), None)
        if wrong:
            raise UserError(
                f"class '{wrong}' cannot stand in labelmap.txt: rename it without ':' and '#'"
            )
        void = 0
        for name, _, mask in given:
            void += int((mask == VOID).sum())
            write_mask(out / "SegmentationClass" / f"{name}.png", mask)
        colours = palette()
        labels = [
            (0, "background"),
            *enumerate(given.classes, 1),
            *([(VOID, VOID_NAME)] if void else []),
        ]
        lines = ["# label:color_rgb:parts:actions"]
        for label, name in labels:
            lines.append(f"{name}:{','.join(map(str, colours[3 * label : 3 * label + 3]))}::")
        write_lines(out / "labelmap.txt", lines)
        write_lines(out / "ImageSets" / "Segmentation" / "default.txt", given.masks)
        return f"; {void} void pixels are the label '{VOID_NAME}'" if void else ""

    def read(self, source: Source) -> Masks | None:
        marks = source.find("SegmentationClass") + source.find("SegmentationClassPNG")
        roots = dict.fromkeys(path.parent for path in marks)
        return (pair for root in roots for pair in _read(root, source)) if roots else None

    def lacks(self, source: Source) -> str | None:
        if not (found := source.find("labelmap.txt")):
            return None
        return f"{source.told} has no folder SegmentationClass beside {found[0].name}"


def _read(root: Path, source: Source) -> Masks:
    """The masks in a folder that holds SegmentationClass.

    Their classes are told by a list in it or above it: by colour of a labelmap.txt, else by index.
    """
    # older releases of labelme have both, and no PNG in the first
    places = [root / name for name in ("SegmentationClass", "SegmentationClassPNG")]
    folder = next((place for place in places if shown_in(place, "*.png")), places[0])
    listing = find_list(root, *(place for place in root.parents if place.is_relative_to(source.path)))
    labelmap = listing if listing and listing.name == "labelmap.txt" else None
    if labelmap:
        colours, order = _read_labelmap(labelmap, source.labels)
    else:
        names = mask_labels(read_names(listing)) if listing else _assumed(source)
    files = {name_in(folder, path): path for path in shown_in(folder, "*.png")}
    lists = shown_in(root / "ImageSets" / "Segmentation", "*.txt")
    # a line is a name, with spaces or not
    listed = [
        composed(name) for path in lists for line in read_lines(path) if (name := line.strip(' "'))
    ]
    for name in dict.fromkeys([*files, *listed]):
        ours, size = source.photos.find(name, suffix=False)
        path = files.get(name)
        if path is None:  # CVAT writes no mask of an image in which nothing is marked
            yield ours, None
            continue
        if labelmap:
            mask = _by_colour(path, colours, order, labelmap)
        else:
            mask = _by_index(path, names, source, listing or source.told)
        photo = source.photos.files[ours]
        if mask.shape != size and mask.shape == size[::-1] and (how := orientation_of(photo)) >= 5:
            mask = turned(mask, how)
            notice(f"{source.told} has masks of photographs before EXIF turns them: they are turned")
        if mask.shape != size:
            raise UserError(
                f"mask {path} is {mask.shape[1]}x{mask.shape[0]} pixels, but {photo} is "
                f"{size[1]}x{size[0]}: give the photographs that were annotated"
            )
        yield ours, mask


def _assumed(source: Source) -> dict[int, str]:
    """Label -> class name of masks that come without a list: ours, which is told."""
    names = {
        label: name for name, label in source.labels.items() if name not in ("background", VOID_NAME)
    }
    order = ", ".join(f"{label} {name}" for label, name in names.items())
    notice(
        f"{source.told} has no list of its classes ({', '.join(LISTS)}): the labels in its masks are "
        f"taken for ours, {order}"
    )
    return names


def _read_labelmap(path: Path, labels: dict[str, int]) -> tuple[dict[int, int], list[int]]:
    """Colour as one number -> our label, and our labels in the order of the lines."""
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


def _by_index(path: Path, names: dict[int, str], source: Source, listing: Path) -> np.ndarray:
    """(H, W) uint8 labels of a mask whose indices mean the classes `names` of a list."""
    mask = read_mask(path, max(names, default=0) + 1, source.foreign)
    table = np.zeros(256, np.uint8)
    for label in np.unique(mask).tolist():
        known = {0: "background", VOID: VOID_NAME} | names
        if label not in known:
            raise UserError(f"mask {path} has the label {label}, which {listing} does not name")
        table[label] = source.label(known[label], listing)
    return table[mask]


def _by_colour(path: Path, colours: dict[int, int], order: list[int], labelmap: Path) -> np.ndarray:
    """(H, W) uint8 labels of a mask in the colours of a labelmap, or grey with its indices."""
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
