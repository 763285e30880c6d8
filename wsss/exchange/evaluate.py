"""Masks in folders compared, with the names and classes that other tools have given them."""

from collections.abc import Sequence
from pathlib import Path

from wsss.data.names import as_files
from wsss.errors import UserError, notice
from wsss.evaluation import Scores, evaluate_files
from wsss.exchange.classes import class_names
from wsss.exchange.names import as_named, mask_files
from wsss.files import read_lines
from wsss.voc import VOC_CLASSES


def evaluate_folders(
    prediction: str | Path,
    target: str | Path,
    names: str | Path | Sequence[str] | None = None,
    classes: str | Path | Sequence[str] | None = None,
) -> Scores:
    """Compare two folders of masks, from one confusion matrix over all images.

    >>> scores = wsss.evaluate_folders("runs/demo/pseudo_masks/masks", "data/SegmentationClass")
    >>> round(scores.miou), scores.images
    (100, 32)

    Args:
        prediction: folder of predicted masks.
        target: folder of ground truth.
        names: names of the masks to compare, without suffix, or a text file that lists them; None: all
            that are in both folders, and the others are told.
        classes: foreground class names in the order of their labels 1, 2, ..., or a file with one a
            line; None: a list beside the masks, else VOC's twenty.

    Returns:
        IoU of each class, mIoU, pixel accuracy and share of void, in percent.

    Raises:
        UserError: a folder, file or listed mask is missing, two lists of classes differ, a mask has an
            unknown label, or the sizes of a pair differ.
    """
    prediction, target = Path(prediction), Path(target)
    for folder in (prediction, target):
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
    names, classes = (Path(one) if isinstance(one, str) else one for one in (names, classes))
    for file in (names, classes):
        if isinstance(file, Path) and not file.is_file():
            raise UserError(f"there is no file {file}")
    if classes is None or isinstance(classes, Path):
        classes = _classes(prediction, target, classes)
    made = mask_files(prediction)
    true = as_named(mask_files(target), made)
    if names is None:
        names = _shared(made, true, prediction, target)
    else:
        names = _listed(read_lines(names) if isinstance(names, Path) else names, {*made, *true})
    pairs = [(made.get(n, prediction / f"{n}.png"), true.get(n, target / f"{n}.png")) for n in names]
    return evaluate_files(pairs, classes)


def _classes(prediction: Path, target: Path, given: Path | None) -> tuple[str, ...]:
    known = class_names(given, target, None, ())
    if given is None:
        its = class_names(None, prediction, None, ())
        if known and its and known != its:
            raise UserError(
                f"the classes of {prediction} are {', '.join(its)}, those of {target} "
                f"{', '.join(known)}: correct the wrong list, or pass --classes"
            )
        known = known or its
    if not known and not (target.resolve().parent / "JPEGImages").is_dir():
        notice("the class names are not known, VOC's are shown: pass --classes, one name a line")
    return known or VOC_CLASSES


def _listed(lines: Sequence[str], present: set[str]) -> list[str]:
    """The names in the lines of a list, as the files have them."""
    lines = [line.strip() for line in lines if line.strip()]
    written = as_files((name for line in lines for name in (line, line.split()[0])), present)
    # a name may contain spaces, and a devkit's list further columns
    return [written[line if written[line] in present else line.split()[0]] for line in lines]


def _shared(made: dict[str, Path], true: dict[str, Path], prediction: Path, target: Path) -> list[str]:
    """The names in both folders; the others are told."""
    for these, others, what, lack in (
        (true, made, "ground-truth masks", f"no prediction in {prediction}"),
        (made, true, "predictions", f"no ground-truth mask in {target}"),
    ):
        if without := [name for name in these if name not in others]:
            notice(
                f"not compared: {len(without)} of {len(these)} {what} have {lack} "
                f"(first: {without[0]}.png)"
            )
    if not (names := [name for name in made if name in true]):
        raise UserError(f"{prediction} and {target} share no name of a mask")
    return names
