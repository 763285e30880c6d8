"""Tiny networks of many families, as models of timm: `tiny_swin` is a Swin of some thousand weights."""

import timm
from timm.models import register_model

import wsss.models.glnet  # noqa: F401  (registers GLNet)

VIT = {"embed_dim": 24, "depth": 4, "num_heads": 2}
SWIN = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 2)}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)}

FAMILIES = {
    "vit": ("vit_tiny_patch16_224", VIT),
    "deit3": ("deit3_small_patch16_224", VIT),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", VIT),
    "dinov2": ("vit_small_patch14_dinov2", VIT),
    "dinov2_registers": ("vit_small_patch14_reg4_dinov2", VIT),
    "dinov3": ("vit_small_patch16_dinov3", VIT),
    "clip": ("vit_base_patch16_clip_224", VIT),
    "siglip": ("vit_base_patch16_siglip_224", VIT),
    "eva02": ("eva02_tiny_patch14_224", VIT),
    "xcit": ("xcit_nano_12_p16_224", VIT),
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "swinv2": ("swinv2_tiny_window8_256", SWIN),
    "pvt": ("pvt_v2_b0", {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 40, 64)}),
    "convnext": ("convnext_tiny", CONVNEXT),
    "convnextv2": ("convnextv2_atto", CONVNEXT),
    "efficientvit_mit": ("efficientvit_b0", {}),
    "efficientvit_msra": ("efficientvit_m0", {}),
    "fastvit": ("fastvit_t8", {"layers": (1, 1, 1, 1)}),
    "resnet": ("test_resnet", {}),
    "efficientnet": ("test_efficientnet", {}),
    "mobilenetv3": ("mobilenetv3_small_050", {}),
    "mobilenetv4": ("mobilenetv4_conv_small_035", {}),
    "regnet": ("regnety_002", {}),
    "hgnet": ("hgnetv2_b0", {}),
    "glnet": ("glnet_nano", {}),
}
"""Family -> model of timm, and what makes it tiny; older releases do not have all of them."""


def _register(family: str, name: str, args: dict) -> None:
    def make(pretrained: bool = False, **options):
        return timm.create_model(name, pretrained, **args | options)

    make.__name__ = f"tiny_{family}"
    register_model(make)


FAMILIES = {family: made for family, made in FAMILIES.items() if timm.is_model(made[0])}
for family, (name, args) in FAMILIES.items():
    _register(family, name, args)
