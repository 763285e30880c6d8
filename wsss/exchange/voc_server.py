"""Results as the evaluation server of VOC 2012 takes them."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from wsss.errors import UserError
from wsss.exchange.format import Format, MaskFiles
from wsss.voc import VOC_CLASSES, VOID, palette

COMPETITIONS = ("comp5", "comp6")
"""Of the server; comp6, the default, allows training data beyond VOC's, as ImageNet weights are."""


@dataclass(frozen=True)
class VocServer(Format):
    """A .tgz for the server; nothing is read.

    Args:
        competition: one of `COMPETITIONS`.
    """

    name = "voc-server"
    about = ".tgz for the VOC 2012 server"
    suffixes = (".tgz",)
    needs_photos = False
    classes = VOC_CLASSES

    competition: str = COMPETITIONS[-1]

    def write(self, given: MaskFiles, out: Path) -> str:
        colours = palette()
        with tarfile.open(out, "w:gz") as archive:
            for name, _, mask in given:
                if (mask == VOID).any():
                    raise UserError(
                        f"mask {given.masks[name]} has void pixels (255), which the VOC server does "
                        "not take: give masks of wsss segment predict, or those of a writer without "
                        "void"
                    )
                if "/" in name:
                    raise UserError(
                        f"mask {given.masks[name]} lies in a sub-folder: VOC's image ids have none"
                    )
                image, buffer = Image.fromarray(mask), io.BytesIO()
                image.putpalette(colours)
                image.save(buffer, format="PNG")
                folder = f"results/VOC2012/Segmentation/{self.competition}_test_cls"
                member = tarfile.TarInfo(f"{folder}/{name}.png")
                member.size = buffer.tell()
                buffer.seek(0)
                archive.addfile(member, buffer)
        return f" ({self.competition})"
