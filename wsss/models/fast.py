"""What makes training several times as fast on a CPU, with the same numbers."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PhasedConv2d(nn.Conv2d):
    """A dilated depthwise convolution, computed as an ordinary one on each phase of the pixel grid.

    Pixels d apart never meet pixels of another phase in a convolution of dilation d, so that d x d
    subsampled images with an undilated kernel give the same result. PyTorch's CPU libraries have no
    fast backward pass for the dilated form: three such layers were 40 % of a training step of
    MobileNetV2 at stride 16 (`benchmarks/train.py`).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if x.device.type != "cpu" or not self.training:
            return super().forward(x)
        d = self.dilation[0]
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % d, 0, -height % d)).permute(0, 2, 3, 1)  # B H W C
        x = x.unflatten(1, (-1, d)).unflatten(3, (-1, d))  # B H/d d W/d d C
        phases = x.permute(2, 4, 0, 1, 3, 5).flatten(0, 2)  # d d B H/d W/d C
        out = F.conv2d(
            phases.permute(0, 3, 1, 2), self.weight, self.bias, padding=1, groups=self.groups
        )
        out = out.permute(0, 2, 3, 1).unflatten(0, (d, d, -1)).permute(2, 3, 0, 4, 1, 5)
        out = out.flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return out.permute(0, 3, 1, 2)


def fast_layers(network: nn.Module) -> nn.Module:
    """Give a network the memory format and the layers that are fast, in place.

    Parameters keep their names, outputs stay as they are.

    Returns:
        The network.
    """
    for layer in network.modules():
        if (
            type(layer) is nn.Conv2d
            and layer.groups == layer.in_channels == layer.out_channels
            and layer.kernel_size == (3, 3)
            and layer.stride == (1, 1)
            # larger ones, an ASPP's, are mostly padding: nothing to win
            and layer.dilation == layer.padding in ((2, 2), (4, 4))
            and layer.padding_mode == "zeros"
        ):
            layer.__class__ = PhasedConv2d
    # several times as fast on CPUs and tensor cores
    return network.to(memory_format=torch.channels_last)


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
