"""A linear classifier on features: softmax regression, fitted to its minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import tomli_w
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.data import Split
from cifar_core.evaluation.metrics import Predictions

Scaling = Literal["none", "standard", "length"]
SCALINGS: tuple[Scaling, ...] = ("none", "standard", "length")
_STEPS = 200  # of L-BFGS, at most
_TOLERANCE = 1e-5  # of the gradient


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadRecipe:
    """Everything that decides a head.

    Attributes:
        penalty: factor of the sum of squared weights, which is added to the mean loss in nats.
        scaling: "none"; "standard" gives each feature mean 0 and deviation 1 over the training images; "length" gives
            the features of each image the same length.
        mirrored: train on the mirror images too.
    """

    penalty: float = 0.01
    scaling: Scaling = "length"
    mirrored: bool = True

    @property
    def views(self) -> tuple[bool, ...]:
        """For each view of an image that the head is fitted to: true if it is mirrored."""
        return (False, True) if self.mirrored else (False,)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_toml(self) -> str:
        return tomli_w.dumps(self.to_dict())


class Head(nn.Module):
    """Features (N, D) -> logits (N, classes).

    Attributes:
        evaluations: number of evaluations of the loss and its gradient over all training images in the fit.
    """

    mean: Tensor
    scale: Tensor
    evaluations = 0

    def __init__(self, dimensions: int, classes: int, scaling: Scaling) -> None:
        super().__init__()
        self.scaling = scaling
        self.register_buffer("mean", torch.zeros(dimensions))
        self.register_buffer("scale", torch.ones(dimensions))
        self.linear = nn.Linear(dimensions, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.scaled(features))
        return logits

    def scaled(self, features: Tensor) -> Tensor:
        """Return the features as the linear layer takes them."""
        values = features.float()
        if self.scaling == "length":
            values = F.normalize(values) * values.shape[1] ** 0.5
        return (values - self.mean) * self.scale

    @torch.no_grad()
    def predict(self, features: Tensor, split: Split) -> Predictions:
        """Return the predictions of a split from its features (N, D)."""
        return Predictions(self(features).softmax(1).cpu(), split.labels.cpu(), split.data_set)


def fit(views: Sequence[Tensor], labels: Tensor, recipe: HeadRecipe, classes: int) -> Head:
    """Fit a head to the features of images and their labels (N,), on the device of the features.

    The loss has one minimum, so neither a seed nor an order of the images plays a part.

    Args:
        views: the features (N, D) of each view of the images, such as the images themselves and their mirror images.
    """
    features, labels = torch.cat(list(views)).float(), labels.to(views[0].device).repeat(len(views))
    head = Head(features.shape[1], classes, recipe.scaling).to(features.device)
    with torch.no_grad():
        if recipe.scaling == "standard":
            deviation, mean = torch.std_mean(features, 0)
            head.mean.copy_(mean)
            head.scale.copy_(1 / deviation.clamp_min(1e-6))
        inputs = head.scaled(features)
    linear = head.linear
    optimizer = torch.optim.LBFGS(
        linear.parameters(), max_iter=_STEPS, tolerance_grad=_TOLERANCE, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        head.evaluations += 1
        optimizer.zero_grad()
        value = F.cross_entropy(linear(inputs), labels) + recipe.penalty * linear.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return head.eval()
