"""Backbones and the classifier; importing this package alone loads neither torch nor timm."""
