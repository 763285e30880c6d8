"""Reads weight files into models, strictly and without running code from the file."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from pydantic import InstanceOf
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv, clean_state_dict
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.schema import check, fault

log = logging.getLogger(__name__)


def load_weights(model: nn.Module, path: str | Path | None) -> None:
    """Load a weight file into a timm model, in place.

    Strict: every number that the network computes with must be in the file with the right shape, and
    nothing else. Two parts may differ, as in timm: the class head (then it keeps its fresh weights)
    and the number of input channels (the first convolution is adapted). BatchNorm's count of batches
    may be absent, too many or of another shape: nothing is computed with it, and files from TensorFlow
    or older PyTorch have none.

    Args:
        model: A timm model, with its ``pretrained_cfg``.
        path: ``.safetensors``, or a PyTorch file with the weights either at the top or under
            ``state_dict``, ``model``, ``state_dict_ema`` or ``model_ema``. The averaged (EMA) set
            is taken only if there is no other or the model's pretrained tag names it. Of a
            checkpoint of ``wsss classify`` the backbone is taken.

    Raises:
        UserError: The file is missing, unreadable, or holds weights of another model.
    """
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    name = cfg.get("architecture") or type(model).__name__
    hint = _where_to_get(cfg)
    if path is None:
        raise UserError(f"No weight file was given for {name}. {hint}")
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such weight file for {name}. {hint}")
    state = read_weights(path, cfg.get("tag"))
    own = model.state_dict()

    heads = cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    head_keys = {k for k in {*state, *own} if k.rpartition(".")[0] in heads}
    if any(_shape(state, k) != _shape(own, k) for k in head_keys):
        log.info("%s: the class head differs and keeps the model's own weights.", path)
        state = {k: v for k, v in state.items() if k not in head_keys}
        own = {k: v for k, v in own.items() if k not in head_keys}

    first = f"{cfg.get('first_conv')}.weight"
    both = first in state and first in own and state[first].ndim == own[first].ndim == 4
    if both and state[first].shape[1] == 3 != own[first].shape[1]:
        state[first] = adapt_input_conv(own[first].shape[1], state[first])

    counts = {k for k in {*state, *own} if k.rpartition(".")[2] == "num_batches_tracked"}
    alike = {k for k in counts if _shape(state, k) == _shape(own, k)}
    state = {k: v for k, v in state.items() if k in alike or k not in counts}
    own = {k: v for k, v in own.items() if k in alike or k not in counts}
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in (
            ("missing", [k for k in own if k not in state]),
            ("unexpected", [k for k in state if k not in own]),
            (
                "of another shape",
                [k for k in own if k in state and own[k].shape != state[k].shape],
            ),
        )
        if keys
    ]
    if problems:
        raise UserError(
            f"{path} does not hold the weights of {name}: {'; '.join(problems)}. "
            "Give the file of this model, or choose the model that the file was saved from."
        )
    model.load_state_dict(state, strict=False)  # only class head and counts can be absent by now


def no_download(name: str) -> str:
    """What to say when the published weights of a model cannot be fetched."""
    return (
        f"the published weights of {name} cannot be downloaded: connect to the internet for the first "
        "run, or give a weight file of this model (--weights, or model.weights instead of "
        "model.pretrained), or take glnet_lite, whose weights come with wsss"
    )


def _shape(state: dict[str, Tensor], key: str) -> torch.Size | None:
    return state[key].shape if key in state else None


def _where_to_get(cfg: dict[str, Any]) -> str:
    if cfg.get("origin_url") and not (cfg.get("url") or cfg.get("hf_hub_id")):
        return (
            f"The authors publish it at {cfg['origin_url']}, whose README links a file share; "
            "scripts cannot fetch it there, so download it with a browser and give its path."
        )
    return "Give the path of a .safetensors or .pth file."


def read_weights(path: str | Path, tag: str | None = None) -> dict[str, Tensor]:
    """The tensors of a weight file by name; `tag` is the model's pretrained tag in timm.

    Raises:
        UserError: The file is unreadable or holds no weights.
    """
    path, prefer_ema = Path(path), "ema" in (tag or "").split("_")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is no readable safetensors file ({error}).") from error
    try:
        # Training scripts store their options beside the weights; a Namespace is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what the bytes happen to look like
        reason = str(error).partition("\n")[0].partition(". ")[0]  # no advice to trust it
        raise UserError(
            f"{path} is no PyTorch file of plain tensors ({reason}). Download it again, or save "
            "its weights alone from where it was made: no code is run from a weight file."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}: expected tensors by name.")
    if content.get("kind") == "classify":
        inside = "model.backbone."
        ours = check(
            content.get("state_dict"),
            dict[str, InstanceOf[Tensor]],
            f"{path} is a damaged checkpoint of `wsss classify`",
        )
        return {k.removeprefix(inside): v for k, v in ours.items() if k.startswith(inside)}
    plain, averaged = ("state_dict", "model"), ("state_dict_ema", "model_ema")
    keys = averaged + plain if prefer_ema else plain + averaged
    found = next((k for k in keys if isinstance(content.get(k), dict)), None)
    state = content if found is None else content[found]
    if not state or fault(state, dict[str, InstanceOf[Tensor]]):
        raise UserError(
            f"{path} holds no weights: expected tensors by name, at the top or under one of "
            f"{', '.join(keys)}; found {', '.join(map(str, list(content)[:5])) or 'nothing'}."
        )
    return clean_state_dict(state)
