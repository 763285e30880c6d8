"""The recipe for one's own photographs on the machine at hand: the configs that `wsss init` writes."""

import shlex
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import timm
import torch
import yaml

from wsss.data.catalog import read_catalog
from wsss.data.folder_rules import FEW
from wsss.data.gather import Found, gather
from wsss.data.images import image_sizes
from wsss.data.layouts import recognised
from wsss.data.tags import tag_source
from wsss.errors import UserError, few
from wsss.files import write_text
from wsss.geometry import MULTIPLE, fit_multiple
from wsss.machine import Machine
from wsss.models.backbone import has_early_features
from wsss.models.classifier import TagClassifier
from wsss.models.segmenter import SegmentationNetwork
from wsss.resources import find_machine
from wsss.settings import BACKBONE, VIEWS, PseudoMaskSettings

DECODERS = ("DeepLabV3Plus", "UPerNet", "Linear")
"""Of a recipe's segmenter, the first that goes with the backbone: for CNNs that can be dilated, for
other pyramids (what Swin and ConvNeXt are published with), for ViTs and all others."""

KEPT_BYTES = 8e9
"""Of what a frozen backbone saw of the photographs, at most; beyond, it sees them again each epoch."""

AS_THEY_ARE: dict[str, dict[str, Any]] = {
    BACKBONE: {"scales": [0.5, 1.0], "slot_grid": 12},
    "glnet_lite": {"scales": [0.5, 1.0], "slots": "blocks", "sharpen": 1},
}
"""Backbones whose weights are a good start as they are: the class head alone learns. With each what its
masks are made with instead of the defaults (experiments/2026-11-30-efficientnet-lite2.md and
2026-12-01-glnet-lite.md)."""

T = TypeVar("T")

PURPOSES = {
    "pipeline": "All stages: wsss run -c {out}/pipeline.yaml",
    "classify": "Your photographs and tags to a tag classifier",
    "pseudo_masks": "Masks of your training photographs from the classifier's class maps",
    "refine": "What a first segmenter sees refines the masks that the segmenter learns from",
    "segment": "The segmenter on these masks; its last.ckpt is for wsss predict",
}
"""The first line of each config."""

FILES = ("tags.csv", "classes.txt", "left_out.csv", *(f"{name}.yaml" for name in PURPOSES))
"""What is written."""


class Differs(UserError):
    """Files of other content are there already."""


def write_recipe(
    photographs: Path,
    tags: Path | None,
    out: Path | None,
    backbone: str,
    weights: Path | None,
    quick: bool,
) -> list[str]:
    """Write a pipeline's configs and its table of tags for a folder of photographs.

    Args:
        photographs: the folder; it is only read.
        tags: table of tags; None: the folder's own.
        out: folder to write to; None: runs/<the folder's name>.
        backbone: timm model, for the classifier and as the segmenter's encoder.
        weights: weight file of the backbone; None: its published weights, if it has some.
        quick: one epoch of small images.

    Returns:
        the lines in which the user is told what was found and written.

    Raises:
        Differs: files of other content are there already.
        UserError: the folder cannot be used, or the backbone or its weights are none.
    """
    if not photographs.is_dir():
        raise UserError(f"there is no folder {photographs}: give the folder of your photographs")
    if tags is None and (layout := recognised(photographs)) != "folder":
        config = {"voc": "voc-efficientnet-lite2", "coco": "coco"}[layout]
        weights_of = {"voc": f"{BACKBONE}.safetensors", "coco": "glnet_4g.pth"}[layout]
        splits = " (with your own splits in copies of its files)" if layout == "coco" else ""
        raise UserError(
            f"{photographs} has the {layout.upper()} layout and needs no init: "
            f"run `wsss run -c configs/{config}/pipeline.yaml --root {photographs} "
            f"--weights {weights_of}`{splits}"
        )
    out = out or Path("runs") / photographs.resolve().name
    if weights and not weights.is_file():
        raise UserError(f"there is no weight file {weights}: correct --weights")
    table = tags or tag_source(photographs)
    found = gather(photographs, table, out)
    machine = find_machine()
    network = look_at_backbone(backbone, weights, len(found.classes))
    sides = [max(size) for size in image_sizes([photographs / name for name in found.tags])]
    side = int(statistics.median(sides))
    stages = recipe(found, machine, side, photographs, out, network, quick)
    files = {"tags.csv": found.table(), "classes.txt": "".join(f"{c}\n" for c in found.classes)}
    for name, config in stages.items():
        body = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
        files[f"{name}.yaml"] = f"# {PURPOSES[name].format(out=out)}\n{body}"
    _write(out, files | {"left_out.csv": found.left_out_table()})
    for split in ("train", "val"):  # names the masks that do not fit, too
        read_catalog("folder", photographs, split, tags=out / "tags.csv")
    return [
        *_of_the_table(found, table),
        *_of_the_data(found, photographs, out),
        *_of_the_stages(stages, machine, out, backbone, weights),
    ]


class Backbone(NamedTuple):
    """What a recipe must know of a backbone.

    Attributes:
        name: of the timm model.
        start: settings of a model that say which weights its backbone starts from; none: from scratch.
        freeze: up to which stride early layers may be frozen; None: it has no early layers.
        decoder: that a segmenter has with it.
        multiples: sides in pixels are multiples of these, the classifier's and the segmenter's.
    """

    name: str
    start: dict[str, Any]
    freeze: int | None = 8
    decoder: str = DECODERS[0]
    multiples: tuple[int, int] = (MULTIPLE, MULTIPLE)


def look_at_backbone(name: str, weights: Path | None, num_classes: int) -> Backbone:
    """Find out what a backbone can do, now and not after the first stage.

    Raises:
        UserError: there is no such backbone, it has no maps of images of any size, or the weights are
            not its own.
    """
    if weights:
        classifier = TagClassifier(name, num_classes, weights=str(weights))
        start: dict[str, Any] = {"weights": str(weights.resolve())}
    else:
        classifier = _without_numbers(lambda: TagClassifier(name, num_classes))
        cfg = timm.get_pretrained_cfg(name)
        start = {"pretrained": True} if cfg and cfg.has_weights else {}
    early = has_early_features(classifier.reductions, stride=8)
    for decoder in DECODERS:
        try:
            segmenter = _without_numbers(partial(SegmentationNetwork, decoder, name, num_classes + 1))
        except UserError:
            continue
        break
    multiples = (classifier.size_multiple, segmenter.size_multiple)
    return Backbone(name, start, 8 if early else None, decoder, multiples)


def _without_numbers(build: Callable[[], T]) -> T:
    """A network's shapes without its numbers; with them, where it cannot be built so."""
    try:
        with torch.device("meta"):
            return build()
    except Exception:  # what is wrong with it is told here
        return build()


def recipe(
    found: Found,
    machine: Machine,
    long_side: int,
    photographs: Path,
    out: Path,
    network: Backbone,
    quick: bool,
) -> dict[str, dict[str, Any]]:
    """The config of each stage, by its name.

    Args:
        found: the data.
        machine: what trains.
        long_side: the usual long side of the photographs in pixels; larger is not worth computing.
        photographs: the folder.
        out: folder of the config.
        network: the classifier's backbone and the segmenter's encoder.
        quick: one epoch of small images.
    """
    count = len(found.names("train"))
    enough = -(-long_side // MULTIPLE) * MULTIPLE
    # crops of the segmenter and of the classifier, long side of maps
    side, size, large, batch = (320, 448, 448, 8) if not machine.gpu else (448, 448, 512, 16)
    if machine.gpu and machine.memory < 7:
        side, size, large, batch = 320, 320, 448, 8
    elif machine.gpu and machine.memory >= 20:
        batch = 32
    if quick:
        side = size = large = 128
    side, size, large = (max(64, min(value, enough)) for value in (side, size, large))
    of_classifier, of_segmenter = network.multiples
    size, large = (fit_multiple(value, of_classifier) for value in (size, large))
    side = fit_multiple(side, of_segmenter)
    while batch > 4 and batch > count // 4:  # some steps an epoch; a mosaic takes four
        batch //= 2
    start, early = network.start, network.freeze
    as_it_is = AS_THEY_ARE.get(network.name.partition(".")[0]) if start else None

    def epochs(seen: int, least: int, most: int) -> int:
        """So many that as many crops are seen as by the shipped recipes on the same machine."""
        seen = 40_000 if machine.gpu else seen
        return 1 if quick else min(most, max(least, round(seen / count)))

    kept = {"freeze_norm": bool(start)} | ({"freeze": early} if start and early else {})
    fresh = {"lr": 1e-3, "head_lr_multiplier": 1}
    tags = kept | ({"lr": 5e-5, "head_lr_multiplier": 40} if start else fresh)
    masks = kept | ({"lr": 1e-4, "head_lr_multiplier": 20} if start else fresh)
    if as_it_is:
        a_view = 2e6 * (size / 448) ** 2 * count  # bytes: 1,280 channels at stride 16, float16
        views = int(KEPT_BYTES / a_view)
        tags = {"freeze": "all"} | ({"views": views} if views < VIEWS else {})
    workers = min(8, machine.cores) if machine.gpu else min(4, max(1, machine.cores // 2))
    data = {
        "layout": "folder",
        "root": str(photographs.resolve()),
        "tags": str((out / "tags.csv").resolve()),
        "num_workers": workers,
    }
    precision = "bf16-mixed" if machine.bf16 else "16-mixed" if machine.gpu else "32-true"
    trainer = {"accelerator": "gpu" if machine.gpu else "cpu", "devices": 1, "precision": precision}
    results = (out / "results").resolve()
    first, second = results / "pseudo_masks", results / "refined_masks"
    # the defaults of what one's own data may need otherwise, to be changed where they stand
    defaults = PseudoMaskSettings().to_dict()
    shown = {name: defaults[name] for name in ("background", "border_prior", "relabel_slots")}
    shown |= as_it_is or {}
    if quick:
        shown |= {"scales": [1.0], "steps": 60}
    classify_epochs = epochs(16_000 if as_it_is else 12_000, 4, 40)
    rarely = {"check_val_every_n_epoch": classify_epochs} if as_it_is else {}  # an epoch is short
    segment_epochs = epochs(12_000, 6, 60)
    return {
        "pipeline": {
            "out": str(results),
            **{n: f"{n}.yaml" for n in ("classify", "pseudo_masks", "refine", "segment")},
        },
        "classify": {
            "model": {"backbone": network.name, **start, "mosaic": 0.5, **tags},
            "data": data | {"size": size, "predict_size": large, "batch_size": batch},
            "trainer": {"max_epochs": classify_epochs, **rarely, **trainer},
        },
        "pseudo_masks": {
            "data": data | {"size": large, "batch_size": min(8, batch)},
            "masks": {"out": str(first / "masks"), **shown},
            "trainer": trainer,
        },
        "refine": {
            "model": {"flip": True} if quick else {"scales": [0.75, 1.0, 1.25], "flip": True},
            "data": data | {"predict_split": "train", "batch_size": min(4, batch)},
            "masks": {"out": str(second / "masks"), "maps": str(first / "maps")},
            "trainer": trainer,
        },
        "segment": {
            "model": {"decoder": network.decoder, "encoder": network.name, **start, **masks},
            "data": data | {"crop": side, "batch_size": min(8, batch) if not machine.gpu else batch},
            "trainer": {
                "max_epochs": segment_epochs,
                "check_val_every_n_epoch": max(1, segment_epochs // 4),
                **trainer,
            },
        },
    }


def _write(out: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = out / name
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise Differs(
                f"{path} is there already and differs from what would be written: give another --out, "
                "or remove it"
            )
    for name, text in files.items():
        write_text(out / name, text)


def _of_the_table(found: Found, table: Path) -> Iterator[str]:
    yield f"{table}: read as {found.form}"
    yield from (f"  {example}" for example in found.examples)


def _of_the_data(found: Found, photographs: Path, out: Path) -> Iterator[str]:
    train, val = found.names("train"), found.names("val")
    yield (
        f"{photographs}: {len(found.tags)} photographs, {len(train)} to train on, "
        f"{len(val)} to validate with"
    )
    yield f"  {'class':24s} {'train':>7s} {'val':>7s}"
    rows = [
        (name, *(sum(name in found.tags[image] for image in split) for split in (train, val)))
        for name in found.classes
    ]
    empty = [sum(not found.tags[image] for image in split) for split in (train, val)]
    for name, *counts in [*rows, *([("(pure background)", *empty)] if any(empty) else [])]:
        yield f"  {name:24s} {counts[0]:7d} {counts[1]:7d}"
    rare = [name for name, *counts in rows if sum(counts) < FEW]
    if rare:
        yield f"note: fewer than {FEW} images, hardly enough to learn from: {', '.join(rare)}"
    for name in found.everywhere:
        yield (
            f"note: every photograph has the tag '{name}', so nothing shows where it is not: add "
            "photographs without it (with empty tags, if they show none of your things)"
        )
    for note in found.notes:
        yield f"note: {note}"
    if found.left_out:
        total = sum(map(len, found.left_out.values()))
        yield f"left out: {total} (all are in {out / 'left_out.csv'})"
        for reason, names in found.left_out.items():
            yield f"  {reason}: {few(names, 10)}"


def _of_the_stages(
    stages: dict[str, dict[str, Any]],
    machine: Machine,
    out: Path,
    backbone: str,
    weights: Path | None,
) -> Iterator[str]:
    classify, segment = stages["classify"], stages["segment"]
    yield (
        f"machine: {machine.name}; {classify['data']['size']} pixels, "
        f"{classify['data']['batch_size']} images a step, {classify['trainer']['precision']}, "
        f"{classify['trainer']['max_epochs']} + {segment['trainer']['max_epochs']} epochs"
    )
    if weights:
        yield f"backbone: {backbone} from {weights}"
    elif "pretrained" in classify["model"]:
        here = timm.get_pretrained_cfg(backbone).file
        where = "come with wsss" if here else "are downloaded by the first run"
        yield f"backbone: {backbone}, its published weights {where}"
    else:
        yield f"backbone: {backbone} from scratch: that takes thousands of photographs to learn"
    masks = out / "pseudo_masks.yaml"
    yield (
        "masks: what runs along the border of photographs counts less; if that is what you tagged "
        f"(sky, water, roads), set border_prior: false in {masks}"
    )
    yield f"next: wsss run -c {shlex.quote(str(out / 'pipeline.yaml'))}"
