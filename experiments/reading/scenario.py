"""The scenario of a report: volume, bars, horizon, people, and the vendors to set building against.

A scenario is a TOML file such as `scenario.toml`, which says what each field means.
"""

from __future__ import annotations

import difflib
import math
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any

from cifar_core.errors import first_line
from experiments.reading.published import Assumed, AssumedPrice, Price, Published, PublishedError

DEFAULT_SCENARIO = Path(__file__).resolve().parents[1] / "data" / "scenario.toml"
HOURS_A_MONTH = 730.0  # 365 days / 12


class ScenarioError(ValueError):
    """A scenario breaks a rule; the message is one line with the file, the rule and the value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vendor:
    """A service that can be trained on these classes.

    Raises:
        ScenarioError: a price of the wrong role, neither of `per_call` and `endpoint`, or hours that no month has.
    """

    name: str
    training: Price  # an hour of training
    per_call: Price | None = None  # 1,000 predictions
    endpoint: Price | None = None  # an hour of a model that is kept ready, used or idle
    endpoint_hours_per_month: float = HOURS_A_MONTH

    def __post_init__(self) -> None:
        roles = {"training": "training", "per_call": "prediction", "endpoint": "endpoint"}
        for field, role in roles.items():
            price = getattr(self, field)
            if price is not None and price.role != role:
                raise ScenarioError(
                    f"{field} must be the key of a {role} price, but {price.key!r} is one of {price.role}"
                )
        if self.per_call is None and self.endpoint is None:
            raise ScenarioError("per_call or endpoint must be given, but neither is")
        hours = self.endpoint_hours_per_month
        _require(0 <= hours <= HOURS_A_MONTH, f"0 <= endpoint_hours_per_month <= {HOURS_A_MONTH:g}", hours)

    @property
    def prices(self) -> tuple[Price, ...]:
        return tuple(p for p in (self.training, self.per_call, self.endpoint) if p is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """What the decision hangs on besides what was measured; money in US dollars.

    Raises:
        ScenarioError: a field is out of range.
    """

    file: str  # the name of the file that it was read from
    images_per_month: float
    accuracy_bar: float = 0.70  # share of test images
    latency_bar_ms: float | None = None  # None: images can wait, and compute is paid by the second
    horizon_years: float
    engineering_hours: float  # of building, beyond what buying takes
    hourly_rate: float
    retraining_per_year: float
    compute: Price | None = None  # None: the machine that published.toml marks for the study's device
    vendors: tuple[Vendor, ...]

    def __post_init__(self) -> None:
        _require(0 < self.images_per_month < math.inf, "images_per_month > 0", self.images_per_month)
        _require(0 < self.accuracy_bar < 1, "0 < accuracy_bar < 1", self.accuracy_bar)
        _require(
            self.latency_bar_ms is None or 0 < self.latency_bar_ms < math.inf, "latency_bar_ms > 0", self.latency_bar_ms
        )
        _require(0 < self.horizon_years <= 100, "0 < horizon_years <= 100", self.horizon_years)
        for name in ("engineering_hours", "hourly_rate", "retraining_per_year"):
            _require(0 <= getattr(self, name) < math.inf, f"{name} >= 0", getattr(self, name))
        _require(len(self.vendors) > 0, "at least one [[vendor]]", len(self.vendors))

    @property
    def months(self) -> float:
        return 12 * self.horizon_years

    @property
    def people_usd(self) -> float:
        """What the people who build cost over the horizon."""
        return self.engineering_hours * self.hourly_rate

    @property
    def entry(self) -> Assumed:
        """The scenario as a source that sentences can cite."""
        return Assumed(source=self.file, date="")


def load_scenario(published: Published, path: Path = DEFAULT_SCENARIO) -> Scenario:
    """Read and check a scenario; its keys are looked up among the published prices.

    Raises:
        ScenarioError: the file cannot be read, or breaks a rule.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # endless numbers and brackets give no TOMLDecodeError
        raise ScenarioError(f"{path.name} must be a readable TOML file, but: {first_line(error)}") from error
    try:
        vendors = raw.pop("vendor", [])
        if not isinstance(vendors, list) or not all(isinstance(v, dict) for v in vendors):
            raise ScenarioError(f"vendor must be a list of [[vendor]] tables, but got {vendors!r}")
        _check(raw, fields(Scenario), hidden=("file", "vendors"), texts=(), mixed=("compute",))
        if "compute" in raw:
            raw["compute"] = _compute(raw["compute"], published, path.name)
        return Scenario(file=path.name, vendors=tuple(_vendor(v, published) for v in vendors), **raw)
    except (ScenarioError, PublishedError) as error:
        raise ScenarioError(f"{path.name}: {error}") from None


def _vendor(values: Mapping[str, Any], published: Published) -> Vendor:
    try:
        _check(values, fields(Vendor), texts=("name", "training", "per_call", "endpoint"))
        keys = {f: _price(values[f], published) for f in ("training", "per_call", "endpoint") if f in values}
        return Vendor(**{**values, **keys})
    except ScenarioError as error:
        raise ScenarioError(f"vendor {values.get('name', '?')!r}: {error}") from None


def _compute(value: str | float, published: Published, file: str) -> Price:
    if not isinstance(value, str):
        # However many cores it has, it is one machine: the one that the study ran on.
        return AssumedPrice(
            key="scenario-compute", name="the scenario's machine", role="compute", usd=value, units=10**6,
            source=file, date="",
        )  # fmt: skip
    price = _price(value, published)
    if price.role != "compute":
        raise ScenarioError(f"compute must be the key of a compute price, but {value!r} is one of {price.role}")
    return price


def _price(key: str, published: Published) -> Price:
    prices = {price.key: price for price in published.prices}
    if key not in prices:
        raise ScenarioError(f"a price must be a key of published.toml, but got {key!r}{_meant(key, list(prices))}")
    return prices[key]


def _check(
    values: Mapping[str, Any],
    known: Sequence[Field[Any]],
    *,
    texts: Sequence[str],
    hidden: Sequence[str] = (),
    mixed: Sequence[str] = (),
) -> None:
    """Names and types; `mixed` fields are a text or a number."""
    names = [f.name for f in known if f.name not in hidden]
    for name in values:
        if name not in names:
            raise ScenarioError(f"unknown field {name!r}{_meant(name, names)}")
    for field in known:
        if field.name in names and field.default is MISSING and field.name not in values:
            raise ScenarioError(f"field {field.name!r} is missing")
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        if name in texts and not isinstance(value, str):
            raise ScenarioError(f"{name} must be a text, but got {value!r}")
        if name not in texts and not number and not (name in mixed and isinstance(value, str)):
            raise ScenarioError(
                f"{name} must be a {'price key or a ' if name in mixed else ''}number, but got {value!r}"
            )


def _meant(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def _require(holds: bool, rule: str, value: object) -> None:
    if not holds:
        raise ScenarioError(f"{rule} must hold, but got {value!r}")
