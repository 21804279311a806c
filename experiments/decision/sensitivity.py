"""What would change the answer: each assumption moved alone, until the decision flips."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from experiments.decision.costs import build, cheapest
from experiments.decision.measures import Measures
from experiments.decision.verdict import answer_of
from experiments.pages.text import CitedText, count, duration, percent, rate, run, runs, times, total, years
from experiments.reading.published import Price
from experiments.reading.scenario import Scenario, Vendor

SWING = 2.0  # the chart moves each assumption down and up by this factor
REACH = 10.0  # a flip is looked for up to this factor, down and up
_STEPS = 60  # in which it is looked for


@dataclass(frozen=True, slots=True)
class Assumption:
    name: str
    value: float
    show: Callable[[float], str]  # the value with its unit
    scaled: Callable[[float], Measures]  # by a factor
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Swing:
    """What one assumption does to the money that building saves over the horizon, in US dollars."""

    name: str
    value: str
    low: float  # saved with the assumption at 1 / SWING
    high: float  # and at SWING
    flip: str  # the value at which the answer changes, nearest to what is assumed; "" where none within REACH
    factor: float  # flip over value; NaN where there is none
    becomes: str  # the answer beyond it
    sources: tuple[str, ...]


def saved(m: Measures) -> float | None:
    """What building saves against the cheapest vendor over the horizon, in US dollars; negative: what it costs more."""
    ours = build(m.cost, m.scenario)
    if ours is None:
        return None
    return cheapest(m.scenario).total(m.scenario.months) - ours.total(m.scenario.months)


def swings(m: Measures) -> tuple[Swing, ...]:
    """The widest first; empty where a cost is unknown."""
    if saved(m) is None:
        return ()
    answer = answer_of(m)
    found = []
    for assumption in assumptions(m):
        low, high = (saved(assumption.scaled(f)) for f in (1 / SWING, SWING))
        assert low is not None
        assert high is not None
        factor, becomes = _flip(assumption, answer)
        flip = assumption.show(assumption.value * factor) if becomes else ""
        found.append(
            Swing(
                assumption.name, assumption.show(assumption.value), low, high, flip, factor, becomes, assumption.sources
            )
        )
    return tuple(sorted(found, key=lambda s: (-abs(s.high - s.low), s.name)))


def assumptions(m: Measures) -> tuple[Assumption, ...]:
    """What the cost of either way rests on, apart from those that are 0."""
    s, cost = m.scenario, m.cost
    assert cost.machine
    assert cost.speed
    own, vendors = ("source/scenario",), tuple(f"source/{p.key}" for v in s.vendors for p in v.prices)

    def scenario(**changes: float) -> Measures:
        return replace(m, scenario=replace(s, **changes))  # type: ignore[arg-type]

    rows = (
        Assumption(
            "images a month",
            s.images_per_month,
            count,
            lambda f: scenario(images_per_month=s.images_per_month * f),
            own,
        ),
        Assumption(
            "horizon",
            s.horizon_years,
            years,
            lambda f: scenario(horizon_years=min(100.0, s.horizon_years * f)),
            own,
        ),
        Assumption(
            "cost of people",
            s.people_usd,
            total,
            lambda f: scenario(engineering_hours=s.engineering_hours * f),
            own,
        ),
        Assumption(
            "retraining a year",
            s.retraining_per_year,
            times,
            lambda f: scenario(retraining_per_year=s.retraining_per_year * f),
            own,
        ),
        Assumption(
            "price of our compute",
            cost.machine.usd,
            lambda v: f"{rate(float(f'{v:.3g}'))} an hour",
            lambda f: replace(m, cost=replace(cost, machine=_scaled(cost.machine, f))),
            (f"source/{cost.machine.key}",),
        ),
        Assumption(
            "vendors' labelling prices",
            1.0,
            lambda v: percent(v, 0),
            lambda f: replace(m, scenario=_vendors(s, lambda v: _labelling(v, f))),
            vendors,
        ),
        Assumption(
            "vendors' training prices",
            1.0,
            lambda v: percent(v, 0),
            lambda f: replace(m, scenario=_vendors(s, lambda v: replace(v, training=_scaled(v.training, f)))),
            vendors,
        ),
        Assumption(
            "our labelling speed",
            1.0,
            lambda v: percent(v, 0),
            lambda f: _faster(m, f),
            run(*cost.speed.runs),
        ),
    )
    return tuple(row for row in rows if row.value > 0)


def flip_sentences(m: Measures, found: tuple[Swing, ...]) -> tuple[CitedText, ...]:
    """What would change the answer, the nearest first; what could not is said too."""
    said = [_accuracy_flip(m), *_latency_flip(m)]
    if not found:
        said.append(
            CitedText("What money would change cannot be said while a cost of building is unknown.", run(m.run_id))
        )
        return tuple(said)
    near = sorted((s for s in found if s.becomes), key=lambda s: abs(math.log(s.factor)))
    for swing in near:
        side = "below" if swing.factor < 1 else "above"
        said.append(
            CitedText(
                f"{_capital(swing.name)}: {swing.value}; {side} {swing.flip} ({swing.factor:.2g} times) the answer "
                f'becomes "{swing.becomes}".',
                swing.sources,
            )
        )
    fixed = [s for s in found if not s.becomes]
    if fixed:
        names = "; ".join(s.name for s in fixed)
        traces = tuple(dict.fromkeys(t for s in fixed for t in s.sources))
        text = f"Moved alone, between a tenth and ten times what is assumed, these flip nothing: {names}."
        said.append(CitedText(text, traces))
    return tuple(said)


def _accuracy_flip(m: Measures) -> CitedText:
    if m.test is None:
        return CitedText("A test accuracy: without one, no money decides.", run(m.run_id))
    only = "" if m.test.low >= m.bar.target else "only "
    text = f"Accuracy bar: {percent(m.bar.target, 1)}; it is cleared {only}up to {percent(m.test.low, 1)}"
    return CitedText(f"{text}, where the interval of the test accuracy begins.", (*runs(m.test), "source/bar"))


def _latency_flip(m: Measures) -> list[CitedText]:
    bar, speed = m.scenario.latency_bar_ms, m.cost.speed
    if bar is None or speed is None:
        return []
    what = "the longest that an answer can take" if speed.bounded else "what 95 % of the answers take"
    text = f"Latency bar: {duration(bar / 1000)}; it is kept down to {duration(speed.worst)}, {what}."
    return [CitedText(text, (*run(*speed.runs), "source/scenario"))]


def _flip(assumption: Assumption, answer: str) -> tuple[float, str]:
    """The factor nearest to 1 from which the answer is another, and that answer; NaN and "" where there is none."""
    found: list[tuple[float, str]] = []
    for end in (1 / REACH, REACH):
        before = 1.0
        for step in range(1, _STEPS + 1):
            factor = end ** (step / _STEPS)
            becomes = answer_of(assumption.scaled(factor))
            if becomes != answer:
                found.append(_narrow(assumption, answer, before, factor))
                break
            before = factor
    return min(found, key=lambda f: abs(math.log(f[0])), default=(math.nan, ""))


def _narrow(assumption: Assumption, answer: str, same: float, other: float) -> tuple[float, str]:
    """Between a factor that leaves the answer and one that changes it."""
    for _ in range(30):
        middle = math.sqrt(same * other)
        if answer_of(assumption.scaled(middle)) == answer:
            same = middle
        else:
            other = middle
    return other, answer_of(assumption.scaled(other))


def _scaled(price: Price | None, factor: float) -> Price:
    assert price
    return replace(price, usd=price.usd * factor)


def _vendors(scenario: Scenario, change: Callable[[Vendor], Vendor]) -> Scenario:
    return replace(scenario, vendors=tuple(change(v) for v in scenario.vendors))


def _labelling(vendor: Vendor, factor: float) -> Vendor:
    return replace(
        vendor,
        per_call=_scaled(vendor.per_call, factor) if vendor.per_call else None,
        endpoint=_scaled(vendor.endpoint, factor) if vendor.endpoint else None,
    )


def _faster(m: Measures, factor: float) -> Measures:
    speed = m.cost.speed
    assert speed
    faster = replace(
        speed,
        latency=speed.latency / factor,
        slow=speed.slow / factor if speed.slow is not None else None,
        per_second=speed.per_second * factor,
        per_second_batched=speed.per_second_batched * factor,
    )
    return replace(m, cost=replace(m.cost, speed=faster))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
