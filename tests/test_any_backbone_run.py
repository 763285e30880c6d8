"""A ViT with patches of 14 pixels on the whole way, by nothing but its name: init, run, predict."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import tiny_backbones  # noqa: F401  (registers what is named here)
import torch
import yaml
from own_folder import make_folder
from safetensors.torch import save_file

from wsss.cli import main
from wsss.data.masks import read_mask
from wsss.explore import Run
from wsss.tasks.checkpoints import read_checkpoint

NAME = "tiny_dinov2_registers"


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """The folder of a recipe, and in it the results of its run."""
    folder = tmp_path_factory.mktemp("vit")
    root = make_folder(folder / "photos")
    torch.manual_seed(0)
    save_file(timm.create_model(NAME).state_dict(), folder / "vit.safetensors")
    words = ["--quick", "--backbone", NAME, "--weights", str(folder / "vit.safetensors")]
    assert main(["init", str(root), "--out", str(folder / "config"), *words]) == 0
    assert main(["run", "-c", str(folder / "config" / "pipeline.yaml")]) == 0
    return folder / "config"


def test_the_recipe_is_fitted_to_it(config):
    classify, segment = (
        yaml.safe_load((config / f"{name}.yaml").read_text()) for name in ("classify", "segment")
    )
    assert classify["data"]["size"] == classify["data"]["predict_size"] == 70  # five patches
    assert segment["data"]["crop"] == 70 and segment["model"]["decoder"] == "Linear"
    assert "freeze" not in classify["model"] | segment["model"]


def test_all_stages_have_seen_it(config):
    results = config / "results"
    masks = sorted((results / "refined_masks" / "masks").rglob("*.png"))
    assert len(masks) == 16 and {read_mask(path).shape for path in masks} == {(40, 56)}
    learned = read_checkpoint(results / "classify" / "last.ckpt", "classify")["state_dict"]
    begun = yaml.safe_load((results / "segment_first" / "config.yaml").read_text())["model"]
    assert begun["encoder"] == f"tu-{NAME}" and begun["weights"].endswith("classify/last.ckpt")
    trained = read_checkpoint(results / "segment" / "last.ckpt", "segment")["state_dict"]
    name = "backbone.patch_embed.proj.weight"
    assert trained[f"model.net.encoder.{name.removeprefix('backbone.')}"].shape[-2:] == (14, 14)
    assert learned[f"model.{name}"].shape[-2:] == (14, 14)
    assert json.loads((results / "metrics.json").read_text())["cls_map_val"] is not None


def test_a_photograph_is_seen_as_the_run_has_seen_it(config):
    run = Run(config / "results")
    assert not run.data.catalog("val").records[0].mask
    for record in run.data.catalog("train").records[:3]:
        found = run.analyse_file(record.image)
        assert found.maps.cam.shape[-2:] == (4, 5)  # 56 x 70 pixels
        mask = run.pseudo_mask(found, list(record.tags), run.background, crf=True)
        assert (mask == read_mask(run.masks / f"{record.id}.png")).mean() > 0.99


def test_new_photographs(config, tmp_path):
    photographs = tmp_path / "new"
    photographs.mkdir()
    source = next((config.parent / "photos").rglob("*.jpg"))
    shutil.copy(source, photographs / "one.jpg")
    ckpt = str(config / "results" / "segment" / "last.ckpt")
    words = ["predict", str(photographs), "--ckpt", ckpt, "--out", str(tmp_path / "masks")]
    assert main([*words, "--device", "cpu"]) == 0
    mask = read_mask(tmp_path / "masks" / "masks" / "one.png")
    assert mask.shape == (40, 56) and set(np.unique(mask)) <= {0, 1, 2}
    words = ["slots", str(photographs), "--ckpt", ckpt.replace("/segment/", "/classify/")]
    assert main([*words, "--out", str(tmp_path / "pictures")]) == 0
