"""Benchmarks, published results and prices with their sources and dates, from `data/published.toml`."""

from __future__ import annotations

import datetime
import itertools
import math
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from sweeps.validation import STRICT, NonNegative, Positive, Share, Text, read_toml

DEFAULT_PATH = Path(__file__).resolve().parents[1] / "data" / "published.toml"


def latest_day(date: str) -> datetime.date | None:
    """Return the latest day that a date such as "2023" or "2026-10-07" can mean; None for "".

    Raises:
        ValueError: the date is neither "YYYY-MM-DD", "YYYY" nor "".
    """
    if not date:
        return None
    try:
        return datetime.date(int(date), 12, 31) if re.fullmatch(r"\d{4}", date) else datetime.date.fromisoformat(date)
    except ValueError:
        raise ValueError(f'must be "YYYY-MM-DD", "YYYY" or "", but got {date!r}') from None


def _check_date(date: str) -> str:
    latest_day(date)
    return date


Date = Annotated[str, AfterValidator(_check_date)]  # "YYYY-MM-DD", "YYYY", or "" where the source gives none

_Unknown = Annotated[float, Field(allow_inf_nan=True)]  # NaN: not published


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Dated:
    """A figure with its source, and the date when it was read or published.

    Attributes:
        assumed: True for a figure of the scenario, which has no age.
    """

    name: Text
    source: Text
    date: Date
    note: str = ""
    assumed: bool = False

    def age(self, on: datetime.date) -> str:
        """Age of the figure on that day: "" within a year, "older than a year", or "undated"."""
        if self.assumed:
            return ""
        latest = latest_day(self.date)
        if latest is None:
            return "undated"
        return "older than a year" if latest < on - datetime.timedelta(days=365) else ""

    @property
    def when(self) -> str:
        return self.date or ("as given" if self.assumed else "undated")

    @property
    def figure(self) -> str:
        """The figure with its unit, as text."""
        return ""


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Accuracy(Dated):
    """A published accuracy on the CIFAR-10 test set, as a share in [0, 1]."""

    key: str
    group: Literal["benchmark", "system", "recipe", "download", "service"]
    accuracy: Share
    accuracy_high: _Unknown = math.nan  # the upper end, if a range was published
    decimals: Literal[0, 1, 2] = 1  # digits of the published percentage
    training_flops: _Unknown = math.nan  # FLOPs of one training
    training_data: Literal["cifar10", "more"]
    same_test: bool = True  # on the 10,000 test images
    epochs: str = "not published"  # epochs that the published run of a system reached
    caveats: tuple[Text, ...] = ()  # what limits a comparison with it

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


@dataclass(frozen=True, slots=True)
class ByImage:
    """A price of each image, with steps.

    Attributes:
        steps: pairs (images a month, US dollars): the price of `unit` images beyond that number. Images before the
            first step are free.
        unit: number of images that a price is for.
    """

    steps: tuple[tuple[float, float], ...]
    unit: float

    def month(self, images: float) -> float:
        """US dollars for so many images in a month."""
        usd, end = 0.0, images
        for start, price in reversed(self.steps):
            usd += max(0.0, end - start) * price / self.unit
            end = min(end, start)
        return usd


@dataclass(frozen=True, slots=True)
class ByMachine:
    """A price of machines or endpoints that run all month, at least one.

    Attributes:
        carries: images a month that one machine can label; infinity if one is enough for all.
        usd: US dollars a month for one machine.
    """

    carries: float
    usd: float

    def month(self, images: float) -> float:
        """US dollars for so many images in a month."""
        return max(1, math.ceil(images / self.carries)) * self.usd


Tariff = ByImage | ByMachine

UNITS = {
    "training": "an hour",
    "prediction": "per 1,000 images",
    "endpoint": "an hour",
    "token": "per million tokens",
    "storage": "a month per 1,000 stored images",
    "compute": "an hour",
}
"""The unit of a price, by its role."""


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Price(Dated):
    """A published price in US dollars. Its unit follows from its role, see `UNITS`.

    Attributes:
        usd_output: price of a million tokens of answers; `usd` is then that of a million tokens of images and prompts.
        least_hours: fewest hours of training that can be bought.
        free: predictions a month that cost nothing.
        steps: pairs (images a month, US dollars): the price of 1,000 predictions beyond that number of images.
        custom: True if the service answers with the classes that it is given, or trained on.
        device: device of a compute price: cpu | cuda.
        units: vCPUs or GPUs of the machine; None for as many as the study took.
        chosen: True if the report prices runs on this device by this compute price.
        retires: day on which the vendor ends the service.
    """

    key: str
    role: Literal["training", "prediction", "endpoint", "token", "storage", "compute"]
    usd: Positive
    usd_output: NonNegative = 0.0
    least_hours: Positive = 1.0
    free: NonNegative = 0.0
    steps: tuple[tuple[Positive, NonNegative], ...] = ()
    custom: bool = False
    device: str = ""
    units: Annotated[int, Field(ge=1)] | None = 1
    chosen: bool = False
    retires: Date = ""

    def __post_init__(self) -> None:
        if (self.free or self.steps) and self.role != "prediction":
            raise ValueError(f"free and steps go with a prediction price, but this is one of {self.role}")
        if self.usd_output and self.role != "token":
            raise ValueError(f"usd_output goes with a token price, but this is one of {self.role}")
        starts = [self.free, *(start for start, _ in self.steps)]
        if any(later <= earlier for earlier, later in itertools.pairwise(starts)):
            raise ValueError(f"steps must begin at ever more images, and beyond the free ones, but got {starts[1:]}")

    @property
    def figure(self) -> str:
        output = f" in, {rate(self.usd_output)} out," if self.role == "token" else ""
        return f"{rate(self.usd)}{output} {UNITS[self.role]}"

    @property
    def least_purchase(self) -> float:
        """US dollars for the least training that can be bought."""
        return self.usd * self.least_hours

    @property
    def retirement(self) -> datetime.date | None:
        """The day that the service ends, if announced."""
        return latest_day(self.retires)

    @property
    def tariff(self) -> ByImage:
        """Price of predictions by their number in a month, with free ones and steps."""
        return ByImage(((self.free, self.usd), *self.steps), 1000)

    def scaled(self, factor: float) -> Self:
        """This price, multiplied by a factor at every step."""
        steps = tuple((start, usd * factor) for start, usd in self.steps)
        return replace(self, usd=self.usd * factor, usd_output=self.usd_output * factor, steps=steps)


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
        return f"{100 * self.target:.10g} %"


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


def rate(usd: float) -> str:
    """A price in US dollars, as it was published.

    >>> rate(0.08160001), rate(6.88), rate(10), rate(0.00005)
    ('$0.08160001', '$6.88', '$10.00', '$0.00005')
    """
    amount = f"{usd:,.2f}"
    if float(amount.replace(",", "")) != usd:
        amount = f"{Decimal(f'{usd:.10g}'):,f}"  # without an exponent
    return f"${amount}"
