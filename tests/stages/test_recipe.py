"""Whether results of a stage may stay: by the settings in force, not by those that are written down."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from wsss.cli import main
from wsss.data.catalog import Catalog, Record
from wsss.errors import UserError, UserNotice, forget_notices
from wsss.origin import BEFORE
from wsss.pipeline import run_pipeline
from wsss.settings import PseudoMaskSettings
from wsss.stages.recipe import METHODS, do_stage, recipe, resolved_settings, without_places
from wsss.stages.training import leave_out_unseen


def _config(folder: Path, **model) -> dict:
    """Of a stage that trains a classifier in `folder`."""
    return {"model": model, "data": {"root": "-"}, "trainer": {"default_root_dir": str(folder)}}


def _do(folder: Path, config: dict, changed="tell", work=dict) -> None:
    made = recipe("classify", "classify", config, ["images"], folder.parent)
    do_stage(folder, made, config, work, changed)


@pytest.fixture
def run(small_run, tmp_path) -> Path:
    return shutil.copytree(small_run, tmp_path / "run")


def _again(small_run: Path, run: Path, drawn: Path, **how) -> dict:
    return run_pipeline(small_run.parent / "configs" / "pipeline.yaml", run, str(drawn), **how)


def _default(monkeypatch, make: type, name: str, value: object) -> None:
    """Another default for an argument, as a later version of the code may have."""
    monkeypatch.setitem(make.__init__.__kwdefaults__ or {}, name, value)
    names = make.__init__.__code__.co_varnames[: make.__init__.__code__.co_argcount]
    defaults = list(make.__init__.__defaults__)
    defaults[names.index(name) - len(names)] = value
    monkeypatch.setattr(make.__init__, "__defaults__", tuple(defaults))


def test_minutes_go_on_counting_after_a_break(tmp_path):
    def broken():
        raise KeyboardInterrupt

    folder = tmp_path / "classify"
    with pytest.raises(KeyboardInterrupt):
        _do(folder, _config(folder), work=broken)
    begun = json.loads((folder / "begun.json").read_text())
    assert begun["minutes"] > 0
    (folder / "begun.json").write_text(json.dumps(begun | {"minutes": 7.0}))
    _do(folder, _config(folder))
    assert 7 < json.loads((folder / "done.json").read_text())["minutes"] < 8
    _do(folder, _config(folder, lr=1.0))  # begins anew
    assert json.loads((folder / "done.json").read_text())["minutes"] < 1


def test_a_default_written_down_is_no_change(tmp_path, capsys):
    folder = tmp_path / "classify"
    _do(folder, _config(folder))
    _do(folder, _config(folder, mosaic=0, lr=1e-4))
    assert "classify: done before, unchanged" in capsys.readouterr().out


def test_how_fast_it_goes_is_no_change(tmp_path, capsys):
    folder = tmp_path / "classify"
    _do(folder, _config(folder))
    config = _config(folder)
    config["data"] |= {"num_workers": 7}
    config["trainer"] |= {"enable_progress_bar": False}
    _do(folder, config)
    assert "classify: done before, unchanged" in capsys.readouterr().out


def test_what_the_user_changed_is_named_and_made_anew(tmp_path, capsys):
    folder = tmp_path / "classify"
    _do(folder, _config(folder, lr=1e-3))
    _do(folder, _config(folder, lr=2e-3))
    said = capsys.readouterr().out
    assert "settings or inputs changed (lr 0.001 (now 0.002)), earlier results are in" in said
    assert (tmp_path / "classify.old1" / "done.json").is_file()


def test_a_changed_default_is_told(small_run, run, drawn, monkeypatch, capsys):
    _again(small_run, run, drawn)
    assert capsys.readouterr().out.count("done before, unchanged") == 5
    masks = run / "pseudo_masks" / "masks"
    before = {path: path.read_bytes() for path in masks.glob("*.png")}
    _default(monkeypatch, PseudoMaskSettings, "sharpen", 5.0)
    with pytest.raises(UserError) as told:
        _again(small_run, run, drawn)
    said = str(told.value)
    assert str(run / "pseudo_masks") in said and "sharpen 4.0 (now 5.0)" in said
    assert "--keep" in said and "--redo" in said and "\n" not in said
    assert before == {path: path.read_bytes() for path in masks.glob("*.png")}  # nothing was lost
    capsys.readouterr()
    for _ in range(2):  # what was kept once is not asked about again
        _again(small_run, run, drawn, changed="keep" if _ == 0 else "tell")
        assert capsys.readouterr().out.count("done before, unchanged") == 5
    settings = json.loads((run / "pseudo_masks" / "done.json").read_text())["settings"]
    assert settings["masks"]["sharpen"] == 4.0  # what it was made with
    _default(monkeypatch, PseudoMaskSettings, "sharpen", 6.0)
    with pytest.raises(UserError, match=r"now 6\.0"):
        _again(small_run, run, drawn)


def test_a_changed_method_is_told_and_made_anew_where_asked(small_run, run, drawn, monkeypatch, capsys):
    before = METHODS["refined_masks"]
    monkeypatch.setitem(METHODS, "refined_masks", before + 1)
    config = str(small_run.parent / "configs" / "pipeline.yaml")
    words = ["run", "-c", config, "--root", str(drawn), "--out", str(run)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"method {before} of this stage (now {before + 1})" in error and "refined_masks" in error
    assert main([*words, "--redo"]) == 0
    said = capsys.readouterr().out
    assert "pseudo_masks: done before" in said and "refined_masks: settings or inputs changed" in said
    assert (run / "refined_masks.old1" / "done.json").is_file()
    assert "segment: settings or inputs changed" in said  # learned from other masks


def _of_earlier(run: Path, version: int) -> None:
    """Make notes and configs of a run those of an earlier version."""
    prints: dict[str, str] = {}
    order = ("classify", "pseudo_masks", "segment_first", "refined_masks", "segment")
    writers = {"pseudo_masks": "PseudoMaskWriter", "refined_masks": "RefinedMaskWriter"}
    for folder in (run / name for name in order):
        note = json.loads((folder / "done.json").read_text())
        config = yaml.safe_load((folder / "config.yaml").read_text())
        settings = note["settings"]
        for one in (config["model"], settings["model"]):
            if "head_lr_multiplier" in one:
                one["head_factor"] = one.pop("head_lr_multiplier")
        masks, made = config.pop("masks", None), settings.pop("masks")
        for one in (masks or {}, made):
            if "relabel_slots" in one:
                one["learn_slots"] = one.pop("relabel_slots")
        if masks is not None:
            path = f"wsss.tasks.writers.{writers[folder.name]}"
            config["trainer"]["callbacks"] = [{"class_path": path, "init_args": masks}]
            new = ("seed", "folds", "rounds", "steps", "sample", "refinement")
            made = {k: v for k, v in made.items() if k not in new} | {"void_below": 0.0}
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        settings["callbacks"] = {} if masks is None else {writers[folder.name]: made}
        inputs = [prints.get(i, i) for i in note["inputs"]]
        written = without_places(config, run)
        content = [2, written, inputs] if version == 2 else [3, note["method"], settings, inputs]
        text = json.dumps(content, sort_keys=True, default=str)
        old = hashlib.sha256(text.encode()).hexdigest()
        prints[note["fingerprint"]] = old
        few = {"fingerprint": old, "minutes": note["minutes"], "memory_gb": 1.0, "device": "-"}
        if version == 3:
            few |= {"method": note["method"], "settings": settings, "inputs": inputs, "written": "-"}
        for name in ("done.json", "begun.json"):
            (folder / name).write_text(json.dumps(few))
        notes = [*folder.glob("*/settings.json")]
        for path in notes:  # what masks are made with, noted beside them
            noted = json.loads(path.read_text())
            for name in ("seed", "folds", "rounds", "steps", "sample", "refinement"):
                noted.pop(name, None)
            if "relabel_slots" in noted:
                noted["learn_slots"] = noted.pop("relabel_slots")
            path.write_text(json.dumps(noted | {"void_below": 0.0}))


@pytest.fixture
def in_place(small_run, drawn, tmp_path, monkeypatch):
    """A run whose configs do not name `relabel_slots`, where it was made, with the `steps` of before.

    Its code is said to be that of the first methods, as of the versions whose notes are tested.
    """
    for stage in METHODS:
        monkeypatch.setitem(METHODS, stage, 1)
    configs = shutil.copytree(small_run.parent / "configs", tmp_path / "configs")
    run = tmp_path / "run"
    path = configs / "pseudo_masks.yaml"
    config = yaml.safe_load(path.read_text())
    del config["masks"]["relabel_slots"]
    config["masks"]["steps"] = BEFORE["steps"]
    path.write_text(yaml.safe_dump(config))
    run_pipeline(configs / "pipeline.yaml", run, str(drawn))
    return configs / "pipeline.yaml", run


def test_runs_of_the_version_before(in_place, drawn, capsys, monkeypatch):
    config, run = in_place
    today = shutil.copytree(run, run.parent / "today")
    for version in (3, 2):
        _of_earlier(run, version)
        capsys.readouterr()
        run_pipeline(config, run, str(drawn))  # nothing differs
        assert capsys.readouterr().out.count("done before, unchanged") == 5
        with monkeypatch.context() as later:
            later.setitem(METHODS, "pseudo_masks", 2)
            with pytest.raises(UserError, match=r"pseudo_masks was made .* method 1 .*now 2.*--keep"):
                run_pipeline(config, run, str(drawn))
        capsys.readouterr()
        (run / "pseudo_masks" / "done.json").unlink()
        next((run / "pseudo_masks" / "masks").glob("*.png")).unlink()
        run_pipeline(config, run, str(drawn))  # half made then, and gone on with
        said = capsys.readouterr().out
        assert "pseudo_masks: goes on" in said and said.count("done before, unchanged") == 4
        shutil.rmtree(run)
        shutil.copytree(today, run)

    _of_earlier(run, 2)
    # `learn_slots` did not exist when the masks were made, and is a default now
    writer = run / "pseudo_masks" / "masks" / "settings.json"
    known = json.loads(writer.read_text())
    del known["learn_slots"]
    writer.write_text(json.dumps(known))
    with pytest.raises(UserError, match=r"relabel_slots not set \(now true\).*--keep"):
        run_pipeline(config, run, str(drawn))
    before = shutil.copytree(run, run.parent / "before")
    for changed in ("keep", "tell"):  # what was kept once is not asked about again
        run_pipeline(config, run, str(drawn), changed=changed)
    shutil.rmtree(run)
    before.rename(run)
    done = run / "pseudo_masks" / "done.json"
    begun = done.rename(done.with_name("begun.json")).read_text()
    for changed in ("tell", "keep"):  # masks made in two ways do not go together
        with pytest.raises(UserError, match=r"relabel_slots not set.*half done.*--redo"):
            run_pipeline(config, run, str(drawn), changed=changed)
    done.write_text(begun)
    # written down, it is as it was
    path = config.parent / "pseudo_masks.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["masks"]["relabel_slots"] = False
    path.write_text(yaml.safe_dump(settings))
    run_pipeline(config, run, str(drawn))
    assert capsys.readouterr().out.count("done before, unchanged") >= 5
    # and a change is one
    settings["masks"]["background"] = 0.7
    path.write_text(yaml.safe_dump(settings))
    run_pipeline(config, run, str(drawn))
    said = capsys.readouterr().out
    assert "pseudo_masks: settings or inputs changed (background 0.6 (now 0.7))" in said


def test_a_sample_matters_where_there_are_more_images(tmp_path):
    config = _config(tmp_path) | {"masks": {"sample": 10}}
    ways = [recipe("classify", "pseudo_masks", config, [], tmp_path, n) for n in (10, 11)]
    assert [way.settings["masks"]["sample"] for way in ways] == [None, 10]


def test_classes_that_earlier_versions_counted_as_0_are_left_out(small_run, run, drawn):
    path = run / "classify" / "metrics.json"
    metrics = json.loads(path.read_text())
    seen = [name for name in metrics if name.startswith("val_AP/")]
    images = (Record("a", Path("a.jpg"), (1,), None), Record("b", Path("b.jpg"), (1, 2), None))
    catalog = Catalog(("red", "green", "blue"), images)
    old = {"val_mAP": 50.0, "val_F1": 30.0, "val_AP/red": 0.0, "val_F1/red": 0.0, "val_loss": 1.0}
    old |= {"val_AP/green": 100.0, "val_AP/blue": 50.0, "val_F1/green": 60.0, "val_F1/blue": 30.0}
    path.write_text(json.dumps(old))
    forget_notices()
    with pytest.warns(UserNotice, match="counted red, which no image to validate with has, as 0"):
        leave_out_unseen(path, catalog)
    now = json.loads(path.read_text())
    assert (now["val_mAP"], now["val_F1"], now["val_loss"]) == (75, 45, 1)
    assert not {"val_AP/red", "val_F1/red"} & set(now)
    path.write_text(json.dumps(metrics))
    _again(small_run, run, drawn)
    assert json.loads(path.read_text()) == metrics and seen  # of today


def test_all_that_matters_is_resolved():
    masks = resolved_settings("classify", "pseudo_masks", {"masks": {"out": "x"}})["masks"]
    assert masks["relabel_slots"] is True and masks["crf"]["iterations"] == 8
    assert not {"out", "workers"} & set(masks)
    config = {"trainer": {}, "model": {"crf": {"side": 90}}}
    segment = resolved_settings("segment", "segment", config)
    assert segment["model"]["crf"]["side"] == 90 and segment["model"]["scales"] == [1.0]
    assert segment["model"]["decoder"] == "DeepLabV3Plus" and segment["data"]["crop"] == 512


def test_results_of_a_later_version_are_told(tmp_path, capsys):
    folder = tmp_path / "classify"
    _do(folder, _config(folder))
    done = folder / "done.json"
    note = json.loads(done.read_text())
    note |= {"method": 99, "of the future": [1]}
    note["settings"]["model"]["glow"] = 0.5
    done.write_text(json.dumps(note))
    with pytest.raises(UserError) as told:
        _do(folder, _config(folder))
    said = str(told.value)
    assert "was made by another version of wsss with glow 0.5 (now not set), method 99 of this" in said
    assert "--keep" in said and "--redo" in said and "\n" not in said
    assert json.loads(done.read_text()) == note


@pytest.mark.parametrize("left", [[], ["config.yaml"], ["begun.json"]])
def test_a_stage_that_was_killed_at_its_first_file_begins(left, tmp_path, capsys):
    folder = tmp_path / "classify"

    def broken():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _do(folder, _config(folder), work=broken)
    for path in folder.iterdir():
        if path.name not in left:
            path.unlink()
    _do(folder, _config(folder))
    assert "classify: starts" in capsys.readouterr().out and (folder / "done.json").is_file()
    # without its config a note tells nothing, and is kept aside
    assert (tmp_path / "classify.old1").exists() == (left == ["begun.json"])
