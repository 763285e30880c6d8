"""What makes training several times as fast on a CPU, with the same numbers."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight


class FastDepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution of 3x3 or 5x5 that trains fast on CPUs.

    Its results are those of the plain one. PyTorch's CPU libraries have no fast backward pass for a
    dilated depthwise convolution, and none for the weight of a 5x5 one: three dilated layers were 40 %
    of a training step of MobileNetV2 at stride 16, nine of 5x5 as much of EfficientNet-Lite2's
    (`benchmarks/train.py`). So a dilated one becomes an ordinary one on each phase of the pixel grid:
    pixels d apart never meet pixels of another phase in a convolution of dilation d, so that d x d
    subsampled images with an undilated kernel give the same result. The weight of a 5x5 one learns as
    four 3x3 ones do (`_Depthwise5`).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if x.device.type != "cpu" or not self.training:
            return super().forward(x)
        d = self.dilation[0]
        if d == 1:
            return self._undilated(x)
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % d, 0, -height % d)).permute(0, 2, 3, 1)  # B H W C
        x = x.unflatten(1, (-1, d)).unflatten(3, (-1, d))  # B H/d d W/d d C
        phases = x.permute(2, 4, 0, 1, 3, 5).flatten(0, 2)  # d d B H/d W/d C
        out = self._undilated(phases.permute(0, 3, 1, 2))
        out = out.permute(0, 2, 3, 1).unflatten(0, (d, d, -1)).permute(2, 3, 0, 4, 1, 5)
        out = out.flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return out.permute(0, 3, 1, 2)

    def _undilated(self, x: Tensor) -> Tensor:
        if self.kernel_size == (5, 5):
            return _Depthwise5.apply(x, self.weight, self.bias)
        return F.conv2d(x, self.weight, self.bias, padding=1, groups=self.groups)


class _Depthwise5(torch.autograd.Function):
    """A 5x5 depthwise convolution with padding 2.

    Its weight's gradient is put together from those of four 3x3 convolutions on the shifted input,
    which oneDNN has fast code for: in bfloat16 6 instead of 85 ms for 1,248 channels of 16 images of
    10x10 pixels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = F.conv2d(x, weight, bias, padding=2, groups=len(weight))
        ctx.save_for_backward(x.to(out.dtype), weight)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        height, width = x.shape[-2:]
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            flipped = weight.to(grad.dtype).flip(2, 3)
            by_x = F.conv2d(grad, flipped, padding=2, groups=len(weight))
        if ctx.needs_input_grad[1]:
            by_weight = torch.empty_like(weight)
            padded = F.pad(x, (2, 2, 2, 2))
            for top, left in product((0, 2), (0, 2)):  # they meet in the middle, alike
                part = by_weight[:, :, top : top + 3, left : left + 3]
                seen = padded[:, :, top : top + height + 2, left : left + width + 2]
                part.copy_(conv2d_weight(seen, part.shape, grad, groups=len(weight)))
        if ctx.needs_input_grad[2]:
            by_bias = grad.sum((0, 2, 3), dtype=weight.dtype)
        return by_x, by_weight, by_bias


def fast_layers(network: nn.Module) -> nn.Module:
    """Give a network the memory format and the layers that are fast, in place.

    Parameters keep their names, outputs stay as they are.

    Returns:
        The network.
    """
    for layer in network.modules():
        if type(layer) is nn.Conv2d and _has_fast_form(layer):
            layer.__class__ = FastDepthwiseConv2d
    # several times as fast on CPUs and tensor cores
    return network.to(memory_format=torch.channels_last)


def _has_fast_form(conv: nn.Conv2d) -> bool:
    kernel, dilation = conv.kernel_size[0], conv.dilation[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size in ((3, 3), (5, 5))
        and conv.stride == (1, 1)
        # larger ones, an ASPP's, are mostly padding: nothing to win
        and conv.dilation in ((1, 1), (2, 2), (4, 4))
        and (kernel, dilation) != (3, 1)
        and conv.padding == (dilation * (kernel // 2),) * 2
        and conv.padding_mode == "zeros"
    )


@contextmanager
def kept_memory() -> Iterator[None]:
    """Inside, glibc keeps freed memory for the next tensors rather than hand it back to the system.

    Large tensors are otherwise mapped anew and zeroed by the kernel page by page, every time: a sixth
    of a training step. For steps that are alike: where sizes change, what is kept fits nothing and adds
    up, so hand it back then (`release_memory`). Elsewhere than with glibc nothing happens.
    """
    trim_threshold, mmap_threshold, adapted = -1, -3, 2**25  # malloc.h; glibc's own goes up to 32 MB
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 2**30)
    except (OSError, AttributeError):
        yield
        return
    libc.mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(mmap_threshold, adapted)
        libc.mallopt(trim_threshold, 2 * adapted)
        release_memory()


def release_memory() -> None:
    """Hand the freed memory that glibc keeps back to the system."""
    with suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def autocast(precision: str, device: torch.device | str) -> Any:
    """The context of a precision's arithmetic, as Lightning's trainer enters it.

    Args:
        precision: as Lightning names it: 32-true, bf16-mixed or 16-mixed.
        device: of the network.
    """
    kind = torch.device(device).type
    if not precision.endswith("-mixed"):
        return nullcontext()
    half = torch.bfloat16 if precision.startswith("bf16") else torch.float16
    if kind == "cpu" and half is torch.float16:
        return nullcontext()  # float16 is for GPUs
    return torch.autocast(kind, half, cache_enabled=False)
