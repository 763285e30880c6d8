"""Training, testing and using the segmentation network."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from wsss.data.datasets import SPARE
from wsss.distributed import average_, gather
from wsss.errors import UserError, notice
from wsss.evaluation import Evaluator
from wsss.models.fast import fast_layers
from wsss.models.segmenter import SegmentationNetwork, mask_of, predict_probabilities
from wsss.settings import VIEWS, CRFSettings, InferenceSettings
from wsss.tasks.checkpoints import checkpoint_kind, read_checkpoint
from wsss.tasks.optim import freeze_before
from wsss.tasks.task import Task
from wsss.voc import VOID


class SegmentationTask(Task):
    """Semantic segmentation on (pseudo-)masks; void (255) is ignored.

    Args:
        classes: foreground class names (set from the data).
        decoder: a segmentation_models_pytorch architecture, or Linear, which goes with any timm model:
            BatchNorm and a 1x1 convolution on the deepest features.
        encoder: a timm model or one of SMP's encoders.
        pretrained: take the encoder's published ImageNet weights (needs a network the first time).
        weights: file with weights for the encoder instead (.safetensors or .pth, or a checkpoint of
            `wsss classify`), or a checkpoint of `wsss segment`, of which the decoder is taken, too.
        freeze_norm: keep the running statistics of the encoder's BatchNorm as they are (for small
            pretrained runs).
        freeze: do not train the encoder's layers up to this stride, 2, 4, 8 or 16: faster, and a small
            data set cannot spoil them (no ViT has such layers). `all`: train the decoder alone, the
            encoder's BatchNorm stays as it is. null: train all.
        views: with `freeze: all`, how often the training images are shown to the encoder, which is
            once, before the training; the epochs take turns with what it saw, kept on disk meanwhile.
            0: it sees new crops every epoch.
        lr: learning rate of the encoder.
        head_lr_multiplier: learning-rate multiplier of the decoder.
        weight_decay: of AdamW.
        warmup: share of the steps with a rising learning rate.
        scales: image scales at test and prediction (validation uses scale 1 alone). These four: null
            takes what the checkpoint was trained to be tested with, at first 1.0 and no more.
        flip: test and predict with the horizontal flip, too.
        tile: at test and prediction, window side for images larger than it; 0: whole images.
        crf: dense CRF at test and prediction; false: none.
    """

    kind, name = "segment", "segmenter"
    schedule = "poly"

    def __init__(
        self,
        classes: list[str],
        decoder: str = "DeepLabV3Plus",
        encoder: str = "glnet_4g",
        pretrained: bool = False,
        weights: str | None = None,
        freeze_norm: bool = False,
        freeze: Literal[2, 4, 8, 16, "all"] | None = None,
        views: int = VIEWS,
        lr: float = 1e-4,
        head_lr_multiplier: float = 10.0,
        weight_decay: float = 0.01,
        warmup: float = 0.05,
        scales: Sequence[float] | None = None,
        flip: bool | None = None,
        tile: int | None = None,
        crf: CRFSettings | bool | None = None,
    ) -> None:
        super().__init__(classes, given=pretrained or weights is not None)
        self.save_hyperparameters(
            ignore=["classes", "pretrained", "weights", "scales", "flip", "tile", "crf"]
        )
        self._check_rates()
        how = {"scales": scales, "flip": flip, "tile": tile, "crf": crf}
        self.inference = InferenceSettings().with_options(**how)
        whole = weights is not None and checkpoint_kind(weights) == "segment"
        own = (False, None) if whole else (pretrained, weights)
        self.model = SegmentationNetwork(decoder, encoder, len(classes) + 1, *own)
        if whole:
            self._go_on_from(weights)
        self._freeze()
        self.looked_at: list[bool] | None = None  # which features the decoder takes notice of
        fast_layers(self.model)
        self.evaluator = Evaluator(classes)

    def _go_on_from(self, path: str) -> None:
        checkpoint = read_checkpoint(path, "segment")
        self.on_load_checkpoint(checkpoint)
        try:
            self.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise UserError(
                f"{path} holds another network than this decoder and encoder: start from a checkpoint "
                "of the same ones"
            ) from error

    @property
    def backbone(self) -> nn.Module:
        return self.model.net.encoder

    def freeze_until(self, stride: int) -> None:
        encoder = self.backbone.eval()
        features = self.model.early_features(stride)
        if features is None:
            raise UserError(
                f"the encoder has no features at stride {stride}: raise freeze, or give all or null"
            )
        freeze_before(encoder.train(), features)

    def restored(self, checkpoint: dict[str, Any]) -> None:
        self.inference = InferenceSettings.of_checkpoint(checkpoint)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        of_trainer = {"precision": self.trainer.precision}
        if (side := getattr(self.trainer.datamodule, "max_side", None)) is not None:
            of_trainer["max_side"] = side
        checkpoint["inference"] = replace(self.inference, **of_trainer).to_dict()

    def encode(self, batch: dict[str, Any]) -> dict[str, Any]:
        """features: those of the encoder; mask: (B, H, W) uint8."""
        features = self.model.features(batch["image"])
        if self.head_alone:
            if self.looked_at is None:
                self.looked_at = self.model.looked_at(features)
            pairs = zip(features, self.looked_at, strict=True)
            features = [one if wanted else one[:0] for one, wanted in pairs]
        return {"features": features, "mask": batch["mask"]}

    def loss(self, encoded: dict[str, Any]) -> Tensor:
        """Cross-entropy, the mean over pixels that are not void."""
        mask = encoded["mask"].long()
        logits = self.model.decode(encoded["features"], mask.shape[-2:])
        losses = F.cross_entropy(logits.float(), mask, ignore_index=VOID, reduction="sum")
        count = (mask != VOID).sum().double()
        average_([count])  # as the gradients of all processes: each pixel counts the same
        return losses / count.float().clamp_min(1)  # a batch of void alone counts nothing

    def _evaluate(self, batch: dict[str, Any], **how: Any) -> Tensor:
        mask = self.predict_mask(batch, **how)
        self.evaluator.update(mask, batch["mask"][0])
        return mask

    def metrics_so_far(self) -> dict[str, float]:
        """Of the evaluation under way, for the progress bar."""
        return self.evaluator.so_far()

    def predict_mask(
        self,
        batch: dict[str, Any],
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        tile: int | None = None,
        crf: CRFSettings | None = None,
    ) -> Tensor:
        """(H, W) uint8 labels of a batch of one image, at its original size."""
        probabilities = predict_probabilities(self.model, batch["image"], scales, flip, tile)
        return self.labels(batch, probabilities, crf)

    @staticmethod
    def labels(batch: dict[str, Any], probabilities: Tensor, crf: CRFSettings | None = None) -> Tensor:
        """Probabilities (1, L, h, w) of a batch of one image to its (H, W) uint8 labels."""
        return mask_of(probabilities, batch["image"], batch["size"][0].tolist(), crf)

    def _log_scores(self, stage: str) -> None:
        self.evaluator.merge(gather(self.evaluator.state))
        if not self.evaluator.measurable:
            notice(f"{stage}_mIoU is not measurable: no pixel of the ground truth has a label")
            self.evaluator = Evaluator(self.classes)
            return
        scores = self.evaluator.compute()
        self.log(f"{stage}_mIoU", scores.miou, prog_bar=True)
        self.log(f"{stage}_pixel_accuracy", scores.pixel_accuracy)
        for name, value in scores.iou.items():
            if value is not None:
                self.log(f"{stage}_IoU/{name}", value)
        self.evaluator = Evaluator(self.classes)

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        if SPARE not in batch:
            self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:  # two masks, in which perhaps nothing is labelled
            self.evaluator = Evaluator(self.classes)
        else:
            self._log_scores("val")

    def test_step(self, batch: dict[str, Any], batch_index: int) -> Tensor | None:
        return None if SPARE in batch else self._evaluate(batch, **self.test_settings)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    @property
    def test_settings(self) -> dict[str, Any]:
        """Keyword arguments of `predict_mask` at test and prediction."""
        how = self.inference
        return {"scales": how.scales, "flip": how.flip, "tile": how.tile, "crf": how.crf}

    def predict_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Probabilities (B, L, h, w) of a batch."""
        how = self.inference
        return predict_probabilities(self.model, batch["image"], how.scales, how.flip, how.tile)
