"""A segmentation network for other programs, with what they must know of it."""

import contextlib
import importlib.util
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from wsss.api import Segmenter
from wsss.errors import UserError, install
from wsss.exchange.output import is_taken, new_output
from wsss.voc import VOID, palette

TOLERANCE = 1e-3
"""Greatest difference from torch's logits, as a share of the largest logit (at least 1)."""


def export_model(ckpt: Path, out: Path, size: tuple[int, int] | None = None) -> dict[str, float]:
    """Write model.onnx, model.pt2 and preprocessing.json of a checkpoint of `wsss segment`.

    Args:
        ckpt: the checkpoint.
        out: a new folder.
        size: (height, width) that the input is fixed to, in pixels, multiples of the network's
            `size_multiple`; None: any.

    Returns:
        File name -> largest difference of its logits from torch's.

    Raises:
        UserError: a package is missing, the checkpoint is none of `wsss segment`, `out` is there, the
            network cannot be exported, or an exported one gives other numbers than torch.
    """
    missing = [n for n in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(n)]
    if missing:
        raise UserError(f"{', '.join(missing)} is not installed: {install('export')}")
    if is_taken(out):
        raise UserError(f"--out {out} is there already: give a new folder")
    segmenter = Segmenter.load(ckpt)
    step = segmenter.network.size_multiple
    if size and (min(size) < step or any(side % step for side in size)):
        raise UserError(f"--size must be multiples of {step}, got {size[0]} {size[1]}")
    with new_output(out) as aside:
        aside.mkdir()
        apart = _write_models(segmenter.network, aside, size)
        text = json.dumps(card(segmenter, size), indent=2, ensure_ascii=False) + "\n"
        (aside / "preprocessing.json").write_text(text, encoding="utf-8")
    return apart


def card(segmenter: Segmenter, size: tuple[int, int] | None) -> dict:
    """What a program needs to know to use the model, and to show its masks."""
    colours, labels = palette(), ["background", *segmenter.classes]
    mean, std = (v.flatten().tolist() for v in (segmenter.network.mean, segmenter.network.std))
    return {
        "input": {
            "name": "images",
            "shape": [1, 3, *(size or ["height", "width"])],
            "dtype": "float32",
            "channels": "RGB",
            "range": [0, 255],
            "multiple_of": segmenter.network.size_multiple,
            "max_side": segmenter.inference.max_side,
            "resize": "turn upright by EXIF; a longer side above max_side, or more than a fixed shape "
            "holds, is scaled down, aspect kept, averaging over areas; smaller ones stay",
            "pad": "on the right and below with the mean colour, up to the shape or the multiple",
        },
        "mean": mean,
        "std": std,
        "normalisation": "inside the model: give values in 0..255, mean and std are in that range",
        "output": {
            "name": "logits",
            "shape": [1, len(labels), *(size or ["height", "width"])],
            "meaning": "logits, softmax over axis 1: probabilities of the labels; cut the padding off, "
            "scale to the photograph's size (bilinear, of probabilities), argmax: the mask",
        },
        "tested_with": segmenter.inference.to_dict()
        | {
            "meaning": "how the masks were made that the network's mIoU was measured by: probabilities "
            "averaged over scales and the horizontal flip, images above tile in windows half "
            "overlapping, then the dense CRF; the model here is one pass at one scale"
        },
        "classes": labels,
        "void": VOID,
        "palette": [colours[3 * i : 3 * i + 3] for i in range(len(labels))],
    }


def _write_models(network: Any, folder: Path, size: tuple[int, int] | None) -> dict[str, float]:
    """Write and check both files; file name -> largest difference of its logits from torch's."""
    import onnxruntime

    network, step = network.eval(), network.size_multiple
    shapes = [tuple(size)] if size else [(4 * step, 6 * step), (3 * step, 2 * step)]
    images = [
        255 * torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0)) for shape in shapes
    ]
    sides = None
    if not size:
        height, width = (step * torch.export.Dim(n, min=1, max=256) for n in ("rows", "columns"))
        sides = ({2: height, 3: width},)
    hint = "" if size else ": fix the input's size by --size HEIGHT WIDTH"
    try:
        # exporters are talkative, and what goes wrong is told below
        onnxruntime.set_default_logger_severity(4)
        with (
            torch.no_grad(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            wanted = [network(image) for image in images]
            program = torch.export.export(network, (images[0],), dynamic_shapes=sides)
            torch.export.save(program, folder / "model.pt2")
            onnx = torch.onnx.export(
                program, (), dynamo=True, input_names=["images"], output_names=["logits"]
            )
            onnx.save(folder / "model.onnx", external_data=False)
            module = torch.export.load(folder / "model.pt2").module()
            session = onnxruntime.InferenceSession(
                folder / "model.onnx", providers=["CPUExecutionProvider"]
            )
            found = {
                "model.pt2": [module(image) for image in images],
                "model.onnx": [
                    torch.from_numpy(session.run(None, {"images": image.numpy()})[0])
                    for image in images
                ],
            }
    except Exception as error:  # exporters fail in many ways
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"this network cannot be exported ({reason}){hint}") from error
    apart = {}
    for name, outputs in found.items():
        pairs = list(zip(outputs, wanted, strict=True))
        apart[name] = max((one - other).abs().max().item() for one, other in pairs)
        limit = TOLERANCE * max(1.0, *(other.abs().max().item() for _, other in pairs))
        if not apart[name] <= limit:  # also when it is no number
            raise UserError(
                f"{name} gives other numbers than torch (difference {apart[name]:.1e}, allowed "
                f"{limit:.1e}), nothing is written{hint}"
            )
    return apart
