"""The report of a run: one HTML file with its pictures inside, which needs no network."""

import base64
import csv
import io
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

from wsss import charts
from wsss.data.catalog import Catalog, Record
from wsss.data.masks import read_mask
from wsss.data.modules import MaskData, TagData
from wsss.errors import UserError, notice
from wsss.evaluation import Counts, confusion_matrix, iou_of, pixel_counts, read_counts
from wsss.files import read_json, write_text
from wsss.pictures import Cell, Row, chain_rows, show_mask, thumbnail, write_strip
from wsss.resources import versions
from wsss.voc import VOID

TITLES = {
    "classify": "classifier",
    "pseudo_masks": "pseudo-masks",
    "segment_first": "first round's segmenter",
    "refined_masks": "refined pseudo-masks",
    "segment": "segmenter",
    "segment_true": "segmenter on true masks",
}

NEEDED = ("classify", "pseudo_masks", "segment")
"""Stages of every run."""

EXAMPLE_SIDE = 176
"""Long side in pixels of the photographs beside their masks."""

STRIP_ROWS = 4
"""Rows of `overview.png`, which is to be seen at a glance."""

MOST_CLASSES = 40
"""Classes shown with examples, those with the lowest IoU first; bounds the size of the file."""

MOST_MASKS = 500
"""Masks that are read to tell what pseudo-masks cover where no truth is known."""


class _Stage(NamedTuple):
    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    done: dict[str, Any]


class _Judged(NamedTuple):
    """Masks whose truth is known."""

    what: str
    masks: Path
    names: list[str]
    images: dict[str, Counts]
    records: dict[str, Record]
    white: int | None = None


def finished_run(folder: Path) -> Path:
    """The folder of a run's results: the one given, or `results` in it, where `wsss init` has them."""
    return folder / "results" if (folder / "pipeline.yaml").is_file() else folder


def run_name(run: Path) -> str:
    """What a run is called: its folder, or the one around `results`."""
    run = run.resolve()
    return run.parent.name if finished_run(run.parent) == run else run.name


def write_report(run: str | Path) -> Path:
    """Write `report.html` and `overview.png` into the folder of a finished run.

    Args:
        run: the folder that `wsss run` or `wsss demo` wrote.

    Returns:
        The report's path.

    Raises:
        UserError: the folder holds no finished run, or its photographs are gone.
    """
    run = Path(run)
    missing = [name for name in ("metrics.json", *(f"{s}/done.json" for s in NEEDED))
               if not (run / name).is_file()]  # fmt: skip
    if missing:
        raise UserError(
            f"{run} holds no finished run, {missing[0]} is missing: give the folder of `wsss run` or "
            "`wsss demo`, or run it again to the end"
        )
    numbers = read_json(run / "metrics.json")
    stages = {name: _read_stage(run / name) for name in numbers["minutes_per_stage"]}
    try:
        text = _page(run, numbers, stages)
    except UserError as error:
        raise UserError(f"{run} is reported on only with its data in place: {error}") from error
    path = run / "report.html"
    write_text(path, text)
    return path


def _read_stage(folder: Path) -> _Stage:
    full = folder / "log" / "config.yaml"  # with every default
    own = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    config = yaml.safe_load(full.read_text("utf-8")) if full.is_file() else own
    # where the data are now: they may have been moved since the training
    config["data"] |= {key: own["data"][key] for key in ("root", "tags") if key in own["data"]}
    read = (read_json(folder / f"{name}.json") for name in ("metrics", "done"))
    return _Stage(folder, config, *read)


def _page(run: Path, numbers: dict[str, Any], stages: dict[str, _Stage]) -> str:
    tags = TagData(**stages["pseudo_masks"].config["data"])
    learn = TagData(**stages["classify"].config["data"])
    masks = MaskData(**stages["segment"].config["data"])
    train = learn.catalog(learn.train_split)
    final = _final_masks(stages)
    folders = {name: stage.folder for name, stage in stages.items()}
    rows = chain_rows(tags, folders)
    write_strip(run / "overview.png", rows[:STRIP_ROWS])
    judged = _judged(stages, tags, masks)
    parts = [
        ("classes", "Class by class", _classes(stages, judged, train)),
        ("confusion", "What is taken for what", _confusion(judged)),
        ("threshold", "The seed's threshold", _threshold(stages["pseudo_masks"])),
        ("void", "Void", _void(final, tags)),
        ("training", "Training", _training(stages)),
        ("images", "Best and worst images", _examples(judged)),
        ("cost", "Time and memory", _cost(stages)),
        ("settings", "Settings and versions", _settings(stages)),
    ]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in parts)
    sections = "".join(
        f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in parts
    )
    name = escape(run_name(run))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>wsss: {name}</title><style>{_STYLE}</style></head><body><main>"
        f"<header><h1>{name}</h1>{_about(run, stages, train, learn)}"
        f"{_chain(numbers, tags.predict_split, masks.val_split)}</header>"
        f"<nav>{links}</nav>{_strip(rows, tags.predict_split)}{sections}"
        "<footer>Made by wsss. Everything is inside this file; "
        f"<code>wsss report {escape(str(run))}</code> makes it again.</footer></main></body></html>\n"
    )


def _final_masks(stages: dict[str, _Stage]) -> _Stage:
    """The stage whose masks the segmenter learned from."""
    return stages.get("refined_masks", stages["pseudo_masks"])


def _judged(stages: dict[str, _Stage], tags: TagData, masks: MaskData) -> _Judged | None:
    """The segmenter's test, or the pseudo-masks where only they can be judged."""
    made = [
        (stages["segment"].folder, "test", "segmenter", masks, masks.val_split),
        (_final_masks(stages).folder, "masks", "pseudo-masks", tags, tags.predict_split),
    ]
    for folder, name, what, data, split in made:
        path = folder / f"{name}.json"
        if path.is_file():
            classes, images = read_counts(path)
            records = {record.id: record for record in data.catalog(split, tagged=False).records}
            # true masks may have been taken away since
            images = {
                key: pixels
                for key, pixels in images.items()
                if key in records and records[key].mask is not None
            }
            names = ["background", *classes]
            if not confusion_matrix(images.values(), len(names)).any():
                continue
            return _Judged(f"{what} on {split}", folder / name, names, images, records, data.white)
    return None


# ---- first screen ----


def _about(run: Path, stages: dict[str, _Stage], train: Catalog, data: TagData) -> str:
    classify, make, segment = (stages[n] for n in ("classify", "pseudo_masks", "segment"))
    writer = _writer_settings(make)
    val = len(data.catalog(data.val_split, tagged=False).records)
    model = segment.config["model"]
    prior = " with border prior" if writer.get("border_prior") and writer["slots"] != "none" else ""
    crf = "with dense CRF" if writer.get("crf") else "without CRF"
    crf += ", refined by a first segmenter" if "refined_masks" in stages else ""
    rows = [
        ("data", f"{data.root} ({data.layout}): {len(train.records):,} photographs with tags of "
                 f"{len(train.classes)} classes, {val:,} to validate"),
        ("classifier", f"{classify.config['model'].get('backbone', 'glnet_4g')}, "
                       f"{_epochs(classify)}"),
        ("pseudo-masks", f"slots: {writer['slots']}{prior}, background {writer['background']}, {crf}"),
        ("segmenter", f"{model.get('decoder', 'DeepLabV3Plus')} on {model.get('encoder', 'glnet_4g')}, "
                      f"{_epochs(segment)}"),
        ("finished", f"{_when(run)}, after {sum(s.done['minutes'] for s in stages.values()):.1f} "
                     f"minutes on {segment.done.get('device', 'an unnoted machine')}"),
    ]  # fmt: skip
    return "<dl>" + "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in rows) + "</dl>"


def _epochs(stage: _Stage) -> str:
    trainer = stage.config["trainer"]
    if trainer.get("max_epochs") in (None, -1):
        return f"{trainer['max_steps']:,} steps"
    return "1 epoch" if trainer["max_epochs"] == 1 else f"{trainer['max_epochs']} epochs"


def _when(run: Path) -> str:
    moment = max(path.stat().st_mtime for path in run.glob("*/done.json"))
    return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")


def _writer_settings(make: _Stage) -> dict[str, Any]:
    return read_json(make.folder / "masks" / "settings.json")


def _chain(numbers: dict[str, Any], train: str, val: str) -> str:
    true, ours = numbers.get("seg_miou_val_true_masks"), numbers.get("seg_miou_val")
    best, void = numbers.get("seed_miou_best"), numbers.get("mask_void")
    first, before = numbers.get("mask_miou_first"), numbers.get("seg_miou_val_first")
    covered = [f"{void:.1f} % of the pixels void"] if void is not None else []
    covered += [f"{first:.1f} before they were refined"] if first is not None else []
    shares = [f"{100 * ours / true:.0f} % of the {true:.1f} with true masks"] if true and ours else []
    shares += [f"{before:.1f} in the first round"] if before is not None else []
    tiles = [
        ("classifier", numbers.get("cls_map_val"), f"mAP on {val}", ""),
        ("seed", numbers.get("seed_miou_fixed"), f"mIoU on {train}",
         f"{best:.1f} at the best threshold, which uses the truth" if best is not None else ""),
        ("pseudo-mask", numbers.get("mask_miou"), f"mIoU on {train}",
         ", ".join(covered)),
        ("segmenter", ours, f"mIoU on {val}",
         ", ".join(shares)),
    ]  # fmt: skip
    items = ""
    for step, value, what, more in tiles:
        shown = "–" if value is None else f"{value:.1f}<small> %</small>"
        lack = f"no image of {val} has a tag" if step == "classifier" else "no true masks"
        more = more or ("" if value is not None else f"not measurable: {lack} to measure with")
        items += f"<li><b>{step}</b><strong>{shown}</strong><span>{what}</span><i>{more}</i></li>"
    return f'<ol class="chain">{items}</ol>'


def _strip(rows: Sequence[Row], split: str) -> str:
    text = "".join(
        f'<article><h3>{escape(row.tags)}</h3><div class="row" style="--cells:{len(row.cells)}">'
        + "".join(_figure(cell, 82) for cell in row.cells)
        + "</div></article>"
        for row in rows
    )
    return (
        f'<section id="strip"><h2>Through the chain</h2><p>Photographs of split {escape(split)}, '
        "evenly spaced in its list and not chosen, with their tags. A region's class is told by its "
        f"colour, its hatching and its name.</p>{text}</section>"
    )


def _figure(cell: Cell, quality: int) -> str:
    stream = io.BytesIO()
    Image.fromarray(cell.picture).save(stream, format="JPEG", quality=quality, optimize=True)
    height, width = cell.picture.shape[:2]
    names = "".join(
        # moved back by as much of its own size, so that it stays on the picture
        f'<span style="left:{100 * label.x:.0f}%;top:{100 * label.y:.0f}%;'
        f'transform:translate(-{100 * label.x:.0f}%,-{100 * label.y:.0f}%)">{escape(label.text)}</span>'
        for label in cell.labels
    )
    data = base64.b64encode(stream.getvalue()).decode()
    alt = escape(", ".join([cell.caption, *(label.text for label in cell.labels)]))
    return (
        f'<figure><div class="shot"><img src="data:image/jpeg;base64,{data}" width="{width}" '
        f'height="{height}" alt="{alt}" loading="lazy">{names}</div>'
        f"<figcaption>{escape(cell.caption)}</figcaption></figure>"
    )


# ---- sections ----


class _Number(str):
    """A number already written out."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, _Number)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "<td>–</td>"
    if isinstance(value, float | np.floating):
        return f"<td>{value:.1f}</td>"
    if isinstance(value, int | np.integer):
        return f"<td>{value:,}</td>"
    look = ' class="text"' if _is_text(value) else ""
    return f"<td{look}>{escape(str(value))}</td>"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    looks = [' class="text"' if rows and _is_text(rows[0][k]) else "" for k in range(len(head))]
    top = "".join(f"<th{k}>{escape(title)}</th>" for k, title in zip(looks, head, strict=True))
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _pair(chart: str, table: str) -> str:
    return f'<div class="pair"><div class="chart">{chart}</div>{table}</div>'


def _classes(stages: dict[str, _Stage], judged: _Judged | None, train: Catalog) -> str:
    tagged = np.bincount([t for r in train.records for t in r.tags], minlength=len(train.classes))
    metrics = stages["classify"].metrics
    precision = {name: metrics.get(f"val_AP/{name}") for name in train.classes}
    if judged is None:
        order = sorted(range(len(tagged)), key=lambda i: -(precision[train.classes[i]] or 0))
        order.sort(
            key=lambda i: precision[train.classes[i]] is None
        )  # not measured: last, without a bar
        names = [train.classes[i] for i in order]
        values = np.array([precision[name] for name in names if precision[name] is not None])
        drawn_names = names[: len(values)][-60:]
        drawn = charts.chart(
            "ap", "average precision by class", 0.8 + 0.2 * len(drawn_names),
            lambda figure: charts.class_bars(
                figure.subplots(), drawn_names, {"average precision of the tags": values[-60:]}
            ),
        )  # fmt: skip
        rows = [(n, precision[n], int(tagged[i])) for n, i in zip(names, order, strict=True)]
        return (
            "<p>No true masks are known, so what is measured is how well the classifier finds the "
            "tags. For IoU, put true masks of some photographs into the data's folder of masks.</p>"
        ) + _pair(drawn, _table(["class", "AP on val", "tagged, train"], rows))
    matrix = confusion_matrix(judged.images.values(), len(judged.names))
    iou, errors = iou_of(matrix), _errors(matrix)
    present = [i for i in range(len(iou)) if not np.isnan(iou[i])]
    order = sorted(present, key=lambda i: -iou[i])
    shown = np.zeros(len(iou), int)
    for counts in judged.images.values():
        for label in {true for true, _, _ in counts if true != VOID}:
            shown[label] += 1
    drawn = charts.chart(
        "iou", "IoU and kinds of error by class", 0.9 + 0.2 * min(60, len(order)),
        lambda figure: charts.class_bars(
            figure.subplots(),
            [judged.names[i] for i in order[-60:]],
            {"IoU": iou[order[-60:]]} | {k: v[order[-60:]] for k, v in errors.items()},
        ),
    )  # fmt: skip
    masks = _final_masks(stages).metrics.get("mask", {}).get("iou", {})
    true = stages["segment_true"].metrics if "segment_true" in stages else {}
    head = ["class", "IoU", *errors, "images", "pseudo-mask IoU", "IoU, true masks", "AP", "tagged"]
    rows = [
        (
            judged.names[i], float(iou[i]), *(float(v[i]) for v in errors.values()), int(shown[i]),
            masks.get(judged.names[i]), true.get(f"test_IoU/{judged.names[i]}"),
            precision.get(judged.names[i]), int(tagged[i - 1]) if i else None,
        )
        for i in order
    ]  # fmt: skip
    keep = [k for k in range(len(head)) if any(row[k] is not None for row in rows)]
    rows = [[row[k] for k in keep] for row in rows]
    return (
        f"<p>The {escape(judged.what)}, {len(judged.images):,} images, mIoU "
        f"{np.nanmean(iou):.1f} %. IoU and errors in percent of the union of truth and "
        "prediction. <b>Missed</b>: an object was taken for background. <b>Background taken</b>: the "
        "reverse. <b>Confused</b>: one class was taken for another.</p>"
        + _pair(drawn, _table([head[k] for k in keep], rows))
    )


def _errors(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Kinds of error per label, in percent of the union of truth and prediction."""
    hits = matrix.diagonal()
    union = np.maximum(matrix.sum(0) + matrix.sum(1) - hits, 1)
    missed, taken = matrix[:, 0].copy(), matrix[0].copy()
    missed[0], taken[0] = matrix[1:, 0].sum(), matrix[0, 1:].sum()
    confused = union - hits - missed - taken
    confused[(matrix.sum(0) + matrix.sum(1)) == 0] = 0
    shares = {"missed": missed, "background taken": taken, "confused": confused}
    return {name: 100 * values / union for name, values in shares.items()}


def _confusion(judged: _Judged | None) -> str:
    if judged is None:
        return "<p>No true masks are known.</p>"
    matrix = confusion_matrix(judged.images.values(), len(judged.names))
    total = matrix.sum(1, keepdims=True)
    share = np.divide(100.0 * matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    labels, note = list(range(len(matrix))), ""
    if len(labels) > 31:
        labels = sorted([0, *np.nan_to_num(iou_of(matrix)[1:], nan=101).argsort()[:30] + 1])
        note = " Of the classes, the 30 with the lowest IoU are drawn."
    names = [judged.names[i] for i in labels]
    few = share[np.ix_(labels, labels)]
    drawn = charts.chart(
        "confusion", "confusion matrix", 4.6, lambda f: charts.shares(f.subplots(), few, names)
    )
    wrong = [
        (matrix[t, p], t, p) for t, p in zip(*np.nonzero(matrix), strict=True) if t != p
    ]  # fmt: skip
    every = max(1, matrix.sum())
    rows = [
        (judged.names[t], judged.names[p], float(share[t, p]), float(100 * n / every))
        for n, t, p in sorted(wrong, reverse=True)[:14]
    ]
    head = ["true", "predicted", "% of the true class", "% of all pixels"]
    whole = _table(
        ["true \\ predicted, %", *names], [(n, *map(float, r)) for n, r in zip(names, few, strict=True)]
    )
    return (
        f"<p>The {escape(judged.what)}: where the pixels of each true class went, in percent of the "
        f"row. Beside it the costliest errors.{note}</p>"
        + _pair(drawn, _table(head, rows))
        + f"<details><summary>The matrix in numbers</summary>{whole}</details>"
    )


def _threshold(make: _Stage) -> str:
    points = make.metrics.get("seed_curve")
    used = float(_writer_settings(make)["background"])
    if not points:
        return (
            f"<p>The rule in use is a background score of {used}. Which would be best cannot be told "
            "without true masks.</p>"
        )
    best = max(points, key=lambda point: point[1])
    fixed = min(points, key=lambda point: abs(point[0] - used))
    marks = {f"rule in use, {used:g}": tuple(fixed), f"best, {best[0]:.2f}": tuple(best)}

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        charts.curve(axes, points, marks)
        axes.set_xlabel("background score")
        axes.set_ylabel("seed mIoU, %")

    wanted = {round(step / 10, 1) for step in range(11)}
    rows = [
        (
            _Number(f"{at:.2f}"),
            value,
            ", ".join(n for n, p in (("rule in use", fixed), ("best", best)) if at == p[0]),
        )
        for at, value in points
        if round(at, 6) in wanted or at in (fixed[0], best[0])
    ]
    drawn = charts.chart("seed", "seed mIoU by threshold", 3.0, draw)
    return (
        "<p>The seed is the class map after the slots and before the CRF: a pixel is background where "
        "no tagged class scores more than the threshold. Finding the best one takes true masks, the "
        "rule in use does not.</p>" + _pair(drawn, _table(["threshold", "mIoU, %", ""], rows))
    )


def _void(make: _Stage, data: TagData) -> str:
    catalog = data.catalog(data.predict_split, tagged=False)
    names = ["background", *catalog.classes]
    path = make.folder / "masks.json"
    if path.is_file():
        images = list(read_counts(path)[1].values())
    else:
        spread = np.linspace(0, len(catalog.records) - 1, min(MOST_MASKS, len(catalog.records)))
        files = [make.folder / "masks" / f"{catalog.records[int(i)].id}.png" for i in spread]
        masks = [read_mask(file) for file in files]
        images = [pixel_counts(mask, np.full_like(mask, VOID)) for mask in masks]
    predicted = np.zeros(256)
    left = np.zeros((256, 2))
    for counts in images:
        for true, label, pixels in counts:
            predicted[label] += pixels
            left[true] += (pixels, pixels * (label == VOID))
    total = max(1, predicted.sum())
    covered = 100 * predicted[VOID] / total
    rule = _writer_settings(make).get("void_below", 0)
    labelled = {i: float(100 * predicted[i] / total) for i in range(len(names))}
    known = [i for i in labelled if left[i, 0] > 0] if covered else []
    if known:  # of which classes is what is left out?
        share = {i: float(100 * left[i, 1] / left[i, 0]) for i in known}
        head, about = ["class", "void, % of its pixels", "% of all labelled so"], "void, % of the class"
    else:
        share, head, about = labelled, ["class", "% of all labelled so"], "labelled so, % of all pixels"
    order = sorted(share, key=lambda i: -share[i])
    rows = [(names[i], *([share[i]] if known else []), labelled[i]) for i in order]
    drawn = charts.chart(
        "void", about, 0.7 + 0.2 * min(60, len(order)),
        lambda figure: charts.bars(
            figure.subplots(), [names[i] for i in order[:60]], [share[i] for i in order[:60]], about
        ),
    )  # fmt: skip
    learnt = (
        ": nothing is learnt from them, and the mIoU of the masks leaves them out" if covered else ""
    )
    how = f"where the largest share is below {rule:g}" if rule else "no pixel is made void"
    return (
        f"<p>Of the pixels of the pseudo-masks, {covered:.1f} % are void{learnt}. The rule in use: "
        f"{how}. {len(images):,} masks counted.</p>" + _pair(drawn, _table(head, rows))
    )


def _training(stages: dict[str, _Stage]) -> str:
    parts = []
    for name, stage in stages.items():
        log = _read_log(stage.folder / "log")
        metric = "val_mAP" if "val_mAP" in log else "val_mIoU"
        losses = {key: log[key] for key in ("train_loss", "val_loss") if key in log}
        scores = {metric: log[metric]} if metric in log else {}
        panels = [(series, unit) for series, unit in ((losses, "loss"), (scores, "%")) if series]
        if not panels:
            continue

        def draw(figure: Any, panels: list = panels) -> None:
            frames = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
            for frame, (series, unit) in zip(frames, panels, strict=True):
                charts.lines(frame, series, unit)
            frames[-1].set_xlabel("step")

        title = TITLES.get(name, name)
        keys = [*losses, *scores]
        height = 0.4 + 1.6 * len(panels)
        drawn = charts.chart(f"train-{name}", f"training of {escape(title)}", height, draw)
        table = _table(["epoch", "step", *keys], _each_epoch(log, keys))
        parts.append(f"<h3>{escape(title)}</h3>" + _pair(drawn, table))
    return "".join(parts) or "<p>The run holds no logs of its trainings.</p>"


def _read_log(folder: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Column -> (steps, values) of the CSV logs; a later one replaces what it repeats."""
    rows: list[dict[str, str]] = []
    earlier = sorted(folder.glob("metrics.*.csv"), key=lambda p: int(p.suffixes[0][1:]))
    for path in [*earlier, folder / "metrics.csv"]:
        if path.is_file():
            read = _rows(path)
            first = min((int(row["step"]) for row in read), default=0)
            rows = [row for row in rows if int(row["step"]) < first] + read
    columns: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if value and not name.startswith("test_"):
                steps, values = columns.setdefault(name, ([], []))
                steps.append(float(row["step"]))
                values.append(float(value))
    return columns


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a log that name a step; damaged ones are passed over and told."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        table = csv.DictReader(line.replace("\0", "") for line in file)
        rows = [row for row in table if any(row.values())]
    whole = [row for row in rows if _is_whole(row)]
    if damaged := len(rows) - len(whole):
        notice(f"{path} has {damaged} damaged rows, which are passed over")
    return [row for row in whole if row.get("step")]


def _is_whole(row: dict[str | None, Any]) -> bool:
    try:  # a break or two writers leave rows of another length, or half numbers
        return None not in row and all(np.isfinite(float(value or 0)) for value in row.values())
    except (TypeError, ValueError):
        return False


def _each_epoch(log: dict[str, tuple[list[float], list[float]]], keys: Sequence[str]) -> list[list]:
    """At most 12 rows: the last value of each column in each epoch."""
    epoch_of = dict(zip(*log["epoch"], strict=True))
    last: dict[int, dict[str, float]] = {}
    for key in keys:
        for step, value in zip(*log[key], strict=True):
            row = last.setdefault(int(epoch_of[step]), {})
            row[key], row["step"] = value, max(step, row.get("step", 0))
    wanted = np.unique(np.linspace(0, len(last) - 1, min(12, len(last))).round().astype(int))
    epochs = [sorted(last)[i] for i in wanted]

    def shown(row: dict[str, float], key: str) -> Any:
        return _Number(f"{row[key]:.3f}") if key in row and key.endswith("loss") else row.get(key)

    return [
        [epoch + 1, int(last[epoch]["step"]) + 1, *(shown(last[epoch], key) for key in keys)]
        for epoch in epochs
    ]


def _examples(judged: _Judged | None) -> str:
    if judged is None:
        return "<p>Without true masks, no image is known to be better than another.</p>"
    matrix = confusion_matrix(judged.images.values(), len(judged.names))
    iou = iou_of(matrix)
    order = [int(i) for i in np.argsort(iou) if i and not np.isnan(iou[i]) and matrix[i].sum()]
    parts = []
    for place, label in enumerate(order[:MOST_CLASSES]):
        ranked = _ranked(judged, label, 2 if len(order) <= MOST_CLASSES // 2 else 1)
        sides = ""
        for title, names in ranked.items():
            shots = "".join(_example(judged, name, label) for name in names)
            sides += f"<div><h4>{title}</h4>{shots or '<p>no other image</p>'}</div>"
        name = escape(judged.names[label])
        parts.append(
            f"<details{' open' if place < 3 else ''}><summary>{name}: IoU {iou[label]:.1f} %"
            f'</summary><div class="sides">{sides}</div></details>'
        )
    more = len(order) - len(parts)
    rest = f" The {more} classes with a higher IoU are left out." if more > 0 else ""
    return (
        f"<p>The {escape(judged.what)}, class by class, lowest IoU first. Best: the highest IoU of "
        "the class among images in which it fills at least 1 %. Worst: the most wrong pixels of the "
        f"class, in percent of the image.{rest}</p>" + "".join(parts)
    )


def _ranked(judged: _Judged, label: int, count: int) -> dict[str, list[str]]:
    best, worst = [], []
    for name, counts in judged.images.items():
        true = sum(n for t, _, n in counts if t == label)
        hit = sum(n for t, p, n in counts if t == p == label)
        wrong = sum(n for t, p, n in counts if (t == label) != (p == label) and VOID not in (t, p))
        every = sum(n for _, _, n in counts)
        if true >= 0.01 * every and hit:
            best.append((hit / (hit + wrong), name))
        if wrong:
            worst.append((wrong / every, name))
    # an image is shown once; of few, half are the best ones
    few = min(count, max(1, len({name for _, name in best + worst}) // 2))
    best = [name for _, name in sorted(best, reverse=True)[:few]]
    worst = [name for _, name in sorted(worst, reverse=True) if name not in best]
    return {"best": best, "worst": worst[:count]}


def _example(judged: _Judged, name: str, label: int) -> str:
    record = judged.records[name]
    image = thumbnail(record.image, EXAMPLE_SIDE, judged.white)
    cells = [
        Cell("photograph", image, []),
        show_mask(image, read_mask(judged.masks / f"{name}.png"), judged.names, "predicted"),
        show_mask(image, read_mask(record.mask), judged.names, "true"),
    ]
    shots = "".join(_figure(cell, 78) for cell in cells)
    verdict = escape(what_went_wrong(judged.images[name], label, judged.names))
    return (
        f'<article class="example"><div class="row three">{shots}</div>'
        f"<p>{verdict} <code>{escape(name)}</code></p></article>"
    )


def what_went_wrong(counts: Counts, label: int, names: Sequence[str]) -> str:
    """The IoU of a class in an image and the kind of error that cost it the most pixels."""
    matrix = confusion_matrix([counts], len(names))
    hits, true, predicted = matrix[label, label], matrix[label].sum(), matrix[:, label].sum()
    union = true + predicted - hits
    says = f"IoU {100 * hits / max(1, union):.0f} %."
    name = names[label]
    out, into = matrix[label].copy(), matrix[:, label].copy()
    out[label] = into[label] = 0
    if not out.any() and not into.any():
        return f"{says} Every pixel is right."
    if out.max() >= into.max():
        other, share = int(out.argmax()), 100 * out.max() / true
        kind = "Missed" if other == 0 else "Class confused"
        return f"{says} {kind}: {share:.0f} % of the true {name} taken for {names[other]}."
    other, share = int(into.argmax()), 100 * into.max() / predicted
    kind = "Background taken" if other == 0 else "Class confused"
    return f"{says} {kind}: {share:.0f} % of the predicted {name} is {names[other]}."


def _cost(stages: dict[str, _Stage]) -> str:
    names = [TITLES.get(name, name) for name in stages]
    minutes = [stage.done["minutes"] for stage in stages.values()]
    rows = [
        (name, float(stage.done["minutes"]), stage.done.get("memory_gb"),
         stage.done.get("gpu_memory_gb"), stage.done.get("device", "not noted"))
        for name, stage in zip(names, stages.values(), strict=True)
    ]  # fmt: skip
    head = ["stage", "minutes", "peak RAM, GB", "peak GPU memory, GB", "device"]
    keep = [k for k in range(len(head)) if any(row[k] is not None for row in rows)]
    table = _table([head[k] for k in keep], [[row[k] for k in keep] for row in rows])
    drawn = charts.chart(
        "minutes", "minutes by stage", 0.7 + 0.3 * len(names),
        lambda figure: charts.bars(figure.subplots(), names, minutes, "minutes"),
    )  # fmt: skip
    return (
        "<p>Memory is that of the main process, without the processes that load images and run the "
        "CRF.</p>" + _pair(drawn, table)
    )


def _settings(stages: dict[str, _Stage]) -> str:
    noted = [stage.done["versions"] for stage in stages.values() if "versions" in stage.done]
    found = noted[-1] if noted else versions()
    when = "" if noted else "<p>The run did not note its versions; these are the report's.</p>"
    mixed = {n for one in noted for n, v in one.items() if v != found.get(n)}
    rows = [
        (n, v + (" (another one in an earlier stage)" if n in mixed else "")) for n, v in found.items()
    ]
    parts = [f"{when}{_table(['what', 'version'], rows)}"]
    for name, stage in stages.items():
        text = escape(yaml.safe_dump(stage.config, sort_keys=False, allow_unicode=True))
        title = escape(TITLES.get(name, name))
        parts.append(f"<details><summary>Settings: {title}</summary><pre>{text}</pre></details>")
    return "".join(parts)


_STYLE = """
:root { color-scheme: light dark; --page: #fbfaf8; --card: #fff; --ink: #1c1b1a; --soft: #66625c;
  --line: #dcd8d0; --first: #3b78b5; --second: #d98a2b; --third: #8fa8a0; --fourth: #9c4f7c; }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --card: #1f2226; --ink: #e9e6e1;
  --soft: #a29d95; --line: #3a3e44; --first: #5b9bd8; --second: #e09a45; --third: #7f9a92;
  --fourth: #c078a4; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 78rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 .4rem; }
h3 { font-size: 1rem; margin: 1rem 0 .4rem; overflow-wrap: anywhere; }
h4 { margin: .6rem 0 .3rem; font-size: .9rem; color: var(--soft); }
p { margin: 0 0 .8rem; max-width: 62rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .9rem; margin: 0 0 1rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
section, nav { margin-top: 1.6rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; }
nav { display: flex; flex-wrap: wrap; gap: .4rem .9rem; }
a { color: var(--first); }
.chain { list-style: none; display: grid; grid-template-columns: repeat(4, 1fr); gap: 1.6rem; margin: 0;
  padding: 0; }
.chain li { position: relative; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; padding: .6rem .8rem; display: flex; flex-direction: column; }
.chain li + li::before { content: "→"; position: absolute; left: -1.3rem; top: 1.6rem;
  color: var(--soft); }
.chain strong { font-size: 1.9rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.chain small { font-size: 1rem; font-weight: normal; }
.chain span, .chain i { font-size: .85rem; color: var(--soft); font-style: normal; }
.row { display: grid; grid-template-columns: repeat(var(--cells), 1fr); gap: .5rem; }
.row.three { grid-template-columns: repeat(3, 1fr); }
figure { margin: 0; min-width: 0; }
.shot { position: relative; }
.shot img { display: block; width: 100%; height: auto; border-radius: .2rem; }
.shot span { position: absolute; font-size: .75rem; line-height: 1;
  color: #fff; background: rgb(0 0 0 / .62); padding: .1rem .25rem; border-radius: .2rem;
  white-space: nowrap; max-width: 100%; overflow: hidden; text-overflow: ellipsis; }
figcaption { font-size: .8rem; color: var(--soft); }
.pair { display: grid; grid-template-columns: minmax(0, 27rem) minmax(0, 1fr); gap: 1.5rem;
  align-items: start; }
.chart svg { width: 100%; max-width: 34rem; height: auto; display: block;
  font-family: system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .55rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th.text, td.text { text-align: left; }
details { border-top: 1px solid var(--line); padding: .4rem 0; }
summary { cursor: pointer; font-weight: 600; }
.sides { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1.2rem; }
.example p { font-size: .85rem; margin: .2rem 0 .8rem; }
pre { overflow-x: auto; font-size: .8rem; }
code { font-size: .85em; overflow-wrap: anywhere; }
footer { margin: 1.5rem 0; color: var(--soft); font-size: .85rem; }
@media (max-width: 56rem) {
  .pair, .sides { grid-template-columns: minmax(0, 1fr); }
  .chain { grid-template-columns: repeat(2, 1fr); gap: .6rem; }
  .chain li + li::before { content: none; }
}
@media (max-width: 40rem) {
  main { padding: .6rem; }
  section { padding: .7rem; }
  .row { grid-template-columns: repeat(3, 1fr); }
  .shot span { font-size: .65rem; }
  th, td { padding: .15rem .4rem; }
  dl { font-size: .85rem; gap: .1rem .6rem; }
}
"""
