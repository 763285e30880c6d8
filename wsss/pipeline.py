"""All stages from tags to a tested segmenter, each in its own folder, resumable."""

import hashlib
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from wsss.data.catalog import Catalog, Record
from wsss.data.masks import read_mask, read_scores
from wsss.data.modules import MaskData, TagData
from wsss.errors import NotMeasurable, UserError, notice
from wsss.evaluation import evaluate_files, threshold_curve, write_counts
from wsss.files import file_stamp, read_json, write_atomic, write_json
from wsss.locks import locked
from wsss.machine import require_locks
from wsss.progress import progress
from wsss.report import write_report
from wsss.stages import Changed, do_stage, recipe
from wsss.tasks.cli import check_settings, run_task
from wsss.tasks.writers import EvaluationWriter

KEYS = {"out", "classify", "pseudo_masks", "segment"}
OPTIONAL = {"refine", "start_from_classifier"}
WRITERS = {"pseudo_masks": "PseudoMaskWriter", "refine": "RefinedMaskWriter"}
"""What makes the masks of a stage."""


def shipped_config(name: str) -> Path:
    """A config file that comes with the project, for example `voc/pipeline.yaml`."""
    here = Path(__file__).parent
    for folder in (here / "configs", here.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"the shipped config {name} is missing: install wsss again")


def read_config(path: str | Path) -> dict[str, Any]:
    """A YAML file as a dictionary."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no config file {path}")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no settings: it must be lines of `name: value`")
    return config


def find_writer(config: dict[str, Any], path: str | Path, name: str) -> dict[str, Any]:
    """The settings (`init_args`) of the writer called `name` in a config, to be read or changed.

    Raises:
        UserError: no callback of the trainer is that writer.
    """
    for callback in (config.get("trainer") or {}).get("callbacks") or []:
        if isinstance(callback, dict) and callback.get("class_path", "").split(".")[-1] == name:
            if callback.get("init_args") is None:
                callback["init_args"] = {}
            return callback["init_args"]
    raise UserError(f"{path} names no {name}: give one in trainer.callbacks, as the shipped configs do")


def run_pipeline(
    config: str | Path,
    out: str | Path | None = None,
    root: str | None = None,
    weights: str | None = None,
    upper_bound: bool = False,
    changed: Changed = "tell",
) -> dict[str, float | None]:
    """Train the classifier, make pseudo-masks, train and test the segmenter, and write the numbers.

    Args:
        config: a pipeline.yaml: `out`, and the config files of the stages, relative to its place. With
            `refine` there are two rounds: a segmenter learns from the classifier's masks, what it
            sees refines them, and it goes on learning from the refined ones. Where classifier
            and segmenter have the same network, the segmenter starts from what the classifier has
            learned from the tags, unless it says `start_from_classifier: false`.
        out: folder for the results instead of the config's.
        root: data.root for all stages.
        weights: model.weights for classifier and segmenter.
        upper_bound: also train the segmenter on the true masks, for as many steps in all.
        changed: what becomes of stages that an earlier version of wsss made otherwise than this one
            would: "tell" stops with a UserError that says what differs, "keep" goes on with them,
            "redo" moves them aside and makes them anew.

    Returns:
        The numbers that are also written to `<out>/metrics.json`, in percent (0..100).
    """
    settings = read_config(config)
    if unknown := sorted(set(settings) - KEYS - OPTIONAL):
        known = sorted(KEYS | OPTIONAL)
        raise UserError(f"{config} has the unknown key '{unknown[0]}': known are {known}")
    if missing := sorted(KEYS - set(settings)):
        raise UserError(f"{config} lacks the key '{missing[0]}'")
    if not out and not isinstance(settings["out"], str):
        raise UserError(f"out in {config} must name a folder, got {settings['out']!r}")
    run = _Run(Path(out or settings["out"]).resolve(), root, weights, changed)
    files = {}
    for key in ("classify", "pseudo_masks", "refine", "segment"):
        if key == "refine" and settings.get(key) is None:
            continue  # one round
        if not isinstance(settings[key], str):
            raise UserError(f"{key} in {config} must name a config file, got {settings[key]!r}")
        files[key] = Path(config).parent / settings[key]
    with ExitStack() as stack:
        if run.out.is_dir():  # otherwise nobody is in it, and bad settings are to leave nothing behind
            stack.enter_context(locked(run.out, "wsss run"))
        run.check(files)
        if upper_bound:
            run.require_truth(files["segment"])
        stack.enter_context(locked(run.out, "wsss run"))
        started = time.monotonic()
        classify = run.train("classify", "classify", files["classify"])
        masks = run.make_masks(files["pseudo_masks"], classify)
        begin = start = classify if settings.get("start_from_classifier", True) else None
        stages = {"classify": classify, "pseudo_masks": masks}
        if "refine" in files:
            start = run.train("segment_first", "segment", files["segment"], masks, begin)
            masks = run.refine_masks(files["refine"], start, masks)
            stages |= {"segment_first": start, "refined_masks": masks}
        stages["segment"] = run.train("segment", "segment", files["segment"], masks, start)
        if upper_bound:
            rounds = 2 if "refine" in files else 1
            stages["segment_true"] = run.train(
                "segment_true", "segment", files["segment"], None, begin, rounds
            )
        numbers = run.measure(stages)
    print(f"results in {run.out} ({(time.monotonic() - started) / 60:.1f} minutes this time)")
    return numbers


class _Run:
    def __init__(
        self, out: Path, root: str | None, weights: str | None, changed: Changed = "tell"
    ) -> None:
        self.out, self.root, self.weights, self.changed = out, root, weights, changed

    def config(self, path: Path, model: bool = True) -> dict[str, Any]:
        config = read_config(path)
        for key in ("model", "data", "trainer"):
            config[key] = config.get(key) or {}
            if not isinstance(config[key], dict):
                raise UserError(f"{key} in {path} must be lines of `name: value`, got {config[key]!r}")
        data = config["data"]
        if self.root:
            data["root"] = self.root
        if not data.get("root"):
            raise UserError(f"where is the data? Pass --root, or set data.root in {path}")
        data["root"] = str(Path(data["root"]).resolve())  # the same however it is written
        if self.weights and model:
            if not Path(self.weights).is_file():
                raise UserError(f"there is no weight file {self.weights}: correct --weights")
            config["model"]["weights"] = str(Path(self.weights).resolve())
        return config

    def check(self, files: dict[str, Path]) -> None:
        """Refuse settings that a stage will not take, now and not when its turn comes."""
        require_locks()
        models = {key: self.config(files[key])["model"] for key in ("classify", "segment")}
        data = {}
        for key in sorted(files, key=["classify", "pseudo_masks", "segment", "refine"].index):
            path = files[key]
            kind = "classify" if key in ("classify", "pseudo_masks") else "segment"
            config = self.config(path, model=key not in WRITERS)
            config["model"] = models[kind] | config["model"]
            if (file := config["model"].get("weights")) and not Path(file).is_file():
                raise UserError(f"{path}: there is no weight file {file}: correct model.weights")
            config["model"] |= {"pretrained": False, "weights": None}  # of no interest here
            config["trainer"]["logger"] = False
            if key in WRITERS:
                writer = find_writer(config, path, WRITERS[key])
                writer |= {"out": "-"} if key == "pseudo_masks" else {"out": "-", "maps": "-"}
            try:
                made = check_settings(kind, "predict" if key in WRITERS else "fit", config)
                data[key] = made.datamodule
                if key in WRITERS:
                    made.datamodule.catalog(made.datamodule.predict_split)
                    if writer.get("slots") == "blocks":
                        made.model.model.require_blocks()
                else:
                    for split in (made.datamodule.train_split, made.datamodule.val_split):
                        made.datamodule.catalog(split, tagged=kind == "classify")
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
        learned, made = data["segment"], data["pseudo_masks"]
        ids = {record.id for record in made.catalog(made.predict_split).records}
        for record in learned.catalog(learned.train_split, tagged=False).records:
            if record.id not in ids:
                raise UserError(
                    f"{files['segment']} trains on '{record.id}' of split '{learned.train_split}', but "
                    f"{files['pseudo_masks']} makes masks of split '{made.predict_split}': "
                    "make data.predict_split the same as data.train_split"
                )

    def require_truth(self, path: Path) -> None:
        """Refuse an upper bound whose images lack true masks, before anything is trained."""
        data = MaskData(**self.config(path)["data"])
        data.true_masks(data.catalog(data.train_split, tagged=False), data.train_split)

    def train(
        self,
        name: str,
        kind: str,
        path: Path,
        masks: Path | None = None,
        start: Path | None = None,
        rounds: int = 1,
    ) -> Path:
        """Train and (the segmenter) test in the folder `name`; returns the folder.

        `masks` is the stage whose masks it learns from, `start` the stage whose network it starts
        from if that is the same: the classifier, or the segmenter of the round before. `rounds` are
        to be trained as one.
        """
        folder, config = self.out / name, self.config(path)
        trainer = config["trainer"]
        limits = [key for key in ("max_epochs", "max_steps") if trainer.get(key) not in (None, -1)]
        for key in limits:
            trainer[key] *= rounds
        if not limits and rounds > 1 and trainer.get("max_epochs") is None:
            trainer["max_epochs"] = rounds * 1000  # Lightning's default
        if start is not None and _network(config) == _network(read_config(start / "config.yaml")):
            # at the same number of steps far ahead of the weights it started from itself
            config["model"].update(
                encoder=f"tu-{_network(config)[0]}",  # timm's, where SMP has one of the same name
                pretrained=False,
                weights=str(start / "last.ckpt"),
            )
        inputs = [_weights_stamp(config)]
        data = (TagData if kind == "classify" else MaskData)(**config["data"])
        truth = kind == "segment"  # a classifier has no use for masks
        inputs.append(_stamp_catalog(data.catalog(data.train_split), truth and masks is None))
        inputs.append(_stamp_catalog(data.catalog(data.val_split), truth))
        config["data"].pop("mask_dir", None)  # true masks, or those of the run
        if masks is not None:
            config["data"]["mask_dir"] = str(masks / "masks")
            inputs.append(read_json(masks / "done.json")["fingerprint"])
        trainer["default_root_dir"] = str(folder)
        trainer["logger"] = {
            "class_path": "pytorch_lightning.loggers.CSVLogger",
            "init_args": {"save_dir": str(folder), "name": "", "version": "log"},
        }

        def work() -> dict[str, Any]:
            last = folder / "log" / "checkpoints" / "last.ckpt"
            _keep_log(folder / "log" / "metrics.csv")
            words = ["fit", "-c", str(folder / "config.yaml")]
            trained = run_task(kind, words + (["--ckpt_path", str(last)] if last.is_file() else []))
            if not last.is_file():
                raise UserError(f"training in {folder} wrote no checkpoint")
            metrics = _plain(trained.callback_metrics)
            write_atomic(folder / "last.ckpt", lambda aside: aside.write_bytes(last.read_bytes()))
            words = ["-c", str(folder / "config.yaml"), "--ckpt_path", str(folder / "last.ckpt")]
            # a logger would begin the training's log anew
            words += ["--trainer.logger", "false", "--verbose", "false"]
            if kind == "classify":
                metrics |= _plain(run_task(kind, ["validate", *words]).callback_metrics)
            elif _has_masks(data.catalog(data.val_split)):
                keep = [EvaluationWriter(folder)]
                metrics |= _plain(run_task(kind, ["test", *words], keep).callback_metrics)
            return metrics

        do_stage(folder, recipe(kind, kind, config, inputs, self.out), config, work, self.changed)
        if kind == "classify":
            _leave_out_unseen(folder / "metrics.json", data.catalog(data.val_split))
        return folder

    def make_masks(self, path: Path, classify: Path) -> Path:
        """Make the pseudo-masks; returns their stage's folder."""
        folder, config = self.out / "pseudo_masks", self.config(path, model=False)
        writer = find_writer(config, path, WRITERS["pseudo_masks"])
        writer["out"] = str(folder / "masks")
        config["trainer"] |= {"default_root_dir": str(folder), "logger": False}
        data = TagData(**config["data"])
        inputs = [
            read_json(classify / "done.json")["fingerprint"],
            _stamp_catalog(data.catalog(data.predict_split)),
        ]

        def work() -> dict[str, Any]:
            self._predict("classify", folder, classify)
            records, metrics = self._judge_masks(folder, data, data.predict_split)
            background = writer.get("background", 0.4)
            return metrics | (self._judge_seed(folder, data, records, background) if records else {})

        wanted = recipe("classify", "pseudo_masks", config, inputs, self.out)
        do_stage(folder, wanted, config, work, self.changed)
        return folder

    def refine_masks(self, path: Path, segment: Path, masks: Path) -> Path:
        """Make the masks of the second round; returns their stage's folder."""
        folder, config = self.out / "refined_masks", self.config(path, model=False)
        writer = find_writer(config, path, WRITERS["refine"])
        stage = masks / "config.yaml"
        first = find_writer(read_config(stage), stage, WRITERS["pseudo_masks"])
        if "background" in first:
            writer.setdefault("background", first["background"])
        writer |= {"out": str(folder / "masks"), "maps": str(masks / "maps")}
        config["trainer"] |= {"default_root_dir": str(folder), "logger": False}
        # the segmenter sees them as large as in its test
        trained = read_config(segment / "config.yaml")["data"]
        sizes = {key: trained[key] for key in ("crop", "max_side") if key in trained}
        split = TagData(**read_config(stage)["data"]).predict_split
        config["data"] = sizes | {"predict_split": split} | config["data"]
        data = MaskData(**config["data"])
        inputs = [
            *(read_json(s / "done.json")["fingerprint"] for s in (segment, masks)),
            _stamp_catalog(data.catalog(data.predict_split)),
        ]

        def work() -> dict[str, Any]:
            self._predict("segment", folder, segment)
            return self._judge_masks(folder, data, data.predict_split)[1]

        wanted = recipe("segment", "refined_masks", config, inputs, self.out)
        do_stage(folder, wanted, config, work, self.changed)
        return folder

    @staticmethod
    def _predict(kind: str, folder: Path, trained: Path) -> None:
        words = ["-c", str(folder / "config.yaml"), "--ckpt_path", str(trained / "last.ckpt")]
        run_task(kind, ["predict", *words])

    @staticmethod
    def _judge_masks(
        folder: Path, data: TagData | MaskData, split: str
    ) -> tuple[list[Record], dict[str, Any]]:
        """The records whose truth is known, and the metrics of their masks."""
        catalog = data.catalog(split)
        records = [record for record in catalog.records if record.mask is not None]
        if not records:
            return [], {}
        made, counts = folder / "masks", []
        pairs = [(made / f"{record.id}.png", record.mask) for record in records]
        try:
            scores = evaluate_files(pairs, catalog.classes, counts)
        except NotMeasurable as error:
            notice(f"mIoU of {folder.name} is not measurable: {error}")
            return [], {}
        images = {record.id: pixels for record, pixels in zip(records, counts, strict=True)}
        write_counts(folder / "masks.json", catalog.classes, images)
        return records, {"mask": scores.to_dict()}

    @staticmethod
    def _judge_seed(
        folder: Path, data: TagData, records: list[Record], background: float
    ) -> dict[str, Any]:
        num_labels = len(data.classes) + 1

        def maps() -> Any:
            for record in progress(records, "sweep the seed's threshold"):
                truth = read_mask(record.mask, num_labels)
                yield *read_scores(folder / "maps" / f"{record.id}.npz"), truth

        curve = threshold_curve(maps(), num_labels, also=[background])
        fixed = min(curve, key=lambda point: abs(point[0] - background))[1]
        best = max(curve, key=lambda point: point[1])
        return {
            "seed_curve": curve,
            "seed_miou_fixed": fixed,
            "seed_miou_best": best[1],
            "seed_threshold_best": best[0],
        }

    def measure(self, stages: dict[str, Path]) -> dict[str, float | None]:
        """Write metrics.json and the report, print the table."""
        read = {name: read_json(path / "metrics.json") for name, path in stages.items()}
        minutes = {name: read_json(path / "done.json")["minutes"] for name, path in stages.items()}
        seed = read["pseudo_masks"]
        quality = read.get("refined_masks", seed).get("mask", {})
        numbers = {
            "cls_map_val": read["classify"].get("val_mAP"),
            "seed_miou_best": seed.get("seed_miou_best"),
            "seed_miou_fixed": seed.get("seed_miou_fixed"),
            "mask_miou": quality.get("miou"),
            "mask_void": quality.get("void"),
            "seg_miou_val": read["segment"].get("test_mIoU"),
            "seg_miou_val_true_masks": read.get("segment_true", {}).get("test_mIoU"),
            "minutes": sum(minutes.values()),
        }
        if "segment_first" in read:
            numbers |= {
                "mask_miou_first": seed.get("mask", {}).get("miou"),
                "mask_void_first": seed.get("mask", {}).get("void"),
                "seg_miou_val_first": read["segment_first"].get("test_mIoU"),
            }
        write_json(self.out / "metrics.json", numbers | {"minutes_per_stage": minutes})
        data = {
            name: read_config(stages[name] / "config.yaml")["data"]
            for name in ("pseudo_masks", "segment")
        }
        train = TagData(**data["pseudo_masks"]).predict_split
        val = MaskData(**data["segment"]).val_split
        rows = [
            (f"classifier, mAP on {val}", numbers["cls_map_val"]),
            (f"seed, mIoU on {train}, fixed rule", numbers["seed_miou_fixed"]),
            (f"seed, mIoU on {train}, best threshold (uses the truth)", numbers["seed_miou_best"]),
            (f"first round's pseudo-masks, mIoU on {train}", numbers.get("mask_miou_first")),
            ("first round's pseudo-masks, void pixels", numbers.get("mask_void_first")),
            (f"first round's segmenter, mIoU on {val}", numbers.get("seg_miou_val_first")),
            (f"pseudo-masks, mIoU on {train}", numbers["mask_miou"]),
            ("pseudo-masks, void pixels", numbers["mask_void"]),
            (f"segmenter, mIoU on {val}", numbers["seg_miou_val"]),
            (f"segmenter trained on true masks, mIoU on {val}", numbers["seg_miou_val_true_masks"]),
        ]
        for name, value in rows:
            if value is not None:
                print(f"{name:54s} {value:6.1f} %")
            elif name == rows[0][0]:
                print(f"{name:54s} not measurable: no image of {val} has a tag")
        for name, value in minutes.items():
            print(f"{name:54s} {value:6.1f} min")
        print(f"report in {write_report(self.out)}", flush=True)
        return numbers


def _network(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The timm model that a stage trains, as backbone or as encoder, and the backbone's arguments."""
    model = config.get("model", {})
    name = str(model.get("backbone") or model.get("encoder") or "glnet_4g").removeprefix("tu-")
    return name, model.get("backbone_args") or {}


def _plain(metrics: dict[str, Any]) -> dict[str, float | None]:
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value if value == value else None for name, value in values.items()}


def _leave_out_unseen(path: Path, catalog: Catalog) -> None:
    """Mend numbers of earlier versions, which counted a class without an image in val as 0."""
    metrics = read_json(path)
    seen = {catalog.classes[tag] for record in catalog.records for tag in record.tags}
    unseen = [n for n in catalog.classes if n not in seen and f"val_AP/{n}" in metrics]
    if not unseen:
        return
    for metric, mean in (("AP", "val_mAP"), ("F1", "val_F1")):
        for name in unseen:
            metrics.pop(f"val_{metric}/{name}", None)
        left = [metrics[f"val_{metric}/{name}"] for name in sorted(seen)]
        metrics[mean] = sum(left) / len(left) if left else None
    write_json(path, metrics)
    notice(
        f"an earlier version of wsss counted {', '.join(unseen)}, which no image to validate with has, "
        f"as 0 in the mAP and F1 of {path}: left out now (the curve in the training's log stays)"
    )


def _keep_log(path: Path) -> None:
    """Put the log of a training that was broken off aside: the logger begins a new one."""
    if path.is_file():
        number = len(list(path.parent.glob(f"{path.stem}.*{path.suffix}")))
        path.rename(path.with_name(f"{path.stem}.{number}{path.suffix}"))


def _has_masks(catalog: Catalog) -> bool:
    return any(record.mask is not None for record in catalog.records)


def _stamp_catalog(catalog: Catalog, truth: bool = True) -> str:
    """Tells one set of images and tags from another, and where asked one set of true masks."""
    digest = hashlib.sha256(repr(catalog.classes).encode())
    if catalog.white:  # how images of 16 bits are shown
        digest.update(repr(catalog.white).encode())
    for r in catalog.records:
        mask = file_stamp(r.mask) if truth and r.mask else None
        digest.update(repr((r.id, r.tags, file_stamp(r.image), mask)).encode())
    return digest.hexdigest()


def _weights_stamp(config: dict[str, Any]) -> str:
    file = config.get("model", {}).get("weights")
    return file_stamp(Path(file)) if file and Path(file).is_file() else "-"
