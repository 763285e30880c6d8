"""The optimiser and its schedule, shared by both tasks."""

import warnings
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wsss.errors import UserError

Schedule = Literal["poly", "cosine"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def adamw(
    trainer: Any,
    backbone: nn.Module,
    head: Iterable[nn.Parameter],
    lr: float,
    head_lr_multiplier: float,
    weight_decay: float,
    warmup: float,
    schedule: Schedule,
) -> dict[str, Any]:
    """AdamW with a larger rate for the head; linear warm-up, then decay to 0, step by step.

    Norms and biases are not decayed. `warmup` is a share of all steps; `poly` has the power 0.9.
    """
    skip = getattr(backbone, "no_weight_decay", set)()
    decayed, plain = [], []
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim < 2 or name in skip else decayed).append(parameter)
    head = list(head)
    groups = [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
        {
            "params": [p for p in head if p.ndim >= 2],
            "lr": lr * head_lr_multiplier,
            "weight_decay": weight_decay,
        },
        {"params": [p for p in head if p.ndim < 2], "lr": lr * head_lr_multiplier, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
    if trainer.estimated_stepping_batches == float("inf"):
        raise UserError("the learning rate falls until the end: give trainer.max_epochs or max_steps")
    total = max(1, int(trainer.estimated_stepping_batches))
    rising = max(1, round(warmup * total))
    falling = (
        torch.optim.lr_scheduler.PolynomialLR(optimizer, max(1, total - rising), power=0.9)
        if schedule == "poly"
        else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, total - rising))
    )
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (rising + 1), total_iters=rising)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The epoch parameter")
        both = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, falling], [rising])
    # what is set here goes into its state, and so into checkpoints
    both.planned = rising + max(1, total - rising)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": both, "interval": "step"}}


def freeze_norm(module: nn.Module, every: bool) -> None:
    """Keep the running statistics of BatchNorms as they are (until the next `train()`).

    Args:
        module: what they are in.
        every: all of them, not those alone whose layers are frozen.
    """
    for inside in module.modules():
        if isinstance(inside, _BATCH_NORMS):
            frozen = inside.weight is not None and not inside.weight.requires_grad
            if every or frozen:
                inside.eval()


def freeze_before(module: nn.Module, features: Tensor) -> None:
    """Stop the training of every parameter of `module` that went into `features`, an output of it."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is None)
