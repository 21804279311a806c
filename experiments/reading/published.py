"""Benchmarks, published results and prices, each with its source and date: what `published.toml` holds."""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

DEFAULT_PATH = Path(__file__).resolve().parents[1] / "data" / "published.toml"

_GROUPS = ("benchmark", "system", "public")
_ROLES = ("training", "prediction", "endpoint", "compute")


class PublishedError(ValueError):
    """The published figures break a rule; the message is one line with the entry, the rule and the value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dated:
    """Where a figure comes from, and when it was read or published.

    Raises:
        PublishedError: no source, or a date that is neither "", "YYYY" nor "YYYY-MM-DD".
    """

    source: str
    date: str  # "YYYY-MM-DD", "YYYY", or "" where the source names none

    def __post_init__(self) -> None:
        if not self.source:
            raise PublishedError("source must name where the figure comes from, but got ''")
        _latest(self.date)

    def age(self, on: datetime.date) -> str:
        """How old the figure is on that day: "" within a year, "older than a year", or "undated"."""
        latest = _latest(self.date)
        if latest is None:
            return "undated"
        return "older than a year" if latest < on - datetime.timedelta(days=365) else ""

    @property
    def when(self) -> str:
        return self.date or "undated"


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumed(Dated):
    """What whoever asks for a report assumes: it has a file, but no age."""

    def age(self, on: datetime.date) -> str:
        return ""

    @property
    def when(self) -> str:
        return "as given"


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy(Dated):
    """A published accuracy on the CIFAR-10 test set, as a share in [0, 1]."""

    key: str
    name: str
    group: str  # benchmark | system | public
    accuracy: float
    accuracy_high: float = math.nan  # the upper end where a range was published
    decimals: int = 1  # of the percent, as published
    training_flops: float = math.nan  # of one training, where it was published
    training_data: str  # cifar10 | more
    note: str = ""

    def __post_init__(self) -> None:
        Dated.__post_init__(self)
        _require(self.group in _GROUPS, f"group must be one of {', '.join(_GROUPS)}", self.group)
        _require(0 <= self.accuracy <= 1, "0 <= accuracy <= 1", self.accuracy)
        _require(not self.accuracy_high < self.accuracy, "accuracy <= accuracy_high", self.accuracy_high)
        _require(self.decimals in (0, 1, 2), "decimals: 0, 1 or 2", self.decimals)
        _require(self.training_data in ("cifar10", "more"), "training_data: cifar10 or more", self.training_data)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Price(Dated):
    """A published price in US dollars: an hour of training, endpoint or compute, or 1,000 predictions."""

    key: str
    name: str
    role: str  # training | prediction | endpoint | compute
    usd: float
    least_hours: float = 1.0  # training: the least that can be bought
    custom: bool = False  # the service can be trained on these ten classes
    device: str = ""  # compute: cpu | cuda
    units: int = 1  # compute: vCPUs or GPUs of the machine
    chosen: bool = False  # compute: the report prices runs on this device with it
    retires: str = ""  # "YYYY-MM-DD": the day that the vendor ends the service
    note: str = ""

    def __post_init__(self) -> None:
        Dated.__post_init__(self)
        _latest(self.retires)
        _require(self.role in _ROLES, f"role must be one of {', '.join(_ROLES)}", self.role)
        _require(0 < self.usd < math.inf, "usd > 0", self.usd)
        _require(0 < self.least_hours < math.inf, "least_hours > 0", self.least_hours)
        _require(self.units >= 1, "units >= 1", self.units)

    @property
    def least_purchase(self) -> float:
        """US dollars of the least training that can be bought."""
        return self.usd * self.least_hours

    @property
    def retirement(self) -> datetime.date | None:
        """The day that the service ends, as far as it was announced."""
        return _latest(self.retires)


@dataclass(frozen=True, kw_only=True, slots=True)
class AssumedPrice(Assumed, Price):
    """A price that a scenario gives itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar(Dated):
    """What an accuracy is held against, as shares in [0, 1]."""

    target: float
    start: float
    rework: float

    def __post_init__(self) -> None:
        Dated.__post_init__(self)
        in_order = 0 <= self.rework <= self.start <= self.target <= 1
        _require(in_order, "0 <= rework <= start <= target <= 1", (self.rework, self.start, self.target))


@dataclass(frozen=True, kw_only=True, slots=True)
class FreshTestSet(Dated):
    """By how many points accuracies fall on images collected anew."""

    points_lower: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Everything that `published.toml` holds."""

    bar: Bar
    accuracies: tuple[Accuracy, ...]
    prices: tuple[Price, ...]
    fresh_test_set: FreshTestSet

    def group(self, name: str) -> tuple[Accuracy, ...]:
        return tuple(a for a in self.accuracies if a.group == name)

    def role(self, name: str) -> tuple[Price, ...]:
        return tuple(p for p in self.prices if p.role == name)

    def compute(self, device: str) -> Price | None:
        """The machine that runs on `device` are priced with, or None where the file names none."""
        return next((p for p in self.role("compute") if p.chosen and p.device == device), None)


def load_published(path: Path = DEFAULT_PATH) -> Published:
    """Read and check the file of published figures.

    Raises:
        PublishedError: not TOML, or an entry that lacks a field or breaks a rule.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PublishedError(f"{path.name} must be a readable TOML file, but: {error}") from error
    fresh = dict(_table(raw, "fresh_test_set"))
    if "points_lower" in fresh:
        fresh["points_lower"] = tuple(fresh["points_lower"])
    published = Published(
        bar=_build(Bar, _table(raw, "bar"), "[bar]"),
        accuracies=tuple(_build(Accuracy, a, f"accuracy {a.get('key')!r}") for a in raw.get("accuracy", [])),
        prices=tuple(_build(Price, p, f"price {p.get('key')!r}") for p in raw.get("price", [])),
        fresh_test_set=_build(FreshTestSet, fresh, "[fresh_test_set]"),
    )
    keys = [a.key for a in published.accuracies] + [p.key for p in published.prices]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise PublishedError(f"keys must be unique, but these occur twice: {', '.join(twice)}")
    return published


_Entry = TypeVar("_Entry", bound=Dated)


def _build(kind: Callable[..., _Entry], values: Mapping[str, Any], where: str) -> _Entry:
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    missing = sorted(n for n, f in known.items() if f.default is MISSING and n not in values)
    if unknown or missing:
        faults = [f"unknown field {name!r}" for name in unknown] + [f"field {name!r} is missing" for name in missing]
        raise PublishedError(f"{where}: {'; '.join(faults)}")
    try:
        return kind(**values)
    except PublishedError as error:
        raise PublishedError(f"{where}: {error}") from None
    except TypeError as error:
        raise PublishedError(f"{where}: a field has the wrong type: {error}") from None


def _table(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if name not in raw:
        raise PublishedError(f"a table [{name}] must be there, but is missing")
    table: Mapping[str, Any] = raw[name]
    return table


def _require(holds: bool, rule: str, value: object) -> None:
    if not holds:
        raise PublishedError(f"{rule} must hold, but got {value!r}")


def _latest(text: str) -> datetime.date | None:
    """The latest day that a date such as "2023" or "2026-10-07" can mean; None for ""."""
    if not text:
        return None
    try:
        return datetime.date(int(text), 12, 31) if re.fullmatch(r"\d{4}", text) else datetime.date.fromisoformat(text)
    except ValueError:
        raise PublishedError(f'date must be "YYYY-MM-DD", "YYYY" or "", but got {text!r}') from None
