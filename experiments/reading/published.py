"""Benchmarks, published results and prices with their sources and dates, from `data/published.toml`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from experiments.reading.prices import Dated, Price
from sweeps.validation import STRICT, Share, Text, read_toml

DEFAULT_PATH = Path(__file__).resolve().parents[1] / "data" / "published.toml"

_Unknown = Annotated[float, Field(allow_inf_nan=True)]  # NaN: not published


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Accuracy(Dated):
    """A published accuracy on the CIFAR-10 test set, as a share in [0, 1]."""

    key: str
    group: Literal["benchmark", "system", "recipe", "download", "service"]
    accuracy: Share
    accuracy_high: _Unknown = math.nan  # the upper end, if a range was published
    decimals: Literal[0, 1, 2] = 1  # of the percent, as published
    training_flops: _Unknown = math.nan  # of one training
    training_data: Literal["cifar10", "more"]
    zero_shot: bool = False  # it saw none of the training images with their labels
    same_test: bool = True  # on the 10,000 test images
    epochs: str = "not published"  # of a system: those that its published run reached
    caveats: tuple[Text, ...] = ()  # of comparisons with it

    def __post_init__(self) -> None:
        if self.accuracy_high < self.accuracy:
            raise ValueError(f"accuracy <= accuracy_high must hold, but got {self.accuracy_high}")

    @property
    def figure(self) -> str:
        if self.best > self.accuracy:
            return f"{100 * self.accuracy:.1f} to {100 * self.best:.1f} %"
        return self.stated

    @property
    def stated(self) -> str:
        """The figure as published, such as "92 %" or "90.06 %"."""
        return f"{100 * self.accuracy:.{self.decimals}f} %"

    @property
    def same_data(self) -> bool:
        return self.training_data == "cifar10"

    @property
    def best(self) -> float:
        """The figure, or the upper end of its range."""
        return self.accuracy if math.isnan(self.accuracy_high) else self.accuracy_high


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Bar(Dated):
    """The accuracies that a network is measured against, as shares in [0, 1]."""

    name: Text = "The bar"
    target: Share
    start: Share
    rework: Share

    def __post_init__(self) -> None:
        if not self.rework <= self.start <= self.target:
            values = (self.rework, self.start, self.target)
            raise ValueError(f"rework <= start <= target must hold, but got {values}")

    @property
    def figure(self) -> str:
        return f"{round(100 * self.target, 2):g} %"


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class FreshTestSet(Dated):
    """The loss of accuracy on newly collected images: least and most, in points."""

    name: Text = "Fresh test images"
    points_lower: tuple[float, float]

    @property
    def figure(self) -> str:
        low, high = self.points_lower
        return f"{low:g} to {high:g} points lower"


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Published:
    """The content of `published.toml`."""

    bar: Bar
    accuracies: Annotated[tuple[Accuracy, ...], Field(alias="accuracy")] = ()
    prices: Annotated[tuple[Price, ...], Field(alias="price")] = ()
    fresh_test_set: FreshTestSet

    def __post_init__(self) -> None:
        keys = [a.key for a in self.accuracies] + [p.key for p in self.prices]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"keys must be unique, but these occur twice: {', '.join(twice)}")

    def group(self, name: str) -> tuple[Accuracy, ...]:
        return tuple(a for a in self.accuracies if a.group == name)

    def role(self, name: str) -> tuple[Price, ...]:
        return tuple(p for p in self.prices if p.role == name)

    def compute(self, device: str) -> Price | None:
        """The price for runs on `device`, or None if the file has none."""
        return next((p for p in self.role("compute") if p.chosen and p.device == device), None)


def load_published(path: Path = DEFAULT_PATH) -> Published:
    """Load the published figures.

    Raises:
        InvalidFileError: the file is not readable TOML, or breaks a rule.
    """
    return read_toml(path, Published)
