"""A start for a GLNet without published weights: it learns a pretrained network's dense features.

The student sees the same augmented view as the teacher and learns its features at every position, the
deepest ones and those of the stage before, each through a 1x1 convolution that is thrown away (Beyer et
al., CVPR 2022, "Knowledge distillation: A good teacher is patient and consistent": same view, hard
augmentation, long training). Photographs alone are used, no tags and no masks.

    python benchmarks/distil.py --root VOC2012 --weights mobilenetv2_100.safetensors \\
        --out glnet_nano.safetensors

The learning rate falls to 0 over `--minutes`. Prints the share of the teacher's variance that the
student explains (R^2 per channel, averaged), on photographs of `--val-split` that it has not seen.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from wsss.data.catalog import read_catalog
from wsss.data.images import read_image
from wsss.files import write_atomic
from wsss.geometry import fit_within, resize
from wsss.models.classifier import TagClassifier
from wsss.progress import progress

LONG_SIDE = 448
WARMUP = 0.05


class Photographs:
    """All photographs of a split on the device, their long side scaled down to 448 px."""

    def __init__(self, root: str, split: str, device: str) -> None:
        records = read_catalog("voc", root, split, tagged=False).records
        self.shapes = torch.empty(len(records), 2)
        self.pixels = torch.zeros(len(records), 3, LONG_SIDE, LONG_SIDE, dtype=torch.uint8)
        for index, record in enumerate(progress(records, f"read {split}")):
            image = read_image(record.image)
            image = resize(image, *fit_within(*image.shape[:2], LONG_SIDE))
            height, width = image.shape[:2]
            self.shapes[index] = torch.tensor([height, width])
            self.pixels[index, :, :height, :width] = torch.from_numpy(image).permute(2, 0, 1)
        self.pixels, self.shapes = self.pixels.to(device), self.shapes.to(device)

    def views(self, count: int, size: int) -> Tensor:
        """Random views (count, 3, size, size) in 0..255: crops, horizontal flips, colours, mixed."""
        device = self.pixels.device
        draw = torch.rand(8, count, 1, device=device)
        index = torch.randint(len(self.pixels), (count,), device=device)
        sides = self.shapes[index]  # height, width
        area = (0.1 + 0.9 * draw[0]) * sides.prod(1, keepdim=True)
        ratio = (4 / 3) ** (2 * draw[1] - 1)
        crop = torch.cat([area / ratio, area * ratio], 1).sqrt().minimum(sides)
        corner = torch.cat([draw[2], draw[3]], 1) * (sides - crop)
        found = self._cut(index, corner, crop, size)
        found = torch.where(draw[4, :, :, None, None] < 0.5, found, found.flip(3))
        contrast, light, colour = (0.6 + 0.8 * draw[k, :, :, None, None] for k in (5, 6, 7))
        grey = found.mean(1, keepdim=True)
        found = grey + colour * (found - grey)
        mean = found.mean((1, 2, 3), keepdim=True)
        found = ((mean + contrast * (found - mean)) * light).clamp(0, 255)
        share = torch.rand(count, 1, 1, 1, device=device)
        share = torch.where(torch.rand_like(share) < 0.5, share, 1.0)  # half of them are mixed
        return share * found + (1 - share) * found.roll(1, 0)

    def whole(self, index: Tensor, size: int) -> Tensor:
        """Whole photographs (B, 3, size, size) in 0..255, stretched to squares."""
        return self._cut(index, torch.zeros_like(self.shapes[index]), self.shapes[index], size)

    def _cut(self, index: Tensor, corner: Tensor, crop: Tensor, size: int) -> Tensor:
        line = (torch.arange(2 * size, device=index.device) + 0.5) / (2 * size)
        y, x = (corner[:, k : k + 1] + line * crop[:, k : k + 1] for k in (0, 1))
        both = x[:, None].expand(-1, 2 * size, -1), y[:, :, None].expand(-1, -1, 2 * size)
        grid = torch.stack(both, 3) * 2 / LONG_SIDE - 1
        found = F.grid_sample(self.pixels[index].float(), grid, "bilinear", "border", False)
        return F.avg_pool2d(found, 2)  # sampled twice as fine, against aliasing


def features(network: TagClassifier, images: Tensor) -> list[Tensor]:
    """Features (B, C, h, w) float32 of the stage before the deepest one, and the deepest ones."""
    final, middle = network._features((images - network.mean) / network.std)
    return [middle.float(), final.float()]


class Distillation(nn.Module):
    """Teacher, student, and the student's way to the teacher's channels."""

    def __init__(self, teacher: TagClassifier, student: TagClassifier, sample: Tensor) -> None:
        super().__init__()
        self.teacher, self.student = teacher.eval().requires_grad_(False), student
        with torch.no_grad():
            target, own = features(self.teacher, sample), features(student.eval(), sample)
        self.statistics = [(t.mean((0, 2, 3), True), t.std((0, 2, 3), keepdim=True)) for t in target]
        pairs = zip(own, target, strict=True)
        self.heads = nn.ModuleList(nn.Conv2d(o.shape[1], t.shape[1], 1) for o, t in pairs)

    def errors(self, images: Tensor) -> list[Tensor]:
        """Squared error of each level, every channel of the teacher scaled to a variance of 1."""
        with torch.no_grad():
            target = features(self.teacher, images)
        found = []
        for own, head, t, (mean, std) in zip(
            features(self.student, images), self.heads, target, self.statistics, strict=True
        ):
            t = ((t - mean) / std.clamp_min(1e-3)).clamp(-5, 5)
            error = (head(own).float() - t).square().mean((0, 2, 3))
            found.append(error[std.flatten() > 1e-3].mean())  # some channels are always 0
        return found


@torch.no_grad()
def explained(both: Distillation, photographs: Photographs, size: int) -> list[float]:
    """R^2 of each level on whole photographs, in percent."""
    both.eval()
    device, total = photographs.pixels.device, torch.zeros(2)
    for index in torch.arange(len(photographs.pixels), device=device).split(32):
        with torch.autocast(device.type, torch.bfloat16):
            errors = both.errors(photographs.whole(index, size))
        total += len(index) * torch.stack(errors).cpu()
    return [round(100 * (1 - float(e) / len(photographs.pixels)), 1) for e in total]


def save(student: TagClassifier, path: Path) -> None:
    """Write the backbone's weights as float16, whole or not at all."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in student.backbone.state_dict().items()
    }
    write_atomic(path, lambda aside: save_file(state, aside))


def main(words: Sequence[str] | None = None) -> None:
    """Train until the time is over and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="photographs in VOC's layout")
    parser.add_argument("--weights", required=True, help="weight file of the teacher")
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")
    parser.add_argument("--teacher", default="mobilenetv2_100", help="a timm model")
    parser.add_argument("--student", default="glnet_nano", help="a timm model")
    parser.add_argument("--split", default="train")
    parser.add_argument("--val-split", default="val")
    parser.add_argument("--minutes", type=float, default=7.4, help="length of the training")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=256, help="side of the views in pixels")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    args = parser.parse_args(words)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    photographs = Photographs(args.root, args.split, device)
    teacher = TagClassifier(args.teacher, 1, weights=args.weights).to(device)
    student = TagClassifier(args.student, 1).to(device)
    both = Distillation(teacher, student, photographs.views(args.batch, args.size)).to(device)
    trained = [*student.backbone.named_parameters(), *both.heads.named_parameters()]
    groups = [
        {"params": [p for _, p in trained if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for _, p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, fused=True)
    start, steps = time.monotonic(), 0
    bar = progress(None, f"distil {args.student}", "s", total=round(60 * args.minutes))
    while (done := (time.monotonic() - start) / (60 * args.minutes)) < 1:
        rate = min(1, done / WARMUP) * 0.5 * (1 + torch.tensor(done * torch.pi).cos().item())
        for group in optimizer.param_groups:
            group["lr"] = args.lr * max(rate, 1e-3)
        both.train()
        teacher.eval()
        images = photographs.views(args.batch, args.size)
        with torch.autocast(device, torch.bfloat16):
            errors = both.errors(images)
        optimizer.zero_grad(set_to_none=True)
        sum(errors).backward()
        nn.utils.clip_grad_norm_([p for _, p in trained], 1.0)
        optimizer.step()
        steps += 1
        if steps % 50 == 0:
            r2 = [round(100 * (1 - e.item()), 1) for e in errors]
            bar.set_postfix(steps=steps, r2=r2, refresh=False)
            bar.update(int(time.monotonic() - start) - bar.n)
    bar.close()
    save(student, args.out)
    seen = explained(both, photographs, args.size)
    unseen = explained(both, Photographs(args.root, args.val_split, device), args.size)
    print(json.dumps({"steps": steps, "images": steps * args.batch, "r2": seen, "r2_unseen": unseen}))


if __name__ == "__main__":
    main()
