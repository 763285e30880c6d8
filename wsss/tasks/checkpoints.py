"""Writing checkpoints whole, and reading our own without running code from them."""

import io
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Len
from pydantic import FiniteFloat, InstanceOf
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import Tensor, nn
from typing_extensions import NotRequired, TypedDict

from wsss.config_files import upgrade
from wsss.distributed import comes
from wsss.errors import UserError
from wsss.files import write_atomic
from wsss.schema import Plain, check
from wsss.settings import InferenceSettings
from wsss.voc import VOID


class Content(TypedDict):
    """What a checkpoint of wsss holds, beside what Lightning needs to go on with its training."""

    kind: str
    classes: Annotated[list[str], Len(1, VOID - 1)]
    state_dict: dict[str, InstanceOf[Tensor]]
    hyper_parameters: Plain
    white: NotRequired[Annotated[int, Ge(1)] | None]
    epoch: NotRequired[Annotated[int, Ge(0)]]
    inference: NotRequired[Plain | None]
    max_side: NotRequired[int | None]
    measured: NotRequired[dict[str, FiniteFloat | None]]


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint aside, in its own folder, before it takes the place of the last one.

    Lightning writes it to the system's folder of temporary files; from another disk it is copied over
    the last one, of which a full disk or a break then leaves nothing.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomic(Path(path), lambda aside: aside.write_bytes(content.getbuffer()))


def checkpoint_kind(path: str | Path) -> str | None:
    """Whose checkpoint a file is: "classify", "segment", or None for any other file, or none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        return None
    kind = content.get("kind") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else None


def read_checkpoint(path: str | Path, kind: str) -> dict[str, Any]:
    """Load a checkpoint of `wsss classify` or `wsss segment` with `weights_only=True`.

    Raises:
        UserError: the file is missing, unreadable, or of the other kind, or its content is none of a
            checkpoint.
    """
    path = Path(path)
    if not comes(path) or not path.is_file():
        raise UserError(f"no checkpoint {path}: give the last.ckpt of a `wsss {kind} fit` run")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]  # no advice to trust it
        raise UserError(
            f"{path} is not a checkpoint of plain tensors ({reason}): no code is run from a file"
        ) from error
    found = checkpoint.get("kind") if isinstance(checkpoint, dict) else None
    if found != kind:
        raise UserError(
            f"{path} is a checkpoint of "
            f"{f'`wsss {found}`' if isinstance(found, str) else 'another program'}, "
            f"not of `wsss {kind}`"
        )
    check(checkpoint, Content, f"{path} is a damaged checkpoint of `wsss {kind}`")
    if len(set(checkpoint["classes"])) < len(checkpoint["classes"]):
        raise UserError(f"{path} is a damaged checkpoint of `wsss {kind}` (it names a class twice)")
    try:
        InferenceSettings.of_checkpoint(checkpoint)
    except UserError as error:
        raise UserError(f"{path} is a damaged checkpoint of `wsss {kind}` ({error})") from error
    settings = upgrade({"model": dict(checkpoint["hyper_parameters"])})["model"]
    settings.pop("_instantiator", None)  # the CLI's note to itself
    pooling = settings.pop("pooling", "top20")  # an option of earlier versions
    if pooling != "top20":
        raise UserError(
            f"{path} was trained with pooling {pooling}, which is no setting any more: train it again, "
            "or use the wsss that wrote it"
        )
    checkpoint["trained_with"] = settings
    # what is frozen matters in training only, and finding it needs gradients
    checkpoint["hyper_parameters"] = settings | {"freeze": None}
    return checkpoint


def restore(network: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Give a network the weights of its checkpoint, read from `path`.

    Raises:
        UserError: the weights are of another network, for example of another version of it.
    """
    try:
        network.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} does not fit the network that it names, which may have changed since ({reason}): "
            "train it again, or use the wsss that wrote it"
        ) from error
