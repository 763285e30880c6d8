"""All stages from tags to a tested segmenter, each in its own folder, resumable."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wsss.config_files import config_file, read_yaml
from wsss.data.catalog import Catalog
from wsss.distributed import first, is_first, launch, require_shared
from wsss.errors import UserError, few, notice
from wsss.files import read_json, sweep, write_json, write_text
from wsss.locks import locked
from wsss.machine import require_locks
from wsss.origin import differences, require_alike
from wsss.report.page import report_is_current, write_report
from wsss.resources import device, versions
from wsss.run_folder import RunFolder, RunRecord, SplitRecord
from wsss.sheets import table
from wsss.stages.config import StageConfig
from wsss.stages.masks import make_pseudo_masks, refine_masks
from wsss.stages.quality import judge_masks, judge_seed
from wsss.stages.recipe import (
    Changed,
    do_stage,
    made_with,
    recipe,
    resolved_settings,
    stamp_catalog,
    stamp_weights,
    with_defaults,
)
from wsss.stages.training import for_rounds, leave_out_unseen, network_of, outputs, train
from wsss.tasks.trainer import Trainer

KEYS = {"out", "classify", "pseudo_masks", "segment"}
OPTIONAL = {"refine", "start_from_classifier"}


def run_pipeline(
    config: str | Path,
    out: str | Path | None = None,
    root: str | None = None,
    weights: str | None = None,
    upper_bound: bool = False,
    changed: Changed = "tell",
    devices: int | None = None,
    tensorboard: bool = False,
    strict: bool = False,
) -> dict[str, float | None]:
    """Train the classifier, make pseudo-masks, train and test the segmenter, and write the numbers.

    >>> numbers = wsss.run_pipeline("configs/demo/pipeline.yaml", "runs/demo", "data")
    classify: done before, unchanged
    ...
    >>> 0 <= numbers["seg_miou_val"] <= 100
    True

    Args:
        config: a pipeline.yaml: `out`, and the config files of the stages, relative to its place.
            `configs/voc/pipeline.yaml` and the like are those of wsss, where none is here. With
            `refine` there are two rounds: a segmenter learns from the classifier's masks, what it
            sees refines them, and it goes on learning from the refined ones. Where classifier
            and segmenter have the same network, the segmenter starts from what the classifier has
            learned from the tags, unless it says `start_from_classifier: false`.
        out: folder for the results instead of the config's.
        root: data.root for all stages.
        weights: model.weights for classifier and segmenter.
        upper_bound: also train the fully supervised baseline, for as many steps in all.
        changed: what becomes of stages that an earlier version of wsss made otherwise than this one
            would: "tell" stops with a UserError that says what differs, "keep" goes on with them,
            "redo" moves them aside and makes them anew.
        devices: how many to work on; None: as the configs say (`trainer.devices`), or as many as
            torchrun or srun have started. Each is a process that runs the same program.
        tensorboard: log trainings for TensorBoard, too, in `tensorboard` of their stages.
        strict: refuse images that cannot be read; otherwise they are left out, and named in
            `<out>/bad_images.csv`.

    Returns:
        The numbers that are also written to `<out>/metrics.json`, in percent (0..100).
    """
    config = config_file(config)
    settings = read_yaml(config)
    if unknown := sorted(set(settings) - KEYS - OPTIONAL):
        known = sorted(KEYS | OPTIONAL)
        raise UserError(f"{config} has the unknown key '{unknown[0]}': known are {known}")
    if missing := sorted(KEYS - set(settings)):
        raise UserError(f"{config} lacks the key '{missing[0]}'")
    if not out and not isinstance(settings["out"], str):
        raise UserError(f"out in {config} must name a folder, got {settings['out']!r}")
    files = {}
    for key in ("classify", "pseudo_masks", "refine", "segment"):
        if key == "refine" and settings.get(key) is None:
            continue  # one round
        if not isinstance(settings[key], str):
            raise UserError(f"{key} in {config} must name a config file, got {settings[key]!r}")
        files[key] = config.parent / settings[key]
    folder = Path(out or settings["out"]).resolve()
    run = _Run(folder, files, root, weights, changed, tensorboard, strict)
    place = {"devices": devices or run.asked("devices"), "num_nodes": run.asked("num_nodes")}
    if launch(**place, accelerator=run.trainer("classify")["accelerator"]):
        run.asked("accelerator")
    for key, file in files.items():
        require_alike(f"setting in {file.name}", run.config(key).written)
    with ExitStack() as stack:
        if first(
            run.out.is_dir
        ):  # otherwise nobody is in it, and bad settings are to leave nothing behind
            stack.enter_context(locked(run.out, "wsss run"))
        run.check()
        if upper_bound:
            run.require_truth()
        stack.enter_context(locked(run.out, "wsss run"))
        require_shared(run.out)
        first(lambda: sweep(run.out))
        first(run.record)
        started = time.monotonic()
        classify = run.train("classify")
        masks = run.make_masks(classify)
        begin = start = classify if settings.get("start_from_classifier", True) else None
        stages = {"classify": classify, "pseudo_masks": masks}
        if "refine" in files:
            start = run.train("segment_first", masks, begin)
            masks = run.refine_masks(start, masks)
            stages |= {"segment_first": start, "refined_masks": masks}
        stages["segment"] = run.train("segment", masks, start)
        if upper_bound:
            rounds = 2 if "refine" in files else 1
            stages["segment_true"] = run.train("segment_true", None, begin, rounds)
        numbers = first(lambda: run.measure(stages))
    if is_first():
        print(f"results in {run.out} ({(time.monotonic() - started) / 60:.1f} minutes this time)")
    return numbers


class _Run:
    """One call of `run_pipeline`: the configs of its stages, read once, and its folder."""

    def __init__(
        self,
        out: Path,
        files: dict[str, Path],
        root: str | None,
        weights: str | None,
        changed: Changed = "tell",
        tensorboard: bool = False,
        strict: bool = False,
    ) -> None:
        self.out, self.folder, self.changed = out, RunFolder(out), changed
        self.tensorboard, self.strict = tensorboard, strict
        self.files, self.root, self.weights = files, root, weights
        self.configs: dict[str, StageConfig] = {}
        self.catalogs: dict[tuple, Catalog] = {}
        self.classifier: Any = None  # made to check its settings

    def config(self, key: str) -> StageConfig:
        """The config of a stage, to be changed for it; what was read of the data is shared."""
        if key not in self.configs:
            kind = "classify" if key in ("classify", "pseudo_masks") else "segment"
            makes_masks = key in ("pseudo_masks", "refine")
            config = StageConfig(kind, makes_masks, self.files[key], self.root, self.weights)
            config.catalogs = self.catalogs
            self.configs[key] = config
        return self.configs[key].copy()

    def trainer(self, key: str) -> dict[str, Any]:
        """What the config of a stage says of its trainer, and the defaults."""
        return with_defaults(Trainer, self.config(key).written["trainer"])

    def asked(self, name: str) -> Any:
        """What the configs of all stages say of a setting of the trainer: where the work is done.

        Raises:
            UserError: they differ.
        """
        values = {file.name: self.trainer(key)[name] for key, file in self.files.items()}
        if len({str(value) for value in values.values()}) > 1:
            told = ", ".join(f"{value} in {file}" for file, value in values.items())
            raise UserError(f"all stages of a run work on the same devices: trainer.{name} is {told}")
        return next(iter(values.values()))

    def check(self) -> None:
        """Refuse settings that a stage will not take, now and not when its turn comes.

        A network is made of those stages only that are not done.
        """
        require_locks()
        configs = {key: self.config(key) for key in ("classify", "pseudo_masks", "segment", "refine")
                   if key in self.files}  # fmt: skip
        data = {}
        for key, config in configs.items():
            try:
                data[key] = self._check(key, config, configs)
            except UserError as error:
                raise UserError(f"{config.path}: {error}") from error
        self.classifier = None
        if self.strict and (faults := self.left_out()):
            raise UserError(
                f"{len(faults)} images cannot be read: {few([*faults.values()], 3)} (without --strict "
                "they are left out)"
            )
        learned, made = data["segment"], data["pseudo_masks"]
        ids = {record.id for record in made.catalog(made.predict_split).records}
        for record in learned.catalog(learned.train_split, tagged=False).records:
            if record.id not in ids:
                raise UserError(
                    f"{self.files['segment']} trains on '{record.id}' of split "
                    f"'{learned.train_split}', but {self.files['pseudo_masks']} makes masks of split "
                    f"'{made.predict_split}': make data.predict_split the same as data.train_split"
                )

    def left_out(self) -> dict[Path, str]:
        """The images of all splits that cannot be read, and why."""
        return {image: why for one in self.catalogs.values() for image, why in one.left_out.items()}

    def record(self) -> None:
        """Note what the run is made with, and which images are left out; tell what has changed."""
        if faults := self.left_out():
            rows = ((str(image), why) for image, why in faults.items())
            write_text(self.folder.bad_images, table(("image", "why"), rows))
        else:
            self.folder.bad_images.unlink(missing_ok=True)
        data: dict[str, SplitRecord] = {}
        for (_, _, split, tagged, _), catalog in self.catalogs.items():
            if tagged or split not in data:
                stamp = stamp_catalog(catalog)[:16]
                count = {"images": len(catalog.records), "left_out": len(catalog.left_out)}
                data[split] = {**count, "stamp": stamp}
        seeds = {key: self.config(key).random_seed for key in self.files}
        now: RunRecord = {
            "versions": versions(),
            "device": device(),
            "random_seeds": seeds,
            "data": data,
        }
        for change in self.folder.record(now):
            notice(f"since this run was last worked on, {change}")

    def _check(self, key: str, config: StageConfig, configs: dict[str, StageConfig]) -> Any:
        if (file := config.written["model"].get("weights")) and not Path(file).is_file():
            raise UserError(f"there is no weight file {file}: correct model.weights")
        data = config.data()
        if config.makes_masks:
            slots = getattr(config.masks(), "slots", None)
            if not self._is_done(key, config):
                config.trainer(logger=False)
                if slots == "blocks":
                    made = self.classifier or _task(configs["classify"], data.classes)
                    made.model.require_blocks()
            data.catalog(data.predict_split)
            return data
        if not self._is_done(key, config):
            made = _task(config, data.classes)
            self.classifier = made if key == "classify" else self.classifier
            config.trainer(**self._outputs(config, self.out / key))
        for split in (data.train_split, data.val_split):
            catalog = data.catalog(split, tagged=config.kind == "classify")
            if split == data.train_split:
                data.require_parts(len(catalog.records))
        return data

    def _outputs(self, config: StageConfig, folder: Path) -> dict[str, Any]:
        return outputs(folder, config.written["trainer"].get("logger"), self.tensorboard)

    def _is_done(self, key: str, config: StageConfig) -> bool:
        """Whether a stage was made with these settings; then they are good."""
        stage = self.folder["refined_masks" if key == "refine" else key]
        if not stage.is_done or "settings" not in stage.note:
            return False
        now = resolved_settings(config.kind, _method(stage.name), config.written)
        before = made_with(stage.note)
        for one in (before, now):  # the run itself chooses what a network starts from
            one["model"]["pretrained"] = None
            one["model"]["encoder"] = str(one["model"].get("encoder")).removeprefix("tu-")
        return not any(differences(before[part], now[part]) for part in ("model", "trainer"))

    def require_truth(self) -> None:
        """Refuse a fully supervised baseline without ground-truth masks, before anything is trained."""
        data = self.config("segment").data()
        data.true_masks(data.catalog(data.train_split, tagged=False), data.train_split)

    def train(
        self,
        name: str,
        masks: Path | None = None,
        start: Path | None = None,
        rounds: int = 1,
    ) -> Path:
        """Train and measure in the folder `name`; returns the folder.

        `masks` is the stage whose masks it learns from, `start` the stage whose network it starts
        from if that is the same: the classifier, or the segmenter of the round before. `rounds` are
        to be trained as one.
        """
        kind = "classify" if name == "classify" else "segment"
        folder, config = self.out / name, self.config(kind)
        written = config.written
        written["trainer"] = for_rounds(written["trainer"], rounds)
        if start is not None and network_of(written) == network_of(self.folder[start.name].config):
            # at the same number of steps far ahead of the weights it started from itself
            written["model"].update(
                encoder=f"tu-{network_of(written)[0]}",  # timm's, where SMP has one of the same name
                pretrained=False,
                weights=str(start / "last.ckpt"),
            )
        written["data"].pop("mask_dir", None)  # ground truth, or masks of the run
        if masks is not None:
            written["data"]["mask_dir"] = str(masks / "masks")
        data = config.data()
        truth = kind == "segment"  # a classifier has no use for masks
        inputs = [first(lambda: stamp_weights(written))]
        inputs.append(_stamp(data.catalog(data.train_split), truth and masks is None))
        inputs.append(_stamp(data.catalog(data.val_split), truth))
        if masks is not None:
            inputs.append(self._fingerprint(masks))
        written["trainer"] |= self._outputs(config, folder)
        self._do(folder, config, inputs, lambda: train(config, data, folder))
        if kind == "classify":
            catalog = data.catalog(data.val_split)
            first(lambda: leave_out_unseen(folder / "metrics.json", catalog))
        return folder

    def make_masks(self, classify: Path) -> Path:
        """Make the pseudo-masks; returns their stage's folder."""
        folder, config = self.out / "pseudo_masks", self.config("pseudo_masks")
        config.written["masks"]["out"] = str(folder / "masks")
        config.written["trainer"] |= {"default_root_dir": str(folder), "logger": False}
        data = config.data()
        catalog = data.catalog(data.predict_split)
        inputs = [self._fingerprint(classify), _stamp(catalog)]

        def work() -> dict[str, Any]:
            masks = config.masks()
            task, its_data, trainer = config.trained(classify / "last.ckpt")
            make_pseudo_masks(task, its_data, masks, folder / "masks", trainer, masks.workers)
            records, metrics = judge_masks(self.folder[folder.name], catalog)
            if not records:
                return metrics
            num_labels = len(catalog.classes) + 1
            stage = self.folder[folder.name]
            return metrics | judge_seed(stage, records, num_labels, masks.background)

        self._do(folder, config, inputs, work, len(catalog.records))
        return folder

    def refine_masks(self, segment: Path, masks: Path) -> Path:
        """Make the masks of the second round; returns their stage's folder."""
        folder, config = self.out / "refined_masks", self.config("refine")
        written, first = config.written, self.folder[masks.name].config
        if "background" in first["masks"]:
            written["masks"].setdefault("background", first["masks"]["background"])
        written["masks"] |= {"out": str(folder / "masks"), "maps": str(masks / "maps")}
        written["trainer"] |= {"default_root_dir": str(folder), "logger": False}
        # the segmenter sees them as large as in its test
        trained = self.folder[segment.name].config["data"]
        sizes = {key: trained[key] for key in ("crop", "max_side") if key in trained}
        split = self.folder[masks.name].data().predict_split
        written["data"] = sizes | {"predict_split": split} | written["data"]
        data = config.data()
        catalog = data.catalog(data.predict_split)
        inputs = [self._fingerprint(segment), self._fingerprint(masks), _stamp(catalog)]

        def work() -> dict[str, Any]:
            how = config.masks()
            task, its_data, trainer = config.trained(segment / "last.ckpt")
            place = folder / "masks"
            refine_masks(task, its_data, how, masks / "maps", place, trainer, how.workers)
            return judge_masks(self.folder[folder.name], catalog)[1]

        self._do(folder, config, inputs, work)
        return folder

    def _do(
        self,
        folder: Path,
        config: StageConfig,
        inputs: list[str],
        work: Callable[[], dict[str, Any]],
        images: int = 0,
    ) -> None:
        method = _method(folder.name)
        wanted = recipe(config.kind, method, config.written, inputs, self.out, images)
        do_stage(folder, wanted, config.written, work, self.changed)

    def _fingerprint(self, folder: Path) -> str:
        return first(lambda: self.folder[folder.name].note["fingerprint"])

    def measure(self, stages: dict[str, Path]) -> dict[str, float | None]:
        """Write metrics.json and the report, print the table."""
        read = {name: self.folder[name].metrics for name in stages}
        minutes = {name: self.folder[name].note["minutes"] for name in stages}
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
        path, content = self.out / "metrics.json", numbers | {"minutes_per_stage": minutes}
        if not path.is_file() or read_json(path) != content:
            write_json(path, content)
        train = self.folder["pseudo_masks"].data().predict_split
        val = self.folder["segment"].data().val_split
        rows = [
            (f"classifier, mAP on {val}", numbers["cls_map_val"]),
            (f"seed, mIoU on {train}, fixed rule", numbers["seed_miou_fixed"]),
            (f"seed, mIoU on {train}, best threshold (uses ground truth)", numbers["seed_miou_best"]),
            (f"first round's pseudo-masks, mIoU on {train}", numbers.get("mask_miou_first")),
            ("first round's pseudo-masks, void pixels", numbers.get("mask_void_first")),
            (f"first round's segmenter, mIoU on {val}", numbers.get("seg_miou_val_first")),
            (f"pseudo-masks, mIoU on {train}", numbers["mask_miou"]),
            ("pseudo-masks, void pixels", numbers["mask_void"]),
            (f"segmenter, mIoU on {val}", numbers["seg_miou_val"]),
            (f"fully supervised baseline, mIoU on {val}", numbers["seg_miou_val_true_masks"]),
        ]
        for name, value in rows:
            if value is not None:
                print(f"{name:60s} {value:6.1f} %")
            elif name == rows[0][0]:
                print(f"{name:60s} not measurable: no image of {val} has a tag")
        for name, value in minutes.items():
            print(f"{name:60s} {value:6.1f} min")
        if faults := self.left_out():
            told = f"left out, as they cannot be read (see {self.folder.bad_images})"
            print(f"{told:60s} {len(faults):4d} images")
        run = RunFolder(self.out)
        path = run.report if report_is_current(run) else write_report(run)
        print(f"report in {path}", flush=True)
        return numbers


def _stamp(catalog: Catalog, truth: bool = True) -> str:
    return first(lambda: stamp_catalog(catalog, truth))


def _method(stage: str) -> str:
    return "segment" if stage.startswith("segment") else stage


def _task(config: StageConfig, classes: list[str]) -> Any:
    """The network of a config; its weights are of no interest here."""
    return config.task(classes, pretrained=False, weights=None)
