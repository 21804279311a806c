"""Metrics of predictions: loss, accuracy, confusion, the most confident mistakes, and calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_core.data.data_set import CIFAR10, DataSet


@dataclass(frozen=True, slots=True)
class Predictions:
    """Class probabilities fp32 (N, classes) and true classes int64 (N,) of a split, in its order, on the CPU."""

    probabilities: Tensor
    labels: Tensor
    data_set: DataSet = CIFAR10

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> Tensor:
        """Predicted classes (N,)."""
        return self.probabilities.argmax(1)

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood in nats."""
        return F.nll_loss(self.probabilities.double().clamp_min(1e-30).log(), self.labels).item()

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is the true one, in [0, 1]."""
        return (self.classes == self.labels).double().mean().item()

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the accuracies of the classes that have images: each class counts the same."""
        known = [accuracy for accuracy in self.class_accuracy() if not math.isnan(accuracy)]
        return sum(known) / len(known)

    @property
    def even(self) -> bool:
        """True if all classes have the same number of images."""
        return len(set(torch.bincount(self.labels, minlength=len(self.data_set.classes)).tolist())) == 1

    def confusion(self) -> Tensor:
        """Confusion matrix int64 (classes, classes): true classes in rows, predicted classes in columns."""
        count = len(self.data_set.classes)
        return torch.bincount(self.labels * count + self.classes, minlength=count**2).view(count, count)

    def class_accuracy(self) -> list[float]:
        """Accuracy of each true class, in class order; NaN for a class without images."""
        confusion = self.confusion().double()
        per_class: list[float] = (confusion.diagonal() / confusion.sum(1)).tolist()
        return per_class

    def group_accuracy(self) -> dict[str, float]:
        """Accuracy of each group of classes of the data set; NaN for a group without images."""
        confusion = self.confusion().double()
        result: dict[str, float] = {}
        for group, names in self.data_set.groups:
            labels = [self.data_set.classes.index(name) for name in names]
            result[group] = (confusion.diagonal()[labels].sum() / confusion[labels].sum()).item()
        return result

    def confident_mistakes(self, count: int) -> Tensor:
        """Indices of at most `count` wrong predictions, the most confident first."""
        wrong = (self.classes != self.labels).nonzero().squeeze(1)
        confidence = self.probabilities[wrong].amax(1)
        return wrong[confidence.argsort(descending=True, stable=True)[:count]]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Reliability diagram: predictions in bins of equal width of their confidence."""

    counts: tuple[int, ...]  # predictions per bin, from the lowest confidence
    confidence: tuple[float, ...]  # mean confidence per bin; NaN if empty
    accuracy: tuple[float, ...]  # share of right predictions per bin; NaN if empty

    @property
    def ece(self) -> float:
        """Expected calibration error: gap between confidence and accuracy, averaged over all predictions."""
        return sum(n * abs(c - a) for n, c, a in self._filled()) / sum(self.counts)

    @property
    def mean_confidence(self) -> float:
        return sum(n * c for n, c, _ in self._filled()) / sum(self.counts)

    @property
    def mean_accuracy(self) -> float:
        return sum(n * a for n, _, a in self._filled()) / sum(self.counts)

    def _filled(self) -> list[tuple[int, float, float]]:
        return [row for row in zip(self.counts, self.confidence, self.accuracy, strict=True) if row[0]]


def reliability(probability: Tensor, right: Tensor, bins: int = 15) -> Reliability:
    """Compute a reliability diagram (Guo et al., "On calibration of modern neural networks", 2017).

    Args:
        probability: (N,) of the predicted class, in [0, 1].
        right: (N,) boolean, true where the predicted class is the true one.

    Raises:
        ValueError: no predictions.
    """
    if not len(probability):
        raise ValueError("calibration needs at least one prediction, but got none")
    which = (probability.double() * bins).ceil().long().sub(1).clamp(0, bins - 1)
    counts = torch.bincount(which, minlength=bins)
    means = (torch.bincount(which, weights=v.double(), minlength=bins) / counts for v in (probability, right))
    confidence, accuracy = (tuple(mean.tolist()) for mean in means)
    return Reliability(tuple(counts.tolist()), confidence, accuracy)
