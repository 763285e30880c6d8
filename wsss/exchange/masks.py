"""Masks written for other tools and read back; the formats are registered here."""

import tempfile
from pathlib import Path

import numpy as np

from wsss.data.images import image_size
from wsss.data.masks import mask_fault, read_mask, tell_palettes, write_mask
from wsss.errors import UserError, notice
from wsss.exchange.archive import unpack
from wsss.exchange.classes import VOID_NAME, class_names
from wsss.exchange.coco import Coco
from wsss.exchange.format import Format, MaskFiles, Masks, Source
from wsss.exchange.names import Photos, as_named, mask_files, photo_files, photo_folder
from wsss.exchange.output import new_output
from wsss.exchange.voc import Voc
from wsss.exchange.voc_server import VocServer
from wsss.exchange.yolo import YoloSeg
from wsss.progress import progress
from wsss.voc import VOID

FORMATS: dict[str, type[Format]] = {form.name: form for form in (Voc, Coco, YoloSeg, VocServer)}
"""Name of a format -> its class."""


def export_masks(
    masks: Path, out: Path, form: Format, photos: Path | None = None, classes: Path | None = None
) -> str:
    """Write the masks of a folder in another tool's format.

    Args:
        masks: the folder.
        out: a new file or folder.
        form: the format, with its options.
        photos: folder of the photographs; None: the format does not need them.
        classes: file of class names; None: it is looked for (`class_names`).

    Returns:
        What was written, in words.

    Raises:
        UserError: a mask without photograph, of another size or with unknown labels; `out` is there.
    """
    files = mask_files(masks)
    if out.suffix.lower() not in form.suffixes:
        wanted = " or ".join(f"a {suffix} file" if suffix else "a folder" for suffix in form.suffixes)
        raise UserError(f"--format {form.name} writes {wanted}, got --out {out}")
    found = {}
    if photos is not None:
        photos = photo_folder(photos)
        found = photo_files(photos)
        files = as_named(files, found)
    elif form.needs_photos:
        raise UserError(f"--format {form.name} needs --photos, the folder of the photographs")
    names = form.classes or class_names(classes, masks, photos)
    with new_output(out, pack=out.suffix.lower() == ".zip") as aside:
        said = form.write(MaskFiles(files, found, photos, names), aside)
    return f"{len(files)} masks of {len(names)} classes written to {out}{said}"


def import_masks(
    file: Path, photos: Path, out: Path, classes: Path | None = None, rest: Path | None = None
) -> str:
    """Write palette masks of what another tool wrote.

    Args:
        file: a file, folder or .zip file of one of the formats.
        photos: folder of the photographs.
        out: a new folder.
        classes: file of class names; None: it is looked for (`class_names`).
        rest: folder of masks for the photographs that the file does not hold, or without a mark.

    Returns:
        What was written, in words.

    Raises:
        UserError: the file cannot be read, or names what there is not.
    """
    if not file.exists():
        raise UserError(f"there is no file or folder {file}")
    if out.suffix.lower() in (".zip", ".json", ".png"):
        raise UserError(f"masks are written into a folder: --out {out} looks like a file")
    folder = photo_folder(photos)
    known = Photos(folder, file)
    names = class_names(classes, rest, folder)
    labels = {name: label for label, name in enumerate(names, 1)} | {VOID_NAME: VOID, "background": 0}
    others = as_named(mask_files(rest), known.files) if rest else {}
    with tempfile.TemporaryDirectory() as unpacked, new_output(out) as aside:
        aside.mkdir()
        source = Source(file, file, known, labels)
        if file.suffix.lower() == ".zip":
            source.path = Path(unpacked)
            unpack(file, source.path)
        made, unmarked = set(), []
        try:
            for name, mask in progress(_read(source), "import masks", brief=True):
                if name in made or name in unmarked:
                    raise UserError(f"{file} holds the image '{name}' twice: keep one of them")
                if mask is None:
                    unmarked.append(name)
                    if name in others:
                        continue
                    mask = np.zeros(image_size(known.files[name]), np.uint8)
                write_mask(aside / f"{name}.png", mask)
                made.add(name)
            source.left.tell(nothing=not made and not unmarked)
        except UserError as error:  # the user knows the archive, not the place it was unpacked in
            raise UserError(str(error).replace(unpacked, str(file))) from error
        if not made and not unmarked:
            raise UserError(f"{file} holds no image")
        taken = sorted(name for name in others if name not in made and name in known.files)
        for name in progress(taken, "other masks", brief=True):
            if fault := mask_fault(others[name], known.files[name], len(names) + 1):
                raise UserError(fault)
            write_mask(aside / f"{name}.png", read_mask(others[name], None, source.foreign))
    tell_palettes([what.replace(unpacked, str(file)) for what in source.foreign])
    if unmarked:
        become = (
            "have the masks of --rest, where there are any"
            if others
            else "become background; --rest gives those that were not worked on their masks"
        )
        notice(
            f"{len(unmarked)} photographs in {file} have nothing marked "
            f"(first: {unmarked[0]}), and {become}"
        )
    without = len(known.files) - len(made) - len(taken)
    return (
        f"{len(made)} masks of {len(names)} classes written to {out}"
        + (f", {len(taken)} more taken from {rest}" if rest else "")
        + (f"; {without} photographs have none" if without else "")
    )


def _read(source: Source) -> Masks:
    """The masks in the first format that the source is of, folders before single files."""
    forms = [form() for form in FORMATS.values()]
    folders = [form for form in forms if "" in form.suffixes]
    for form in folders:
        if (masks := form.read(source)) is not None:
            return masks
    for form in folders:
        if lacks := form.lacks(source):
            raise UserError(lacks)
    for form in forms:
        if form not in folders and (masks := form.read(source)) is not None:
            return masks
    if source.path.is_file():
        raise UserError(f"{source.told} is neither a .json nor a .zip file nor a folder")
    signs = " nor ".join(sorted(form.signs for form in forms if form.signs))
    raise UserError(f"{source.told} holds neither {signs}")
