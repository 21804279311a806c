"""The cost of each way to labelled images, in US dollars: building, adapting a download, buying from a vendor."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from experiments.decision.machines import LOAD_LIMIT, Cost, capacity
from experiments.pages.text import total
from experiments.reading.published import ByImage, ByMachine, Tariff
from experiments.reading.scenario import HOURS_A_MONTH, Download, Scenario, Vendor, slug

Kind = Literal["build", "adapt", "buy"]
DAYS_A_MONTH = HOURS_A_MONTH / 24
VOLUMES = (1e3, 1e9)  # images a month
_STEPS = 40  # of that search to a power of ten, wherever it begins
_MACHINES = 20  # of a tariff: another one beyond them is a smaller step than those of the search
_BESIDE = 1e-9  # share of a volume by which the search looks to either side of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """The cost of one way, in US dollars.

    Attributes:
        people: cost of people before the first month, to build, to adapt, or to integrate.
        labels: cost of the labels that have to be bought for training.
        training: cost of the first training: the study, or the least that a vendor sells.
        upkeep: cost of people a month, for maintenance or for the migrations that a vendor forces.
        retraining, storage: cost a month.
        tariffs: prices per image or machine for inference; they add up.
        images: number of images a month.
        ends: month in which the vendor ends the service; infinity if no end is announced.
        unpriced: what has no price yet. Unless it is empty, all sums are lower bounds.
        sources: sources of the prices.
    """

    name: str
    kind: Kind
    people: float
    labels: float = 0.0
    training: float = 0.0
    upkeep: float = 0.0
    retraining: float = 0.0
    storage: float = 0.0
    tariffs: tuple[Tariff, ...] = ()
    images: float = 0.0
    ends: float = math.inf
    unpriced: str = ""
    sources: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name of the way in `report.json`."""
        return self.kind if self.kind == "build" else f"{self.kind}.{slug(self.name)}"

    @property
    def serving(self) -> float:
        """Cost of labelling in a month."""
        return sum(tariff.month(self.images) for tariff in self.tariffs)

    @property
    def once(self) -> float:
        """Cost before the first month."""
        return self.people + self.labels + self.training

    @property
    def month(self) -> float:
        """Cost of each month."""
        return self.upkeep + self.retraining + self.serving + self.storage

    def total(self, months: float) -> float:
        """Return the cost of so many months, or until the service ends."""
        return self.once + min(months, self.ends) * self.month

    def stated(self, months: float) -> str:
        """Return the same in words, such as "at least $4,800"; "unknown" where building has no price."""
        if self.kind == "build" and self.unpriced:
            return "unknown"
        return f"{'at least ' if self.unpriced else ''}{total(self.total(months))}"


def build(cost: Cost, scenario: Scenario) -> Option:
    """The cost of building under the scenario.

    With a latency bar, as many machines run all month as the images need one by one. Without one, compute in large
    batches is paid by the second.
    """
    tariffs: tuple[Tariff, ...] = ()
    if not cost.missing:
        assert cost.month_usd is not None
        assert cost.per_1000_usd is not None
        tariffs = (ByImage(((0.0, cost.per_1000_usd),), 1000),)
        if scenario.latency_bar_ms is not None:
            tariffs = (ByMachine(LOAD_LIMIT * capacity(cost), cost.month_usd),)
    return Option(
        name="building",
        kind="build",
        people=scenario.engineering_hours * scenario.hourly_rate,
        labels=scenario.labels_usd(cost.labels),
        training=cost.study_usd or 0.0,
        upkeep=scenario.upkeep_usd,
        retraining=(cost.retrain_usd or 0.0) * scenario.retraining_per_year / 12,
        tariffs=tariffs,
        images=scenario.images_per_month,
        unpriced=cost.missing,
        sources=cost.machine_sources,
    )


def adapt(download: Download, cost: Cost, scenario: Scenario) -> Option:
    """The least that adapting a download costs: people, labels, and one machine where a latency bar keeps it on.

    What adapting it and labelling with it take was not measured.
    """
    return Option(
        name=download.name,
        kind="adapt",
        people=download.hours * scenario.hourly_rate,
        labels=scenario.labels_usd(cost.labels),
        upkeep=scenario.upkeep_usd,
        tariffs=(ByMachine(math.inf, cost.month_usd or 0.0),) if scenario.latency_bar_ms is not None else (),
        images=scenario.images_per_month,
        unpriced="its compute was not measured",
        sources=cost.machine_sources,
    )


def adapt_measured(name: str, cost: Cost, scenario: Scenario) -> Option:
    """The cost of the network that was adapted here: as of building, with the hours that people take to adapt.

    These are of the download that takes the fewest hours; where the scenario has none, they are those to build.
    """
    built = build(cost, scenario)
    hours = min((download.hours for download in scenario.downloads), default=scenario.engineering_hours)
    return replace(built, name=name, kind="adapt", people=hours * scenario.hourly_rate)


def buy(vendor: Vendor, cost: Cost, scenario: Scenario, today: datetime.date) -> Option:
    """The cost of buying from a vendor under the scenario.

    Each training is the least that the vendor sells, as vendors do not publish the hours that this data needs. It is
    charged until the day that it ends one of the services that are paid for.
    """
    waits = scenario.latency_bar_ms is None
    each = vendor.training.least_purchase if vendor.training else 0.0
    stored = vendor.images_stored(cost.labels)
    paid = vendor.paid(waits=waits)
    retired = (price.retirement for price in paid)
    last = min((day for day in retired if day), default=None)
    migrating = vendor.migration_hours * vendor.migrations_per_year
    return Option(
        name=vendor.name,
        kind="buy",
        people=vendor.integration_hours * scenario.hourly_rate,
        labels=scenario.labels_usd(stored) if vendor.training else 0.0,
        training=each,
        upkeep=migrating * scenario.hourly_rate / 12,
        retraining=each * scenario.retraining_per_year / 12,
        tariffs=vendor.tariffs(waits=waits),
        images=scenario.images_per_month,
        storage=vendor.storage.usd * stored / 1000 if vendor.storage else 0.0,
        ends=math.inf if last is None else max(0.0, (last - today).days / DAYS_A_MONTH),
        sources=tuple(f"source/{price.key}" for price in paid),
    )


@dataclass(frozen=True, slots=True)
class Cheapest:
    """A stretch of volume over which one way costs least; one without a name has no way."""

    name: str
    start: float
    end: float


def cheapest_by_volume(
    options_at: Callable[[float], Mapping[str, float]], images: float, carries: Iterable[float] = ()
) -> tuple[Cheapest, ...]:
    """The way that costs least over the horizon, by images a month, between the `VOLUMES` and as far as `images`.

    Args:
        options_at: function of the images a month that returns the total cost of each way that can be chosen, by name.
        carries: images a month that a machine of each tariff can label.
    """

    def best(images: float) -> str:
        totals = options_at(images)
        return min(totals, key=lambda name: (totals[name], name), default="")

    low, high = min(VOLUMES[0], images), max(VOLUMES[1], images)
    first, last = (math.floor(_STEPS * math.log10(end)) for end in (low, high))
    grid = [10 ** (step / _STEPS) for step in range(first, last + 1)]
    full = [most * count for most in carries for count in range(1, _MACHINES + 1)]
    beside = [images * (1 + side) for images in full for side in (-_BESIDE, _BESIDE)]
    marks = sorted({low, high, *(images for images in (*grid, *beside) if low < images < high)})
    found, start = [], low
    for (one, name), (other, following) in itertools.pairwise((images, best(images)) for images in marks):
        while name != following:
            end = turning_point(best, name, one, other)
            found.append(Cheapest(name, start, end))
            one, start, name = end, end, best(end)
    return (*found, Cheapest(best(high), start, high))


def turning_point(answer_at: Callable[[float], str], answer: str, same: float, other: float) -> float:
    """Return the number where the answer changes, between `same`, which gives `answer`, and `other`, which does not."""
    for _ in range(30):
        middle = math.sqrt(same * other)
        same, other = (middle, other) if answer_at(middle) == answer else (same, middle)
    return other
