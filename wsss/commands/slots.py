"""`wsss slots`: what a network's slots hold together on photographs."""

import argparse
import html
import re
import sys
from pathlib import Path

from wsss.errors import UserError

GROUPS, MAPS = "-groups.png", "-maps.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw, for each photograph and block, the hard groups with the most telling slots and a sheet "
        "of all slot maps; index.html in the folder shows them all. Run again to go on or to add "
        "photographs, blocks and positions; exit code 1: some files could not be read and are named."
    )
    parser.add_argument("photographs", type=Path, nargs="+", help="image files or folders")
    parser.add_argument("--ckpt", type=Path, help="last.ckpt of wsss classify or run")
    parser.add_argument(
        "--backbone",
        help="instead of --ckpt: glnet_nano, or another timm model or GLNet with --weights",
    )
    parser.add_argument("--weights", help="weight file of --backbone (.safetensors or .pth)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument(
        "--blocks",
        nargs="+",
        default=[],
        metavar="BLOCK",
        help="STAGE.BLOCK of a GLNet counted from 0 (2.0), features (any network: clustered without "
        "training), features.LEVEL, or all; default: each stage's first GLMix block, else features",
    )
    parser.add_argument(
        "--at", type=_position, metavar="X,Y", help="also draw the slots at this pixel, and their reach"
    )
    parser.add_argument(
        "--size", type=int, help="long side in pixels that the network sees (default: at most 448)"
    )


def _position(text: str) -> tuple[int, int]:
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no position: give x and y in pixels, for example 120,80"
        ) from None
    return x, y


def main(args: argparse.Namespace) -> int:
    from wsss.data.photographs import find_photographs
    from wsss.locks import locked
    from wsss.models.slot_views import check_blocks

    if (args.ckpt is None) == (args.backbone is None):
        raise UserError("give either --ckpt last.ckpt, or --backbone NAME with --weights FILE")
    if args.backbone and args.weights is None:
        args.weights = _own_weights(args.backbone)
    if args.size is not None and args.size < 32:
        raise UserError(f"--size {args.size} is too small for any network: give 32 or more")
    found = find_photographs(args.photographs)
    files = {name: path for name, path in found.items() if not _own(path, args.out)}
    if not files:
        raise UserError(f"there are only pictures of slots in {', '.join(map(str, args.photographs))}")
    args.white = None
    classifier = _classifier(args)
    blocks = check_blocks(classifier, args.blocks)
    with locked(args.out, "wsss slots"):
        return _draw_all(args, classifier, files, blocks)


def _draw_all(args: argparse.Namespace, classifier, files: dict[str, Path], blocks: list[str]) -> int:
    from wsss.data.images import read_image
    from wsss.progress import progress

    _same_settings(args)
    faults = []
    for name, path in progress(files.items(), "slots"):
        try:
            image = read_image(path, args.white)
        except UserError as error:
            faults.append(str(error))
            continue
        _draw(args, classifier, image, path, name, blocks)
    if len(faults) == len(files):
        raise UserError(faults[0])
    for fault in faults:
        print(f"left out: {fault}", file=sys.stderr)
    write_gallery(args.out)
    print(f"{len(files) - len(faults)} photographs drawn: open {args.out / 'index.html'}")
    return 1 if faults else 0


def _classifier(args: argparse.Namespace):  # -> TagClassifier, whose import takes seconds
    from wsss.models.classifier import TagClassifier
    from wsss.tasks.classification import ClassificationTask

    if args.ckpt is not None:
        task = ClassificationTask.from_checkpoint(args.ckpt)
        args.white = task.white
        return task.model
    try:
        return TagClassifier(args.backbone, 1, weights=args.weights).eval()
    except UserError as error:
        if "output stride" not in str(error):
            raise
    return TagClassifier(args.backbone, 1, output_stride=32, weights=args.weights).eval()


def _own_weights(backbone: str) -> str:
    """The weight file that comes with wsss."""
    import timm

    import wsss.models.glnet  # noqa: F401  (registers the GLNet models in timm)

    cfg = timm.get_pretrained_cfg(backbone)
    if cfg is None or not cfg.file:
        raise UserError(
            f"--backbone {backbone} needs --weights FILE: the slots of a network that has not been "
            "trained show nothing"
        )
    return cfg.file


def _own(path: Path, out: Path) -> bool:
    """Whether a file is a picture of an earlier call, where --out lies among the photographs."""
    inside = path.resolve().is_relative_to(out.resolve())
    return inside and re.search(r"-(groups|maps|at-\d+-\d+)\.png$", path.name) is not None


def _source(args: argparse.Namespace) -> Path:
    return args.ckpt or Path(args.weights)


def _same_settings(args: argparse.Namespace) -> None:
    """Pictures of another network or size would stand among these unseen: refuse to mix them."""
    from wsss.files import file_stamp, read_json, write_json

    settings = {
        "network": f"{args.backbone or ''} {_source(args).name} {file_stamp(_source(args))}",
        "size": args.size,
    }
    note = args.out / "settings.json"
    if note.is_file() and read_json(note) != settings:
        raise UserError(
            f"{args.out} holds pictures of another network or size (see {note.name} in it): give "
            "another folder as --out, or remove this one"
        )
    if not note.is_file():
        write_json(note, settings)


def _draw(args, classifier, image, path: Path, name: str, blocks: list[str]) -> None:
    from PIL.PngImagePlugin import PngInfo
    from tqdm import tqdm

    from wsss.commands.predict import NOTE, is_result_of, source_stamp
    from wsss.files import write_atomic
    from wsss.localize.slot_maps import check_inside, slots_at
    from wsss.models.slot_views import slot_views
    from wsss.pictures.slots import group_sheet, map_sheet, position_sheet

    folder = args.out / name
    height, width = image.shape[:2]
    endings = [GROUPS, MAPS]
    if args.at is not None:
        check_inside(*args.at, height, width, str(path))
        endings.append(f"-at-{args.at[0]}-{args.at[1]}.png")
    missing = [b for b in blocks if not all([is_result_of(path, folder / f"{b}{e}") for e in endings])]
    if not missing and args.at is None:
        return
    size = args.size or min(448, max(height, width))
    note = PngInfo()
    note.add_text("comment", f"{NOTE}{source_stamp(path)}")
    for view in slot_views(classifier, image, blocks, size):
        if args.at is not None:
            at = slots_at(view.dispatch, *args.at, height, width)
            few = ", ".join(f"{slot} ({100 * at.shares[slot]:.0f} %)" for slot in at.order[:4])
            tqdm.write(f"{path} at {args.at[0]},{args.at[1]}, {view.name}: slots {few}")
        if view.name not in missing:
            continue
        sheets = [group_sheet(image, view), map_sheet(image, view)]
        if args.at is not None:
            sheets.append(position_sheet(image, view, *args.at))
        for ending, picture in zip(endings, sheets, strict=True):
            write_atomic(
                folder / f"{view.name}{ending}",
                lambda aside, picture=picture: picture.save(aside, format="PNG", pnginfo=note),
            )


def write_gallery(out: Path) -> None:
    """Write index.html over all pictures in `out`, whichever command drew them."""
    from urllib.parse import quote

    from wsss.files import write_text

    names: dict[str, list[Path]] = {}
    for groups in sorted(out.rglob(f"*{GROUPS}")):
        if not groups.name.startswith("."):  # a half-written one
            names.setdefault(groups.parent.relative_to(out).as_posix(), []).append(groups)

    def link(path: Path) -> str:
        return html.escape(quote(path.relative_to(out).as_posix()))

    parts = []
    for name, rows in names.items():
        parts.append(f"<section><h2>{html.escape(name)}</h2>")
        for groups in rows:
            block = groups.name.removesuffix(GROUPS)
            maps = groups.with_name(block + MAPS)
            parts.append(
                f'<a href="{link(maps)}" title="all maps"><img loading="lazy" src="{link(groups)}" '
                f'alt="{html.escape(name)}: groups and slots of {html.escape(block)}"></a>'
            )
            for at in sorted(groups.parent.glob(f"{block}-at-*.png")):
                parts.append(
                    f'<img loading="lazy" src="{link(at)}" '
                    f'alt="{html.escape(name)}: slots of {html.escape(block)} at a position">'
                )
        parts.append("</section>")
    page = _PAGE.replace("COUNT", str(len(names))).replace("SECTIONS", "\n".join(parts))
    write_text(out / "index.html", page)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Slots</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 1720px; padding: 0 1rem }
h2 { font-size: 1.1rem; margin: 1.5rem 0 .3rem; overflow-wrap: anywhere }
section { overflow-x: auto }
img { display: block; width: 100%; min-width: 900px; margin-bottom: .4rem; border-radius: 4px }
p { max-width: 70ch }
</style></head><body>
<h1>Slots of COUNT photographs</h1>
<p>Each row is one block: the photograph, its hard groups (every pixel in the colour of its largest
slot; slots with like maps have like colours; numbers name the slots shown), and the slots that together
say most about it. Click a row for all of its slot maps. Every map is stretched to its own range.</p>
SECTIONS
</body></html>
"""
