"""A start for a GLNet without published weights: it learns a pretrained network's dense features.

The teacher looks once at every photograph, and its features are kept. The student sees crops of the
photographs, horizontally flipped and recoloured, and learns what the teacher has at the same places,
through 1x1 convolutions that are thrown away: the features of the stage before the deepest one, and the
deepest ones, by their principal components. The slots learn with them: the mean feature of a slot's
pixels is to explain the features of those pixels (`SLOTS`). Photographs alone are used, no tags and no
masks.

    python benchmarks/distil.py --photographs VOC2012/JPEGImages MORE --unseen val.txt \\
        --weights tf_efficientnet_lite2.safetensors --student glnet_tiny --work DIR \\
        --out glnet_tiny.safetensors

Run the same command again after a break: kept features and the last state are taken up. `DIR/log.csv`
tells, as steps go by, the share of the teacher's variance that the student explains, on photographs
that it has seen and on those of `--unseen`, which it has not: middle features, deepest ones, and the
part of both that the slots of each block explain.
"""

import argparse
import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wsss.data.images import read_image
from wsss.data.photographs import find_photographs
from wsss.errors import UserError
from wsss.files import write_atomic
from wsss.geometry import resize
from wsss.models.classifier import TagClassifier
from wsss.models.fast import autocast, fast_layers, kept_memory
from wsss.progress import progress
from wsss.resources import find_machine

STRIDE = 16
SHORT_SIDES = (240, 336)
"""Pixels of the shorter side of a photograph, in turns: the student sees things at two sizes."""
CROP = 240
LONGEST = 2
"""Panoramas are cut to this many times their shorter side."""
COMPONENTS = 256
"""Principal components of the teacher's deepest features that are kept."""
SLOTS = 0.5
"""Weight of what slots leave unexplained, beside that of the features."""
WARMUP = 0.05
KEPT_EVERY = 200  # steps


def precision() -> str:
    """Of the arithmetic: bfloat16 where the machine has it."""
    return "bf16-mixed" if find_machine().bf16 else "32-true"


class Basis(NamedTuple):
    """How the teacher's features are kept: standardised, the deepest ones rotated to components.

    Attributes:
        mean, scale: of the middle features, (C, 1, 1).
        center: of the deepest features, (D, 1, 1).
        rotation: (P, D) principal directions of the deepest features, divided by the root of the
            total variance: the sum of the components' variances is their share of it.
    """

    mean: Tensor
    scale: Tensor
    center: Tensor
    rotation: Tensor

    def keep(self, middle: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
        """Features (C, h, w) and (D, h, w) as they are kept, (C, h, w) and (P, h, w)."""
        middle = ((middle - self.mean) / self.scale).clamp(-5, 5) / math.sqrt(len(middle))
        return middle, torch.einsum("pd,dhw->phw", self.rotation, final - self.center)


class Teacher:
    """The teacher's features of photographs, made once and kept in a folder.

    Args:
        backbone: a timm model.
        weights: its weight file.
        folder: where features are kept.
        device: of the network.
    """

    def __init__(self, backbone: str, weights: str, folder: Path, device: str) -> None:
        self.network = fast_layers(TagClassifier(backbone, 1, weights=weights)).to(device).eval()
        self.folder, self.device = folder, device
        folder.mkdir(parents=True, exist_ok=True)

    @torch.inference_mode()
    def features(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """Features (C, h, w) before the deepest stage and deepest ones (D, h, w) of a photograph."""
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(self.device).float()
        with autocast(precision(), self.device):
            final, middle = self.network._features((pixels - self.network.mean) / self.network.std)
        return middle[0].float().cpu(), final[0].float().cpu()

    def basis(self, photographs: Sequence[Path]) -> Basis:
        """Statistics of the features over some of the photographs; kept."""
        path = self.folder / "basis.safetensors"
        if path.is_file():
            return Basis(**load_file(path))
        sums, count = [0.0] * 4, 0
        some = photographs[:: max(1, len(photographs) // 200)]
        for index, photograph in enumerate(progress(some, "look at features")):
            middle, final = (f.flatten(1).double() for f in self.features(view(photograph, index)))
            parts = (middle.sum(1), middle.square().sum(1), final.sum(1), final @ final.T)
            sums = [old + new for old, new in zip(sums, parts, strict=True)]
            count += middle.shape[1]
        mean, square, center, products = (total / count for total in sums)
        scale = (square - mean.square()).clamp_min(1e-6).sqrt()
        covariance = products - center[:, None] * center
        values, vectors = torch.linalg.eigh(covariance)
        rotation = vectors.flip(1)[:, :COMPONENTS].T / values.sum().sqrt()
        kept = [mean[:, None, None], scale[:, None, None], center[:, None, None], rotation]
        found = Basis(*(part.float().contiguous() for part in kept))
        write_atomic(path, lambda aside: save_file(found._asdict(), aside))
        return found

    def keep(self, photographs: Sequence[Path], basis: Basis, what: str) -> list[Path]:
        """Files with `image` (3, H, W) uint8, `middle` and `final` (., H/16, W/16) float16."""
        files = [self.folder / what / f"{index:06}.npz" for index in range(len(photographs))]
        missing = [index for index, file in enumerate(files) if not file.is_file()]
        for index in progress(missing, f"{what}: features"):
            image = view(photographs[index], index)
            middle, final = basis.keep(*self.features(image))
            arrays = {
                "image": image.transpose(2, 0, 1),
                "middle": middle.half().numpy(),
                "final": final.half().numpy(),
            }
            write_atomic(files[index], lambda aside, arrays=arrays: _save(aside, arrays))
        return files


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def view(photograph: Path, index: int) -> np.ndarray:
    """A photograph (H, W, 3) uint8 at the size that number `index` has, sides multiples of 16."""
    image = read_image(photograph)
    height, width = image.shape[:2]
    short = SHORT_SIDES[index % len(SHORT_SIDES)]
    factor = short / min(height, width)
    sides = [max(short, round(side * factor / STRIDE) * STRIDE) for side in (height, width)]
    image = resize(image, *sides)[: LONGEST * short, : LONGEST * short]
    return np.ascontiguousarray(image)


def crops(
    files: Sequence[Path], batch: int, steps: range, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of a training, each (B, 3, 240, 240) in 0..255 with what the teacher has there.

    Photographs come in random order, all of them before one comes again. Step n's batch is the same
    wherever the training was taken up.
    """
    each = max(1, len(files) // batch)  # steps of an epoch
    for step in steps:
        order = np.random.default_rng([seed, step // each]).permutation(len(files))
        random = np.random.default_rng([seed, 1, step])
        at = (step % each) * batch
        cells = CROP // STRIDE
        found = []
        for index in order[at : at + batch]:
            with np.load(files[index]) as file:
                arrays = {name: file[name] for name in file.files}
            rows, columns = arrays["middle"].shape[1:]
            y, x = random.integers(rows - cells + 1), random.integers(columns - cells + 1)
            image = arrays["image"][:, y * STRIDE : y * STRIDE + CROP, x * STRIDE : x * STRIDE + CROP]
            parts = [a[:, y : y + cells, x : x + cells] for a in (arrays["middle"], arrays["final"])]
            if random.random() < 0.5:
                image, *parts = (part[..., ::-1] for part in (image, *parts))
            image = recolour(image.astype(np.float32), random)
            found.append([image, *(np.ascontiguousarray(part, np.float32) for part in parts)])
        yield tuple(torch.from_numpy(np.stack(kind)) for kind in zip(*found, strict=True))


def recolour(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Other saturation, contrast and light of an image (3, H, W) in 0..255."""
    colour, contrast, light = 0.6 + 0.8 * random.random(3, dtype=np.float32)
    grey = image.mean(0, keepdims=True)
    image = grey + colour * (image - grey)
    mean = image.mean()
    return ((mean + contrast * (image - mean)) * light).clip(0, 255)


class Distillation(nn.Module):
    """The student, and its way to the teacher's features."""

    def __init__(
        self, student: TagClassifier, channels: tuple[int, int], frozen: Sequence[nn.Module] = ()
    ) -> None:
        super().__init__()
        self.student, self.frozen = student, list(frozen)
        with torch.no_grad():
            own = self.features(torch.zeros(1, 3, 64, 64))[0]
        self.heads = nn.ModuleList(
            nn.Conv2d(o.shape[1], c, 1) for o, c in zip(own, channels, strict=True)
        )

    def train(self, mode: bool = True) -> "Distillation":
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def features(self, images: Tensor) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """The student's own features, and the dispatch maps of the GLMix blocks at stride 16."""
        network = self.student
        out = network.backbone.forward_slots((images - network.mean) / network.std)
        deepest = max(block.stage for block in out.maps)
        maps = {f"{m.stage}.{m.block}": m.dispatch for m in out.maps if m.stage == deepest}
        return (out.intermediates[deepest], out.features), maps

    @torch.no_grad()
    def fit_heads(self, images: Tensor, targets: Sequence[Tensor]) -> None:
        """Begin with the heads that explain most on a batch, by least squares (ridge)."""
        own, _ = self.eval().features(images)
        for o, head, target in zip(own, self.heads, targets, strict=True):
            x, y = (part.float().transpose(0, 1).flatten(1) for part in (o, target))  # C x positions
            center, middle = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
            x, y = x - center, y - middle
            gram = x @ x.T
            ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(x), device=x.device)
            weight = torch.linalg.solve(gram + ridge, x @ y.T).T
            head.weight.copy_(weight[:, :, None, None])
            head.bias.copy_((middle - weight @ center).flatten())

    def errors(self, images: Tensor, targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Unexplained parts of the variance: middle, deepest, and both by the slots of each block."""
        own, maps = self.features(images)
        found = {}
        for name, o, head, target in zip(("middle", "final"), own, self.heads, targets, strict=True):
            found[name] = (head(o).float() - target).square().sum(1).mean()
        both = torch.cat([target.flatten(2) for target in targets], 1)  # B C N
        for name, dispatch in maps.items():
            share = dispatch.float().flatten(2)  # B K N
            means = both @ (share / share.sum(2, keepdim=True).clamp_min(1e-6)).transpose(1, 2)
            found[name] = (means @ share - both).square().sum(1).mean() / 2
        return found


def grow(network: nn.Module, state: dict[str, Tensor]) -> list[nn.Module]:
    """Start a GLNet from the weights of a smaller one: blocks that it has not do nothing at first.

    Parts of another shape keep their random weights.

    Returns:
        The layers up to stride 8, which have the weights of the smaller one and need not learn: they
        are few weights and half of a step's time.
    """
    own = network.state_dict()
    fitting = {k: v.float() for k, v in state.items() if k in own and own[k].shape == v.shape}
    network.load_state_dict(fitting, strict=False)
    for number, stage in enumerate(network.stages):
        if not any(key.startswith(f"stages.{number}.blocks.0.mlp") for key in fitting):
            continue  # all of the stage is new
        for index, block in enumerate(stage.blocks):
            if any(key.startswith(f"stages.{number}.blocks.{index}.") for key in fitting):
                continue
            block.rest()
    early = [*network.downsample_layers[:2], *network.stages[:2]]
    for part in early:
        part.requires_grad_(False)
    return early


@torch.inference_mode()
def explained(both: Distillation, files: Sequence[Path], device: str) -> dict[str, float]:
    """Shares of the teacher's variance that are explained on whole photographs, in percent."""
    both.eval()
    errors: dict[str, float] = {}
    whole: dict[str, float] = {}
    for file in files:
        with np.load(file) as arrays:
            image, *targets = (
                torch.from_numpy(arrays[n].astype(np.float32))[None].to(device)
                for n in ("image", "middle", "final")
            )
        energies = [float(target.square().sum(1).mean()) for target in targets]
        for name, error in both.errors(image, targets).items():
            of_level = {"middle": energies[0], "final": energies[1]}
            errors[name] = errors.get(name, 0.0) + float(error)
            whole[name] = whole.get(name, 0.0) + of_level.get(name, sum(energies) / 2)
    return {name: round(100 * (1 - error / whole[name]), 2) for name, error in errors.items()}


def save(student: TagClassifier, path: Path) -> None:
    """Write the backbone's weights as float16, whole or not at all."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in student.backbone.state_dict().items()
    }
    write_atomic(path, lambda aside: save_file(state, aside))


def train(
    both: Distillation,
    seen: Sequence[Path],
    unseen: Sequence[Path],
    args: argparse.Namespace,
    device: str,
) -> None:
    """Train to the last step, from the last state that was kept; log what is explained."""
    named = [*both.student.backbone.named_parameters(), *both.heads.named_parameters()]
    trained = [(name, p) for name, p in named if p.requires_grad]
    skip = both.student.backbone.no_weight_decay()
    plain = [p for name, p in trained if p.ndim < 2 or name in skip]
    decayed = [p for name, p in trained if not (p.ndim < 2 or name in skip)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
        fused=True,
    )
    steps = args.epochs * max(1, len(seen) // args.batch)
    state_file, first = args.work / "state.pt", 0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        if state["steps"] != steps:
            raise UserError(
                f"{state_file} is of a training of {state['steps']} steps, not {steps}: give the same "
                "--epochs, --batch and photographs, or another --work"
            )
        both.load_state_dict(state["both"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    else:
        images, *targets = next(crops(seen, min(64, len(seen)), range(1)))
        both.fit_heads(images.to(device), [target.to(device) for target in targets])
    batches = crops(seen, args.batch, range(first, steps))
    bar = progress(batches, f"distil {args.student}", "steps", total=steps - first)
    means: dict[str, float] = {}
    for step, (images, *targets) in enumerate(bar, first + 1):
        rate = min(step / (WARMUP * steps), 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        both.train()
        with autocast(precision(), device):
            errors = both.errors(images.to(device), [target.to(device) for target in targets])
            slots = [error for name, error in errors.items() if name not in ("middle", "final")]
            loss = errors["middle"] + errors["final"] + SLOTS * sum(slots) / len(slots)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for _, p in trained], 1.0)
        optimizer.step()
        for name, error in errors.items():
            means[name] = 0.98 * means.get(name, error.item()) + 0.02 * error.item()
        if step % 20 == 0:
            told = {name: round(100 * (1 - mean), 1) for name, mean in means.items()}
            bar.set_postfix(told, refresh=False)
        if step % KEPT_EVERY == 0 or step == steps:
            found = {"step": step, "images": step * args.batch}
            for name, files in (("seen", seen), ("unseen", unseen)):
                some = files[:: 1 if step == steps else max(1, len(files) // 48)][:330]
                shares = explained(both, some, device)
                found |= {f"{name} {what}": share for what, share in shares.items()}
            _log(args.work / "log.csv", found)
            state = {"both": both.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"step": step, "steps": steps}
            write_atomic(state_file, lambda aside, state=state: torch.save(state, aside))
            save(both.student, args.out)


def _log(path: Path, row: dict[str, float]) -> None:
    fresh = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def seen_and_unseen(folders: Sequence[Path], unseen: Path) -> dict[str, list[Path]]:
    """Photographs of some folders, without those whose names a list has, and these."""
    left_out = set(unseen.read_text(encoding="utf-8").split())
    photographs: dict[str, list[Path]] = {"seen": [], "unseen": []}
    for folder in folders:
        for path in find_photographs([folder], skip_twins=True).values():
            photographs["unseen" if path.stem in left_out else "seen"].append(path)
    return photographs


def main(words: Sequence[str] | None = None) -> None:
    """Keep the teacher's features, train on them, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, nargs="+", required=True, help="folders")
    parser.add_argument("--unseen", type=Path, required=True, help="list of names to test on")
    parser.add_argument("--weights", required=True, help="weight file of the teacher")
    parser.add_argument("--work", type=Path, required=True, help="folder for features and states")
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")
    parser.add_argument("--teacher", default="tf_efficientnet_lite2", help="a timm model")
    parser.add_argument("--student", default="glnet_nano", help="a GLNet")
    parser.add_argument("--start", type=Path, help="weights to grow from; early layers stay")
    parser.add_argument("--features", type=Path, help="folder for features; default: in --work")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args(words)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    photographs = seen_and_unseen(args.photographs, args.unseen)
    features = args.features or args.work / "features"
    args.work.mkdir(parents=True, exist_ok=True)
    with kept_memory():
        teacher = Teacher(args.teacher, args.weights, features, device)
        basis = teacher.basis(photographs["seen"])
        seen, unseen = (teacher.keep(found, basis, name) for name, found in photographs.items())
    student = fast_layers(TagClassifier(args.student, 1))
    frozen = grow(student.backbone, load_file(args.start)) if args.start else []
    channels = len(basis.mean), len(basis.rotation)
    both = Distillation(student, channels, frozen).to(device)
    with kept_memory():
        train(both, seen, unseen, args, device)


if __name__ == "__main__":
    main()
