"""What predictions are worth: loss, accuracy overall and per class, confusion, and the most confident mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_core.data import CLASSES

CLASS_COUNT = 10

ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
VEHICLES = ("airplane", "automobile", "ship", "truck")


@dataclass(frozen=True, slots=True)
class Predictions:
    """Class probabilities (N, 10) in fp32 and true classes (N,) in int64, both on the CPU, in the split's order."""

    probabilities: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> Tensor:
        """Predicted classes (N,)."""
        return self.probabilities.argmax(1)

    @property
    def loss(self) -> float:
        """Mean negative log likelihood in nats per image."""
        return F.nll_loss(self.probabilities.double().clamp_min(1e-30).log(), self.labels).item()

    @property
    def accuracy(self) -> float:
        """Fraction of images whose most probable class is the true one, in [0, 1]."""
        return (self.classes == self.labels).double().mean().item()

    def confusion(self) -> Tensor:
        """Counts (10, 10) in int64: row = true class, column = predicted class."""
        pairs = self.labels * CLASS_COUNT + self.classes
        return torch.bincount(pairs, minlength=CLASS_COUNT**2).view(CLASS_COUNT, CLASS_COUNT)

    def class_accuracy(self) -> list[float]:
        """Accuracy within each true class, in class order; NaN for a class without images."""
        confusion = self.confusion().double()
        per_class: list[float] = (confusion.diagonal() / confusion.sum(1)).tolist()
        return per_class

    def group_accuracy(self) -> dict[str, float]:
        """Accuracy over all images of the "animals" and over those of the "vehicles"; NaN for a group without any."""
        confusion = self.confusion().double()
        result: dict[str, float] = {}
        for group, names in (("animals", ANIMALS), ("vehicles", VEHICLES)):
            labels = [CLASSES.index(name) for name in names]
            result[group] = (confusion.diagonal()[labels].sum() / confusion[labels].sum()).item()
        return result

    def confident_mistakes(self, count: int) -> Tensor:
        """Indices (at most `count`,) of wrong predictions, the most confident first."""
        wrong = (self.classes != self.labels).nonzero().squeeze(1)
        confidence = self.probabilities[wrong].amax(1)
        return wrong[confidence.argsort(descending=True, stable=True)[:count]]
