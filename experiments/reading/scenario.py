"""The scenario of a report: volume, limits, horizon, people, and the vendors that building is compared with.

A scenario is a TOML file such as `data/scenario.toml`, which explains each field.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic.dataclasses import dataclass

from sweeps.validation import STRICT, NonNegative, Positive, Text, did_you_mean, read_toml

DEFAULT_SCENARIO = Path(__file__).resolve().parents[1] / "data" / "scenario.toml"
HOURS_A_MONTH = 730.0  # 365 days / 12


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


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Dated:
    """A figure with its source, and the date when it was read or published."""

    name: Text
    source: Text
    date: Date
    note: str = ""

    def age(self, on: datetime.date) -> str:
        """Age of the figure on that day: "" within a year, "older than a year", or "undated"."""
        latest = latest_day(self.date)
        if latest is None:
            return "undated"
        return "older than a year" if latest < on - datetime.timedelta(days=365) else ""

    @property
    def when(self) -> str:
        return self.date or "undated"

    @property
    def figure(self) -> str:
        """The figure with its unit, as text."""
        return ""


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Assumed(Dated):
    """An assumption of whoever asks for the report: it has a file, but no age."""

    name: Text = "The scenario"
    date: Date = ""

    def age(self, on: datetime.date) -> str:
        return ""

    @property
    def when(self) -> str:
        return "as given"


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Price(Dated):
    """A published price in US dollars: of an hour of training, endpoint or compute, or of 1,000 predictions."""

    key: str
    role: Literal["training", "prediction", "endpoint", "compute"]
    usd: Positive
    least_hours: Positive = 1.0  # training: the least that can be bought
    custom: bool = False  # the service can be trained on these ten classes
    device: str = ""  # compute: cpu | cuda
    units: Annotated[int, Field(ge=1)] = 1  # compute: vCPUs or GPUs of the machine
    chosen: bool = False  # compute: the report's price for runs on this device
    retires: Date = ""  # the day that the vendor ends the service

    @property
    def figure(self) -> str:
        amount = f"{self.usd:,.2f}"
        if float(amount.replace(",", "")) != self.usd:
            amount = f"{self.usd:,.6g}"
        return f"${amount} {'per 1,000 images' if self.role == 'prediction' else 'an hour'}"

    @property
    def least_purchase(self) -> float:
        """US dollars for the least training that can be bought."""
        return self.usd * self.least_hours

    @property
    def retirement(self) -> datetime.date | None:
        """The day that the service ends, if announced."""
        return latest_day(self.retires)


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class AssumedPrice(Assumed, Price):
    """A price that a scenario states itself."""


_ROLES = {"training": "training", "per_call": "prediction", "endpoint": "endpoint", "compute": "compute"}


def _look_up(value: Any, info: ValidationInfo) -> Any:
    """Replace the key of a price by the price, and a number by a price for the scenario's own machine."""
    field, context = str(info.field_name), info.context or {}
    if value is None or isinstance(value, Price):
        return value
    if field == "compute" and type(value) in (int, float) and 0 < value < math.inf:
        # However many cores it has, it is one machine: the one that the study ran on.
        return AssumedPrice(
            key="scenario-compute", name="the scenario's machine", role="compute", usd=value, units=10**6,
            source=context["file"],
        )  # fmt: skip
    if not isinstance(value, str):
        kind = "the key of a price or a number > 0" if field == "compute" else "the key of a price"
        raise ValueError(f"must be {kind}, but got {value!r}")
    prices: Mapping[str, Price] = context["prices"]
    if value not in prices:
        raise ValueError(f"must be a key of published.toml, but got {value!r}{did_you_mean(value, list(prices))}")
    if prices[value].role != _ROLES[field]:
        raise ValueError(f"must be the key of a {_ROLES[field]} price, but {value!r} is one of {prices[value].role}")
    return prices[value]


_Price = Annotated[Price, BeforeValidator(_look_up)]
_OptionalPrice = Annotated[Price | None, BeforeValidator(_look_up)]


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Vendor:
    """A service that can be trained on these classes."""

    name: Text
    training: _Price  # an hour of training
    per_call: _OptionalPrice = None  # 1,000 predictions
    endpoint: _OptionalPrice = None  # an hour of a model that is kept ready, used or idle
    endpoint_hours_per_month: Annotated[float, Field(ge=0, le=HOURS_A_MONTH)] = HOURS_A_MONTH

    def __post_init__(self) -> None:
        if self.per_call is None and self.endpoint is None:
            raise ValueError("per_call or endpoint must be given, but neither is")

    @property
    def prices(self) -> tuple[Price, ...]:
        return tuple(p for p in (self.training, self.per_call, self.endpoint) if p is not None)


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Scenario:
    """The assumptions behind the decision; money in US dollars."""

    images_per_month: Positive
    accuracy_bar: Annotated[float, Field(gt=0, lt=1)] = 0.70  # share of test images
    latency_bar_ms: Positive | None = None  # None: images can wait, and compute is paid by the second
    horizon_years: Annotated[float, Field(gt=0, le=100)]
    engineering_hours: NonNegative  # for building, beyond what buying takes
    hourly_rate: NonNegative
    retraining_per_year: NonNegative
    compute: _OptionalPrice = None  # None: the machine that published.toml marks for the study's device
    vendors: Annotated[tuple[Vendor, ...], Field(alias="vendor", min_length=1)]
    file: str = ""  # name of the file that the scenario was read from

    @property
    def months(self) -> float:
        return 12 * self.horizon_years

    @property
    def people_usd(self) -> float:
        """Cost over the horizon for the people who build."""
        return self.engineering_hours * self.hourly_rate

    @property
    def entry(self) -> Assumed:
        """The scenario as a source to cite."""
        return Assumed(source=self.file)


def load_scenario(prices: Sequence[Price], path: Path = DEFAULT_SCENARIO) -> Scenario:
    """Load a scenario, whose keys are those of `prices`.

    Raises:
        InvalidFileError: the file is not readable TOML, or breaks a rule.
    """
    context: dict[str, Any] = {"file": path.name, "prices": {price.key: price for price in prices}}
    return replace(read_toml(path, Scenario, context), file=path.name)
