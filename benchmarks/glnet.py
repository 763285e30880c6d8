"""Speed and memory of GLNet, in alternation against a plain transcription of the block.

    python benchmarks/glnet.py                      # glnet_4g on this machine, ten minutes
    python benchmarks/glnet.py --quick              # glnet_nano, seconds: does it run?
    python benchmarks/glnet.py --against mod:build  # another implementation instead

Every row times all variants one after the other in one process, over and over, and gives medians:
what else the machine does then falls on all of them. Ratios are against the plain float32 one.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import math
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from wsss.models import glnet


class PlainNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W), by permuting there and back."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PlainResidual(nn.Conv2d):
    """x + depth-wise convolution of x, as two passes."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class PlainScale(nn.Module):
    """Layer scale, multiplied as stored."""

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty_like(gamma))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class PlainBlock(nn.Module):
    """A block written down as the equation says, in NCHW, with ``nn.MultiheadAttention``."""

    def __init__(self, ours: glnet.Block) -> None:
        super().__init__()
        dim = ours.norm1.normalized_shape[0]
        self.slots = isinstance(ours, glnet.GLMixBlock)
        self.linear = isinstance(ours.mlp[0], nn.Linear)
        attention = ours.relation_mha if self.slots else ours.mha_op
        heads = nn.MultiheadAttention(dim, attention.num_heads, batch_first=True)
        self.pos_conv = _plain_residual(ours.pos_conv)
        self.norm1 = (PlainNorm if self.slots else nn.LayerNorm)(dim, eps=1e-6)
        self.norm2 = (nn.LayerNorm if self.linear else PlainNorm)(dim, eps=1e-6)
        self.mlp = nn.Sequential(*map(_plain_residual, copy.deepcopy(ours.mlp)))
        self.ls1, self.ls2 = (
            scale if isinstance(scale, nn.Identity) else PlainScale(scale.gamma)
            for scale in (ours.ls1, ours.ls2)
        )
        if self.slots:
            self.slot_scale = nn.Parameter(torch.tensor(1.0))
            self.grid = ours.grid
            self.init_slots = copy.deepcopy(ours.init_slots)
            self.relation_mha = heads
            self.feature_conv = copy.deepcopy(ours.feature_conv)
        else:
            self.mha_op = heads

    def forward(self, x: Tensor) -> Tensor:
        return self._slots(x) if self.slots else self._attention(x)

    def _slots(self, x: Tensor) -> Tensor:  # (B,C,H,W) -> (B,C,H,W)
        seeds = self.init_slots
        if seeds is None:
            seeds = F.adaptive_avg_pool2d(x, self.grid).permute(0, 2, 3, 1).flatten(1, 2)  # (B,K,C)
        x = self.pos_conv(x)
        u = self.norm1(x)
        pixels = u.permute(0, 2, 3, 1).flatten(1, 2)  # (B,HW,C)
        cosine = F.normalize(seeds, dim=-1) @ F.normalize(pixels, dim=-1).transpose(1, 2)
        logits = self.slot_scale * cosine  # (B,K,HW)
        slots = logits.softmax(-1) @ pixels  # (B,K,C)
        slots, _ = self.relation_mha(slots, slots, slots, need_weights=False)
        spread = logits.transpose(1, 2).softmax(-1) @ slots  # (B,HW,C)
        spread = spread.permute(0, 2, 1).reshape_as(u)  # (B,C,H,W)
        x = x + self.ls1(spread + self.feature_conv(u))
        return x + self.ls2(self.mlp(self.norm2(x)))

    def _attention(self, x: Tensor) -> Tensor:  # (B,C,H,W) -> (B,C,H,W)
        x = self.pos_conv(x)
        shape = x.shape
        x = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B,HW,C)
        y = self.norm1(x)
        x = x + self.ls1(self.mha_op(y, y, y, need_weights=False)[0])
        if self.linear:
            x = x + self.ls2(self.mlp(self.norm2(x)))
            return x.permute(0, 2, 1).reshape(shape)
        x = x.permute(0, 2, 1).reshape(shape)
        return x + self.ls2(self.mlp(self.norm2(x)))


def _plain_residual(layer: nn.Module) -> nn.Module:
    if not isinstance(layer, glnet.ResidualDepthwise):
        return layer
    dim = layer.in_channels
    return PlainResidual(dim, dim, 3, padding=layer.padding, dilation=layer.dilation, groups=dim)


def plain_transcription(model: glnet.GLNet) -> nn.Module:
    """The same network with the same weights, its blocks replaced by plain ones."""
    plain = copy.deepcopy(model)
    for stage in plain.stages:
        for i, block in enumerate(stage.blocks):
            stage.blocks[i] = PlainBlock(block).to(block.norm1.weight)
    plain.load_state_dict(model.state_dict())
    return plain.train(model.training)


def medians(variants: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds per call, all variants in turn; two warm-up rounds are left out."""
    cuda = torch.cuda.is_available()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(repeats + 2):
        for name, call in variants.items():
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if cuda:
                torch.cuda.synchronize()
            if i >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def matmul_rate(dtype: torch.dtype, device: str, size: int) -> float:
    """The faster of a matrix product and a 1x1 convolution, in 1e9 multiply-adds per second."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    image = torch.randn(1, size // 4, size, 16, device=device, dtype=dtype)
    image = image.contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(size // 4, size // 4, 1, 1, device=device, dtype=dtype)
    with torch.no_grad():
        times = medians({"mm": lambda: a @ a, "conv": lambda: F.conv2d(image, kernel)}, 7)
    return size**3 / min(times.values()) / 1e9  # both are size^3 multiply-adds


def inference_rows(args: argparse.Namespace, base: nn.Module, other: nn.Module) -> Iterator[str]:
    """One table row per input size and batch."""
    base, other = base.eval(), other.eval()
    ours = copy.deepcopy(base).to(memory_format=torch.channels_last)
    half, other_half = copy.deepcopy(ours).bfloat16(), copy.deepcopy(other).bfloat16()
    size = 256 if args.quick else 2048
    rates = {d: matmul_rate(d, args.device, size) for d in (torch.float32, torch.bfloat16)}
    yield (
        f"Matrix rate: {rates[torch.float32]:.0f} (float32) and {rates[torch.bfloat16]:.0f} "
        "(bfloat16) G multiply-adds per second.\n"
    )
    names = ["plain", "plain bf16", "ours", "ours bf16"]
    names += ["compiled", "compiled bf16"] if args.compile else []
    yield (
        "| batch | size | " + " | ".join(f"{n}, ms" for n in names) + " | fp32 | bf16 | "
        "bf16 to bf16 | share of matrix rate: plain, plain bf16, ours, ours bf16 | images/s, bf16 |"
    )
    yield "|" + "---|" * (len(names) + 7)
    for batch, side in args.inputs:
        x = torch.randn(batch, 3, side, side, device=args.device)
        x_last = x.contiguous(memory_format=torch.channels_last)
        x_half, x_half_last = x.bfloat16(), x_last.bfloat16()
        calls = [
            partial(other, x),
            partial(other_half, x_half),
            partial(ours, x_last),
            partial(half, x_half_last),
        ]
        if args.compile:
            torch.compiler.reset()
            for model, image in ((ours, x_last), (half, x_half_last)):
                calls.append(partial(torch.compile(model, fullgraph=True), image))
        with torch.no_grad():
            t = medians(dict(zip(names, calls, strict=True)), args.repeats)
            with FlopCounterMode(display=False) as counter:
                base(x)
        macs = counter.get_total_flops() / 2e9
        shares = [
            macs / seconds / rates[dtype]
            for seconds, dtype in (
                (t["plain"], torch.float32),
                (t["plain bf16"], torch.bfloat16),
                (t["ours"], torch.float32),
                (t["ours bf16"], torch.bfloat16),
            )
        ]
        yield (
            f"| {batch} | {side} | "
            + " | ".join(f"{t[n] * 1e3:.0f}" for n in names)
            + f" | {t['plain'] / t['ours']:.2f} | {t['plain'] / t['ours bf16']:.2f} | "
            + f"{t['plain bf16'] / t['ours bf16']:.2f} | "
            + ", ".join(f"{s:.0%}" for s in shares)
            + f" | {batch / t['ours bf16']:.0f} |"
        )


def train_step(model: nn.Module, x: Tensor, half: bool) -> None:
    """Forward, backward and update, without momentum so that only activations add memory."""
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=half):
        loss = model(x).float().square().mean()
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.sub_(p.grad, alpha=1e-6)
                p.grad = None


def training_variants(
    base: nn.Module, other: nn.Module
) -> dict[str, tuple[nn.Module, bool, torch.memory_format]]:
    """Name -> (model, bf16 autocast, memory format)."""
    last, first = torch.channels_last, torch.contiguous_format
    ours = copy.deepcopy(base).train().to(memory_format=last)
    saving = copy.deepcopy(ours)
    saving.set_grad_checkpointing()
    plain = other.train()
    return {
        "plain": (plain, False, first),
        "plain bf16": (plain, True, first),
        "ours": (ours, False, last),
        "ours bf16": (ours, True, last),
        "ours checkpointed": (saving, False, last),
        "ours checkpointed bf16": (saving, True, last),
    }


def _peak_rss() -> float:
    """Peak resident MiB of this process, on Linux; getrusage would count the parent's too."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return math.nan
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _peak_in_child(args: argparse.Namespace, name: str, queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(args.threads)
    base, other = build(args)
    model, half, layout = training_variants(base, other)[name]
    small = torch.randn(2, 3, 64, 64).contiguous(memory_format=layout)
    train_step(model, small, half)
    before = _peak_rss()
    batch, side = args.train_input
    train_step(model, torch.randn(batch, 3, side, side).contiguous(memory_format=layout), half)
    queue.put(_peak_rss() - before)


def peak_memory(args: argparse.Namespace, name: str, variant: tuple) -> float:
    """Peak MiB that one training step adds; on a CPU in a fresh process, as peaks never fall."""
    if args.device == "cpu":
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(target=_peak_in_child, args=(args, name, queue))
        process.start()
        value = queue.get(timeout=600)
        process.join()
        return value
    model, half, layout = variant
    batch, side = args.train_input
    x = torch.randn(batch, 3, side, side, device=args.device).contiguous(memory_format=layout)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    train_step(model, x, half)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def training_rows(args: argparse.Namespace, base: nn.Module, other: nn.Module) -> Iterator[str]:
    """One table row per variant: time of a step, ratio to the plain one, peak memory."""
    variants = training_variants(base, other)
    if args.quick:
        variants = {name: variants[name] for name in ("plain", "ours checkpointed bf16")}
    batch, side = args.train_input
    x = torch.randn(batch, 3, side, side, device=args.device)
    t = medians(
        {
            name: partial(train_step, model, x.contiguous(memory_format=layout), half)
            for name, (model, half, layout) in variants.items()
        },
        max(1, args.repeats // 2),
    )
    yield f"| training step, batch {batch}, {side} px | ms | ratio | peak memory added, MiB |"
    yield "|---|---|---|---|"
    for name, variant in variants.items():
        peak = peak_memory(args, name, variant)
        yield f"| {name} | {t[name] * 1e3:.0f} | {t['plain'] / t[name]:.2f} | {peak:.0f} |"


def build(args: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Our model and the one to compare with, on the device."""
    torch.manual_seed(0)
    base = timm.create_model(args.model)
    if args.against:
        module, _, name = args.against.partition(":")
        other = getattr(importlib.import_module(module), name)()
    else:
        other = plain_transcription(base)
    return base.to(args.device), other.to(args.device)


def _pair(text: str) -> tuple[int, int]:
    batch, _, side = text.partition("x")
    return int(batch), int(side)


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="glnet_4g")
    parser.add_argument("--against", help="module:callable that builds another implementation")
    parser.add_argument("--inputs", type=_pair, nargs="+", metavar="BATCHxSIDE")
    parser.add_argument("--train-input", type=_pair, default=(8, 224), metavar="BATCHxSIDE")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="also torch.compile (minutes)")
    parser.add_argument("--quick", action="store_true", help="glnet_nano, once")
    args = parser.parse_args(argv)
    if args.quick:
        args.model, args.repeats, args.train_input = "glnet_nano", 1, (1, 64)
        args.inputs = args.inputs or [(1, 64)]
    on_cpu = [(1, 224), (8, 224), (1, 448), (8, 448)]
    on_gpu = [(64, 224), (64, 512)]  # smaller batches leave a GPU idle
    args.inputs = args.inputs or (on_cpu if args.device == "cpu" else on_gpu)
    torch.set_num_threads(args.threads)
    base, other = build(args)
    print(
        f"{args.model} on {args.device} ({platform.machine()}, {args.threads} threads), "
        f"torch {torch.__version__}, medians of {args.repeats}\n"
    )
    for row in inference_rows(args, base, other):
        print(row, flush=True)
    print()
    for row in training_rows(args, base, other):
        print(row, flush=True)


if __name__ == "__main__":
    main()
