"""GLNet: equality with the reference, timm's contract, slot maps, export."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from small_glnet import TINY, recipe, tiny
from small_pipeline import PROJECT
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import wsss.models.glnet  # noqa: F401  (registers the models)
from wsss.errors import UserError

sys.path.insert(0, str(PROJECT))  # benchmarks/ is no installed package
benchmark = importlib.import_module("benchmarks.glnet")

REFERENCES = ["glnet_4g", "glnet_4g_tklb", "glnet_stl", "glnet_stl_paramslot"]
# Parameters in millions and multiply-adds in 1e9 at 224 pixels, measured on the reference code.
# The two token-label models add one 1000-class linear layer to their namesakes.
SIZES = {
    "glnet_4g": (27.00, 4.48),
    "glnet_9g": (60.01, 9.59),
    "glnet_16g": (106.06, 16.60),
    "glnet_stl": (30.30, 4.35),
    "glnet_stl_paramslot": (30.48, 4.35),
    "glnet_4g_tklb": (27.51, 4.51),
    "glnet_9g_tklb": (60.78, 9.63),
    "glnet_lite": (6.46, 0.64),  # ours, as counted
}


@pytest.fixture(scope="session")
def reference_dir(shared: Path) -> Path:
    return shared / "glnet_reference"


def relative(ours: Tensor, stored: np.ndarray) -> float:
    stored = stored.astype(np.float64)
    return float(np.linalg.norm(ours.numpy() - stored) / np.linalg.norm(stored))


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_the_reference(name: str, reference_dir: Path) -> None:
    model = timm.create_model(name)
    keys = json.loads((reference_dir / f"{name}.keys.json").read_text())
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == keys

    recipe(model.double()).eval()
    stored = np.load(reference_dir / f"{name}.npz")
    for height, width in ((224, 224), (160, 224)):
        x = np.random.default_rng(7).standard_normal((1, 3, height, width))
        prefix = f"{height}x{width}"
        with torch.no_grad():
            out = model.forward_slots(torch.from_numpy(x))
            logits = model.forward_head(out.features)
        assert relative(logits, stored[f"{prefix}/logits"]) < 1e-5
        assert relative(out.features, stored[f"{prefix}/features"]) < 1e-5
        for i, stage in enumerate(out.intermediates):
            assert relative(stage[:, ::16], stored[f"{prefix}/stage{i}"]) < 1e-5
        places = [(m.stage, m.block) for m in out.maps]
        assert places == [tuple(p) for p in stored[f"{prefix}/slot_blocks"]]
        dispatch = [k for k in stored.files if k.startswith(f"{prefix}/dispatch")]
        assert len(dispatch) == 6
        for key in dispatch:
            place = tuple(map(int, key.rpartition("dispatch")[2].split(".")))
            ours = out.maps[places.index(place)].dispatch
            assert relative(ours[:, ::8], stored[key]) < 1e-3


@pytest.mark.parametrize("name", ["glnet_9g", "glnet_16g", "glnet_9g_tklb", "glnet_stl_paramslot"])
def test_equals_a_plain_transcription(name: str) -> None:
    """The models without stored outputs, against the equation written down plainly.

    One block of each kind per stage is enough; layer scale and heads are those of the model.
    """
    depths = (1, 1, 2, 2)
    model = recipe(timm.create_model(name, depths=depths).double()).eval()
    x = torch.randn(1, 3, 96, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            model(x), benchmark.plain_transcription(model)(x), rtol=1e-9, atol=1e-9
        )


def test_layer_scale_has_the_keys_of_the_released_16g() -> None:
    with torch.device("meta"):
        state = timm.create_model("glnet_16g").state_dict()
    shapes = {k: tuple(v.shape) for k, v in state.items() if k.endswith("gamma")}
    assert shapes["stages.2.blocks.0.ls1.gamma"] == (1, 512, 1, 1)  # GLMix
    assert shapes["stages.2.blocks.1.ls1.gamma"] == (512,)  # attention works on (B,L,C)
    assert shapes["stages.2.blocks.1.ls2.gamma"] == (1, 512, 1, 1)
    assert len(shapes) == 2 * 30


@pytest.mark.parametrize("name", SIZES)
def test_size(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 224, 224, device="meta"))
    parameters, macs = SIZES[name]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, abs=0.005)
    assert counter.get_total_flops() / 2e9 == pytest.approx(macs, abs=0.006)


def test_slot_maps_per_image() -> None:
    with torch.device("meta"):
        big, plain = timm.create_model("glnet_4g"), timm.create_model("glnet_stl")
        x = torch.zeros(1, 3, 64, 64)
    assert [m.stage for m in big.forward_slots(x).maps] == [0] * 4 + [1] * 4 + [2] * 9
    assert [m.stage for m in plain.forward_slots(x).maps] == [0] * 2 + [1] * 2 + [2] * 6


@pytest.mark.parametrize("training", [False, True])
def test_forward_slots(nano: nn.Module, image: Tensor, training: bool) -> None:
    model = timm.create_model("glnet_nano", drop_path_rate=0.3, drop_rate=0.1).train(training)
    recipe(model)
    torch.manual_seed(3)
    expected = model.forward_features(image)
    recipe(model)  # in training the first pass moved BatchNorm's statistics
    torch.manual_seed(3)
    features, intermediates, maps = model.forward_slots(image, attention=True)
    assert torch.equal(features, expected)
    shapes = [tuple(i.shape[1:]) for i in intermediates]
    assert shapes == [(32, 18, 26), (64, 9, 13), (128, 5, 7), (192, 3, 4)]
    assert [(m.stage, m.block) for m in maps] == [(0, 0), (1, 0), (2, 0), (2, 2)]
    for m in maps:
        size = intermediates[m.stage].shape[-2:]
        channels = intermediates[m.stage].shape[1]
        assert m.dispatch.shape == m.clustering.shape == (2, 64, *size)
        assert m.slots_in.shape == m.slots_out.shape == (2, 64, channels)
        torch.testing.assert_close(m.dispatch.sum(1), torch.ones(2, *size))
        torch.testing.assert_close(m.clustering.sum((2, 3)), torch.ones(2, 64))
        assert m.attention.shape == (2, channels // 32, 64, 64)
        torch.testing.assert_close(m.attention.sum(-1), torch.ones(m.attention.shape[:3]))
        assert m.dispatch.std() > 1e-4  # not the uniform map
    assert nano.forward_slots(image).maps[0].attention is None


def test_attention_is_the_one_used(nano: nn.Module) -> None:
    mha = nano.stages[0].blocks[0].relation_mha
    x = torch.randn(2, 64, 32)
    values = mha._heads(x)[2]
    mixed = (mha.weights(x) @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mha(x), mha.out_proj(mixed), rtol=1e-4, atol=1e-5)


def test_gradients_equal_those_of_the_plain_transcription() -> None:
    model = recipe(timm.create_model("glnet_nano", **TINY).double()).eval()
    plain = benchmark.plain_transcription(model)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for m in (model, plain):
        m(x).square().sum().backward()
    plain_grads = {k: p.grad for k, p in plain.named_parameters()}
    for key, p in model.named_parameters():
        torch.testing.assert_close(p.grad, plain_grads[key], rtol=1e-6, atol=1e-8)


def test_grad_checkpointing_changes_no_gradient() -> None:
    x = torch.randn(2, 3, 64, 64)
    grads = []
    for enable in (False, True):
        model = tiny().train()
        model.set_grad_checkpointing(enable)
        model(x).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_autocast(nano: nn.Module, image: Tensor) -> None:
    with torch.no_grad():
        expected = nano(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = nano(image)
            features, _, maps = nano.forward_slots(image)
        half = tiny().bfloat16()(image.bfloat16())
    assert out.dtype == features.dtype == half.dtype == torch.bfloat16
    assert (out.float() - expected).norm() / expected.norm() < 0.05
    torch.testing.assert_close(
        maps[0].dispatch.float().sum(1), torch.ones(2, 18, 26), atol=0.02, rtol=0
    )
    model = tiny().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(image).float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "stride", "sizes"),
    [
        ("glnet_nano", 32, [(94, 125), (47, 63), (24, 32), (12, 16)]),
        ("glnet_nano", 16, [(94, 125), (47, 63), (24, 32), (24, 32)]),
        ("glnet_stl", 32, [(93, 125), (46, 62), (23, 31), (11, 15)]),
        ("glnet_stl", 16, [(93, 125), (46, 62), (23, 31), (23, 31)]),
    ],
)
def test_sizes_and_strides(name: str, stride: int, sizes: list[tuple[int, int]]) -> None:
    model = timm.create_model(
        name, features_only=True, output_stride=stride, depths=(1, 1, 1, 1)
    ).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 375, 500))
    assert [tuple(m.shape[-2:]) for m in maps] == sizes
    assert model.feature_info.reduction() == [4, 8, 16, stride]


def test_stride_16_sees_the_same_neighbourhood() -> None:
    """At every second position stride 16 equals stride 32, up to what attention mixes in."""
    coarse, fine = tiny(), tiny(output_stride=16)
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        for m in (coarse, fine):  # attention sees 4 times the tokens, so silence it
            m.stages[3].blocks[0].mha_op.out_proj.weight.zero_()
        a, b = coarse.forward_features(x), fine.forward_features(x)
    torch.testing.assert_close(b[..., ::2, ::2], a, rtol=1e-4, atol=1e-4)


def test_timm_interface(nano: nn.Module, image: Tensor) -> None:
    with torch.no_grad():
        final, stages = nano.forward_intermediates(image)
        assert torch.equal(final, nano.forward_features(image))
        assert len(stages) == 4
        normed = nano.forward_intermediates(image, [-1], norm=True, intermediates_only=True)
        assert torch.equal(normed[0], final)
        early, (second,) = nano.forward_intermediates(image, indices=[1], stop_early=True)
        assert torch.equal(early, stages[1])
        assert torch.equal(second, stages[1])
        assert torch.equal(nano.forward_head(final), nano(image))
        pooled = nano.forward_head(final, pre_logits=True)
        torch.testing.assert_close(pooled, final.mean((2, 3)))
    with pytest.raises(UserError, match="NCHW"):
        nano.forward_intermediates(image, output_fmt="NLC")


@pytest.mark.parametrize("indices", [(0, 1, 2, 3), (1, 2), (-1,), (2,)])
def test_features_only(nano: nn.Module, image: Tensor, indices: tuple[int, ...]) -> None:
    model = recipe(timm.create_model("glnet_nano", features_only=True)).eval()
    part = timm.create_model("glnet_nano", features_only=True, out_indices=indices).eval()
    missing = part.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert not missing
    with torch.no_grad():
        whole, some = model(image), part(image)
    assert part.feature_info.channels() == [f.shape[1] for f in some]
    for i, f in zip(indices, some, strict=True):
        assert torch.equal(f, whole[i])


def test_heads(image: Tensor) -> None:
    model = timm.create_model("glnet_nano", in_chans=1, num_classes=0, depths=(1, 1, 1, 1))
    assert model(image[:, :1]).shape == (2, 192)
    model.reset_classifier(7)
    assert model(image[:, :1]).shape == (2, 7)
    assert model.get_classifier().out_features == 7
    model.reset_classifier(0, "")
    assert model(image[:, :1]).shape == (2, 192, 3, 4)
    token = timm.create_model("glnet_nano", token_label_head=True, num_classes=3).eval()
    features = token.forward_features(image)
    pixels = features.flatten(2).transpose(1, 2)
    expected = token.head(pixels.mean(1)) + 0.5 * token.tklb_aux_head(pixels).max(1).values
    torch.testing.assert_close(token(image), expected)
    token.reset_classifier(0)
    assert token(image).shape == (2, 192)


def test_options_are_checked() -> None:
    with pytest.raises(TypeError, match="window"):
        timm.create_model("glnet_nano", window=7)
    with pytest.raises(UserError, match="output_stride=8"):
        timm.create_model("glnet_nano", output_stride=8)
    with pytest.raises(UserError, match="nearest is 49"):
        timm.create_model("glnet_nano", num_slots=50)
    with pytest.raises(UserError, match="global_pool='max'"):
        timm.create_model("glnet_nano", global_pool="max")


def test_training_options() -> None:
    model = timm.create_model("glnet_stl_paramslot", drop_path_rate=0.2, depths=(1, 1, 2, 1))
    names = model.no_weight_decay()
    assert "stages.0.blocks.0.slot_scale" in names
    assert "stages.2.blocks.1.init_slots" in names
    assert names <= set(dict(model.named_parameters()))
    assert model.stages[3].blocks[0].drop_path.drop_prob == pytest.approx(0.2)
    assert isinstance(model.stages[0].blocks[0].drop_path, nn.Identity)
    assert model.stages[0].blocks[0].slot_scale.item() == pytest.approx(96**-0.5)
    assert timm.create_model("glnet_nano").stages[0].blocks[0].slot_scale.item() == 8


@pytest.mark.parametrize("arch", ["Unet", "FPN", "UPerNet", "Segformer", "DeepLabV3Plus"])
def test_encoder_of_every_decoder(arch: str) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    stride = {"encoder_output_stride": 16} if arch == "DeepLabV3Plus" else {}
    model = smp.create_model(arch, "tu-glnet_nano", encoder_weights=None, classes=3, **stride)
    out = model.eval()(torch.randn(1, 3, 64, 96))
    assert out.shape == (1, 3, 64, 96)


@pytest.mark.parametrize("training", [False, True])
def test_compiles_as_one_graph(training: bool) -> None:
    model, x = tiny().train(training), torch.randn(2, 3, 64, 96)
    expected = tiny().train(training)(x)
    # aot_eager checks capture and autograd in a second; the code generator takes a minute.
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    out = compiled(x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    out.sum().backward()


def test_exports_with_free_sizes() -> None:
    model = tiny()
    free = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=({**free},))
    x = torch.randn(3, 3, 96, 160)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)


def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = tiny(), torch.randn(1, 3, 64, 96)
    file = tmp_path / "glnet.onnx"
    torch.onnx.export(model, (x,), dynamo=True, verbose=False).save(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), model(x), rtol=1e-3, atol=1e-4)
