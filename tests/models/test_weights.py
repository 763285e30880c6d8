"""Weight files: as they are released, strictly, and no code from them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from small_glnet import tiny
from torch import Tensor, nn

import wsss
from wsss.errors import UserError
from wsss.models.weights import load_weights
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask


def released(model: nn.Module, **entries: object) -> dict[str, object]:
    """A checkpoint as training scripts write it."""
    return {
        "model": model.state_dict(),
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        "args": argparse.Namespace(lr=0.1, name="run"),
        "epoch": 3,
        **entries,
    }


def create(file: Path, **options: object) -> nn.Module:
    overlay = {"file": str(file)}
    return timm.create_model(
        "glnet_nano", pretrained=True, pretrained_cfg_overlay=overlay, **options
    ).eval()


def test_released_checkpoint(nano: nn.Module, image: Tensor, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(released(nano), file)
    with torch.no_grad():
        expected, features = nano(image), nano.forward_features(image)
        assert torch.equal(create(file, num_classes=5)(image), expected)
        other = create(file, num_classes=20)
        assert torch.equal(other.forward_features(image), features)
        assert other(image).shape == (2, 20)
        assert torch.equal(create(file, num_classes=0)(image), features.mean((2, 3)))
        assert torch.equal(
            create(file, features_only=True, out_indices=(1,))(image)[0],
            nano.forward_intermediates(image, [1], intermediates_only=True)[0],
        )
        grey = create(file, in_chans=1).downsample_layers[0][1].weight
    torch.testing.assert_close(grey, nano.downsample_layers[0][1].weight.sum(1, keepdim=True))


@pytest.mark.filterwarnings("ignore:For 'tu-'")  # the command line does not show it either
@pytest.mark.parametrize("name", ["glnet_nano", "glnet_tiny", "glnet_lite"])
def test_the_small_models_come_with_weights(name: str) -> None:
    model = timm.create_model(name, pretrained=True, num_classes=0)
    file = Path(model.pretrained_cfg["file"])
    assert file.stat().st_size < 16e6 and file.is_relative_to(Path(wsss.__path__[0]))
    stored = load_file(file)
    assert stored.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.equal(value, stored[key].to(value.dtype)) and value.isfinite().all()
    task = ClassificationTask(["a", "b"], name, pretrained=True)
    segmenter = SegmentationTask(["a", "b"], "DeepLabV3Plus", name, pretrained=True)
    stage, number = model.chosen_block
    scale = f"stages.{stage}.blocks.{number}.slot_scale"
    if name == "glnet_lite":
        scale = "blocks.4.5.slot_scale"
    assert stored[scale] not in (8, 10)  # learned
    for network in (task.model.backbone, segmenter.model.net.encoder):
        values = [value for key, value in network.state_dict().items() if key.endswith(scale)]
        assert values == [stored[scale]]


def test_averaged_weights_only_where_published(tmp_path: Path) -> None:
    plain, averaged = tiny(), tiny()
    with torch.no_grad():
        averaged.head.bias += 1
    file = tmp_path / "both.pth"
    torch.save(released(plain, model_ema=averaged.state_dict()), file)
    model = tiny()
    load_weights(model, file)
    assert torch.equal(model.head.bias, plain.head.bias)
    model.pretrained_cfg = {**model.pretrained_cfg, "tag": "ema_in1k"}
    load_weights(model, file)
    assert torch.equal(model.head.bias, averaged.head.bias)
    assert timm.get_pretrained_cfg("glnet_16g").tag.startswith("ema")
    torch.save({"model_ema": averaged.state_dict()}, file)
    model = tiny()
    load_weights(model, file)
    assert torch.equal(model.head.bias, averaged.head.bias)


def test_safetensors_of_any_backbone(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    saved = timm.create_model("mobilenetv2_050", num_classes=10)
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    model = timm.create_model("mobilenetv2_050", num_classes=4)
    load_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model.conv_head.weight, saved.conv_head.weight)


@pytest.mark.parametrize("form", ["w.safetensors", "w.pth"])
def test_weights_without_counts_of_batches(form: str, tmp_path: Path) -> None:
    """Files from TensorFlow and older PyTorch have none, and nothing is computed with them."""
    from safetensors.torch import save_file

    saved = timm.create_model("mobilenetv2_050", num_classes=10).train()
    saved(torch.rand(2, 3, 64, 64))  # statistics unlike a fresh network's
    state = {k: v for k, v in saved.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(state) < len(saved.state_dict())
    (save_file if form == "w.safetensors" else torch.save)(state, tmp_path / form)
    images = torch.rand(1, 3, 64, 64)
    model = timm.create_model("mobilenetv2_050", num_classes=10)
    load_weights(model, tmp_path / form)
    assert torch.equal(model.eval()(images), saved.eval()(images))
    task = SegmentationTask(["a"], "FPN", "mobilenetv2_050", weights=str(tmp_path / form))
    own = task.model.net.encoder.state_dict()
    for name in ("bn1.running_mean", "conv_stem.weight"):
        assert torch.equal(own[f"model.{name}"], state[name])
    # too many of them are none either, but every number that is computed with must be there
    torch.save(saved.state_dict() | {"gone.num_batches_tracked": torch.tensor(1)}, tmp_path / "m.pth")
    load_weights(model, tmp_path / "m.pth")
    del state["bn1.running_mean"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"1 missing \(bn1.running_mean\)"):
        load_weights(model, tmp_path / "less.pth")


def test_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.pth.*rayleizhu/GLMix.*browser"):
        load_weights(timm.create_model("glnet_stl", depths=(1, 1, 1, 1)), tmp_path / "gone.pth")
    with pytest.raises(UserError, match=r"glnet_stl.*rayleizhu/GLMix.*browser"):
        timm.create_model("glnet_stl", pretrained=True, depths=(1, 1, 1, 1))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "odd.pth"
    model = tiny()
    state = model.state_dict()
    state["extra.weight"] = state.pop("norm.weight")
    torch.save({"model": state}, file)
    with pytest.raises(UserError, match=r"1 missing \(norm.weight\).*1 unexpected \(extra.weight"):
        load_weights(model, file)
    with pytest.raises(UserError, match="of another shape"):
        torch.save(tiny(dims=(32, 32, 64, 96)).state_dict(), file)
        load_weights(model, file)
    with pytest.raises(UserError, match="holds no weights"):
        torch.save({"epoch": 1}, file)
        load_weights(model, file)
    with pytest.raises(UserError, match=r"odd\.pth holds a list"):
        torch.save([torch.zeros(1)], file)
        load_weights(model, file)


def test_counts_of_batches_do_not_matter(tmp_path: Path) -> None:
    model, file = tiny(), tmp_path / "counts.pth"
    state = model.state_dict()
    counts = [key for key in state if key.endswith("num_batches_tracked")]
    assert counts
    torch.save(state | {key: torch.tensor([5]) for key in counts[::2]}, file)  # of another shape
    load_weights(model, file)
    torch.save({k: v for k, v in state.items() if k not in counts[::2]}, file)
    load_weights(model, file)


class Evil:
    """Unpickles to a call that leaves a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_runs_no_code_from_a_file(tmp_path: Path) -> None:
    model = tiny()
    torch.save(released(model, hook=Evil(tmp_path / "trace")), tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth"):
        load_weights(model, tmp_path / "evil.pth")
    assert not (tmp_path / "trace").exists()
