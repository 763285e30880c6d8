"""What images have taught about slots, and how it is asked. Needs no torch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class SlotClassifier(NamedTuple):
    """A softmax regression on the features of slots.

    Attributes:
        weight: ``(L, C)`` float32, L labels, the background first.
        bias: ``(L,)`` float32.
        factors: ``(L,)`` float32, by which the labels' probabilities are multiplied in the end.
    """

    weight: np.ndarray
    bias: np.ndarray
    factors: np.ndarray

    def probabilities(self, features: np.ndarray, labels: Sequence[int]) -> np.ndarray:
        """Probabilities of background and tags in slots, ``(n + 1, K)`` float32, summing to 1.

        Each tag's probability is divided by its maximum, as it is in the image somewhere, and then
        multiplied with its factor.

        Args:
            features: what describes the image's K slots, ``(K, C)``.
            labels: the n mask labels of the image's tags.
        """
        logits = features.astype(np.float32) @ self.weight.T + self.bias
        q = np.exp(logits - logits.max(1, keepdims=True))
        q = (q / q.sum(1, keepdims=True))[:, [0, *labels]]
        q[:, 1:] /= q[:, 1:].max(0).clip(1e-6)
        q *= self.factors[[0, *labels]]
        return (q / q.sum(1, keepdims=True)).T


class SlotClasses(NamedTuple):
    """The regressions that relabel slots, and the images that they were learned from.

    Attributes:
        weight: ``(F, L, C)`` float32, one regression for each of F folds.
        bias: ``(F, L)`` float32.
        factors: ``(L,)`` float32, as for `SlotClassifier`, of all folds.
        images: ``(S,)`` ids of the images; number k is of fold k modulo F, from which regression k
            modulo F has not learned.
    """

    weight: np.ndarray
    bias: np.ndarray
    factors: np.ndarray
    images: np.ndarray

    def without(self, image: str | None) -> SlotClassifier:
        """What others than the image of that id have taught: all folds' mean where it taught none."""
        found = np.flatnonzero(self.images == image) if image is not None else ()
        if len(found):
            fold = found[0] % len(self.weight)
            return SlotClassifier(self.weight[fold], self.bias[fold], self.factors)
        return SlotClassifier(self.weight.mean(0), self.bias.mean(0), self.factors)
