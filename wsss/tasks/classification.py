"""Training the tag classifier and making class maps with it."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAveragePrecision,
    BinaryF1Score,
    BinaryStatScores,
    MultilabelAveragePrecision,
    MultilabelF1Score,
    MultilabelStatScores,
)

from wsss.data.datasets import SPARE
from wsss.data.labels import UNKNOWN
from wsss.distributed import average_, gather, in_order
from wsss.errors import UserError, notice
from wsss.localize.cam import ClassMaps, class_maps
from wsss.models.backbone import early_features, is_plain
from wsss.models.classifier import TagClassifier
from wsss.models.fast import fast_layers
from wsss.settings import VIEWS, ClassMapSettings
from wsss.tasks.optim import freeze_before
from wsss.tasks.task import Task


def make_mosaics(images: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
    """Lay four shrunken images of a batch side by side, as many mosaics as images.

    Args:
        images: (B, 3, H, W) float, H and W even.
        tags: (B, N).

    Returns:
        Mosaics (B, 3, H, W), and the tags of their quadrants (B, 4, N) in reading order.
    """
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    order = torch.randperm(len(images))
    parts = [order.roll(shift) for shift in range(4)]  # no image twice in a mosaic
    first, second, third, fourth = (small[part.to(small.device)] for part in parts)
    mosaics = torch.cat([torch.cat([first, second], 3), torch.cat([third, fourth], 3)], 2)
    return mosaics, torch.stack([tags[part.to(tags.device)] for part in parts], 1)


def quadrants(maps: Tensor) -> Tensor:
    """Cut maps (B, N, h, w) into (B, 4, N, h/2, w/2) in reading order; an odd middle is dropped."""
    height, width = maps.shape[2] // 2, maps.shape[3] // 2
    top, bottom = maps[:, :, :height], maps[:, :, -height:]
    return torch.stack(
        [top[..., :width], top[..., -width:], bottom[..., :width], bottom[..., -width:]], 1
    )


def tag_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, mean over the classes that were looked for in each image.

    Args:
        logits: (B, N).
        targets: (B, N) of 1, 0 and `wsss.data.labels.UNKNOWN`.
    """
    known = (targets != UNKNOWN).float()
    share = known.mean()
    average_([share])  # so that the mean of the processes' losses is the one over all images
    weight = known / share.clamp(min=1 / known.numel())
    return F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0), weight)


class ClassificationTask(Task):
    """Multi-label classification whose class maps become pseudo-masks.

    Args:
        classes: foreground class names (set from the data).
        backbone: any timm model that gives feature maps and takes images of any size, CNN or ViT;
            GLNet's names start with `glnet_`.
        pretrained: take timm's published ImageNet weights (needs a network the first time).
        weights: file with weights for the backbone instead (.safetensors or .pth).
        output_stride: pixels per position of the class map: 16 where the backbone can be dilated to it,
            else the backbone's own (a ViT's patch, 32 of many others); 32: the backbone's own.
        mosaic: probability that a training batch is turned into 2x2 mosaics with a loss per quadrant.
        freeze_norm: keep BatchNorm's running statistics as they are (for small pretrained runs).
        freeze: do not train the backbone's layers up to this stride, 2, 4, 8 or 16: faster, and a small
            data set cannot spoil them (no ViT has such layers). `all`: train the class head alone,
            BatchNorm stays as it is: minutes on a CPU. null: train all.
        views: with `freeze: all`, how often the training images are shown to the backbone, which is
            once, before the training; the epochs take turns with what it saw, kept on disk meanwhile.
            0: it sees new crops every epoch.
        lr: learning rate of the backbone.
        head_lr_multiplier: learning-rate multiplier of the class head.
        weight_decay: of AdamW.
        warmup: share of the steps with a rising learning rate.
        backbone_args: further arguments of the timm model, for example GLNet's slot_scale_init.
    """

    kind, name = "classify", "classifier"
    schedule = "cosine"
    map_settings = ClassMapSettings()
    """Of what it predicts."""

    def __init__(
        self,
        classes: list[str],
        backbone: str = "glnet_4g",
        pretrained: bool = False,
        weights: str | None = None,
        output_stride: Literal[16, 32] = 16,
        mosaic: float = 0.0,
        freeze_norm: bool = False,
        freeze: Literal[2, 4, 8, 16, "all"] | None = None,
        views: int = VIEWS,
        lr: float = 1e-4,
        head_lr_multiplier: float = 10.0,
        weight_decay: float = 0.05,
        warmup: float = 0.05,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(classes, given=pretrained or weights is not None)
        self.save_hyperparameters(ignore=["classes", "pretrained", "weights"])
        self._check_rates()
        if not 0 <= mosaic <= 1:
            raise UserError(f"mosaic is a probability, 0 to 1, got {mosaic}")
        self.model = TagClassifier(
            backbone, len(classes), output_stride, pretrained, weights, backbone_args
        )
        self._freeze()
        fast_layers(self.model)
        self.validated: list[tuple[Tensor, Tensor]] = []  # logits and tags of each image
        count = len(classes)
        # they are given what all processes have found; what was not looked for does not count
        alone = {"sync_on_compute": False, "ignore_index": int(UNKNOWN)}
        # torchmetrics asks for two labels or more; a data set may know one thing and background
        self.metrics = MetricCollection(
            {
                "AP": MultilabelAveragePrecision(count, average="none", **alone),
                "F1": MultilabelF1Score(count, average="none", **alone),
                "counts": MultilabelStatScores(count, average="none", **alone),
            }
            if count > 1
            else {
                "AP": BinaryAveragePrecision(**alone),
                "F1": BinaryF1Score(**alone),
                "counts": BinaryStatScores(**alone),
            }
        )

    @property
    def backbone(self) -> nn.Module:
        return self.model.backbone

    def freeze_until(self, stride: int) -> None:
        backbone = self.backbone.eval()
        side = 2 * self.model.size_multiple
        features = early_features(backbone, torch.zeros(1, 3, side, side), stride)
        if features is None:
            levels = self.model.reductions
            larger = "" if is_plain(levels) else f"{levels[0]} or more, "
            raise UserError(
                f"backbone {self.hparams.backbone} has no features at stride {stride} or less: give "
                f"freeze {larger}all or null"
            )
        freeze_before(backbone.train(), features)

    def encode(self, batch: dict[str, Any]) -> dict[str, Any]:
        """features: [(B, C, h, w)]; tags: (B, N), or of mosaics those of their quadrants (B, 4, N)."""
        images, tags = batch["image"].float(), batch["tags"]
        if torch.rand(()) < self.hparams.mosaic and len(images) >= 4:
            images, tags = make_mosaics(images, tags)
        return {"features": [self.model.features(images)], "tags": tags}

    def loss(self, encoded: dict[str, Any]) -> Tensor:
        """Binary cross-entropy, the mean over images, or quadrants, and the classes looked for."""
        maps, tags = self.model.class_map(encoded["features"][0]), encoded["tags"]
        if tags.ndim == 3:
            maps, tags = quadrants(maps).flatten(0, 1), tags.flatten(0, 1)
        return tag_loss(self.model.logits(maps), tags)

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        if SPARE not in batch:
            logits = self.model(batch["image"]).logits
            self.validated += zip(logits.float().cpu(), batch["tags"].cpu(), strict=True)

    def on_validation_epoch_end(self) -> None:
        # of all processes; what they are computed from is the same as of one
        pairs = zip(*in_order(gather(self.validated)), strict=True)
        logits, tags = (torch.stack(values).to(self.device) for values in pairs)
        self.validated = []
        self.log("val_loss", tag_loss(logits, tags))
        self.metrics.update(logits.sigmoid(), tags.long())
        values = self.metrics.compute()
        self.metrics.reset()
        support = values["counts"].reshape(-1, 5)[
            :, 4
        ]  # true, false positives and negatives, positives
        # of a class that no image has nothing can be found: torchmetrics says 0, or nan, by its version
        measured = support.nonzero().flatten().tolist()
        for metric, mean in (("AP", "val_mAP"), ("F1", "val_F1")):
            scores = 100 * values[metric].reshape(-1)
            for index in measured:
                self.log(f"val_{metric}/{self.classes[index]}", scores[index])
            if measured:
                self.log(mean, scores[measured].mean(), prog_bar=mean == "val_mAP")
        if not measured and not self.trainer.sanity_checking:
            notice("val_mAP is not measurable: no image to validate with has a tag")

    def maps(self, images: Tensor, settings: ClassMapSettings) -> ClassMaps:
        """Class maps of images (B, 3, H, W) in 0..255; see `wsss.localize.cam.class_maps`."""
        return class_maps(self.model, images, settings)

    def predict_step(self, batch: dict[str, Any], batch_index: int) -> Any:
        return self.maps(batch["image"], self.map_settings)
