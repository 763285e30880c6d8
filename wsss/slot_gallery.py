"""Pictures of the slots of photographs, and the page that shows them; the work of `wsss slots`."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from wsss.api import Classifier, own_weights
from wsss.data.images import read_image
from wsss.data.photographs import find_photographs
from wsss.data.results import is_result_of, result_note
from wsss.errors import UserError
from wsss.files import file_stamp, sweep, write_atomic, write_text
from wsss.localize.slot_maps import check_inside, slots_at
from wsss.locks import locked
from wsss.origin import NOTE, claim
from wsss.pictures.slots import group_sheet, map_sheet, position_sheet
from wsss.progress import progress
from wsss.settings import SIDE

GROUPS, MAPS = "-groups.png", "-maps.png"


def draw_gallery(
    photographs: Sequence[Path],
    out: Path,
    ckpt: Path | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    blocks: Sequence[str] = (),
    at: tuple[int, int] | None = None,
    size: int | None = None,
) -> list[str]:
    """Draw the slots of photographs, those that are not drawn yet, and the page over all in `out`.

    Args:
        photographs: image files or folders.
        out: folder for the pictures, of one network and size.
        ckpt: checkpoint of a classifier.
        backbone: instead of it, name of a timm model.
        weights: weight file of the backbone; None: the one that comes with wsss.
        blocks: as for `Classifier.slots`.
        at: (x, y) in pixels: also draw the slots there, and their reach.
        size: long side in pixels that the network sees; None: the photograph's, 32 to `SIDE`.

    Returns:
        What was left out, and why, which is also printed.

    Raises:
        UserError: there is no photograph that can be read, no such network or block, the position lies
            outside a photograph, or `out` holds pictures of another network, size or photograph.
    """
    if (ckpt is None) == (backbone is None):
        raise UserError("give either --ckpt last.ckpt, or --backbone NAME with --weights FILE")
    source = Path(ckpt or weights or own_weights(backbone))
    found = find_photographs(list(photographs))
    files = {name: path for name, path in found.items() if not _own(path, out)}
    if not files:
        raise UserError(f"there are only pictures of slots in {', '.join(map(str, photographs))}")
    classifier = Classifier.load(ckpt) if ckpt else Classifier.of_backbone(backbone, source)
    blocks, faults = classifier.check_blocks(blocks), []
    network = f"{backbone or ''} {source.name} {file_stamp(source)}"
    with locked(out, "wsss slots"):
        sweep(out)
        conflict = (
            f"{out} holds pictures of another network or size (see {NOTE} in it): give another folder "
            "as --out, or remove this one"
        )
        claim({out: conflict}, {"network": network, "size": size})
        for name, path in progress(files.items(), "slots"):
            try:
                image = read_image(path, classifier.white)
            except UserError as error:
                faults.append(str(error))
                continue
            _draw(classifier, image, path, out / name, blocks, at, size)
        if len(faults) == len(files):
            raise UserError(faults[0])
        for fault in faults:
            print(f"left out: {fault}", file=sys.stderr)
        write_gallery(out)
    print(f"{len(files) - len(faults)} photographs drawn: open {out / 'index.html'}")
    return faults


def _own(path: Path, out: Path) -> bool:
    """Whether a file is a picture of an earlier call, where --out lies among the photographs."""
    inside = path.resolve().is_relative_to(out.resolve())
    return inside and re.search(r"-(groups|maps|at-\d+-\d+)\.png$", path.name) is not None


def _draw(
    classifier: Classifier,
    image: np.ndarray,
    path: Path,
    folder: Path,
    blocks: list[str],
    at: tuple[int, int] | None,
    size: int | None,
) -> None:
    height, width = image.shape[:2]
    endings = [GROUPS, MAPS]
    if at is not None:
        check_inside(*at, height, width, str(path))
        endings.append(f"-at-{at[0]}-{at[1]}.png")
    missing = [b for b in blocks if not all([is_result_of(path, folder / f"{b}{e}") for e in endings])]
    if not missing and at is None:
        return
    note = PngInfo()
    note.add_text("comment", result_note(path))
    for view in classifier.slots(image, blocks, size or min(SIDE, max(height, width, 32))):
        if at is not None:
            there = slots_at(view.dispatch, *at, height, width)
            few = ", ".join(f"{slot} ({100 * there.shares[slot]:.0f} %)" for slot in there.order[:4])
            tqdm.write(f"{path} at {at[0]},{at[1]}, {view.name}: slots {few}")
        if view.name not in missing:
            continue
        sheets = [group_sheet(image, view), map_sheet(image, view)]
        if at is not None:
            sheets.append(position_sheet(image, view, *at))
        for ending, picture in zip(endings, sheets, strict=True):
            write_atomic(
                folder / f"{view.name}{ending}",
                lambda aside, picture=picture: picture.save(aside, format="PNG", pnginfo=note),
            )


def write_gallery(out: Path) -> None:
    """Write index.html over all pictures in `out`, whichever command drew them."""

    def link(path: Path) -> str:
        return quote(path.relative_to(out).as_posix())

    names: dict[str, list[dict[str, Any]]] = {}
    for groups in sorted(out.rglob(f"*{GROUPS}")):
        if groups.name.startswith("."):  # a half-written one
            continue
        block = groups.name.removesuffix(GROUPS)
        row = {"block": block, "groups": link(groups), "maps": link(groups.with_name(block + MAPS))}
        row["at"] = [link(path) for path in sorted(groups.parent.glob(f"{block}-at-*.png"))]
        names.setdefault(groups.parent.relative_to(out).as_posix(), []).append(row)
    template = Path(__file__).with_name("slot_gallery.html.j2").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True).from_string(template).render(names=names)
    write_text(out / "index.html", page + "\n")
