"""The report: whole, without network, true to the numbers, whatever the run has and is named."""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import confusion_matrix as independent_matrix

from wsss.cli import main
from wsss.data.masks import read_mask, write_mask
from wsss.data.synthetic import draw_scene
from wsss.evaluation import pixel_counts, write_counts
from wsss.report.page import report_is_current, write_report
from wsss.run_folder import RunFolder
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask

NAMES = ("<b>käse</b> & Co", "$x$_{2}", "日本語", 'a "quoted" one')
EMPTY = {"meta", "img", "br", "path", "use", "rect"}


def _save(path: Path, kind: str, task: torch.nn.Module) -> None:
    torch.save(
        {
            "kind": kind,
            "classes": task.classes,
            "hyper_parameters": dict(task.hparams),
            "state_dict": task.state_dict(),
        },
        path,
    )


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _make_run(folder: Path, names: tuple[str, ...], ground_truth: bool) -> Path:
    """A finished run of untrained networks over a folder of synthetic photographs of odd shapes."""
    torch.manual_seed(0)
    root, run, rng = folder / "photos", folder / "a <run>", np.random.default_rng(0)
    (root / "masks").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(names), encoding="utf-8")
    lines, masks = ["image,tags,split"], {}
    for index in range(12):
        image, mask = draw_scene(np.random.default_rng(index), 72)
        image, mask = image[: 48 + 2 * index], mask[: 48 + 2 * index]  # not square
        name = f"{index:02d}"
        Image.fromarray(image).save(root / f"{name}.jpg")
        if ground_truth:
            mask[0, :5] = 255
            write_mask(root / "masks" / f"{name}.png", mask)
        masks[name] = mask
        tags = "|".join(
            names[label - 1].replace('"', '""') for label in np.unique(mask) if 0 < label < 9
        )
        lines.append(f'{name}.jpg,"{tags}",{"train" if index < 8 else "val"}')
    (root / "tags.csv").write_text("\n".join(lines), encoding="utf-8")
    data = {"root": str(root), "layout": "folder", "num_workers": 0}
    stages = {
        "classify": {"model": {"backbone": "glnet_nano"}, "data": data | {"size": 64}},
        "pseudo_masks": {"data": data | {"size": 64}},
        "segment": {"model": {"decoder": "Unet", "encoder": "glnet_nano"}, "data": data},
    }
    for stage, config in stages.items():
        (run / stage).mkdir(parents=True)
        text = yaml.safe_dump(config | {"trainer": {"max_epochs": 3}})
        (run / stage / "config.yaml").write_text(text)
        cost = {"memory_gb": 1.25, "gpu_memory_gb": None, "device": "an abacus"}
        _write_json(run / stage / "done.json", {"minutes": 1.5, "versions": {"torch": "9.9"}} | cost)
    made = run / "pseudo_masks"
    writer = {"slots": "features", "border_prior": ground_truth, "background": 0.4, "crf": None}
    _write_json(made / "masks" / "settings.json", writer)
    images = {"pseudo_masks": {}, "segment": {}}
    for index, (name, mask) in enumerate(masks.items()):
        labels = [int(label) for label in np.unique(mask) if 0 < label < 9]
        wrong = int(rng.choice([0, *labels])) if index < 8 else rng.integers(0, 5, mask.shape)
        predicted = np.where(rng.random(mask.shape) < 0.25, wrong, mask % 255).astype(np.uint8)
        stage, place = ("pseudo_masks", "masks") if index < 8 else ("segment", "test")
        if stage == "pseudo_masks":
            predicted[-4:, -9:] = 255
            (made / "maps").mkdir(exist_ok=True)
            scores = rng.random((len(labels), 5, 6)).astype(np.float16)
            np.savez(made / "maps" / f"{name}.npz", scores=scores, labels=np.array(labels))
        if ground_truth or stage == "pseudo_masks":
            write_mask(run / stage / place / f"{name}.png", predicted)
        images[stage][name] = pixel_counts(predicted, mask)
    metrics = {"classify": {f"val_AP/{name}": 70.0 + i for i, name in enumerate(names)}}
    metrics |= {"pseudo_masks": {}, "segment": {}}
    numbers = {"cls_map_val": 71.5, "minutes_per_stage": dict.fromkeys(stages, 1.5)}
    if ground_truth:
        write_counts(made / "masks.json", names, images["pseudo_masks"].items())
        write_counts(run / "segment" / "test.json", names, images["segment"].items())
        curve = [(step / 50, 40 - abs(step - 30) / 2) for step in range(51)]
        metrics["pseudo_masks"] = {
            "seed_curve": curve,
            "mask": {"miou": 12.3, "void": 0.0, "iou": {names[0]: 12.3, names[1]: None}},
        }
        numbers |= {"seed_miou_fixed": 35.0, "seed_miou_best": 40.0, "mask_miou": 61.7}
        numbers |= {"mask_void": 2.5, "seg_miou_val": 51.6, "seg_miou_val_true_masks": 64.5}
    for stage, content in metrics.items():
        _write_json(run / stage / "metrics.json", content)
    _write_json(run / "metrics.json", numbers)
    _save(run / "classify" / "last.ckpt", "classify", ClassificationTask(list(names), "glnet_nano"))
    _save(run / "segment" / "last.ckpt", "segment", SegmentationTask(list(names), "Unet", "glnet_nano"))
    log = run / "classify" / "log"
    log.mkdir()
    (log / "metrics.0.csv").write_text("epoch,step,train_loss\n0,9,0.9\n0,19,0.8\n1,29,0.111\n1")
    (log / "metrics.csv").write_text(
        "epoch,step,train_loss,val_mAP\n1,29,0.7,\n1,31,,55.5\n2,39,0.6,\n"
    )
    return run


class _Page(HTMLParser):
    """Collects what is asked about below, and that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.links, self.ids = [], [], [], []
        self.rows, self.words, self.charted = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "data", "poster", "action"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)
        if "svg" in self.open:
            self.charted.append(text.strip())
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += text

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> tuple[Path, _Page]:
    run = _make_run(tmp_path_factory.mktemp("judged"), NAMES, ground_truth=True)
    return run, _Page(write_report(RunFolder(run)).read_text("utf-8"))


@pytest.fixture(scope="module")
def tags_only(tmp_path_factory) -> tuple[Path, _Page]:
    run = _make_run(tmp_path_factory.mktemp("tags"), NAMES, ground_truth=False)
    return run, _Page(write_report(RunFolder(run)).read_text("utf-8"))


@pytest.mark.parametrize("kind", ["judged", "tags_only"])
def test_one_file_without_network(kind, request):
    run, page = request.getfixturevalue(kind)
    text = (run / "report.html").read_text("utf-8")
    assert page.open == [] and len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "//" not in re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", text).replace(str(run.parent), "")
    assert not re.search(r"url\((?!#)", text) and "@import" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert len(text.encode()) < 10e6 and page.tags.count("svg") >= 4
    for name in NAMES:  # as it is written, nowhere as markup
        assert name in page.text and name in page.charted
    assert "<b>käse" not in text


def test_numbers_are_those_of_the_files(judged):
    run, page = judged
    for shown in (
        "71.5 %",
        "35.0 %",
        "61.7 %",
        "51.6 %",
        "80 % of the 64.5 of the fully supervised baseline",
        "2.5 % of the pixels void",
        "slots: features with border prior, background 0.4, without CRF",
    ):
        assert shown in page.text
    root = run.parent / "photos"
    true, predicted = [], []
    for path in sorted((run / "segment" / "test").glob("*.png")):
        ground_truth, mask = read_mask(root / "masks" / path.name), read_mask(path)
        true.append(ground_truth[ground_truth != 255])
        predicted.append(mask[ground_truth != 255])
    matrix = independent_matrix(np.concatenate(true), np.concatenate(predicted), labels=range(5))
    hits = matrix.diagonal()
    iou = 100 * hits / (matrix.sum(0) + matrix.sum(1) - hits)
    shown = {row[0]: row for row in page.rows if row[0] in ("background", *NAMES) and len(row) > 7}
    images = [int(sum((part == label).any() for part in true)) for label in range(5)]
    for label, name in enumerate(("background", *NAMES)):
        assert shown[name][1] == f"{iou[label]:.1f}" and shown[name][5] == str(images[label])
        assert sum(float(value) for value in shown[name][1:5]) == pytest.approx(100, abs=0.25)
    union = matrix.sum(0) + matrix.sum(1) - hits
    errors = [f"{100 * matrix[pair] / union[2]:.1f}" for pair in ((2, 0), (0, 2))]
    assert shown[NAMES[1]][2:4] == errors
    order = [row[0] for row in page.rows if row in shown.values()]
    assert order == [("background", *NAMES)[i] for i in np.argsort(-iou)]
    assert f"mIoU {iou.mean():.1f} %" in page.text
    share = 100 * matrix / matrix.sum(1, keepdims=True)
    whole = next(
        row for row in page.rows if row[0] == NAMES[2] and len(row) == 6 and row != shown[NAMES[2]]
    )
    assert whole[1:] == [f"{value:.1f}" for value in share[3]]
    assert ["0.40", "35.0", "rule in use"] in page.rows and ["0.60", "40.0", "best"] in page.rows
    assert ["classifier", "1.5", "1.2", "an abacus"] in page.rows and ["torch", "9.9"] in page.rows


def test_a_run_of_an_earlier_version_with_a_damaged_log(judged, tmp_path):
    run = RunFolder(shutil.copytree(judged[0], tmp_path / "run"))
    with (run["classify"].log / "metrics.csv").open("a") as file:
        file.write("9,9,,1,2,3,4\n3,4x,0.5,\n3,49,0.5\0,\n4,nan,0.1,\n,,\n3,59,0.4")
    for stage in run.stages.values():
        _write_json(stage.path / "done.json", {"minutes": 1.5})
        full = stage.config | {"trainer": {"max_epochs": None, "max_steps": 1500}}
        stage.log.mkdir(exist_ok=True)
        (stage.log / "config.yaml").write_text(yaml.safe_dump(full))  # with every default
    made = run["pseudo_masks"]
    _write_json(made.masks / "settings.json", made.noted | {"void_below": 0.3})
    assert main(["report", str(run.path)]) == 0
    page = _Page(run.report.read_text("utf-8"))
    for words in ("1,500 steps", "an unnoted machine", "did not note its versions"):
        assert words in page.text
    assert "The rule in use: where the largest probability is below 0.3." in page.text


def test_training_curves_join_the_logs_of_a_break(judged):
    rows = judged[1].rows
    start = rows.index(["epoch", "step", "train_loss", "val_mAP"])
    assert rows[start + 1 : start + 4] == [
        ["1", "20", "0.800", "–"],
        ["2", "32", "0.700", "55.5"],
        ["3", "40", "0.600", "–"],
    ]


def test_void_is_counted_for_each_class(judged):
    run, page = judged
    root, void, total = run.parent / "photos", np.zeros(5), np.zeros(5)
    for path in (run / "pseudo_masks" / "masks").glob("*.png"):
        ground_truth, mask = read_mask(root / "masks" / path.name), read_mask(path)
        for label in range(5):
            total[label] += (ground_truth == label).sum()
            void[label] += ((ground_truth == label) & (mask == 255)).sum()
    shown = {row[0]: row for row in page.rows if len(row) == 3 and row[0] in ("background", *NAMES)}
    assert shown["background"][1] == f"{100 * void[0] / total[0]:.1f}" != "0.0"


def test_strip_shows_every_step(judged, tags_only):
    cells = ["photograph", "seed", "slot groups", "pseudo-mask", "segmenter"]
    for (run, page), wanted in ((judged, [*cells, "ground truth"]), (tags_only, cells)):
        shown = [word for word in page.words if word in [*cells, "ground truth"]]
        start = shown.index("slot groups") - 2
        assert shown[start : start + 6 * len(wanted)] == wanted * 6
        assert Image.open(run / "overview.png").size[0] == 150 * len(wanted)


def test_tags_only_says_what_is_not_known(tags_only):
    _, page = tags_only
    assert "slots: features, background 0.4, without CRF" in page.text
    assert "no ground truth to measure with" in page.text and "IoU by class" not in page.text
    assert "nan" not in page.text.lower().split()
    rows = [row for row in page.rows if row[0] in NAMES and len(row) == 3]
    assert [row[1] for row in rows[:4]] == ["73.0", "72.0", "71.0", "70.0"]
    assert "% are void: nothing is learnt" in page.text and "8 masks counted" in page.text


def test_command_rebuilds_and_refuses(judged, tmp_path, capsys):
    run, _ = judged
    before = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    assert (run / "report.html").read_bytes() == before
    assert main(["report", str(tmp_path)]) == 2
    assert "metrics.json is missing" in capsys.readouterr().err
    (tmp_path / "results").symlink_to(run)  # as `wsss init` has it
    (tmp_path / "pipeline.yaml").write_text("")
    assert main(["report", str(tmp_path)]) == 0
    assert str(tmp_path / "results" / "report.html") in capsys.readouterr().out
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    config = moved / "pseudo_masks" / "config.yaml"
    config.write_text(config.read_text().replace("photos", "gone"))
    assert main(["report", str(moved)]) == 2
    assert "gone does not exist" in capsys.readouterr().err


def test_ground_truth_taken_away_since(judged, tmp_path):
    before, folder = judged[0].parent, tmp_path / "run of old"
    shutil.copytree(before, folder)
    run, photos = folder / judged[0].name, folder / "photos"
    for path in run.glob("*/config.yaml"):
        path.write_text(path.read_text().replace(str(before), str(folder)))
    (photos / "masks" / "08.png").unlink()
    text = write_report(RunFolder(run)).read_text(encoding="utf-8")
    assert "<code>09</code>" in text and "<code>08</code>" not in text
    shutil.rmtree(photos / "masks")
    text = write_report(RunFolder(run)).read_text(encoding="utf-8")
    assert "nan %" not in text and "<code>09</code>" not in text


def test_names_of_runs_splits_and_steps(judged, tmp_path):
    folder = tmp_path / "my birds"
    shutil.copytree(judged[0], folder / "results")
    (folder / "pipeline.yaml").write_text("")
    stage = folder / "results" / "segment" / "config.yaml"
    config = yaml.safe_load(stage.read_text())
    config["data"]["val_split"] = "all"
    stage.write_text(yaml.safe_dump(config | {"trainer": {"max_epochs": -1, "max_steps": 1200}}))
    page = _Page(write_report(RunFolder(folder)).read_text(encoding="utf-8"))
    assert page.words.count("my birds") == 1 and "wsss: my birds" in page.text
    for words in ("1,200 steps", "mAP on all", "mIoU on train", "mIoU on all", "The segmenter on all"):
        assert words in page.text


@pytest.mark.parametrize("count", [20, 90])
def test_small_enough_for_many_classes(count, tmp_path):
    names = tuple(f"class {i}" for i in range(count))
    run, rng = _make_run(tmp_path, names, ground_truth=True), np.random.default_rng(0)
    for name in ("08", "09", "10", "11"):  # of noise: nothing takes more room
        noise = rng.integers(0, 256, (176, 176, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{name}.jpg")
        for folder in (tmp_path / "photos" / "masks", run / "segment" / "test"):
            write_mask(folder / f"{name}.png", rng.integers(0, 21, (176, 176), dtype=np.uint8))
    counts = [(0, 0, 5000), *((1 + i, 1 + i, 900 + i) for i in range(count))]
    counts += [(1 + i, 0, 9) for i in range(count)]
    write_counts(
        run / "segment" / "test.json", names, dict.fromkeys(("08", "09", "10", "11"), counts).items()
    )
    text = write_report(RunFolder(run)).read_text("utf-8")
    assert 1e5 < len(text) < 10e6
    assert text.count("<details") == min(count, 40) + 1 + 3
    assert ("classes with a higher IoU are left out" in text) == (count > 40)
    assert ("the 30 with the lowest IoU are drawn" in text) == (count > 30)


def test_a_report_is_current_until_something_changes(judged, tmp_path):
    run = RunFolder(shutil.copytree(judged[0], tmp_path / "run"))
    write_report(run)
    assert report_is_current(run)
    for path in (run.path / "metrics.json", run["segment"].path / "config.yaml"):
        before = path.read_text()
        path.write_text(before + "\n")
        for when in (0, 2**32):  # whatever the clock says
            os.utime(path, (when, when))
            assert not report_is_current(run)
        path.write_text(before)
    assert report_is_current(run)
    run.overview.unlink()
    assert not report_is_current(run)
    assert not report_is_current(RunFolder(tmp_path))
