"""Draw the pictures of docs/slots.md, one of which is in the README, too.

python scripts/slots_figure.py                        # glnet_lite, whose weights come with wsss
python scripts/slots_figure.py --backbone glnet_nano  # or --backbone NAME --weights FILE
python scripts/slots_figure.py --mobilenetv2 mobilenetv2_100.safetensors  # compare.jpg, too

The photographs are scikit-image's (`pip install -e '.[test]'`), nothing is downloaded; docs/slots.md
names their sources and licences.
"""

import argparse
import hashlib
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from wsss.api import Classifier, own_weights
from wsss.localize.slot_maps import SlotView, representative
from wsss.pictures.masks import thumbnail
from wsss.pictures.slots import (
    CELL,
    colours,
    describe,
    draw_groups,
    draw_reach,
    group_sheet,
    sheet,
    stretch,
    tint,
)
from wsss.settings import SIDE

FIGURES = Path(__file__).parents[1] / "docs" / "slots"
SMALL = 188
"""Long side in pixels of a picture where five are in a row."""

LOW = 146
"""Height in pixels of a picture where photographs of different shapes are in a row."""


class Click(NamedTuple):
    """A position in a photograph, in pixels, and what is there."""

    what: str
    x: int
    y: int


PHOTOGRAPHS = {
    "astronaut": (Click("suit", 120, 330), Click("wall", 370, 200), Click("visor", 400, 420)),
    "camera": (Click("grass", 420, 400), Click("coat", 120, 300), Click("between legs", 310, 420)),
    "chelsea": (Click("eye", 170, 110), Click("nose", 240, 195), Click("background", 20, 20)),
    "coffee": (Click("saucer", 120, 230), Click("rim", 290, 40), Click("table", 530, 120)),
    "rocket": (Click("sky", 420, 200), Click("mast", 205, 250), Click("rocket", 327, 250)),
}
"""Of each photograph its own figure's click, and those of clicks.jpg, upper and lower row."""

IN_README = "camera"


def read(name: str) -> np.ndarray:
    """A photograph of scikit-image, (H, W, 3) uint8 RGB."""
    try:
        import skimage.data
    except ImportError:
        raise SystemExit("scikit-image is not installed: pip install -e '.[test]'") from None
    image = getattr(skimage.data, name)()
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)


def views(classifier: Classifier, image: np.ndarray, blocks: list[str]) -> list[SlotView]:
    """Slots as `wsss slots` takes them."""
    return classifier.slots(image, blocks, min(SIDE, max(*image.shape[:2], 32)))


def of_stages(classifier: Classifier) -> list[str]:
    """The first and the last GLMix block of each stage; where there are none, the features' levels."""
    glmix = [block for block in classifier.blocks if not block.startswith("features")]
    ends: dict[str, list[str]] = {}
    for block in glmix:
        stage = ends.setdefault(block.partition(".")[0], [])
        stage[1:] = [block]
    levels = [block for block in classifier.blocks if block.startswith("features.")]
    return list(itertools.chain(*ends.values())) or levels


def stages(classifier: Classifier, name: str) -> Image.Image:
    """A row for each block: groups, reach of a position, the three most telling slots."""
    image, click = read(name), PHOTOGRAPHS[name][0]
    small, pictures, marks = thumbnail(image, 2 * CELL), [], []
    for view in views(classifier, image, of_stages(classifier)):
        few, hues = representative(view.dispatch, 3), colours(view.dispatch)
        pictures.append((describe(view), draw_groups(small, view.dispatch, few)))
        pictures.append((f"reach: {click.what}", draw_reach(image, view, click[1:])))
        for slot in few:
            lit = tint(small, stretch(view.dispatch[slot]), hues[slot])
            pictures.append((f"slot {slot}", lit))
        marks += [None, None, *hues[few]]
    return sheet(pictures, 5, SMALL, marks)


def clicks(classifier: Classifier, block: str) -> Image.Image:
    """A column for each photograph: the reach of two positions."""
    seen = {name: views(classifier, read(name), [block])[0] for name in PHOTOGRAPHS}
    pictures = []
    for row in (1, 2):
        for name, view in seen.items():
            what, *at = PHOTOGRAPHS[name][row]
            pictures.append((what, draw_reach(read(name), view, at)))
    return sheet(pictures, len(seen), LOW, level=True)


def compare(networks: dict[str, Classifier], rows: list[tuple[str, str]]) -> Image.Image:
    """A row for each network and block: the reach of one position in each photograph."""
    pictures = []
    for network, block in rows:
        for name, (click, *_) in PHOTOGRAPHS.items():
            image = read(name)
            (view,) = views(networks[network], image, [block])
            caption = f"{network}, {block}" if name == next(iter(PHOTOGRAPHS)) else click.what
            pictures.append((caption, draw_reach(image, view, click[1:])))
    return sheet(pictures, len(PHOTOGRAPHS), LOW, level=True)


def main(words: list[str] | None = None) -> None:
    """Write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="glnet_lite", help="a GLNet, or another timm model")
    parser.add_argument("--weights", help="its weight file (default: the one that comes with wsss)")
    parser.add_argument("--block", help="of all figures but stages.jpg (default: the one of the chain)")
    parser.add_argument("--mobilenetv2", help="weight file of mobilenetv2_100, to draw compare.jpg")
    args = parser.parse_args(words)

    weights = args.weights or own_weights(args.backbone)
    classifier = Classifier.of_backbone(args.backbone, weights)
    block = args.block or classifier.default_blocks[-1]
    # which network a picture shows: a test holds it against the weights that come with wsss
    comment = f"{args.backbone} {hashlib.sha256(Path(weights).read_bytes()).hexdigest()}"
    FIGURES.mkdir(parents=True, exist_ok=True)

    def write(name: str, picture: Image.Image) -> None:
        picture.save(FIGURES / f"{name}.jpg", quality=86, subsampling=0, optimize=True, comment=comment)

    for name, (click, *_) in PHOTOGRAPHS.items():
        image = read(name)
        (view,) = views(classifier, image, [block])
        write(name, group_sheet(image, view, 5, click[1:], columns=4))
        if name == IN_README:
            write("readme", group_sheet(image, view, 4, click[1:], side=146))
    write("stages", stages(classifier, IN_README))
    write("clicks", clicks(classifier, block))
    if args.mobilenetv2:
        other = "mobilenetv2_100"
        networks = {
            args.backbone: classifier,
            other: Classifier.of_backbone(other, args.mobilenetv2),
        }
        rows = [(args.backbone, block), (args.backbone, "features"), (other, "features")]
        write("compare", compare(networks, rows))


if __name__ == "__main__":
    main()
