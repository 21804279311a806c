"""A page whose sliders move the assumptions of the decision, and which decides again at once.

`what_if.js` has its own arithmetic of costs, bars and rules, as a browser runs no Python. It gets the facts as
`model_of` writes them, and a test holds its answers to those of `verdict_of`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from markupsafe import Markup

from experiments.decision.facts import Facts
from experiments.decision.machines import LOAD_LIMIT, capacity
from experiments.decision.verdict import CLOSE, Way, verdict_of, ways_of
from experiments.pages.blocks import Page
from experiments.pages.page import References, finite, render_html
from experiments.pages.text import CitedText


@dataclass(frozen=True, kw_only=True, slots=True)
class Slider:
    """An assumption that the page can move.

    Attributes:
        value: value in the scenario; the slider keeps it exactly until it is moved.
        step: distance between two positions; 0 spaces them by equal ratios.
    """

    name: str
    label: str
    unit: Literal["count", "share", "ms", "years", "hours", "usd"]
    value: float
    low: float
    high: float
    step: float = 0.0


def render(facts: Facts) -> bytes:
    """The page: one HTML file that needs no other, and no network."""
    study = facts.study
    page = Page(
        name="what-if",
        title=f"What if: {study.name}",
        heading="What if the assumptions change?",
        subject=CitedText(f"Study {study.name}; the sliders start at the assumptions of {facts.scenario.file}"),
        sections=(),
    )
    model = json.dumps(model_of(facts), allow_nan=False).replace("<", "\\u003c")  # which could end a script
    return render_html("what_if.html.j2", References({}, facts.as_of, {}, []), page=page, model=Markup(model))


def model_of(facts: Facts) -> dict[str, Any]:
    """Return the data that `what_if.js` computes with, ready for JSON.

    Costs of people are in hours; all other money is in US dollars at the prices of the scenario.
    """
    in_hours = ways_of(replace(facts, scenario=replace(facts.scenario, hourly_rate=1.0)))
    return {
        "sliders": [asdict(slider) for slider in sliders(facts)],
        "ways": [_way(facts, way) for way in in_hours],
        "rules": [{"condition": rule.condition, "answer": rule.answer} for rule in verdict_of(facts).rules],
        "close": CLOSE,
        "load_limit": LOAD_LIMIT,
    }


def sliders(facts: Facts) -> Iterator[Slider]:
    """The assumptions that can be moved, in the order of the page."""
    s, machine = facts.scenario, facts.cost.machine

    def even(name: str, label: str, unit: Any, value: float, *, low: float, high: float, step: float) -> Slider:
        low, high = min(low, value), max(high, value)
        return Slider(name=name, label=label, unit=unit, value=value, low=low, high=high, step=step)

    def ratio(name: str, label: str, unit: Any, value: float, reach: float) -> Slider:
        return Slider(name=name, label=label, unit=unit, value=value, low=value / reach, high=value * reach)

    yield ratio("images_per_month", "Images a month", "count", s.images_per_month, 1000)
    yield even("accuracy_bar", "Accuracy bar", "share", facts.bar.target, low=0.3, high=0.995, step=0.005)
    if s.latency_bar_ms is not None:
        yield ratio("latency_bar_ms", "Latency bar", "ms", s.latency_bar_ms, 1000)
    yield even("horizon_years", "Horizon", "years", s.horizon_years, low=0.5, high=10, step=0.5)
    yield even("engineering_hours", "Hours to build", "hours", s.engineering_hours, low=0, high=1000, step=4)
    upkeep = s.maintenance_hours_per_year
    yield even("maintenance_hours_per_year", "Hours of maintenance a year", "hours", upkeep, low=0, high=200, step=4)
    if any(vendor.integration_hours or vendor.migration_hours for vendor in s.vendors):
        yield ratio("vendor_hours", "Hours with vendors", "share", 1.0, 10)
    if any(download.hours for download in s.downloads):
        yield ratio("adapting_hours", "Hours to adapt", "share", 1.0, 10)
    yield even("hourly_rate", "An hour of people", "usd", s.hourly_rate, low=0, high=300, step=5)
    if machine is not None:
        yield ratio("compute", "An hour of our compute", "usd", machine.usd, 10)
    yield ratio("vendors", "Vendors' prices", "share", 1.0, 10)


def _way(facts: Facts, way: Way) -> dict[str, Any]:
    """A way whose people are in hours."""
    option = way.option
    adapted_without_hours = option.kind == "adapt" and way.measured and not facts.scenario.downloads
    buys = option.kind == "buy"
    return {
        "title": way.title,
        "kind": option.kind,
        "measured": way.measured,
        "complete": way.complete,
        "hours": None if option.kind == "build" or adapted_without_hours else option.people,  # None: those to build
        "hours_a_month": option.upkeep if buys else None,  # None: those of maintenance
        "hours_by": "vendor_hours" if buys else "adapting_hours",  # the slider that moves the hours of its own
        "prices": _prices(facts, way),
        "labels": option.labels,
        "training": option.training,
        "retraining": option.retraining,
        "storage": option.storage,
        "tariffs": [{name: finite(value) for name, value in asdict(tariff).items()} for tariff in option.tariffs],
        "ends": finite(option.ends),
        "unpriced": bool(option.unpriced),
        "accuracy": [way.accuracy.low, way.accuracy.high] if way.accuracy and way.same_test else None,
        "latency": _latency(way) if facts.scenario.latency_bar_ms is not None else None,
        # These no slider moves.
        "settled": {check.bar: check.standing.value for check in way.checks if check.bar in ("data", "price")},
    }


def _prices(facts: Facts, way: Way) -> str:
    """The slider that moves the prices of a way: none where its machine is another one than the study's."""
    if way.cost is not None and way.cost.device != facts.cost.device:
        return "fixed"
    return "vendors" if way.option.kind == "buy" else "compute"


def _latency(way: Way) -> dict[str, Any]:
    """The time of an answer in seconds, None where it is unknown; a network of ours waits for earlier images too."""
    if way.cost is None or (speed := way.cost.speed) is None:
        return {"seconds": way.seconds, "bounded": False, "uneven": False, "queue": None}
    queue = {"mean": speed.latency, "capacity": capacity(way.cost)}
    uneven = speed.uneven is not None
    return {"seconds": speed.worst, "bounded": speed.bounded, "uneven": uneven, "queue": queue}
