"""`wsss classify` and `wsss segment`: every shipped config, bad input, masks by the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_coco import drawn_as_coco
from small_pipeline import PROJECT
from words import CONFIGS, QUICK, SMALL, main_ok, random_network, random_weights, trainaug

from wsss.cli import main
from wsss.data.masks import read_arrays, read_mask, write_mask
from wsss.data.synthetic import draw_dataset
from wsss.errors import UserNotice, forget_notices
from wsss.lightning_cli import run_task
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Default folders of the trainer are relative to where one is."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_shipped_configs(config, drawn, tmp_path):
    """Each runs a step through the real CLI; only size and pretrained weights are overridden."""
    lines = config.read_text().splitlines()
    assert lines[0].startswith("# ") and len(lines) <= 14
    settings = yaml.safe_load(config.read_text())
    if config.stem == "pipeline":
        assert all((config.parent / settings[k]).is_file() for k in settings if k != "out")
        return
    root = tmp_path / "data"
    if config.parent.name == "coco":
        drawn_as_coco(drawn, root)
        (root / "classes.txt").write_text("ball\nbrick\nkite\nstar\n")  # of `random_network`
    else:
        shutil.copytree(drawn, root)
        trainaug(root)
    words = ["-c", str(config), "--data.root", str(root), *QUICK]
    start = ["--model.pretrained", "false"]
    if network := settings.get("model", {}).get("backbone", settings.get("model", {}).get("encoder")):
        start += ["--model.weights", str(random_weights(network, tmp_path))]
    if config.stem == "classify":
        main_ok(["classify", "fit", *words, "--data.size", "64", *start])
    elif config.stem == "segment":
        main_ok(["segment", "fit", *words, "--data.crop", "64", *start])
    elif config.stem == "refine":
        maps = tmp_path / "maps"
        maps.mkdir()
        for photo in Path(root).rglob("*.jpg"):
            scores = np.ones((1, 3, 3), np.float16)
            np.savez(maps / f"{photo.stem}.npz", labels=np.array([2]), scores=scores)
        places = {"out": str(tmp_path / "masks"), "maps": str(maps)}
        settings["masks"] |= places
        changed = tmp_path / "refine.yaml"
        changed.write_text(yaml.safe_dump(settings))
        words = ["-c", str(changed), "--data.root", str(root), *QUICK]
        main_ok(["segment", "predict", *words, *random_network("segment", tmp_path)])
        made = list((tmp_path / "masks").glob("*.png"))
        assert made and all(set(np.unique(read_mask(path))) <= {0, 2} for path in made)
    else:
        settings["masks"]["out"] = str(tmp_path / "masks")
        changed = tmp_path / "pseudo_masks.yaml"
        changed.write_text(yaml.safe_dump(settings))
        words = ["-c", str(changed), "--data.root", str(root), *QUICK[2:], "--data.size", "64"]
        main_ok(["classify", "predict", *words, *random_network("classify", tmp_path)])
        made = {path.stem for path in (tmp_path / "masks").glob("*.png")}
        assert len(made) >= 5 and made == {path.stem for path in (tmp_path / "maps").glob("*.npz")}


@pytest.mark.parametrize("kind", ["classify", "segment"])
def test_moving_average_by_lightnings_callback(kind, drawn, tmp_path):
    """The checkpoint holds the averaged weights and serves as any other."""
    words = ["fit", "-c", str(PROJECT / "configs" / "demo" / f"{kind}.yaml")]
    words += ["--data.root", str(drawn), "--data.batch_size", "8", "--data.num_workers", "0"]
    words += ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.logger", "false"]
    words += ["--trainer.check_val_every_n_epoch", "1", "--trainer.enable_progress_bar", "false"]
    average = ["--trainer.callbacks", "EMAWeightAveraging", "--trainer.callbacks.decay", "0.9"]
    kept = {}
    for name, more in (("plain", []), ("average", average)):
        folder = tmp_path / name
        trainer = run_task(kind, [*words, "--trainer.default_root_dir", str(folder), *more])
        task = ClassificationTask if kind == "classify" else SegmentationTask
        path = next(folder.rglob("last.ckpt"))
        kept[name] = task.from_checkpoint(path).state_dict()
        assert trainer.global_step == 3
    weight = next(name for name in kept["plain"] if name.endswith("head.weight") or "conv" in name)
    start = torch.linalg.norm(kept["average"][weight] - kept["plain"][weight])
    assert start > 1e-6  # averaged with the start, it lags behind


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--model.freeze", "3"],
            "model.freeze: Expected one of [2, 4, 8, 16, 'all']",
        ),
        (["--model.decodr", "Unet"], "unrecognized arguments: --model.decodr"),
        (["-c", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_bad_word_is_told_in_one_line(words, said, drawn, capsys):
    assert main(["segment", "fit", "--data.root", str(drawn), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_refining_needs_the_first_rounds_maps(drawn, tmp_path, capsys):
    config = {
        "data": {"layout": "voc", "root": str(drawn), "num_workers": 0},
        "model": {"encoder": "glnet_nano"},
        "trainer": {"accelerator": "cpu"},
        "masks": {"out": str(tmp_path / "masks"), "maps": str(tmp_path / "nowhere")},
    }
    path = tmp_path / "refine.yaml"
    path.write_text(yaml.safe_dump(config))
    words = random_network("segment", tmp_path)
    assert main(["segment", "predict", "-c", str(path), *words]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error and "first round" in error and "Traceback" not in error


def test_refined_masks_do_not_depend_on_the_batch(small_run, drawn, tmp_path):
    made, maps = {}, str(small_run / "pseudo_masks" / "maps")
    for size in (1, 5):
        out = tmp_path / str(size)
        data = {"root": str(drawn), "predict_split": "train", "crop": 64, "batch_size": size}
        config = {
            "data": data | {"layout": "voc", "num_workers": 0},
            "trainer": {"accelerator": "cpu", "logger": False},
            "masks": {"out": str(out), "maps": maps},
        }
        (tmp_path / "predict.yaml").write_text(yaml.safe_dump(config))
        checkpoint = str(small_run / "segment" / "last.ckpt")
        main_ok(["segment", "predict", "-c", str(tmp_path / "predict.yaml"), "--ckpt_path", checkpoint])
        made[size] = {path.name: read_mask(path) for path in sorted(out.glob("*.png"))}
    assert len(made[1]) == 24 and made[1].keys() == made[5].keys()
    for name, mask in made[1].items():
        assert (mask == made[5][name]).mean() > 0.99  # sums in another order


def test_predictions_are_not_kept_in_memory(small_run, drawn, tmp_path):
    path = tmp_path / "predict.yaml"
    config = {"masks": {"out": str(tmp_path / "m")}, "trainer": {"accelerator": "cpu"}}
    path.write_text(yaml.safe_dump(config))
    words = ["predict", "-c", str(path), "--data.root", str(drawn), "--data.num_workers", "0"]
    checkpoint = str(small_run / "segment" / "last.ckpt")
    trainer = run_task("segment", [*words, "--ckpt_path", checkpoint])
    assert list((tmp_path / "m").glob("*.png")) and not trainer.predict_loop.predictions
    # photographs are shown as large as in the training, not at the default's size
    assert json.loads((tmp_path / "m" / "settings.json").read_text())["long_side"] == 96
    told = ["--data.max_side", "64", "--masks.out", str(tmp_path / "m64")]
    run_task("segment", [*words, "--ckpt_path", checkpoint, *told])
    assert json.loads((tmp_path / "m64" / "settings.json").read_text())["long_side"] == 64


def test_predicting_needs_a_folder_of_its_own(small_run, drawn, tmp_path, capsys):
    words = ["segment", "predict", "--data.root", str(drawn), *QUICK[2:]]
    words += ["--ckpt_path", str(small_run / "segment" / "last.ckpt")]
    assert main(words) == 2
    assert "give their folder as masks.out" in capsys.readouterr().err
    write_mask(tmp_path / "m" / "x.png", np.zeros((4, 4), int))
    assert main([*words, "--masks.out", str(tmp_path / "m")]) == 2
    assert "m holds masks of another origin" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["x.png"]


def test_refined_masks_know_their_maps_by_content(small_run, drawn, tmp_path, capsys):
    checkpoint = str(small_run / "segment_first" / "last.ckpt")
    config = yaml.safe_load((small_run / "refined_masks" / "config.yaml").read_text())

    def refine(maps):
        given = {"out": str(tmp_path / "refined"), "maps": str(maps)}
        config["masks"] |= given
        (tmp_path / "refine.yaml").write_text(yaml.safe_dump(config))
        return main(
            ["segment", "predict", "-c", str(tmp_path / "refine.yaml"), "--ckpt_path", checkpoint]
        )

    shutil.copytree(small_run / "pseudo_masks" / "maps", tmp_path / "moved")
    assert refine(small_run / "pseudo_masks" / "maps") == 0
    next((tmp_path / "refined").glob("*.png")).unlink()
    assert refine(tmp_path / "moved") == 0
    note = tmp_path / "moved" / "settings.json"
    note.write_text(note.read_text().replace("0.", "0.0"))
    assert refine(tmp_path / "moved") == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("classify", ["--model.lr", "0.5"], "was trained with lr"),
        ("classify", ["--model.mosaic", "0.25"], "was trained with mosaic"),
        ("segment", ["--model.decoder", "Unet"], "was trained with decoder"),
        ("segment", ["--trainer.max_epochs", "3"], "ends after 4 steps"),
    ],
)
def test_a_training_goes_on_as_it_began(kind, change, said, small_run, capsys):
    stage = {"classify": "classify", "segment": "segment_first"}[kind]
    words = [kind, "fit", "-c", str(small_run / stage / "config.yaml"), "--trainer.logger", "false"]
    words += ["--ckpt_path", str(small_run / stage / "last.ckpt"), "--trainer.limit_val_batches", "0"]
    main_ok(words)
    assert main([*words, *change]) == 2
    assert said in capsys.readouterr().err


def test_a_training_that_keeps_other_settings_than_the_defaults_says_so(small_run):
    stage = small_run / "classify"  # its lr is not the default
    words = ["fit", "-c", str(stage / "config.yaml"), "--trainer.logger", "false"]
    words += ["--ckpt_path", str(stage / "last.ckpt"), "--trainer.limit_val_batches", "0"]
    forget_notices()
    with pytest.warns(UserNotice, match=r"last\.ckpt goes on as it began, with lr 0\.001$"):
        run_task("classify", [*words, "--model.lr", "0.0001"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trainer.max_epochs", "-1"], "give trainer.max_epochs or max_steps"),
        (
            ["--trainer.devices", "2", "--trainer.accelerator", "gpu"],
            "trainer.devices 2: No supported gpu backend found!",
        ),
        (["--model.lr", "-1"], "lr must be 0 or more, got -1"),
        (["--model.head_lr_multiplier", "-1"], "head_lr_multiplier must be 0 or more"),
        (["--model.weight_decay", "-1"], "weight_decay must be 0 or more"),
        (["--model.warmup", "5"], "warmup must be 0 to 1, got 5"),
        (["--model.crf.side", "-5"], "crf.side must be 1 or more, got -5"),
        (["--model.crf.bilateral_srgb", "0"], "crf.bilateral_srgb must be 0.001 or more"),
        (["--model.crf.gaussian_compat", "-1"], "crf.gaussian_compat must be 0 or more"),
        (["--trainer.precision", "bf16-true"], "bf16-true is not supported"),
        (["--trainer.accelerator", "tpu"], "torch_xla"),
        (["--data.batch_size", "0"], "data.batch_size must be 1 or more"),
        (["--data.crop", "0"], "data.crop must be 32 or more"),
        (["--data.num_workers", "-1"], "data.num_workers must be 0 or more"),
    ],
)
def test_values_that_cannot_be_used_are_told(words, said, drawn, capsys):
    start = ["segment", "fit", "--data.root", str(drawn), "--data.crop", "64", *QUICK[2:]]
    assert main([*start, "--model.encoder", "glnet_nano", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and said in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["paint"], "'paint' is no command"),
        (["evaluate", "nowhere", "nowhere"], "no folder nowhere"),
        (["run", "-c", "nowhere.yaml"], "no config file nowhere.yaml"),
        (["classify", "fit", "--data.root", "nowhere"], "nowhere does not exist"),
        (["classify", "fit", "--data.root", "ROOT", "--model.mosaic", "2"], "got 2"),
        (["classify", "fit", "--data.root", "ROOT", "--model.weights", "no.pth"], "no.pth"),
        (["segment", "fit", "--data.root", "ROOT", "--model.weights", "no.pth"], "no.pth"),
        (["segment", "fit", "--data.root", "ROOT", "--model.encoder", "nix"], "'nix'"),
        (["classify", "fit", "--data.root", "ROOT", "--data.train_split", "x", *QUICK], "split 'x'"),
        (["classify", "validate", "--data.root", "ROOT", "--ckpt_path", "no.ckpt"], "no.ckpt: give"),
        (["classify", "validate", "--data.root", "ROOT"], "uses a trained network: give --ckpt_path"),
        (["classify", "predict", "--data.root", "ROOT"], "uses a trained network: give --ckpt_path"),
        (["segment", "test", "--data.root", "ROOT"], "uses a trained network: give --ckpt_path"),
        (["segment", "predict", "--data.root", "ROOT", "--ckpt_path", "last"], "no checkpoint last"),
        (["classify", "fit", "--data.root", "ROOT", "--data.min_scale", "2"], "above 0 to 1, got 2"),
        (["segment", "test", "--data.root", "ROOT", "--ckpt_path", __file__], "plain tensors"),
        (["classify", "fit", "--data.root", "ROOT", "--model.weights", __file__], "plain tensors"),
        (["segment", "fit", "--data.root", "ROOT", "--model.scales", "[1, 0]"], "got [1.0, 0.0]"),
        (["segment", "fit", "--data.root", "ROOT", "--model.tile", "8"], "32 pixels or more"),
        (
            ["segment", "fit", "--data.root", "ROOT", *SMALL, "--model.crf", "{side: -5}"],
            "error: crf.side must be 1 or more, got -5",
        ),
        (["segment", "fit", "--data.root", "ROOT", *SMALL, "--data.batch_size", "1"], "two images"),
        (
            [
                "segment",
                "fit",
                "--data.root",
                "ROOT",
                "--model.encoder",
                "tu-swin_tiny_patch4_window7_224",
            ],
            "no segmentation network from decoder 'DeepLabV3Plus'",
        ),
    ],
)
def test_bad_input_is_one_sentence(words, message, drawn, capsys):
    small = ["--model.backbone", "glnet_nano"] if words[:2] == ["classify", "fit"] else []
    assert main([str(drawn) if word == "ROOT" else word for word in words] + small) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_masks_of_other_settings_are_not_mixed(drawn, tmp_path, capsys):
    def config(background):
        masks = {"out": str(tmp_path / "m"), "background": background, "crf": None, "steps": 40}
        path = tmp_path / f"{background}.yaml"
        path.write_text(yaml.safe_dump({"masks": masks}))
        return path

    words = ["--data.root", str(drawn), "--data.size", "64", *QUICK[2:]]
    networks = []
    for name in ("a", "b"):  # each at random, so another one
        (tmp_path / name).mkdir()
        networks.append(random_network("classify", tmp_path / name))
    for network, said in ((0, 0), (1, 2), (0, 0)):
        of_it = [*words, *networks[network]]
        assert main(["classify", "predict", "-c", str(config(0.2)), *of_it]) == said
        assert ("another network" in capsys.readouterr().err) == (said == 2)
    words += networks[0]
    shutil.rmtree(tmp_path / "m")
    # the first masks' maps are there still, and the refinement would take them for the new ones'
    before = {path: path.read_bytes() for path in (tmp_path / "maps").iterdir()}
    assert len(before) > 1 and main(["classify", "predict", "-c", str(config(0.3)), *words]) == 2
    assert "maps of masks made with other settings" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "maps").iterdir()} == before
    shutil.rmtree(tmp_path / "maps")
    assert main(["classify", "predict", "-c", str(config(0.3)), *words]) == 2  # nor the first seeds
    assert "seeds holds the maps of masks made with other settings" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "seeds")
    assert main(["classify", "predict", "-c", str(config(0.3)), *words]) == 0
    assert main(["classify", "predict", "-c", str(config(0.5)), *words]) == 2
    assert "other settings" in capsys.readouterr().err
    larger = [*words, "--data.predict_size", "96"]
    assert main(["classify", "predict", "-c", str(config(0.3)), *larger]) == 2
    assert "other settings" in capsys.readouterr().err
    words = ["segment", "predict", "--masks.out", str(tmp_path / "s")]
    words += ["--data.root", str(drawn), *QUICK[2:]]
    words += [*random_network("segment", tmp_path), "--data.crop", "64"]
    assert main(words) == main(words) == 0  # the same again goes on
    for change in (["--model.flip", "true"], ["--data.max_side", "80"]):
        assert main([*words, *change]) == 2
        assert "other settings" in capsys.readouterr().err


def test_masks_are_made_when_all_seeds_are_there(drawn, tmp_path, capsys):
    masks = {"out": str(tmp_path / "run" / "masks"), "scales": [1.0], "workers": 1, "steps": 40}
    path = tmp_path / "pseudo_masks.yaml"
    path.write_text(yaml.safe_dump({"masks": masks, "trainer": {"accelerator": "cpu"}}))
    words = ["classify", "predict", "-c", str(path), "--data.root", str(drawn), "--data.size", "64"]
    words += [*QUICK[2:], *random_network("classify", tmp_path)]
    assert main([*words, "--trainer.limit_predict_batches", "2"]) == 2
    assert "4 of 24 images have a seed" in capsys.readouterr().err
    seeds, masks = tmp_path / "run" / "seeds", tmp_path / "run" / "masks"
    early = {file: file.stat().st_mtime_ns for file in seeds.glob("*.npz")}
    assert len(early) == 4 and not [*masks.glob("*.png")]
    assert main(words) == 0  # goes on with the other images
    assert {file: file.stat().st_mtime_ns for file in early} == early
    made = {file: read_mask(file) for file in masks.glob("*.png")}
    assert len(made) == 24 and any(mask.any() for mask in made.values())
    for file in [*made][:3]:
        file.unlink()
    stamps = {file: file.stat().st_mtime_ns for file in seeds.glob("*.npz")}
    assert main(words) == 0
    again = {file: file.stat().st_mtime_ns for file in seeds.glob("*.npz")}
    assert again == stamps  # no network was asked again
    assert all((read_mask(file) == mask).all() for file, mask in made.items())
    stamps = {file: file.stat().st_mtime_ns for file in masks.glob("*.png")}
    assert main(words) == 0  # nothing is left to do
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps


def test_slots_that_learn_make_other_masks(drawn, tmp_path):
    network = random_network("classify", tmp_path)
    made = []
    for learn in (True, False):
        masks = {"out": str(tmp_path / f"{learn}" / "masks"), "relabel_slots": learn, "crf": None}
        path = tmp_path / f"{learn}.yaml"
        config = {"masks": masks | {"steps": 40}, "trainer": {"accelerator": "cpu"}}
        path.write_text(yaml.safe_dump(config))
        words = ["classify", "predict", "-c", str(path), "--data.root", str(drawn)]
        assert main([*words, "--data.size", "64", *QUICK[2:], *network]) == 0
        made.append([read_mask(file) for file in sorted((tmp_path / f"{learn}").rglob("*.png"))])
        learned = tmp_path / f"{learn}" / "slot_classes.npz"
        assert learned.is_file() == learn
        seeds = [*(tmp_path / f"{learn}" / "seeds").glob("*.npz")]
        assert bool(seeds) == learn  # else masks are made at once
        assert all("dispatch" in read_arrays(seed) for seed in seeds)
    assert any((a != b).any() for a, b in zip(*made, strict=True))


@pytest.mark.parametrize("kind", ["classify", "segment"])
@pytest.mark.parametrize("setting", ["freeze_norm=true", "freeze=8"])
def test_random_layers_are_not_frozen(kind, setting, drawn, capsys):
    network = {"classify": "backbone", "segment": "encoder"}[kind]
    words = [kind, "fit", "--data.root", str(drawn), f"--model.{network}", "mobilenetv2_050", *QUICK]
    assert main([*words, f"--model.{setting}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {setting.partition('=')[0]} would keep random numbers")


def test_one_class_alone(tmp_path):
    root = tmp_path / "photos"
    draw_dataset(tmp_path / "drawn", train=12, val=4, size=64)
    images = sorted((tmp_path / "drawn" / "JPEGImages").glob("*.jpg"))
    root.mkdir()
    lines = ["image,tags,split"]
    for number, path in enumerate(images):
        (root / path.name).write_bytes(path.read_bytes())
        lines.append(f"{path.name},{'thing' if number % 2 else ''},{'val' if number > 11 else 'train'}")
    (root / "tags.csv").write_text("\n".join(lines) + "\n")
    words = ["--data.layout", "folder", "--data.root", str(root), "--data.size", "64"]
    trainer = run_task("classify", ["fit", *words, "--model.backbone", "glnet_nano", *QUICK])
    assert 0 <= trainer.callback_metrics["val_mAP"] <= 100
    assert "val_AP/thing" in trainer.callback_metrics


@pytest.mark.parametrize("way", ["config", "words"])
def test_settings_of_masks_in_the_form_before(way, drawn, tmp_path, capsys):
    """As a callback of the trainer, with a notice; what is made is the same."""
    network, quick = random_network("classify", tmp_path), {"scales": [1.0], "crf": None}
    words = [
        "classify",
        "predict",
        "--data.root",
        str(drawn),
        "--data.size",
        "64",
        *QUICK[2:],
        *network,
    ]
    now = {"masks": quick | {"relabel_slots": False, "out": str(tmp_path / "now" / "masks")}}
    (tmp_path / "now.yaml").write_text(yaml.safe_dump(now))
    main_ok([*words, "-c", str(tmp_path / "now.yaml")])
    given = quick | {"learn_slots": False, "out": str(tmp_path / "before" / "masks")}
    given["void_below"] = 0.0
    path = "wsss.tasks.writers.PseudoMaskWriter"
    if way == "config":
        trainer = {"callbacks": [{"class_path": path, "init_args": given}]}
        (tmp_path / "before.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
        more = ["-c", str(tmp_path / "before.yaml")]
    else:
        more = ["--trainer.callbacks", path]
        for name, value in given.items():
            more += [f"--trainer.callbacks.{name}", value if name == "out" else json.dumps(value)]
    forget_notices()
    with pytest.warns(UserNotice, match=r"before.yaml: .*`masks`.*0\.3|--masks\.NAME.*0\.3"):
        main_ok([*words, *more])
    masks = sorted((tmp_path / "now" / "masks").glob("*.png"))
    assert len(masks) == 24
    for mask in masks:
        assert (tmp_path / "before" / "masks" / mask.name).read_bytes() == mask.read_bytes()


def test_a_setting_that_is_none_any_more_is_told(drawn, tmp_path, capsys):
    words = ["classify", "predict", "--data.root", str(drawn), *random_network("classify", tmp_path)]
    words += ["--trainer.callbacks", "wsss.tasks.writers.PseudoMaskWriter", "--trainer.callbacks.out"]
    assert main([*words, str(tmp_path / "m"), "--trainer.callbacks.void_below", "0.3"]) == 2
    assert "--masks.void_below" in capsys.readouterr().err


def test_names_of_settings_before(small_run, drawn, tmp_path, capsys):
    """In a config, in words and in a checkpoint."""
    config = yaml.safe_load((small_run / "classify" / "config.yaml").read_text())
    config["model"]["head_factor"] = config["model"].pop("head_lr_multiplier")
    config["model"] |= {"pooling": "top20", "schedule": "cosine"}
    (tmp_path / "before.yaml").write_text(yaml.safe_dump(config))
    checkpoint = torch.load(small_run / "classify" / "last.ckpt", weights_only=True)
    settings = checkpoint["hyper_parameters"]
    settings["head_factor"] = settings.pop("head_lr_multiplier")
    settings |= {"pooling": "top20", "schedule": "cosine"}
    torch.save(checkpoint, tmp_path / "before.ckpt")
    words = ["classify", "fit", "-c", str(tmp_path / "before.yaml"), "--trainer.logger", "false"]
    words += ["--ckpt_path", str(tmp_path / "before.ckpt"), "--trainer.limit_val_batches", "0"]
    forget_notices()
    with pytest.warns(UserNotice, match="model.head_factor is model.head_lr_multiplier"):
        main_ok(words)
    with pytest.warns(UserNotice, match="--model.head_factor"):
        assert main([*words, "--model.head_factor", "7"]) == 2
    assert "was trained with head_lr_multiplier" in capsys.readouterr().err
    assert ClassificationTask.from_checkpoint(tmp_path / "before.ckpt").hparams.head_lr_multiplier == 1


@pytest.mark.parametrize("masks", [None, 3, [1]])
def test_masks_that_are_no_settings(masks, drawn, tmp_path, capsys):
    config = {"data": {"root": str(drawn), "size": 64, "num_workers": 0}, "masks": masks}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    words = ["-c", "a.yaml", *random_network("classify", tmp_path)]
    assert main(["classify", "predict", *words]) == 2
    assert f"masks must be lines of `name: value`, got {masks}" in capsys.readouterr().err
