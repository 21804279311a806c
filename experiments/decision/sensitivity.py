"""Sensitivity of the decision: each assumption is changed alone, until the answer changes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.decision.costs import turning_point
from experiments.decision.facts import Facts
from experiments.decision.verdict import Way, verdict_of, ways_of
from experiments.pages.text import count, factor, money, run_sources, times, years
from experiments.reading.published import Price, rate
from sweeps.words import percent

FACTOR = 2.0  # each assumption is divided and multiplied by this
REACH = 10.0  # flips are searched up to this factor, down and up
_STEPS = 30  # steps of that search
AS_IT_IS = percent(1.0, 0)  # the value of an assumption that has none of its own


@dataclass(frozen=True, slots=True)
class Assumption:
    """An assumption of the decision.

    Attributes:
        show: function that formats a value with its unit.
        scaled: function of a factor that returns the facts with the assumption multiplied by it.
    """

    name: str
    value: float
    show: Callable[[float], str]
    scaled: Callable[[float], Facts]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Saving:
    """The saving of building over the horizon, against its rival.

    Attributes:
        usd: US dollars; negative: building costs more; NaN: no rival, or building misses a bar or has no known cost.
        least: True where only the least cost of the rival is known, and so the least that building saves.
    """

    usd: float
    least: bool = False


@dataclass(frozen=True, slots=True)
class SensitivityResult:
    """The effect of one assumption on the answer, and on what building saves over the horizon."""

    name: str
    value: str
    now: Saving
    low: Saving  # with the assumption divided by FACTOR
    high: Saving  # with it multiplied by FACTOR
    flip: str  # the nearest value at which the answer changes; "" where there is none within REACH
    factor: float  # flip / value; NaN where there is none
    becomes: str  # the answer beyond `flip`
    sources: tuple[str, ...]

    @property
    def width(self) -> float:
        """The difference between the most and the least of the known savings."""
        known = [each.usd for each in (self.now, self.low, self.high) if not math.isnan(each.usd)]
        return max(known, default=0.0) - min(known, default=0.0)

    @property
    def is_one_sided(self) -> bool:
        """True if building saves more either way, or less either way, as the rival is another."""
        return (self.low.usd - self.now.usd) * (self.high.usd - self.now.usd) > 0

    @property
    def side(self) -> str:
        """The side of `flip` on which the answer is another."""
        return "below" if self.factor < 1 else "above"

    @property
    def change(self) -> str:
        """The change that flips the answer, after the assumption's name: "above 200,000, not 100,000"."""
        if self.flip == self.value:  # they are too close for the digits shown
            return f"{self.side} {factor(self.factor)} times {self.value}"
        if self.value == AS_IT_IS:
            return f"{self.side} {self.flip} what is assumed"
        return f"{self.side} {self.flip}, not {self.value}"


def rival_of(facts: Facts) -> Way | None:
    """The cheapest way beside building that misses no bar."""
    months, others = facts.scenario.months, [way for way in ways_of(facts)[1:] if not way.misses]
    return min(others, key=lambda way: (way.option.total(months), way.option.name), default=None)


def saved(facts: Facts) -> Saving:
    """The saving of building against its rival, the cheapest under this scenario."""
    ours, rival = ways_of(facts)[0], rival_of(facts)
    if rival is None or ours.misses or ours.option.unpriced:
        return Saving(math.nan)
    months = facts.scenario.months
    return Saving(rival.option.total(months) - ours.option.total(months), bool(rival.option.unpriced))


@functools.lru_cache(maxsize=1)  # two sections of a report ask
def sensitivity(facts: Facts) -> tuple[SensitivityResult, ...]:
    """The effect of each assumption, the largest first; empty where the cost of building is unknown."""
    if facts.cost.missing:
        return ()
    results, now, answer = [], saved(facts), verdict_of(facts).headline
    for assumption in assumptions(facts):
        low, high = (saved(assumption.scaled(by)) for by in (1 / FACTOR, FACTOR))
        scale, becomes = _nearest_flip(assumption, answer)
        value = assumption.show(assumption.value)
        flip = assumption.show(float(f"{assumption.value * scale:.3g}")) if becomes else ""
        results.append(
            SensitivityResult(assumption.name, value, now, low, high, flip, scale, becomes, assumption.sources)
        )
    return tuple(sorted(results, key=lambda r: (-r.width, r.name)))


def nearest_flips(results: Sequence[SensitivityResult]) -> list[SensitivityResult]:
    """The results that change the answer, the smallest change first."""
    return sorted((r for r in results if r.becomes), key=lambda r: abs(math.log(r.factor)))


def assumptions(facts: Facts) -> tuple[Assumption, ...]:
    """The assumptions behind the costs of building and buying, apart from those that are 0."""
    s, cost, speed = facts.scenario, facts.cost, facts.cost.speed
    assert cost.machine
    assert speed

    def scenario(field: str) -> Callable[[float], Facts]:
        return lambda f: replace(facts, scenario=replace(s, **{field: getattr(s, field) * f}))

    def each(parts: str, *fields: str) -> Callable[[float], Facts]:
        """Scales these fields of all vendors or downloads."""

        def scaled(f: float) -> Facts:
            changed = (replace(p, **{n: _scaled(getattr(p, n), f) for n in fields}) for p in getattr(s, parts))
            every: dict[str, Any] = {parts: tuple(changed)}
            return replace(facts, scenario=replace(s, **every))

        return scaled

    def machine(f: float) -> Facts:
        return replace(facts, cost=replace(cost, machine=_scaled(cost.machine, f)))

    def faster(f: float) -> Facts:
        return replace(facts, cost=replace(cost, speed=speed.faster(f)))

    def hourly(usd: float) -> str:
        return f"{rate(float(f'{usd:.3g}'))} an hour"

    def hours(value: float) -> str:
        return f"{value:,.10g} h"

    def share(value: float) -> str:
        return AS_IT_IS if value == 1 else f"{factor(value)} times"

    upkeep = scenario("maintenance_hours_per_year")
    integrated, adapted = each("vendors", "integration_hours", "migration_hours"), each("downloads", "hours")
    labelling = each("vendors", "per_call", "endpoint", "tokens", "batch")
    price, bought = s.usd_per_label, s.labels_usd(cost.labels) > 0
    with_vendors = any(v.integration_hours or v.migration_hours for v in s.vendors)
    own, prices = ("source/scenario",), tuple(f"source/{p.key}" for v in s.vendors for p in v.prices)
    rows = (
        Assumption("images a month", s.images_per_month, count, scenario("images_per_month"), own),
        Assumption("horizon", s.horizon_years, years, scenario("horizon_years"), own),
        Assumption("hourly rate of people", s.hourly_rate, hourly, scenario("hourly_rate"), own),
        Assumption("hours to build", s.engineering_hours, hours, scenario("engineering_hours"), own),
        Assumption("hours of maintenance a year", s.maintenance_hours_per_year, hours, upkeep, own),
        Assumption("hours with vendors", 1.0 if with_vendors else 0.0, share, integrated, own),
        Assumption("hours to adapt", 1.0 if any(d.hours for d in s.downloads) else 0.0, share, adapted, own),
        Assumption("price of a label", price if bought else 0.0, money, scenario("usd_per_label"), own),
        Assumption("retraining a year", s.retraining_per_year, times, scenario("retraining_per_year"), own),
        Assumption("price of our compute", cost.machine.usd, hourly, machine, cost.machine_sources),
        Assumption("vendors' labelling prices", 1.0, share, labelling, prices),
        Assumption("vendors' training prices", 1.0, share, each("vendors", "training"), prices),
        Assumption("labelling speed of the network built", 1.0, share, faster, run_sources(*speed.runs)),
    )
    return tuple(row for row in rows if row.value > 0)


def _nearest_flip(assumption: Assumption, answer: str) -> tuple[float, str]:
    """The factor nearest to 1 at which the answer changes, and the answer there; NaN and "" where there is none."""

    def headline(scale: float) -> str:
        return verdict_of(assumption.scaled(scale)).headline

    for step in range(1, _STEPS + 1):
        flips = [
            turning_point(headline, answer, end ** ((step - 1) / _STEPS), end ** (step / _STEPS))
            for end in (1 / REACH, REACH)
            if headline(end ** (step / _STEPS)) != answer
        ]
        if flips:
            nearest = min(flips, key=lambda flip: abs(math.log(flip)))
            return nearest, headline(nearest)
    return math.nan, ""


def _scaled(value: Any, by: float) -> Any:
    """A price or a number times a factor; None stays None."""
    return value.scaled(by) if isinstance(value, Price) else value and value * by
