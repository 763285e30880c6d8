"""GLNet: an image backbone whose blocks cluster pixels into slots and dispatch them back.

Paper: "Revisiting the Integration of Convolution and Attention for Vision Backbone",
L. Zhu, X. Wang, J. Zhang, R. Lau, NeurIPS 2024, arXiv 2411.14429.
Reference implementation: https://github.com/rayleizhu/GLMix (MIT). State-dict keys, parameters and
outputs are the same, so released weights load strictly; the code is written anew. What differs:

- Slot maps are return values (`GLNet.forward_slots`), in training and evaluation, for any
  aspect ratio; the reference shows them through a forward hook in evaluation mode only.
- timm's whole model interface (``features_only``, ``forward_intermediates``, ``output_stride``,
  ``reset_classifier``, ...); unknown options raise ``TypeError`` instead of being dropped.
- Everything inside a block is pixel-major, i.e. a view of a channels_last tensor, so no permute
  copies anything; the reference permutes and copies around each norm and product.
- The 3x3 residual convolutions are one pass in float32: the identity is added to the kernel's
  centre. Residuals are added into the fresh result of a branch instead of a third tensor.
- In float32 on a CPU the attention's projections run as 1x1 convolutions: oneDNN reaches twice the
  rate of the BLAS behind ``nn.Linear`` on AMD processors (experiments/2026-11-29-glnet-speed.md).
- The cosine is taken as a product divided by the pixel's norm: the normalised copy of the pixels
  that the reference multiplies with is never written. Dispatch and local branch are added in one
  pass (``baddbmm``).
- Runs under autocast as it is (the reference casts by hand, in evaluation mode only).
- The token-label models give the same logits in training as in evaluation. The reference's
  mix-token augmentation belongs to its training loop and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_
from timm.models import (
    build_model_with_cfg,
    checkpoint,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.models.weights import load_weights

__all__ = ["GLNet", "SlotFeatures", "SlotMaps"]


class SlotMaps(NamedTuple):
    """What one GLMix block did with its slots.

    Attributes:
        stage: Stage index, 0 to 3.
        block: Index of the block within its stage.
        dispatch: (B, K, H, W), how much each pixel takes from each slot; sums to 1 over K.
        clustering: (B, K, H, W), how much each slot takes from each pixel; sums to 1 over H*W.
        slots_in: (B, K, C), slot tokens before the attention among slots (paper: soft clustering).
        slots_out: (B, K, C), slot tokens after it.
        attention: (B, heads, K, K), rows sum to 1; None unless asked for.
    """

    stage: int
    block: int
    dispatch: Tensor
    clustering: Tensor
    slots_in: Tensor
    slots_out: Tensor
    attention: Tensor | None


class SlotFeatures(NamedTuple):
    """Features with the slot maps that came about on the way.

    Attributes:
        features: What ``forward_features`` returns, (B, C, H/32, W/32), or H/16 with output stride 16.
        intermediates: Output of each of the four stages, (B, C_i, H_i, W_i).
        maps: One `SlotMaps` per GLMix block, in order of computation.
    """

    features: Tensor
    intermediates: list[Tensor]
    maps: list[SlotMaps]


class LayerScale(nn.Module):
    """Learned factor per channel; ``shape`` is kept as in the released weights."""

    def __init__(self, shape: tuple[int, ...], init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full(shape, init))

    def forward(self, x: Tensor) -> Tensor:  # (..., C) -> (..., C)
        return x * self.gamma.flatten()


def _full_precision(x: Tensor) -> bool:
    """Whether a convolution of ``x`` computes in float32 or more."""
    kind = x.device.type
    autocast = kind != "meta" and torch.is_autocast_enabled(kind)
    return x.dtype in (torch.float32, torch.float64) and not autocast


def _project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # (B,L,C) -> (B,L,D)
    if x.device.type != "cpu" or x.dtype != torch.float32 or not _full_precision(x):
        return F.linear(x, weight, bias)
    # See the file header: a 1x1 convolution, because BLAS is the slower of the two here.
    row = x.transpose(1, 2).unsqueeze(2)  # (B,C,1,L), a view
    return F.conv2d(row, weight[:, :, None, None], bias).squeeze(2).transpose(1, 2)  # (B,L,D)


def _add(fresh: Tensor, x: Tensor) -> Tensor:
    """x + fresh, written into ``fresh``: a branch's result that nothing else reads.

    Its producers (convolution, product, scale) do not keep their output for the backward pass.
    """
    return fresh.add_(x) if fresh.dtype == x.dtype else x + fresh


class SelfAttention(nn.Module):
    """Multi-head self-attention with the parameter names of ``nn.MultiheadAttention``."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv = _project(x, self.in_proj_weight, self.in_proj_bias)  # (B,L,3C)
        qkv = qkv.unflatten(-1, (3, self.num_heads, -1))  # (B,L,3,heads,d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # 3 x (B,heads,L,d)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:  # (B,L,C) -> (B,L,C)
        x = F.scaled_dot_product_attention(*self._heads(x))  # (B,heads,L,d)
        x = x.transpose(1, 2).flatten(2)  # (B,L,C)
        return _project(x, self.out_proj.weight, self.out_proj.bias)

    def weights(self, x: Tensor) -> Tensor:
        """Attention weights for ``x`` (B, L, C): (B, heads, L, L), rows sum to 1."""
        q, k, _ = self._heads(x)
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)


class ResidualDepthwise(nn.Conv2d):
    """x + depth-wise 3x3 convolution of x, on (B, C, H, W)."""

    def __init__(self, dim: int, dilation: int = 1) -> None:
        super().__init__(dim, dim, 3, padding=dilation, dilation=dilation, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        if not _full_precision(x):  # there 1 + weight would round the weight away
            return _add(super().forward(x), x)
        weight = self.weight + F.pad(self.weight.new_ones(1, 1, 1, 1), (1, 1, 1, 1))  # the identity
        places = {"padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        return F.conv2d(x, weight, self.bias, **places)


def _pixels(x: Tensor) -> Tensor:  # (B,C,H,W) -> (B,H,W,C), a view if x is channels_last
    return x.permute(0, 2, 3, 1)


def _image(x: Tensor) -> Tensor:  # (B,H,W,C) -> (B,C,H,W), always a view
    return x.permute(0, 3, 1, 2)


def _conv_mlp(dim: int, ratio: float, depthwise: bool, dilation: int) -> nn.Sequential:
    hidden = int(dim * ratio)
    return nn.Sequential(
        nn.Conv2d(dim, hidden, 1),
        ResidualDepthwise(hidden, dilation) if depthwise else nn.Identity(),
        nn.GELU(),
        nn.Conv2d(hidden, dim, 1),
    )


class Block(nn.Module):
    """What both kinds of block share: position encoding, residuals and the MLP.

    Args:
        dim: Channels C.
        num_heads: Heads of the attention.
        mlp_ratio: Hidden channels of the MLP per channel.
        pos_conv: Add a 3x3 depth-wise convolution as position encoding.
        mlp_depthwise: Put a residual 3x3 depth-wise convolution inside the MLP.
        layer_scale: Initial value of the learned factors, None for none.
        drop_path: Probability of skipping a branch in training.
        dilation: Dilation of the 3x3 convolutions.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        pos_conv: bool,
        mlp_depthwise: bool,
        layer_scale: float | None,
        drop_path: float,
        dilation: int,
    ) -> None:
        super().__init__()
        self.pos_conv = ResidualDepthwise(dim, dilation) if pos_conv else nn.Identity()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _conv_mlp(dim, mlp_ratio, mlp_depthwise, dilation)
        self.ls1, self.ls2 = nn.Identity(), nn.Identity()
        if layer_scale is not None:
            self.ls1 = LayerScale(self._scale_shape(dim), layer_scale)
            self.ls2 = LayerScale((1, dim, 1, 1), layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def rest(self) -> None:
        """Let the block change nothing: what it would add becomes 0, until it is trained."""
        for layer in (self.pos_conv, self.mlp[-1], *self._mixing_ends()):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def _mixing_ends(self) -> list[nn.Module]:
        """The last layers of what mixes pixels."""
        raise NotImplementedError

    @staticmethod
    def _scale_shape(dim: int) -> tuple[int, ...]:
        return (1, dim, 1, 1)

    def _feed_forward(self, x: Tensor) -> Tensor:  # (B,H,W,C) -> (B,H,W,C)
        y = _pixels(self.mlp(_image(self.norm2(x))))
        return _add(self.drop_path(self.ls2(y)), x)


class GLMixBlock(Block):
    """Global mixing by slots plus local mixing by a 5x5 depth-wise branch (paper, section 3).

    Args:
        num_slots: K; a square number unless ``learned_slots``.
        learned_slots: Learn the initial slots instead of pooling them from the input.
        slot_scale_init: Initial factor of the cosine, None for the reference's C^-0.5.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *args: Any,
        num_slots: int = 64,
        learned_slots: bool = False,
        slot_scale_init: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, num_heads, *args, **kwargs)
        scale = dim**-0.5 if slot_scale_init is None else float(slot_scale_init)
        self.slot_scale = nn.Parameter(torch.tensor(scale))
        self.init_slots = None
        if learned_slots:
            self.init_slots = nn.Parameter(torch.randn(1, num_slots, dim) * 0.02)
        self.grid = math.isqrt(num_slots)
        self.relation_mha = SelfAttention(dim, num_heads)
        self.feature_conv = nn.Sequential(
            nn.Conv2d(dim, dim, 1),
            nn.Conv2d(dim, dim, 5, padding=2, groups=dim),
            nn.Conv2d(dim, dim, 1),
        )

    def _mixing_ends(self) -> list[nn.Module]:
        return [self.relation_mha.out_proj, self.feature_conv[-1]]

    def _initial_slots(self, x: Tensor) -> Tensor:  # (B,C,H,W) -> (B or 1,K,C)
        if self.init_slots is not None:
            return self.init_slots
        return F.adaptive_avg_pool2d(x, self.grid).flatten(2).transpose(1, 2)

    def mix(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The block on x (B, C, H, W).

        Returns:
            output (B, C, H, W), dispatch and clustering (B, K, H*W), slots before and after the
            attention among them (B, K, C).
        """
        seeds = F.normalize(self._initial_slots(x), dim=-1)  # (B,K,C)
        x = _pixels(self.pos_conv(x))  # (B,H,W,C)
        u = self.norm1(x)  # (B,H,W,C)
        pixels = u.flatten(1, 2)  # (B,HW,C)

        scale = self.slot_scale / torch.linalg.vector_norm(pixels, dim=-1).clamp_min(1e-12)
        logits = seeds @ pixels.transpose(1, 2) * scale.unsqueeze(1)  # (B,K,HW)
        clustering = logits.softmax(2)
        slots_in = clustering @ pixels  # (B,K,C)
        slots_out = self.relation_mha(slots_in)  # (B,K,C)
        dispatch = logits.softmax(1)
        local = _pixels(self.feature_conv(_image(u))).flatten(1, 2)  # (B,HW,C)
        mixed = torch.baddbmm(local, dispatch.transpose(1, 2), slots_out).view_as(u)  # (B,H,W,C)

        x = _add(self.drop_path(self.ls1(mixed)), x)
        x = self._feed_forward(x)
        return _image(x), dispatch, clustering, slots_in, slots_out

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x)[0]

    def forward_slots(
        self, x: Tensor, stage: int, block: int, attention: bool
    ) -> tuple[Tensor, SlotMaps]:
        size = x.shape[-2:]
        x, dispatch, clustering, slots_in, slots_out = self.mix(x)
        return x, SlotMaps(
            stage=stage,
            block=block,
            dispatch=dispatch.unflatten(2, size),
            clustering=clustering.unflatten(2, size),
            slots_in=slots_in,
            slots_out=slots_out,
            attention=self.relation_mha.weights(slots_in) if attention else None,
        )


class AttentionBlock(Block):
    """Self-attention among all pixels, then the MLP.

    Args:
        linear_mlp: Store the MLP as two linear layers, as the ``stl`` models' last stage does.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        *args: Any,
        linear_mlp: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, num_heads, mlp_ratio, *args, **kwargs)
        self.mha_op = SelfAttention(dim, num_heads)
        self.linear_mlp = linear_mlp
        if linear_mlp:
            hidden = int(dim * mlp_ratio)
            self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def _mixing_ends(self) -> list[nn.Module]:
        return [self.mha_op.out_proj]

    @staticmethod
    def _scale_shape(dim: int) -> tuple[int, ...]:
        return (dim,)

    def _feed_forward(self, x: Tensor) -> Tensor:
        if not self.linear_mlp:
            return super()._feed_forward(x)
        return _add(self.drop_path(self.ls2(self.mlp(self.norm2(x)))), x)

    def forward(self, x: Tensor) -> Tensor:  # (B,C,H,W) -> (B,C,H,W)
        x = _pixels(self.pos_conv(x))  # (B,H,W,C)
        y = self.mha_op(self.norm1(x).flatten(1, 2)).view_as(x)  # (B,H,W,C)
        x = _add(self.drop_path(self.ls1(y)), x)
        return _image(self._feed_forward(x))


class Stage(nn.Module):
    """Blocks of one resolution."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:  # (B,C,H,W) -> (B,C,H,W)
        for block in self.blocks:
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x)
            else:
                x = block(x)
        return x


class SameConv2d(nn.Conv2d):
    """2x2 convolution at stride 1 that keeps the size (pads below and to the right)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def _downsample_layers(
    dims: Sequence[int], in_chans: int, overlap: bool, output_stride: int
) -> nn.ModuleList:
    last = 1 if output_stride == 16 else 2  # stride of the last transition
    layers: list[nn.Module] = []
    if overlap:
        half = dims[0] // 2
        # The leading Identity holds the place of the reference's optional norm in the key names.
        layers.append(
            nn.Sequential(
                nn.Identity(),
                nn.Conv2d(in_chans, half, 3, stride=2, padding=1),
                nn.BatchNorm2d(half),
                nn.GELU(),
                nn.Conv2d(half, dims[0], 3, stride=2, padding=1),
                nn.BatchNorm2d(dims[0]),
            )
        )
        for i in range(3):
            stride = last if i == 2 else 2
            conv = nn.Conv2d(dims[i], dims[i + 1], 3, stride=stride, padding=1)
            layers.append(nn.Sequential(conv, nn.BatchNorm2d(dims[i + 1])))
    else:
        patch = nn.Conv2d(in_chans, dims[0], 4, stride=4)
        layers.append(nn.Sequential(patch, nn.BatchNorm2d(dims[0])))
        for i in range(3):
            conv = nn.Conv2d(dims[i], dims[i + 1], 2, stride=2)
            if i == 2 and last == 1:
                conv = SameConv2d(dims[i], dims[i + 1], 2)
            layers.append(nn.Sequential(nn.BatchNorm2d(dims[i]), conv))
    return nn.ModuleList(layers)


def _taken(count: int, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
    """Which of `count` stages are asked for, by timm's contract, and the last of them."""
    stages = range(count)
    if isinstance(indices, int):
        indices = range(-indices, 0)
    elif indices is None:
        indices = stages
    if not indices or not all(-count <= i < count for i in indices):
        raise UserError(f"indices={indices!r}: GLNet has the stages 0 to {count - 1}.")
    take = [stages[i] for i in indices]
    return take, max(take)


class GLNet(nn.Module):
    """GLNet backbone and classifier.

    Args:
        in_chans: Channels of the input image.
        num_classes: Classes of the head; 0 for none (pooled features are returned).
        global_pool: "avg", or "" to keep the feature map.
        output_stride: 32, or 16: the last transition then keeps the resolution and the 3x3
            convolutions after it are dilated by 2, so trained weights see the same neighbourhood.
        depths: Blocks per stage.
        dims: Channels per stage, multiples of ``head_dim``.
        mlp_ratio: Hidden channels of the MLPs per channel.
        head_dim: Channels per attention head.
        mixers: Per stage "glmix", "attention" or "alternate" (GLMix at even blocks).
        overlap: Overlapping stem and transitions (conv then norm) instead of patches.
        pos_conv: Convolutional position encoding in every block.
        mlp_depthwise: Residual 3x3 depth-wise convolution inside the MLPs.
        linear_mlp: Linear layers in the MLPs of attention blocks (key names of ``stl``).
        num_slots: Slots K per GLMix block; a square number unless ``learned_slots``.
        learned_slots: Learn initial slots instead of pooling them from the input.
        slot_scale_init: Initial factor of the slot cosine; None for the reference's C^-0.5. With
            that start the factor hardly moves in a short training and every slot stays spread over
            the whole image; 8 gives distinct slots from the first step, for training from scratch.
        layer_scale: Initial layer scale, None for none.
        token_label_head: Auxiliary head per position; logits are then
            head(mean) + 0.5 * max over positions of it.
        drop_rate: Dropout before the head.
        drop_path_rate: Drop-path probability of the last block, rising linearly from 0.

    Raises:
        UserError: An option has a value that no model can be built from.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        output_stride: int = 32,
        depths: Sequence[int] = (4, 4, 18, 4),
        dims: Sequence[int] = (64, 128, 256, 512),
        mlp_ratio: float = 3.0,
        head_dim: int = 32,
        mixers: Sequence[str] = ("glmix", "glmix", "alternate", "attention"),
        overlap: bool = True,
        pos_conv: bool = True,
        mlp_depthwise: bool = True,
        linear_mlp: bool = False,
        num_slots: int = 64,
        learned_slots: bool = False,
        slot_scale_init: float | None = None,
        layer_scale: float | None = None,
        token_label_head: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if output_stride not in (16, 32):
            raise UserError(f"output_stride={output_stride}: GLNet has 16 and 32; give one of them.")
        if not learned_slots and math.isqrt(num_slots) ** 2 != num_slots:
            near = max(1, round(num_slots**0.5)) ** 2
            raise UserError(f"num_slots={num_slots} is no square number; the nearest is {near}.")
        for dim in dims:
            if dim % head_dim:
                raise UserError(f"dims={tuple(dims)}: {dim} is no multiple of head_dim={head_dim}.")
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = dims[-1]
        self.drop_rate = drop_rate
        self.downsample_layers = _downsample_layers(dims, in_chans, overlap, output_stride)

        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.feature_info = []
        stages = []
        for i, (dim, depth, mixer) in enumerate(zip(dims, depths, mixers, strict=True)):
            if mixer not in ("glmix", "attention", "alternate"):
                raise UserError(
                    f"mixers={tuple(mixers)}: {mixer!r} is none of glmix, attention, alternate."
                )
            stride = min(4 * 2**i, output_stride)
            common = {
                "mlp_ratio": mlp_ratio,
                "pos_conv": pos_conv,
                "mlp_depthwise": mlp_depthwise,
                "layer_scale": layer_scale,
                "dilation": 4 * 2**i // stride,
            }
            blocks: list[nn.Module] = []
            for j in range(depth):
                common["drop_path"] = rates[sum(depths[:i]) + j]
                if mixer == "glmix" or (mixer == "alternate" and j % 2 == 0):
                    slots = {
                        "num_slots": num_slots,
                        "learned_slots": learned_slots,
                        "slot_scale_init": slot_scale_init,
                    }
                    blocks.append(GLMixBlock(dim, dim // head_dim, **common, **slots))
                else:
                    blocks.append(AttentionBlock(dim, dim // head_dim, **common, linear_mlp=linear_mlp))
            stages.append(Stage(blocks))
            self.feature_info.append({"num_chs": dim, "reduction": stride, "module": f"stages.{i}"})
        self.stages = nn.ModuleList(stages)
        self.norm = nn.BatchNorm2d(dims[-1])
        self.token_label_head = token_label_head
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters to train without weight decay."""
        return {n for n, _ in self.named_parameters() if n.endswith((".slot_scale", ".init_slots"))}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates (timm)."""
        return {
            "stem": r"^downsample_layers\.0",
            "blocks": r"^(?:stages|downsample_layers)\.(\d+)"
            if coarse
            else [
                (r"^downsample_layers\.(\d+)", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^norm", (99999,)),
            ],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only block inputs for the backward pass and compute the rest again."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The class head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the class head by a fresh one for ``num_classes`` (0: none)."""
        if global_pool is not None:
            if global_pool not in ("avg", ""):
                raise UserError(f"global_pool={global_pool!r}: give 'avg' or ''.")
            self.global_pool = global_pool
        self.num_classes = num_classes

        def head() -> nn.Module:
            if num_classes == 0:
                return nn.Identity()
            layer = nn.Linear(self.num_features, num_classes)
            trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
            return layer.to(self.norm.weight)

        self.head = head()
        if self.token_label_head:
            self.tklb_aux_head = head()

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Stage outputs, by timm's contract.

        Args:
            x: (B, in_chans, H, W).
            indices: Stages to return: last n if int, all if None, else these.
            norm: Apply the final norm to the last stage's output.
            stop_early: Skip the stages after the last one asked for.
            output_fmt: Only "NCHW".
            intermediates_only: Return the list alone.

        Returns:
            The list of maps (B, C_i, H_i, W_i), with the final features before it unless
            ``intermediates_only``.
        """
        if output_fmt != "NCHW":
            raise UserError(f"output_fmt={output_fmt!r}: GLNet gives 'NCHW' only.")
        take, last = _taken(len(self.stages), indices)
        run = last + 1 if stop_early else len(self.stages)
        intermediates = []
        for i in range(run):
            x = self.stages[i](self.downsample_layers[i](x))
            final = i == len(self.feature_info) - 1
            y = self.norm(x) if final else x
            if i in take:
                intermediates.append(y if norm else x)
            x = y if final else x
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what the stages ``indices`` do not need (timm's contract)."""
        take, last = _taken(len(self.stages), indices)
        self.stages = self.stages[: last + 1]
        self.downsample_layers = self.downsample_layers[: last + 1]
        if prune_norm or last + 1 < len(self.feature_info):
            self.norm = nn.Identity()
        if prune_head:
            self.head = nn.Identity()
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, C, H/output_stride, W/output_stride), after the norm."""
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.norm(x)

    @property
    def slot_blocks(self) -> list[tuple[int, int]]:
        """Stage and block of every GLMix block."""
        stages = enumerate(self.stages)
        return [(i, j) for i, s in stages for j, b in enumerate(s.blocks) if isinstance(b, GLMixBlock)]

    @property
    def chosen_block(self) -> tuple[int, int]:
        """Place of the block whose slots follow objects best: of the deepest stage the first."""
        deepest = max(stage for stage, _ in self.slot_blocks)
        return next(place for place in self.slot_blocks if place[0] == deepest)

    def forward_slots(self, x: Tensor, *, attention: bool = False) -> SlotFeatures:
        """Features together with the slot maps of every GLMix block.

        Args:
            x: (B, in_chans, H, W).
            attention: Also give the attention weights among the slots.

        Returns:
            Features, stage outputs and one `SlotMaps` per GLMix block.
        """
        intermediates, maps = [], []
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = downsample(x)
            for j, block in enumerate(stage.blocks):
                if isinstance(block, GLMixBlock):
                    x, slot_maps = block.forward_slots(x, i, j, attention)
                    maps.append(slot_maps)
                else:
                    x = block(x)
            intermediates.append(x)
        return SlotFeatures(self.norm(x), intermediates, maps)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) -> logits (B, num_classes), or the pooled features if ``pre_logits``."""
        pooled = x.mean((2, 3)) if self.global_pool else x
        if pre_logits or self.num_classes == 0:
            return F.dropout(pooled, self.drop_rate, self.training)
        if not self.global_pool:
            raise UserError("global_pool='' has no logits: give num_classes=0 or global_pool='avg'.")
        logits = self.head(F.dropout(pooled, self.drop_rate, self.training))
        if self.token_label_head:
            logits = logits + 0.5 * self.tklb_aux_head(_pixels(x)).amax((1, 2))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


_AUTHORS_URL = "https://github.com/rayleizhu/GLMix"


def _cfg(overlap: bool, **kwargs: Any) -> dict[str, Any]:
    return dict(
        num_classes=1000,
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        crop_pct=0.875,
        first_conv="downsample_layers.0.1" if overlap else "downsample_layers.0.0",
        classifier="head",
        license="mit",
        origin_url=_AUTHORS_URL,
        paper_ids="arXiv:2411.14429",
        **kwargs,
    )


_TKLB = {"classifier": ("head", "tklb_aux_head")}
default_cfgs = generate_default_cfgs(
    {
        # float16; MobileNetV2's features, learned from photographs by benchmarks/distil.py
        "glnet_nano.distilled": {
            **_cfg(True, file=str(Path(__file__).with_name("glnet_nano.safetensors"))),
            "origin_url": None,
            "license": "apache-2.0",
        },
        # float16; EfficientNet-Lite2's features, learned by benchmarks/distil.py
        "glnet_tiny.distilled": {
            **_cfg(True, file=str(Path(__file__).with_name("glnet_tiny.safetensors"))),
            "origin_url": None,
            "license": "apache-2.0",
        },
        "glnet_4g.in1k": _cfg(True),
        "glnet_9g.in1k": _cfg(True),
        # "ema" tells load_weights which of a checkpoint's two sets the published 85.0 % is of.
        "glnet_16g.ema_in1k": _cfg(True),
        "glnet_stl.in1k": _cfg(False),
        "glnet_stl_paramslot.in1k": _cfg(False),
        "glnet_4g_tklb.in1k": {**_cfg(True), **_TKLB},
        "glnet_9g_tklb.in1k": {**_cfg(True), **_TKLB},
    }
)


def create(
    variant: str,
    pretrained: bool,
    model_args: dict[str, Any],
    kind: Callable[..., nn.Module] = GLNet,
    levels: int = 4,
    **kwargs: Any,
) -> nn.Module:
    """Build a GLNet by timm's contract.

    Args:
        variant: Name of the model.
        pretrained: Take the weights that its configuration names.
        model_args: Arguments of the variant; ``kwargs`` come before them.
        kind: Class of the model.
        levels: How many features it has.
        kwargs: Arguments of `timm.create_model`.
    """
    cfg = resolve_pretrained_cfg(
        variant, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay")
    )
    # timm drops strictness as soon as the class count differs and knows no hint for a missing
    # file, so weights from a local file go through our own loader.
    by_timm = bool(cfg.url or cfg.hf_hub_id or cfg.state_dict)

    def build(**options: Any) -> nn.Module:
        model = kind(**options)
        if pretrained and not by_timm:
            model.pretrained_cfg = cfg.to_dict()
            load_weights(model, cfg.file)
        return model

    return build_model_with_cfg(
        build,
        variant,
        pretrained and by_timm,
        feature_cfg={"out_indices": tuple(range(levels)), "feature_cls": "getter"},
        **{**model_args, **kwargs},
    )


_STL = {
    "depths": (2, 2, 6, 2),
    "dims": (96, 192, 384, 768),
    "mlp_ratio": 4.0,
    "mixers": ("glmix", "glmix", "glmix", "attention"),
    "overlap": False,
    "pos_conv": False,
    "mlp_depthwise": False,
    "linear_mlp": True,
}


@register_model
def glnet_nano(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """1.72 M parameters: ours, to train in minutes on a CPU; its weights come with the package."""
    args = {"depths": (1, 1, 4, 1), "dims": (32, 64, 128, 192), "slot_scale_init": 8.0}
    return create("glnet_nano", pretrained, args, **kwargs)


@register_model
def glnet_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """3.19 M parameters: ours, grown from ``glnet_nano``; its weights come with the package."""
    args = {"depths": (1, 1, 6, 2), "dims": (32, 64, 128, 256), "slot_scale_init": 8.0}
    return create("glnet_tiny", pretrained, args, **kwargs)


@register_model
def glnet_4g(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """27.00 M parameters, 4.48 G MACs at 224; ImageNet-1k 83.7 % (published)."""
    return create("glnet_4g", pretrained, {}, **kwargs)


@register_model
def glnet_9g(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """60.01 M parameters, 9.59 G MACs at 224; ImageNet-1k 84.5 % (published)."""
    return create("glnet_9g", pretrained, {"dims": (96, 192, 384, 768)}, **kwargs)


@register_model
def glnet_16g(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """106.06 M parameters, 16.60 G MACs at 224; ImageNet-1k 85.0 % (published, EMA weights)."""
    args = {"dims": (128, 256, 512, 1024), "layer_scale": 1e-4}
    return create("glnet_16g", pretrained, args, **kwargs)


@register_model
def glnet_stl(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Swin-tiny layout: 30.30 M parameters, 4.35 G MACs at 224; ImageNet-1k 82.5 % (published)."""
    return create("glnet_stl", pretrained, _STL, **kwargs)


@register_model
def glnet_stl_paramslot(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """As ``glnet_stl`` with learned initial slots: 30.48 M; ImageNet-1k 82.1 % (published)."""
    return create("glnet_stl_paramslot", pretrained, {**_STL, "learned_slots": True}, **kwargs)


@register_model
def glnet_4g_tklb(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """``glnet_4g`` trained with token labels; ImageNet-1k 84.4 % (published)."""
    return create("glnet_4g_tklb", pretrained, {"token_label_head": True}, **kwargs)


@register_model
def glnet_9g_tklb(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """``glnet_9g`` trained with token labels; ImageNet-1k 85.3 % (published)."""
    args = {"dims": (96, 192, 384, 768), "token_label_head": True}
    return create("glnet_9g_tklb", pretrained, args, **kwargs)
