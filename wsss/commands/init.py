"""`wsss init PHOTOS`: a ready pipeline config for one's own photographs on the machine at hand."""

import argparse
import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wsss.errors import UserError, few

BACKBONE = "mobilenetv2_100"


@dataclass(frozen=True)
class Machine:
    """What trains.

    Attributes:
        name: for the user.
        gpu: a CUDA GPU is there.
        cores: CPU cores that may be used.
        memory: of the GPU in GiB; 0 without one.
        bf16: bfloat16 arithmetic in hardware.
    """

    name: str
    gpu: bool
    cores: int
    memory: float
    bf16: bool


def find_machine() -> Machine:
    """The machine that this process runs on."""
    import torch

    from wsss.machine import allowed_cores

    cores = allowed_cores()
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return Machine(card.name, True, cores, card.total_memory / 2**30, card.major >= 8)
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").split())
    except OSError:
        flags = set()
    name = f"CPU, {cores} core{'s' if cores > 1 else ''}"
    return Machine(name, False, cores, 0.0, bool(flags & {"amx_bf16", "avx512_bf16"}))


@dataclass
class Found:
    """What there is to train on.

    Attributes:
        tags: image, relative to the photographs' folder -> its tags.
        splits: image -> "train" or "val".
        classes: names in the order of their mask labels.
        left_out: reason -> images.
        notes: what else the user should know.
    """

    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, image: str) -> None:
        self.left_out.setdefault(reason, []).append(image)

    def names(self, split: str) -> list[str]:
        return [name for name, its in self.splits.items() if its == split]


def gather(photographs: Path, table: Path, out: Path) -> Found:
    """Find the usable images of a folder, their tags, classes and splits; the rest is left out.

    Args:
        photographs: the folder; it is only read.
        table: any form that `wsss.data.tags` reads, its names relative to the folder.
        out: folder of results, which is passed over if it lies in `photographs`.

    Raises:
        UserError: a name leads out of the folder, or too little is left to train on.
    """
    from wsss.data.tags import read_tag_table, split_folder

    found = Found()
    rows = read_tag_table(table, photographs, duplicates=(twice := []), odd=(odd := {}))
    found.notes += [f"{kind}: {few(places)}" for kind, places in odd.items()]
    if twice:
        found.notes.append(f"rows joined, image listed more than once: {few(sorted(set(twice)))}")
    rows = _known_files(found, photographs, table, out, rows)
    rows = _distinct(found, photographs, rows)
    if not rows:
        raise UserError(
            f"no image that {table} names can be used ({_reasons(found)}): "
            f"its names must be relative to {photographs}"
        )
    spelling = _classes(found, photographs, table, rows)
    rows = [
        replace(row, tags=tuple(sorted({spelling[tag] for tag in row.tags}, key=found.classes.index)))
        for row in rows
    ]
    found.splits, left_out, odd = split_folder(rows, table, photographs)
    found.notes += [f"{kind}: {few(places)}" for kind, places in odd.items()]
    for reason, images in left_out.items():
        for image in images:
            found.leave_out(reason, image)
    found.tags = {row.image: row.tags for row in rows if row.image in found.splits}
    _require_both_splits(found, table)
    return found


def _known_files(found: Found, photographs: Path, table: Path, out: Path, rows: Sequence) -> list:
    """Rows whose image is there and can be read, under the name that the file has."""
    from wsss.commands.check import (
        image_oddities,
        longest_name,
        photographs_in,
        too_long,
        white_of,
    )
    from wsss.data.catalog import inside, look_at
    from wsss.data.images import FOREIGN_SUFFIXES, IMAGE_SUFFIXES
    from wsss.data.names import as_files

    files = [
        path.relative_to(photographs).as_posix()
        for path in photographs_in(photographs)
        if not path.resolve().is_relative_to((out / "results").resolve())
    ]
    names = as_files((row.image for row in rows), files)
    known, listed, most = {}, set(), longest_name(out)
    for row in rows:
        name = names[row.image]
        inside(photographs, name, table)
        listed.add(name)
        if not os.path.isfile(photographs / name):  # a name may be too long to be asked for
            found.leave_out("tags without image", row.image)
        elif too_long(name, most):
            found.leave_out(f"name too long for results ({most} bytes)", name)
        elif Path(name).suffix.lower() not in (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES):
            found.leave_out(f"no image file ({', '.join(IMAGE_SUFFIXES)} are read)", name)
        elif name in known:  # a/b.jpg and a/../a/b.jpg
            known[name] = replace(known[name], tags=(*known[name].tags, *row.tags))
            found.notes.append(f"rows joined, image listed more than once: {name}")
        else:
            known[name] = replace(row, image=name)
    for name in files:
        if name not in listed:
            found.leave_out("images without tags (not listed)", name)
    looks = look_at([photographs / name for name in known])
    for name, its in zip(list(known), looks, strict=True):
        if its.fault:
            found.leave_out(image_oddities(photographs / name)[0], name)
            del known[name]
    if its_white := white_of(photographs / name for name in known):
        found.notes.append(f"in photographs of 16 bits, {its_white}")
    return list(known.values())


def _distinct(found: Found, photographs: Path, rows: Sequence) -> list:
    """One row for each content and each result's name."""
    sizes = Counter((photographs / row.image).stat().st_size for row in rows)
    contents: dict[bytes, Any] = {}
    names: dict[str, str] = {}
    kept = []
    for row in rows:
        path = photographs / row.image
        name = Path(row.image).with_suffix("").as_posix()
        if name in names:
            found.leave_out(f"name differs by suffix only from {names[name]}", row.image)
            continue
        if sizes[path.stat().st_size] > 1:
            digest = hashlib.sha256(path.read_bytes()).digest()
            first = contents.setdefault(digest, row)
            if first is not row:
                same = set(first.tags) == set(row.tags)
                reason = f"same content as {first.image}"
                found.leave_out(reason if same else f"{reason}, but other tags", row.image)
                continue
        names[name] = row.image
        kept.append(row)
    return kept


def _classes(found: Found, photographs: Path, table: Path, rows: Sequence) -> dict[str, str]:
    """Set the classes; returns for each tag the class it stands for."""
    from wsss.data.catalog import class_list, few_enough, read_classes
    from wsss.data.tags import RESERVED_CLASSES, alike

    counts = Counter(tag for row in rows for tag in row.tags)
    if not counts:
        raise UserError(f"no usable image of {table} has a tag: fill in the tags")
    listing = class_list(photographs, None if table.is_dir() else table)
    fixed = read_classes("folder", listing.parent) if listing else ()
    spelling = {tag: tag for tag in counts}
    for names in alike(dict.fromkeys([*fixed, *counts])):
        # as in classes.txt, else as most images have it
        best = max(names, key=lambda name: (name in fixed, counts[name], name))
        spelling |= dict.fromkeys((name for name in names if name not in fixed), best)
        if others := [name for name in names if spelling.get(name, name) != name]:
            quoted = ", ".join(f"'{name}'" for name in others)
            found.notes.append(f"class names joined: {quoted} counted as '{best}'")
    used = {spelling[tag] for tag in counts}
    found.classes = fixed or few_enough(tuple(sorted(used)), table)
    if unknown := sorted(used - set(found.classes)):
        raise UserError(
            f"{table} has the tag '{unknown[0]}', which is not in {listing}: correct either"
        )
    if unused := [name for name in found.classes if name not in used]:
        raise UserError(f"{listing} lists '{unused[0]}', but no usable image has this tag: remove it")
    if reserved := {"image", "tags", "split"} & used:
        raise UserError(f"a class cannot be named '{min(reserved)}' (a column of the table): rename it")
    if own := [name for name in found.classes if name.lower() in RESERVED_CLASSES]:
        raise UserError(
            f"{table} has the tag '{own[0]}', a name with a meaning of its own: rename it, or leave "
            "the tags empty where there is nothing but background"
        )
    return spelling


def _require_both_splits(found: Found, table: Path) -> None:
    train, val = found.names("train"), found.names("val")
    if len(train) < 2 or not val:
        raise UserError(
            f"{len(train)} images to train on and {len(val)} to validate on are too few in {table} "
            f"({_reasons(found)}): at least 2 and 1 are needed, and dozens of each class to learn much"
        )
    missing = set(found.classes) - {tag for name in train for tag in found.tags[name]}
    if missing:
        raise UserError(
            f"no image of split train has the tag '{min(missing)}': add one to train in {table}, "
            "or leave the split to wsss by removing it there"
        )


def _reasons(found: Found) -> str:
    counted = [f"{reason}: {few(names, 2)}" for reason, names in found.left_out.items()]
    return "; ".join(counted[:3]) or "nothing was left out"


def settings(
    found: Found,
    machine: Machine,
    long_side: int,
    photographs: Path,
    out: Path,
    backbone: str,
    pretrained: bool,
    weights: Path | None,
    quick: bool,
) -> dict[str, dict[str, Any]]:
    """The config of each stage, by its name.

    Args:
        found: the data.
        machine: what trains.
        long_side: the usual long side of the photographs in pixels; larger is not worth computing.
        photographs: the folder.
        out: folder of the config.
        backbone: timm model, for the classifier and as the segmenter's encoder.
        pretrained: take its own weights.
        weights: take them from this file.
        quick: one epoch of small images.
    """
    count = len(found.names("train"))
    enough = -(-long_side // 32) * 32
    # crops of the segmenter and of the classifier, long side of maps
    side, size, large, batch = (320, 448, 448, 8) if not machine.gpu else (448, 448, 512, 16)
    if machine.gpu and machine.memory < 7:
        side, size, large, batch = 320, 320, 448, 8
    elif machine.gpu and machine.memory >= 20:
        batch = 32
    if quick:
        side = size = large = 128
    side, size, large = (max(64, min(value, enough)) for value in (side, size, large))
    while batch > 4 and batch > count // 4:  # some steps an epoch; a mosaic takes four
        batch //= 2
    # crops seen in training: what the shipped recipes give VOC's 1,464 images on the same machine
    seen = 40_000 if machine.gpu else 12_000

    def epochs(least: int, most: int) -> int:
        return 1 if quick else min(most, max(least, round(seen / count)))

    start: dict[str, Any] = {"pretrained": True} if pretrained else {}
    if weights:
        start = {"weights": str(weights.resolve())}
    kept = {"freeze_norm": bool(start)} | ({"freeze_stride": 8} if start else {})
    fresh = {"lr": 1e-3, "head_factor": 1}
    tags = {"lr": 5e-5, "head_factor": 40} if start else fresh
    masks = {"lr": 1e-4, "head_factor": 20} if start else fresh
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
    writer: dict[str, Any] = {
        "out": str(first / "masks"),
        "background": 0.4,
        "border_prior": True,
        "learn_slots": True,
    }
    joiner = {"out": str(second / "masks"), "maps": str(first / "maps")}
    if quick:
        writer["scales"] = [1.0]
    segment_epochs = epochs(6, 60)
    return {
        "pipeline": {
            "out": str(results),
            "classify": "classify.yaml",
            "pseudo_masks": "pseudo_masks.yaml",
            "refine": "refine.yaml",
            "segment": "segment.yaml",
        },
        "classify": {
            "model": {
                "backbone": backbone,
                **start,
                "mosaic": 0.5,
                **kept,
                **tags,
            },
            "data": data | {"size": size, "predict_size": large, "batch_size": batch},
            "trainer": {"max_epochs": epochs(4, 40), **trainer},
        },
        "pseudo_masks": {
            "data": data | {"size": large, "batch_size": min(8, batch)},
            "trainer": trainer
            | {
                "callbacks": [
                    {"class_path": "wsss.tasks.writers.PseudoMaskWriter", "init_args": writer}
                ]
            },
        },
        "refine": {
            "model": {"flip": True} if quick else {"scales": [0.75, 1.0, 1.25], "flip": True},
            "data": data | {"predict_split": "train", "batch_size": min(4, batch)},
            "trainer": trainer
            | {
                "callbacks": [
                    {"class_path": "wsss.tasks.writers.RefinedMaskWriter", "init_args": joiner}
                ]
            },
        },
        "segment": {
            "model": {
                "decoder": "DeepLabV3Plus",
                "encoder": backbone,
                **start,
                **kept,
                **masks,
            },
            "data": data | {"crop": side, "batch_size": min(8, batch) if not machine.gpu else batch},
            "trainer": {
                "max_epochs": segment_epochs,
                "check_val_every_n_epoch": max(1, segment_epochs // 4),
                **trainer,
            },
        },
    }


PURPOSES = {
    "pipeline": "All stages: wsss run -c {out}/pipeline.yaml",
    "classify": "Your photographs and tags to a tag classifier",
    "pseudo_masks": "Masks of your training photographs from the classifier's class maps",
    "refine": "What a first segmenter sees refines the masks that the segmenter learns from",
    "segment": "The segmenter on these masks; its last.ckpt is for wsss predict",
}


def _table(found: Found) -> str:
    """The usable images with their split and one column of 0 and 1 for each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "split", *found.classes])
    for name, tags in found.tags.items():
        writer.writerow([name, found.splits[name], *(int(c in tags) for c in found.classes)])
    return text.getvalue()


def _left_out(found: Found) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "reason"])
    writer.writerows((name, reason) for reason, names in found.left_out.items() for name in names)
    return text.getvalue()


def _write(out: Path, files: dict[str, str]) -> None:
    from wsss.files import write_text

    for name, text in files.items():
        path = out / name
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise UserError(
                f"{path} is there already and differs from what would be written: give another --out, "
                "or remove it"
            )
    for name, text in files.items():
        write_text(out / name, text)


def _pretrained(backbone: str, weights: Path | None, classes: int) -> bool:
    """Whether the backbone has weights of its own; an unknown backbone or file is named."""
    import timm

    from wsss.models.classifier import TagClassifier

    # built once, so that a wrong name or file is known now and not after the first stage
    TagClassifier(backbone, classes, weights=str(weights) if weights else None)
    cfg = timm.get_pretrained_cfg(backbone)
    return weights is None and bool(cfg and cfg.has_weights)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a pipeline config for your photographs, fitted to them and to this machine; wsss run "
        "executes it. The folder of photographs is only read."
    )
    parser.add_argument("photographs", type=Path, help="folder of the photographs, sub-folders too")
    parser.add_argument(
        "--tags",
        type=Path,
        help="CSV (image,tags or a 0/1 column per class) or JSON with names relative to the folder "
        "(default: tags.csv or tags.json in it, else one sub-folder per class)",
    )
    parser.add_argument("--out", type=Path, help="folder to write to (default: runs/<folder's name>)")
    parser.add_argument(
        "--weights",
        type=Path,
        help="weight file of the backbone (default: the published ones, which the first run downloads)",
    )
    parser.add_argument(
        "--backbone",
        default=BACKBONE,
        help=f"any timm model that can be dilated to stride 16 (default: {BACKBONE})",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one epoch of small images: to see the chain run before it takes its time",
    )


def main(args: argparse.Namespace) -> int:
    import statistics

    import yaml

    from wsss.data.catalog import read_catalog
    from wsss.data.images import image_size
    from wsss.data.tags import tag_source

    photographs = args.photographs
    if not photographs.is_dir():
        raise UserError(f"there is no folder {photographs}: give the folder of your photographs")
    if args.tags is None and (photographs / "JPEGImages").is_dir():
        raise UserError(
            f"{photographs} has the VOC layout and needs no init: "
            f"run `wsss run -c configs/voc-mobilenetv2/pipeline.yaml --root {photographs} "
            "--weights mobilenetv2_100.safetensors`"
        )
    out = args.out or Path("runs") / photographs.resolve().name
    table = args.tags or tag_source(photographs)
    if args.weights and not args.weights.is_file():
        raise UserError(f"there is no weight file {args.weights}: correct --weights")
    found = gather(photographs, table, out)
    machine = find_machine()
    pretrained = _pretrained(args.backbone, args.weights, len(found.classes))
    sides = [max(image_size(photographs / name)) for name in found.tags]
    stages = settings(
        found,
        machine,
        int(statistics.median(sides)),
        photographs,
        out,
        args.backbone,
        pretrained,
        args.weights,
        args.quick,
    )
    files = {"tags.csv": _table(found), "classes.txt": "".join(f"{c}\n" for c in found.classes)}
    for name, config in stages.items():
        body = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
        files[f"{name}.yaml"] = f"# {PURPOSES[name].format(out=out)}\n{body}"
    files["left_out.csv"] = _left_out(found)
    _write(out, files)
    for split in ("train", "val"):  # names the masks that do not fit, too
        read_catalog("folder", photographs, split, tags=out / "tags.csv")
    _tell(found, stages, machine, out, args, pretrained)
    return 0


def _tell(
    found: Found,
    stages: dict[str, dict[str, Any]],
    machine: Machine,
    out: Path,
    args: argparse.Namespace,
    pretrained: bool,
) -> None:
    import shlex

    from wsss.commands.check import FEW

    train, val = found.names("train"), found.names("val")
    print(
        f"{args.photographs}: {len(found.tags)} photographs, {len(train)} to train on, "
        f"{len(val)} to validate with"
    )
    print(f"  {'class':24s} {'train':>7s} {'val':>7s}")
    rows = [
        (name, *(sum(name in found.tags[image] for image in split) for split in (train, val)))
        for name in found.classes
    ]
    empty = [sum(not found.tags[image] for image in split) for split in (train, val)]
    for name, *counts in [*rows, *([("(pure background)", *empty)] if any(empty) else [])]:
        print(f"  {name:24s} {counts[0]:7d} {counts[1]:7d}")
    rare = [name for name, *counts in rows if sum(counts) < FEW]
    if rare:
        print(f"note: fewer than {FEW} images, hardly enough to learn from: {', '.join(rare)}")
    for name in found.classes:
        if all(name in tags for tags in found.tags.values()):
            print(
                f"note: every photograph has the tag '{name}', so nothing shows where it is not: add "
                "photographs without it (with empty tags, if they show none of your things)"
            )
    for note in found.notes:
        print(f"note: {note}")
    if found.left_out:
        total = sum(map(len, found.left_out.values()))
        print(f"left out: {total} (all are in {out / 'left_out.csv'})")
        for reason, names in found.left_out.items():
            print(f"  {reason}: {few(names, 10)}")
    classify, segment = stages["classify"], stages["segment"]
    print(
        f"machine: {machine.name}; {classify['data']['size']} pixels, "
        f"{classify['data']['batch_size']} images a step, {classify['trainer']['precision']}, "
        f"{classify['trainer']['max_epochs']} + {segment['trainer']['max_epochs']} epochs"
    )
    if args.weights:
        print(f"backbone: {args.backbone} from {args.weights}")
    elif pretrained:
        import timm

        here = timm.get_pretrained_cfg(args.backbone).file
        where = "come with wsss" if here else "are downloaded by the first run"
        print(f"backbone: {args.backbone}, its published weights {where}")
    else:
        print(f"backbone: {args.backbone} from scratch: that takes thousands of photographs to learn")
    masks = out / "pseudo_masks.yaml"
    print(
        "masks: what runs along the border of photographs counts less; if that is what you tagged "
        f"(sky, water, roads), set border_prior: false in {masks}"
    )
    print(f"next: wsss run -c {shlex.quote(str(out / 'pipeline.yaml'))}")
