"""The fast layers compute what PyTorch's own do."""

import copy
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from wsss.models.fast import FastDepthwiseConv2d, fast_layers
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.trainer import _Memory


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2), (3, 4), (5, 1), (5, 2), (5, 4)])
@pytest.mark.parametrize("shape", [(20, 20), (21, 18), (5, 3)])
@pytest.mark.parametrize("bias", [False, True])
def test_fast_layers_equal_plain_ones(kernel, dilation, shape, bias):
    padding = dilation * (kernel // 2)
    plain = nn.Conv2d(6, 6, kernel, padding=padding, dilation=dilation, groups=6, bias=bias)
    plain.double()  # sums in another order differ in the last digits
    fast = fast_layers(copy.deepcopy(plain))
    assert type(fast) is FastDepthwiseConv2d
    results = []
    for layer in (plain, fast):
        torch.manual_seed(0)
        x = torch.randn(2, 6, *shape, dtype=torch.double)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        out = layer(x)
        (out * torch.randn(out.shape)).sum().backward()
        results.append([out, x.grad, *(parameter.grad for parameter in layer.parameters())])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dilation", [1, 2])
def test_in_bfloat16_they_are_as_close_as_plain_ones(dilation):
    torch.manual_seed(0)
    exact = nn.Conv2d(8, 8, 5, padding=2 * dilation, dilation=dilation, groups=8)
    fast = fast_layers(copy.deepcopy(exact))
    results = []
    for layer, enabled in ((exact, False), (copy.deepcopy(exact), True), (fast, True)):
        torch.manual_seed(0)
        x = torch.randn(4, 8, 20, 20, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = layer(x)
        out.float().square().mean().backward()
        grads = [x.grad, *(parameter.grad for parameter in layer.parameters())]
        assert all(grad.dtype == torch.float32 for grad in grads)
        results.append([out.float(), *grads])
    for true, plain, own in zip(*results, strict=True):
        digit = 2**-8 * true.norm()  # of bfloat16
        assert (own - true).norm() <= max(1.5 * (plain - true).norm(), digit)


def test_frozen_ones_have_no_gradient():
    fast = fast_layers(nn.Conv2d(6, 6, 5, padding=2, groups=6)).requires_grad_(False)
    x = torch.randn(1, 6, 9, 9, requires_grad=True)
    fast(x).sum().backward()
    assert x.grad is not None and fast.weight.grad is None and fast.bias.grad is None


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=6),  # not dilated
        nn.Conv2d(6, 6, 7, padding=3, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2),  # not depthwise
        nn.Conv2d(6, 6, 3, padding=1, dilation=2, groups=6),  # loses its rim
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, stride=2),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, padding_mode="reflect"),
        nn.Conv2d(6, 6, 3, padding=12, dilation=12, groups=6),  # an ASPP's
    ],
)
def test_other_convolutions_stay_as_they_are(conv):
    assert type(fast_layers(conv)) is nn.Conv2d


def test_both_tasks_have_them():
    classes = ["dog", "sofa"]
    for task in (
        ClassificationTask(classes, "mobilenetv2_100"),
        SegmentationTask(classes, "DeepLabV3Plus", "mobilenetv2_100"),
    ):
        fast = [layer for layer in task.modules() if type(layer) is FastDepthwiseConv2d]
        assert len(fast) == 3  # stride 16 instead of 32: the last stage is dilated
        assert all(layer.in_channels == 960 for layer in fast)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tells glibc what to do")
@pytest.mark.parametrize("early", [False, True])
def test_memory_is_kept_inside_and_given_back_after_or_when_told(early):
    code = """
import os, sys, torch
from wsss.models.fast import kept_memory, release_memory

def megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

with kept_memory():
    torch.ones(50_000_000)  # 200 MB, and gone
    inside = megabytes()
    if sys.argv[1:]:
        release_memory()
        print(inside - megabytes())
if not sys.argv[1:]:
    print(inside - megabytes())
"""
    words = [sys.executable, "-c", code, *["early"] * early]
    found = subprocess.run(words, check=True, capture_output=True, text=True)
    assert float(found.stdout) > 150


def test_memory_is_given_back_where_the_shape_changes(monkeypatch):
    calls = []
    monkeypatch.setattr("wsss.tasks.trainer.release_memory", lambda: calls.append(len(calls)))
    memory, counts = _Memory(), []
    for shape in ((2, 3, 8, 8), (2, 3, 8, 8), (2, 3, 8, 9), (1, 3, 8, 9)):
        memory.on_predict_batch_start(None, None, {"image": torch.zeros(shape)}, 0, 0)
        counts.append(len(calls))
    assert counts == [1, 1, 2, 3]
