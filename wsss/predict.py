"""Masks, overlays and areas of new photographs, made by a segmenter; the work of `wsss predict`."""

import csv
import errno
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wsss.api import Segmenter
from wsss.data.images import is_hidden, read_image
from wsss.data.masks import read_mask, write_mask
from wsss.data.photographs import find_photographs
from wsss.data.results import is_result_of, result_note
from wsss.errors import UserError
from wsss.files import file_stamp, sweep, write_atomic, write_text
from wsss.locks import locked
from wsss.origin import NOTE, claim
from wsss.pictures.masks import overlay
from wsss.progress import progress
from wsss.settings import TILE, InferenceSettings
from wsss.sheets import as_meant, table

_OF_ITS_NAME = (
    errno.ENAMETOOLONG,
    errno.EILSEQ,
    errno.EINVAL,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
)
"""What a system says where one file's name cannot be written; the next one's may."""


def predict_folder(
    photographs: Sequence[Path], ckpt: Path, out: Path, device: str | None = None, **changes: Any
) -> list[str]:
    """Write masks, overlays and `areas.csv` of photographs, those that are not there yet.

    Args:
        photographs: image files or folders.
        ckpt: checkpoint of a segmenter.
        out: folder for the results.
        device: cpu or cuda; None: cuda where there is one.
        changes: what differs from the settings that the network was tested with
            (`InferenceSettings.with_options`).

    Returns:
        What was left out, and why, which is also printed.

    Raises:
        UserError: there is nothing to predict, `out` holds results of another kind, or the checkpoint
            or the device cannot be used.
    """
    for given in photographs:
        if given.is_dir() and given.resolve() == out.resolve():
            raise UserError(
                f"--out {out} is the folder of the photographs, and masks in it are taken for "
                "ground truth: give another --out"
            )
    files = find_photographs(list(photographs), out)
    with locked(out, "wsss predict"):
        sweep(out)
        segmenter = Segmenter.load(ckpt).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        segmenter.inference = _with_changes(segmenter.inference, **changes)
        if not (out / NOTE).is_file() and any((out / "masks").rglob("*.png")):
            raise UserError(f"{out / 'masks'} holds masks of another origin: give another --out")
        conflict = (
            f"{out} holds masks of another network or of other settings, such as --max-side: give "
            "another --out, or remove it"
        )
        claim({out: conflict}, {"ckpt": file_stamp(ckpt), "inference": segmenter.inference})
        faults = _predict(segmenter, files, out)
    for fault in faults:
        print(f"left out: {fault}", file=sys.stderr)
    print(f"{len(files) - len(faults)} of {len(files)} photographs predicted into {out}")
    return faults


def _with_changes(tested: InferenceSettings, **changes: Any) -> InferenceSettings:
    """The settings that a network was tested with, and those given instead."""
    how = tested.with_options(**changes)
    given = {name for name, value in changes.items() if value is not None}
    if "max_side" in given and "tile" not in given and how.tile is None and how.max_side > TILE:
        return replace(how, tile=TILE)  # larger than tested: whole images may not fit into the memory
    return how


def _predict(segmenter: Segmenter, files: dict[str, Path], out: Path) -> list[str]:
    """Predict files, by the names of their results; returns what was left out."""
    classes, faults = segmenter.classes, []
    results = {name: out / "overlays" / f"{name}.jpg" for name in files}
    kept = {name for name, path in files.items() if is_result_of(path, results[name])}
    areas = _areas_so_far(out, classes)
    for name, path in progress(files.items(), "predict"):
        target, picture = out / "masks" / f"{name}.png", results[name]
        try:
            image = read_image(path, segmenter.white)
        except UserError as error:
            faults.append(str(error))
            continue
        if name in kept and target.is_file():  # the overlay is written last
            areas[name] = _areas_of(read_mask(target, len(classes) + 1), classes)
            continue
        try:
            mask = segmenter.predict(image)
            _write(target, picture, image, mask, path)
        except torch.OutOfMemoryError:
            faults.append(
                f"image {path} does not fit into the memory of {segmenter.device} at a long side "
                f"of {segmenter.inference.max_side} pixels: give a smaller --max-side or --device cpu"
            )
        except OSError as error:
            if error.errno not in _OF_ITS_NAME:
                raise
            faults.append(
                f"image {path}: {target} or {picture} cannot be written ({error.strerror}): rename "
                "the photograph"
            )
        else:
            areas[name] = _areas_of(mask, classes)
    _write_areas(out, classes, areas)
    return faults


def _write(target: Path, picture: Path, image: np.ndarray, mask: np.ndarray, photograph: Path) -> None:
    """Write a mask, and then its overlay, in which is noted of what photograph both are."""
    laid, note = Image.fromarray(overlay(image, mask)), result_note(photograph).encode()
    write_mask(target, mask)
    write_atomic(picture, lambda aside: laid.save(aside, format="JPEG", comment=note))


def _areas_so_far(out: Path, classes: list[str]) -> dict[str, list[float]]:
    """Areas of the masks that are there: as areas.csv has them, else counted in the mask."""
    rows = {}
    try:
        with (out / "areas.csv").open(newline="", encoding="utf-8") as file:
            header, *lines = ([as_meant(cell) for cell in row] for row in csv.reader(file))
        if header == ["image", "background", *classes]:
            rows = {name: [float(v) for v in values] for name, *values in lines}
    except (FileNotFoundError, ValueError, csv.Error):
        pass  # a spreadsheet may have saved its own form
    areas = {}
    for path in sorted((out / "masks").rglob("*.png")):
        name = path.relative_to(out / "masks").with_suffix("").as_posix()
        if any(map(is_hidden, path.relative_to(out).parts)):
            continue
        whole = len(rows.get(name, ())) == len(classes) + 1
        areas[name] = rows[name] if whole else _areas_of(read_mask(path, len(classes) + 1), classes)
    return areas


def _areas_of(mask: np.ndarray, classes: list[str]) -> list[float]:
    """Background and classes in per cent of a mask (H, W)."""
    return (100 * np.bincount(mask.ravel(), minlength=256)[: len(classes) + 1] / mask.size).tolist()


def _write_areas(out: Path, classes: list[str], areas: dict[str, list[float]]) -> None:
    rows = ([name, *(f"{value:.3f}" for value in area)] for name, area in areas.items())
    write_text(out / "areas.csv", table(["image", "background", *classes], rows))
