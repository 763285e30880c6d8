"""What the report says and shows, as plain data for its template."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from wsss.config_files import yaml_text
from wsss.data.catalog import Catalog
from wsss.data.images import read_image
from wsss.data.masks import read_mask
from wsss.data.modules import TagData
from wsss.evaluation import pixel_counts
from wsss.pictures.masks import Cell, show_mask, thumbnail
from wsss.report import charts
from wsss.report.charts import chart
from wsss.report.judged import Judged, best_and_worst, kinds_of_error, what_went_wrong
from wsss.resources import versions
from wsss.run_folder import RunFolder, StageFolder
from wsss.voc import VOID

EXAMPLE_SIDE = 176
"""Long side in pixels of the photographs beside their masks."""

MOST_CLASSES = 40
"""Classes shown with examples, those with the lowest IoU first; bounds the size of the file."""

MOST_BARS = 60
"""Bars of a chart with one for each class."""

MOST_CONFUSED = 30
"""Classes in the picture of the confusion matrix, those with the lowest IoU."""

MOST_MASKS = 500
"""Masks that are read to tell what pseudo-masks cover where there is no ground truth."""

Stages = Mapping[str, StageFolder]


class Table(NamedTuple):
    """A table of the page.

    Attributes:
        head: title of each column.
        rows: cells: text, a whole number, a float (shown with one digit), a Decimal (shown with the
            digits it has), or None and nan (not known).
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def of_what_is_known(self) -> "Table":
        """Without the columns of which nothing is known."""
        keep = [k for k in range(len(self.head)) if any(row[k] is not None for row in self.rows)]
        return Table([self.head[k] for k in keep], [[row[k] for k in keep] for row in self.rows])


class Tile(NamedTuple):
    """One of the numbers on top of the page: of which step, in percent, what it is, and more on it."""

    step: str
    value: float | None
    what: str
    more: str


class Example(NamedTuple):
    """An image with its masks: pictures, what went wrong, the image's name."""

    cells: list[Cell]
    verdict: str
    name: str


def gather(run: RunFolder, judged: Judged | None, final: StageFolder) -> dict[str, Any]:
    """Everything on the page of a finished run but its rows of pictures, by its name in the template.

    Args:
        run: a finished run.
        judged: of it.
        final: the stage whose masks the segmenter learned from.
    """
    stages = run.stages
    learn = stages["classify"].data()
    train = learn.catalog(learn.train_split)
    made, segment = stages["pseudo_masks"].data(), stages["segment"].data()
    return {
        "name": run.name,
        "path": str(run.path),
        "about": _about(run, stages, learn, train),
        "tiles": _tiles(run.metrics, made.predict_split, segment.val_split),
        "split": made.predict_split,
        "judged": judged,
        "classes": _classes(stages, train, judged, final)
        if judged
        else _precisions(stages["classify"], train),
        "confusion": _confusion(judged) if judged else None,
        "threshold": _threshold(stages["pseudo_masks"]),
        "void": _void(final, stages["pseudo_masks"]),
        "training": [part for stage in stages.values() if (part := _training(stage))],
        "images": _images(judged) if judged else None,
        "cost": _cost(stages),
        "settings": _settings(stages),
    }


def _about(run: RunFolder, stages: Stages, data: TagData, train: Catalog) -> list[tuple[str, str]]:
    classify, made, segment = (stages[name] for name in ("classify", "pseudo_masks", "segment"))
    how, model = made.made_with, segment.settings["model"]
    backbone = classify.settings["model"].get("backbone", "glnet_4g")
    val = data.catalog(data.val_split, tagged=False)
    bad = {*train.left_out, *val.left_out}
    left_out = [("left out", f"{len(bad):,} photographs that cannot be read (bad_images.csv)")]
    prior = " with border prior" if how.border_prior and how.slots != "none" else ""
    crf = "with dense CRF" if how.crf else "without CRF"
    crf += ", refined by a first segmenter" if "refined_masks" in stages else ""
    minutes = sum(stage.note["minutes"] for stage in stages.values())
    return [
        ("data", f"{data.root} ({data.layout}): {len(train.records):,} photographs with tags of "
                 f"{len(train.classes)} classes, {len(val.records):,} to validate"),
        *(left_out if bad else []),
        ("classifier", f"{backbone}, {_length(classify)}"),
        ("pseudo-masks", f"slots: {how.slots}{prior}, background {how.background:g}, {crf}"),
        ("segmenter", f"{model.get('decoder', 'DeepLabV3Plus')} on {model.get('encoder', 'glnet_4g')}, "
                      f"{_length(segment)}"),
        ("finished", f"{run.finished:%Y-%m-%d %H:%M}, after {minutes:.1f} minutes on "
                     f"{segment.note.get('device', 'an unnoted machine')}"),
    ]  # fmt: skip


def _length(stage: StageFolder) -> str:
    trainer = stage.settings["trainer"]
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps")
    if epochs in (None, -1) and steps not in (None, -1):
        return f"{steps:,} steps"
    epochs = 1000 if epochs is None else epochs  # Lightning's default
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"


def _tiles(numbers: Mapping[str, Any], train: str, val: str) -> list[Tile]:
    ours, full = numbers.get("seg_miou_val"), numbers.get("seg_miou_val_true_masks")
    share = 100 * ours / full if ours and full else None

    def tile(step: str, value: str, what: str, lacks: str, *more: tuple[float | None, str]) -> Tile:
        told = ", ".join(words.format(number) for number, words in more if number is not None)
        if numbers.get(value) is None:
            told = told or f"not measurable: {lacks} to measure with"
        return Tile(step, numbers.get(value), what, told)

    none = "no ground truth"
    return [
        tile("classifier", "cls_map_val", f"mAP on {val}", f"no image of {val} has a tag"),
        tile("seed", "seed_miou_fixed", f"mIoU on {train}", none,
             (numbers.get("seed_miou_best"),
              "{:.1f} at the best threshold, which uses the ground truth")),
        tile("pseudo-mask", "mask_miou", f"mIoU on {train}", none,
             (numbers.get("mask_void"), "{:.1f} % of the pixels void"),
             (numbers.get("mask_miou_first"), "{:.1f} before they were refined")),
        tile("segmenter", "seg_miou_val", f"mIoU on {val}", none,
             (share, f"{{:.0f}} % of the {full or 0:.1f} of the fully supervised baseline"),
             (numbers.get("seg_miou_val_first"), "{:.1f} in the first round")),
    ]  # fmt: skip


def _precisions(classify: StageFolder, train: Catalog) -> dict[str, Any]:
    """What is known of the classes without ground truth: how well their tags are found."""
    classes, (tagged, precision) = train.classes, _tags(classify, train)
    order = sorted(
        range(len(tagged)),
        # not measured: last, without a bar
        key=lambda i: (precision[classes[i]] is None, -(precision[classes[i]] or 0)),
    )
    drawn = [classes[i] for i in order if precision[classes[i]] is not None][-MOST_BARS:]
    values = {"average precision of the tags": np.array([precision[name] for name in drawn])}
    return {
        "chart": chart(
            "ap", "average precision by class", 0.8 + 0.2 * len(drawn),
            _on_axes(charts.class_bars, drawn, values),
        ),
        "table": Table(
            ["class", "AP on val", "tagged, train"],
            [(classes[i], precision[classes[i]], int(tagged[i])) for i in order],
        ),
    }  # fmt: skip


def _tags(classify: StageFolder, train: Catalog) -> tuple[np.ndarray, dict[str, float | None]]:
    """How many training photographs are tagged with each class, and each one's precision."""
    tagged = np.bincount([t for r in train.records for t in r.tags], minlength=len(train.classes))
    return tagged, {name: classify.metrics.get(f"val_AP/{name}") for name in train.classes}


def _on_axes(draw: Callable, *what: Any) -> Callable[[Figure], None]:
    """A drawing of `wsss.report.charts` on the one pair of axes of a figure."""
    return lambda figure: draw(figure.subplots(), *what)


def _classes(stages: Stages, train: Catalog, judged: Judged, final: StageFolder) -> dict[str, Any]:
    tagged, precision = _tags(stages["classify"], train)
    iou, errors, names = judged.iou, kinds_of_error(judged.matrix), judged.names
    order = sorted((i for i in range(len(iou)) if not np.isnan(iou[i])), key=lambda i: -iou[i])
    images = np.zeros(len(iou), int)
    for counts in judged.images.values():
        for label in {true for true, _, _ in counts if true != VOID}:
            images[label] += 1
    few = order[-MOST_BARS:]
    bars = {"IoU": iou[few]} | {kind: values[few] for kind, values in errors.items()}
    masks = final.metrics.get("mask", {}).get("iou", {})
    full = stages["segment_true"].metrics if "segment_true" in stages else {}
    head = ["class", "IoU", *errors, "images", "pseudo-mask IoU", "IoU, fully supervised"]
    rows = [
        (
            names[i], float(iou[i]), *(float(v[i]) for v in errors.values()), int(images[i]),
            masks.get(names[i]), full.get(f"test_IoU/{names[i]}"),
            precision.get(names[i]), int(tagged[i - 1]) if i else None,
        )
        for i in order
    ]  # fmt: skip
    return {
        "miou": float(np.nanmean(iou)),
        "chart": chart(
            "iou", "IoU and kinds of error by class", 0.9 + 0.2 * len(few),
            _on_axes(charts.class_bars, [names[i] for i in few], bars),
        ),
        "table": Table([*head, "AP", "tagged"], rows).of_what_is_known(),
    }  # fmt: skip


def _confusion(judged: Judged) -> dict[str, Any]:
    matrix, names = judged.matrix, judged.names
    total = matrix.sum(1, keepdims=True)
    percent = np.divide(100.0 * matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    labels = list(range(len(matrix)))
    if few := len(labels) > MOST_CONFUSED + 1:
        worst = np.nan_to_num(judged.iou[1:], nan=101).argsort()[:MOST_CONFUSED] + 1
        labels = sorted([0, *worst])
    shown, drawn = [names[i] for i in labels], percent[np.ix_(labels, labels)]
    wrong = [(matrix[t, p], t, p) for t, p in zip(*np.nonzero(matrix), strict=True) if t != p]
    every = max(1, matrix.sum())
    rows = [
        (names[t], names[p], float(percent[t, p]), float(100 * n / every))
        for n, t, p in sorted(wrong, reverse=True)[:14]
    ]
    return {
        "few": MOST_CONFUSED if few else None,
        "chart": chart(
            "confusion", "confusion matrix", 4.6, _on_axes(charts.confusion_matrix, drawn, shown)
        ),
        "table": Table(["ground truth", "predicted", "% of the class", "% of all pixels"], rows),
        "whole": Table(
            ["ground truth \\ predicted, %", *shown],
            [(name, *map(float, row)) for name, row in zip(shown, drawn, strict=True)],
        ),
    }


def _threshold(made: StageFolder) -> dict[str, Any]:
    points, used = made.metrics.get("seed_curve"), made.made_with.background
    if not points:
        return {"used": used, "chart": None}
    best = max(points, key=lambda point: point[1])
    fixed = min(points, key=lambda point: abs(point[0] - used))
    marks = {f"rule in use, {used:g}": tuple(fixed), f"best, {best[0]:.2f}": tuple(best)}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        charts.curve(axes, points, marks)
        axes.set_xlabel("background score")
        axes.set_ylabel("seed mIoU, %")

    tenths = {round(step / 10, 1) for step in range(11)}
    named = {"rule in use": fixed, "best": best}
    rows = [
        (Decimal(f"{at:.2f}"), value, ", ".join(n for n, point in named.items() if at == point[0]))
        for at, value in points
        if round(at, 6) in tenths or at in (fixed[0], best[0])
    ]
    return {
        "chart": chart("seed", "seed mIoU by threshold", 3.0, draw),
        "table": Table(["threshold", "mIoU, %", ""], rows),
    }


def _void(final: StageFolder, made: StageFolder) -> dict[str, Any]:
    data = made.data()
    catalog = data.catalog(data.predict_split, tagged=False)
    names = ["background", *catalog.classes]
    if (counted := final.counts(final.masks)) is not None:
        images = list(counted[1].values())
    else:
        spread = np.linspace(0, len(catalog.records) - 1, min(MOST_MASKS, len(catalog.records)))
        files = [final.mask(catalog.records[int(i)].id) for i in spread]
        images = [pixel_counts(mask, np.full_like(mask, VOID)) for mask in map(read_mask, files)]
    predicted, true, left_out = np.zeros(256), np.zeros(256), np.zeros(256)
    for label_of_truth, label, pixels in (count for counts in images for count in counts):
        predicted[label] += pixels
        true[label_of_truth] += pixels
        left_out[label_of_truth] += pixels * (label == VOID)
    total = max(1, predicted.sum())
    labelled = {i: float(100 * predicted[i] / total) for i in range(len(names))}
    known = [i for i in labelled if true[i] > 0] if predicted[VOID] else []
    if known:  # of which classes is what is left out?
        values, about = {i: float(100 * left_out[i] / true[i]) for i in known}, "void, % of the class"
    else:
        values, about = labelled, "labelled so, % of all pixels"
    order = sorted(values, key=lambda i: -values[i])
    rows = [(names[i], *([values[i]] if known else []), labelled[i]) for i in order]
    few = order[:MOST_BARS]
    bars = [names[i] for i in few], [values[i] for i in few]
    return {
        "covered": float(100 * predicted[VOID] / total),
        "below": final.noted.get("void_below"),  # of earlier versions
        "images": len(images),
        "chart": chart("void", about, 0.7 + 0.2 * len(few), _on_axes(charts.bars, *bars, about)),
        "table": Table(
            ["class", *["void, % of its pixels"] * bool(known), "% of all labelled so"], rows
        ),
    }


def _training(stage: StageFolder) -> dict[str, Any] | None:
    log = stage.training()
    metric = "val_mAP" if "val_mAP" in log else "val_mIoU"
    losses = {key: log[key] for key in ("train_loss", "val_loss") if key in log}
    scores = {metric: log[metric]} if metric in log else {}
    panels = [(series, unit) for series, unit in ((losses, "loss"), (scores, "%")) if series]
    if not panels:
        return None

    def draw(figure: Figure) -> None:
        frames = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for frame, (series, unit) in zip(frames, panels, strict=True):
            charts.lines(frame, series, unit)
        frames[-1].set_xlabel("step")

    keys, height = [*losses, *scores], 0.4 + 1.6 * len(panels)
    return {
        "title": stage.title,
        "chart": chart(f"train-{stage.name}", f"training of {stage.title}", height, draw),
        "table": Table(["epoch", "step", *keys], _each_epoch(log, keys)),
    }


def _each_epoch(log: dict[str, tuple[list[float], list[float]]], keys: Sequence[str]) -> list[list]:
    """At most 12 rows: the last value of each column in each epoch."""
    epoch_of = dict(zip(*log.get("epoch", ([], [])), strict=True))
    last: dict[int, dict[str, float]] = {}
    for key in keys:
        for step, value in zip(*log[key], strict=True):
            row = last.setdefault(int(epoch_of.get(step, 0)), {})
            row[key], row["step"] = value, max(step, row.get("step", 0))
    wanted = np.unique(np.linspace(0, len(last) - 1, min(12, len(last))).round().astype(int))
    epochs = [sorted(last)[i] for i in wanted]

    def shown(row: dict[str, float], key: str) -> Any:
        return Decimal(f"{row[key]:.3f}") if key in row and key.endswith("loss") else row.get(key)

    return [
        [epoch + 1, int(last[epoch]["step"]) + 1, *(shown(last[epoch], key) for key in keys)]
        for epoch in epochs
    ]


def _images(judged: Judged) -> dict[str, Any]:
    iou, there = judged.iou, judged.matrix.sum(1) > 0
    order = [int(i) for i in np.argsort(iou) if i and not np.isnan(iou[i]) and there[i]]
    count = 2 if len(order) <= MOST_CLASSES // 2 else 1
    classes = []
    for label in order[:MOST_CLASSES]:
        few = best_and_worst(judged.images, label, count)
        sides = {side: [_example(judged, name, label) for name in names] for side, names in few.items()}
        classes.append({"name": judged.names[label], "iou": iou[label], "sides": sides})
    return {"classes": classes, "left_out": len(order) - len(classes)}


def _example(judged: Judged, name: str, label: int) -> Example:
    record = judged.records[name]
    image = thumbnail(read_image(record.image, judged.white), EXAMPLE_SIDE)
    shown = partial(show_mask, image, names=judged.names)
    cells = [
        Cell("photograph", image, []),
        shown(read_mask(judged.masks / f"{name}.png"), caption="predicted"),
        shown(read_mask(record.mask), caption="ground truth"),
    ]
    return Example(cells, what_went_wrong(judged.images[name], label, judged.names), name)


def _cost(stages: Stages) -> dict[str, Any]:
    titles = [stage.title for stage in stages.values()]
    notes = [stage.note for stage in stages.values()]
    minutes = [float(note["minutes"]) for note in notes]
    head = ["stage", "minutes", "peak RAM, GB", "peak GPU memory, GB", "device"]
    rows = [
        (title, float(note["minutes"]), note.get("memory_gb"), note.get("gpu_memory_gb"),
         note.get("device", "not noted"))
        for title, note in zip(titles, notes, strict=True)
    ]  # fmt: skip
    return {
        "chart": chart(
            "minutes", "minutes by stage", 0.7 + 0.3 * len(titles),
            _on_axes(charts.bars, titles, minutes, "minutes"),
        ),
        "table": Table(head, rows).of_what_is_known(),
    }  # fmt: skip


def _settings(stages: Stages) -> dict[str, Any]:
    noted = [stage.note["versions"] for stage in stages.values() if "versions" in stage.note]
    found = noted[-1] if noted else versions()
    mixed = {n for one in noted for n, version in one.items() if version != found.get(n)}
    other = " (another one in an earlier stage)"
    rows = [(name, version + (other if name in mixed else "")) for name, version in found.items()]
    return {
        "noted": bool(noted),
        "table": Table(["what", "version"], rows),
        "stages": [(stage.title, yaml_text(stage.settings)) for stage in stages.values()],
    }
