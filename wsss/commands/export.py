"""`wsss export`: out into the tools that people use."""

import argparse
from dataclasses import fields
from pathlib import Path

from wsss.errors import UserError, install


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from wsss.exchange.masks import FORMATS
    from wsss.exchange.voc_server import COMPETITIONS

    parser.description = "Write masks or a network in the formats of other tools."
    kinds = parser.add_subparsers(dest="kind", required=True)
    masks = kinds.add_parser(
        "masks",
        help="masks for CVAT, Label Studio, Ultralytics or the VOC evaluation server",
        description="Write masks so that other tools read them. wsss import masks reads them back.",
    )
    masks.add_argument("masks", type=Path, help="folder of masks, as of wsss run or wsss predict")
    masks.add_argument("--photos", type=Path, help="folder of their photographs (voc-server: optional)")
    masks.add_argument(
        "--format",
        required=True,
        choices=tuple(FORMATS),
        help="; ".join(f"{name}: {form.about}" for name, form in FORMATS.items()),
    )
    masks.add_argument(
        "--out", type=Path, required=True, help="new folder or .zip (voc, yolo-seg), .json or .tgz"
    )
    masks.add_argument("--classes", type=Path, help="class names, one a line (default: found beside)")
    masks.add_argument(
        "--polygons", action="store_true", help="coco: outlines to drag instead of exact pixels (RLE)"
    )
    masks.add_argument(
        "--competition",
        choices=COMPETITIONS,
        default=COMPETITIONS[-1],
        help="voc-server: comp6 (default) allows training data beyond VOC's, as ImageNet weights are",
    )
    model = kinds.add_parser(
        "model",
        help="the network as ONNX and torch.export, with a card",
        description="Write model.onnx, model.pt2 (torch.export) and preprocessing.json. Both models "
        "are run and compared with torch before anything is kept. Needs once: "
        f"{install('export')}.",
    )
    model.add_argument("--ckpt", type=Path, required=True, help="last.ckpt of wsss segment or run")
    model.add_argument("--out", type=Path, required=True, help="new folder for the three files")
    model.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="fix the input's size in pixels, multiples of 32 or of a ViT's patch (default: any; some "
        "networks cannot)",
    )


def main(args: argparse.Namespace) -> None:
    if args.kind == "model":
        from wsss.exchange.model import export_model

        for name, apart in export_model(args.ckpt, args.out, args.size).items():
            print(f"{name}: largest difference from torch {apart:.1e}")
        print(f"written: {args.out}")
        return

    from wsss.exchange.masks import FORMATS, export_masks

    if args.polygons and args.format != "coco":
        raise UserError(f"--polygons is for --format coco, not {args.format}")
    form = FORMATS[args.format]
    options = {one.name: getattr(args, one.name) for one in fields(form) if one.name in args}
    print(export_masks(args.masks, args.out, form(**options), args.photos, args.classes))
