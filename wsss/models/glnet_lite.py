"""GLNet-Lite: GLMix blocks among the convolutions of EfficientNet-Lite2.

GLMix (Zhu et al., NeurIPS 2024, arXiv:2411.14429) mixes globally among slots and locally by
convolutions. Most convolutions here are those of EfficientNet-Lite2 (Tan and Le, ICML 2019,
arXiv:1905.11946), so the network begins with ImageNet weights instead of with nothing. The GLMix blocks
stand behind its last stage of stride 16.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from timm.layers import get_act_layer
from timm.models import EfficientNet, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import BN_EPS_TF_DEFAULT, decode_arch_def, round_channels
from torch import Tensor, nn

from wsss.models.glnet import GLMixBlock, SlotFeatures, create

__all__ = ["GLNetLite"]

CONVOLUTIONS = (
    "ds_r1_k3_s1_e1_c16",
    "ir_r2_k3_s2_e6_c24",
    "ir_r2_k5_s2_e6_c40",
    "ir_r3_k3_s2_e6_c80",
    "ir_r3_k5_s1_e6_c112",
    "ir_r4_k5_s2_e6_c192",
    "ir_r1_k3_s1_e6_c320",
)
"""EfficientNet-Lite0 as timm writes it, by stages; Lite2 is 1.1 times as wide and 1.2 times as deep."""

MIXED = 4
"""The stage of convolutions that the GLMix blocks follow: the last one of stride 16."""

LEVEL = 3
"""Its place among the levels of `feature_info`."""


class GLNetLite(EfficientNet):
    """EfficientNet-Lite2 whose stage `MIXED` ends in GLMix blocks; see timm's `EfficientNet`.

    A fresh GLMix block changes nothing (`rest`), so that ImageNet weights of the convolutions alone are
    a network that works.

    Args:
        depth: number of GLMix blocks.
        num_slots: K, a square number.
        kwargs: as of timm's `EfficientNet`.
    """

    def __init__(self, depth: int = 2, num_slots: int = 64, **kwargs: Any) -> None:
        super().__init__(
            block_args=decode_arch_def(
                [[stage] for stage in CONVOLUTIONS], depth_multiplier=1.2, fix_first_last=True
            ),
            num_features=1280,
            stem_size=32,
            fix_stem=True,
            round_chs_fn=partial(round_channels, multiplier=1.1),
            act_layer=get_act_layer("relu6"),
            norm_layer=partial(nn.BatchNorm2d, eps=BN_EPS_TF_DEFAULT),
            pad_type="same",
            **kwargs,
        )
        channels = self.feature_info[LEVEL]["num_chs"]
        for _ in range(depth):
            block = GLMixBlock(
                channels,
                num_heads=channels // 24,
                mlp_ratio=3.0,
                pos_conv=True,
                mlp_depthwise=True,
                layer_scale=None,
                drop_path=0.0,
                dilation=1,
                num_slots=num_slots,
                slot_scale_init=10.0,
            )
            block.rest()
            self.blocks[MIXED].append(block)

    @property
    def slot_blocks(self) -> list[tuple[int, int]]:
        """Level and number of every GLMix block."""
        mixing = [block for block in self.blocks[MIXED] if isinstance(block, GLMixBlock)]
        return [(LEVEL, number) for number in range(len(mixing))]

    @property
    def chosen_block(self) -> tuple[int, int]:
        """Level and number of the block whose slots follow objects best: the last one."""
        return self.slot_blocks[-1]

    def forward_slots(self, x: Tensor, *, attention: bool = False) -> SlotFeatures:
        """Features together with the slot maps of every GLMix block, as of `GLNet.forward_slots`.

        Args:
            x: (B, in_chans, H, W).
            attention: Also give the attention weights among the slots.

        Returns:
            Features (B, 1280, h, w), the outputs of the five levels, one `SlotMaps` per GLMix block.
        """
        intermediates, maps = [], []
        x = self.bn1(self.conv_stem(x))
        for stage, blocks in enumerate(self.blocks, 1):
            for block in blocks:
                if isinstance(block, GLMixBlock):
                    x, slot_maps = block.forward_slots(x, LEVEL, len(maps), attention)
                    maps.append(slot_maps)
                else:
                    x = block(x)
            if stage in self.stage_ends:
                intermediates.append(x)
        return SlotFeatures(self.bn2(self.conv_head(x)), intermediates, maps)


default_cfgs = generate_default_cfgs(
    {
        # float16; made as benchmarks/distil_lite.py does
        "glnet_lite.distilled": {
            "file": str(Path(__file__).with_name("glnet_lite.safetensors")),
            "num_classes": 1000,
            "input_size": (3, 260, 260),
            "pool_size": (9, 9),
            "crop_pct": 0.89,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "conv_stem",
            "classifier": "classifier",
            "license": "apache-2.0",
            "paper_ids": "arXiv:2411.14429",
        },
    }
)


@register_model
def glnet_lite(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """5.18 M parameters without a class head: EfficientNet-Lite2 with GLMix; weights come with wsss."""
    return create("glnet_lite", pretrained, {}, GLNetLite, 5, **kwargs)
