"""Sensitivity of the decision: each assumption is changed alone, until the answer changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import plotly.graph_objects as go

from experiments.decision.facts import Facts
from experiments.decision.machines import answer_seconds
from experiments.decision.verdict import Way, verdict_of, ways_of
from experiments.pages.blocks import Block, Bullets, Figure, Missing, Number, Section
from experiments.pages.plots import BLUE, MUTED, RUST, canvas, label
from experiments.pages.text import (
    CitedText,
    count,
    duration,
    factor,
    money,
    percent,
    run,
    runs,
    short_percent,
    times,
    total,
    years,
)
from experiments.reading.published import Price, rate
from experiments.reading.scenario import Vendor

FACTOR = 2.0  # the figure divides and multiplies each assumption by this
VISIBLE = 0.02  # of the widest bar: shorter ones that flip nothing are not drawn
REACH = 10.0  # flips are searched up to this factor, down and up
_STEPS = 30  # of that search


@dataclass(frozen=True, slots=True)
class Assumption:
    """An assumption of the decision.

    Attributes:
        show: formats a value with its unit.
        scaled: returns the facts with the assumption multiplied by a factor.
    """

    name: str
    value: float
    show: Callable[[float], str]
    scaled: Callable[[float], Facts]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SensitivityResult:
    """The effect of one assumption on the answer, and on the US dollars that building saves over the horizon."""

    name: str
    value: str
    low: float  # saved with the assumption divided by FACTOR; NaN without a rival
    high: float  # saved with it multiplied by FACTOR
    flip: str  # the nearest value at which the answer changes; "" where there is none within REACH
    factor: float  # flip / value; NaN where there is none
    becomes: str  # the answer beyond `flip`
    sources: tuple[str, ...]

    @property
    def width(self) -> float:
        """The difference between the two savings."""
        return 0.0 if math.isnan(self.low) else abs(self.high - self.low)

    @property
    def side(self) -> str:
        """The side of `flip` on which the answer is another."""
        return "below" if self.factor < 1 else "above"

    @property
    def change(self) -> str:
        """The change that flips the answer, after the assumption's name: "above 200,000, not 100,000"."""
        if self.flip == self.value:  # they are too close for the digits shown
            return f"{self.side} {factor(self.factor)} times {self.value}"
        return f"{self.side} {self.flip}, not {self.value}"


def section(facts: Facts) -> Section:
    results, gain = sensitivity(facts), saved(facts)
    drawn: Block = Missing("There is no figure of the assumptions, as there are no two costs to compare.")
    if results and not math.isnan(gain):
        widest = max(result.width for result in results)
        shown = [r for r in results if r.becomes or r.width >= VISIBLE * widest]
        figure = tornado(shown, gain, _least(facts))
        drawn = Figure("tornado", "What moves the decision", _caption(facts, results), figure)
    return Section(
        "What would change the answer",
        (Bullets(_flips(facts, results)), drawn),
        numbers=tuple(_numbers(facts, results)),
    )


def rival_of(facts: Facts) -> Way | None:
    """The cheapest way beside building that misses no bar."""
    months, others = facts.scenario.months, [way for way in ways_of(facts)[1:] if not way.misses]
    return min(others, key=lambda way: (way.option.total(months), way.option.name), default=None)


def saved(facts: Facts) -> float:
    """The US dollars that building saves against its rival over the horizon; negative: it costs more; NaN: unknown."""
    return _saved_against(facts, rival_of(facts))


def _saved_against(facts: Facts, rival: Way | None) -> float:
    """The US dollars that building saves against the way of the rival's title, even if that misses a bar."""
    ours, *others = ways_of(facts)
    if rival is None or ours.option.unpriced:
        return math.nan
    theirs = next(way.option for way in others if way.title == rival.title)
    return theirs.total(facts.scenario.months) - ours.option.total(facts.scenario.months)


def nearest_flips(facts: Facts) -> list[SensitivityResult]:
    """The assumptions that change the headline, the smallest change first."""
    return _by_distance(sensitivity(facts))


def sensitivity(facts: Facts) -> tuple[SensitivityResult, ...]:
    """The effect of each assumption, the largest first; empty where the cost of building is unknown."""
    if facts.cost.missing:
        return ()
    rival, results, now = rival_of(facts), [], verdict_of(facts).headline
    for assumption in assumptions(facts):
        low, high = (_saved_against(assumption.scaled(by), rival) for by in (1 / FACTOR, FACTOR))
        scale, becomes = _nearest_flip(assumption, now)
        value = assumption.show(assumption.value)
        flip = assumption.show(float(f"{assumption.value * scale:.3g}")) if becomes else ""
        results.append(SensitivityResult(assumption.name, value, low, high, flip, scale, becomes, assumption.sources))
    return tuple(sorted(results, key=lambda r: (-r.width, r.name)))


def assumptions(facts: Facts) -> tuple[Assumption, ...]:
    """The assumptions behind the costs of building and buying, apart from those that are 0."""
    s, cost, speed = facts.scenario, facts.cost, facts.cost.speed
    assert cost.machine
    assert speed

    def scenario(field: str, most: float = math.inf) -> Callable[[float], Facts]:
        return lambda f: replace(facts, scenario=replace(s, **{field: min(most, getattr(s, field) * f)}))

    def vendors(*fields: str) -> Callable[[float], Facts]:
        def change(v: Vendor, f: float) -> Vendor:
            changed: dict[str, Any] = {field: _scaled(getattr(v, field), f) for field in fields}
            return replace(v, **changed)

        return lambda f: replace(facts, scenario=replace(s, vendors=tuple(change(v, f) for v in s.vendors)))

    def integrated(f: float) -> Facts:
        changed = (
            replace(v, integration_hours=v.integration_hours * f, migration_hours=v.migration_hours * f)
            for v in s.vendors
        )
        return replace(facts, scenario=replace(s, vendors=tuple(changed)))

    def adapted(f: float) -> Facts:
        changed = tuple(replace(download, hours=download.hours * f) for download in s.downloads)
        return replace(facts, scenario=replace(s, downloads=changed))

    def machine(f: float) -> Facts:
        return replace(facts, cost=replace(cost, machine=_scaled(cost.machine, f)))

    def faster(f: float) -> Facts:
        return replace(facts, cost=replace(cost, speed=speed.faster(f)))

    def hourly(usd: float) -> str:
        return f"{rate(float(f'{usd:.3g}'))} an hour"

    def hours(value: float) -> str:
        return f"{value:,.10g} h"

    def share(value: float) -> str:
        return percent(value, 0)

    upkeep = scenario("maintenance_hours_per_year")
    price, bought = s.usd_per_label, s.labels_usd(cost.labels) > 0
    with_vendors = any(v.integration_hours or v.migration_hours for v in s.vendors)
    own, prices = ("source/scenario",), tuple(f"source/{p.key}" for v in s.vendors for p in v.prices)
    rows = (
        Assumption("images a month", s.images_per_month, count, scenario("images_per_month"), own),
        Assumption("horizon", s.horizon_years, years, scenario("horizon_years", most=100.0), own),
        Assumption("an hour of people", s.hourly_rate, hourly, scenario("hourly_rate"), own),
        Assumption("hours to build", s.engineering_hours, hours, scenario("engineering_hours"), own),
        Assumption("hours of maintenance a year", s.maintenance_hours_per_year, hours, upkeep, own),
        Assumption("hours with vendors", 1.0 if with_vendors else 0.0, share, integrated, own),
        Assumption("hours to adapt", 1.0 if any(d.hours for d in s.downloads) else 0.0, share, adapted, own),
        Assumption("price of a label", price if bought else 0.0, money, scenario("usd_per_label"), own),
        Assumption("retraining a year", s.retraining_per_year, times, scenario("retraining_per_year"), own),
        Assumption("price of our compute", cost.machine.usd, hourly, machine, cost.machine_sources),
        Assumption("vendors' labelling prices", 1.0, share, vendors("per_call", "endpoint", "tokens", "batch"), prices),
        Assumption("vendors' training prices", 1.0, share, vendors("training"), prices),
        Assumption("our labelling speed", 1.0, share, faster, run(*speed.runs)),
    )
    return tuple(row for row in rows if row.value > 0)


def tornado(results: Sequence[SensitivityResult], saved: float, least: str) -> go.Figure:
    """The savings of building with each assumption halved and doubled, the largest effect on top.

    Args:
        least: words that follow the unit, as `_least` has them.
    """
    rows = list(reversed(results))
    figure = canvas(height=80 + 42 * len(rows), left=10, top=26)
    for name, colour, gains in (("halved", BLUE, [r.low for r in rows]), ("doubled", RUST, [r.high for r in rows])):
        texts = [total(gain) if gain >= 0 else f"-{total(-gain)}" for gain in gains]
        figure.add_bar(
            x=[round(gain - saved, 2) for gain in gains],
            y=list(range(len(rows))),
            base=round(saved, 2),
            orientation="h",
            width=0.36,
            name=name,
            marker={"color": colour},
            customdata=[[r.name, text] for r, text in zip(rows, texts, strict=True)],
            hovertemplate=f"%{{customdata[0]}} {name}: building saves %{{customdata[1]}}<extra></extra>",
        )
    flips = [f"“{r.becomes}” {r.side} {r.flip}" if r.becomes else "flips nothing" for r in rows]
    figure.layout.annotations = [
        label(f"<b>{r.name}</b>: {flip}", 0, y, size=11.5, xref="paper", xanchor="left", yshift=18)
        for y, (r, flip) in enumerate(zip(rows, flips, strict=True))
    ]
    figure.add_vline(x=0, line={"color": MUTED, "width": 1.5})
    figure.add_vline(x=round(saved, 2), line={"color": MUTED, "width": 1, "dash": "dot"})
    figure.update_xaxes(title=f"saved by building over the horizon (US dollars{least})", tickformat=",.0f", nticks=6)
    figure.update_yaxes(visible=False, range=[-0.6, len(rows) - 0.2])
    figure.update_layout(barmode="overlay")
    return figure


def _caption(facts: Facts, results: Sequence[SensitivityResult]) -> CitedText:
    text = "Each bar halves or doubles one assumption; right of 0, building costs less than what else is cheapest"
    text += ", of which only the least is known. " if _least(facts) else ". "
    flips = _by_distance(results)
    if flips:
        near = flips[0]
        text += f'The nearest flip: "{near.becomes}", with {near.name} {near.change}.'
    else:
        text += "None of them alone changes the answer within a factor of ten."
    return CitedText(text, facts.cost_sources)


def _flips(facts: Facts, results: Sequence[SensitivityResult]) -> tuple[CitedText, ...]:
    """The changes of each assumption that change the answer, the nearest first, then the assumptions without one."""
    texts = [_accuracy_flip(facts), *_latency_flip(facts)]
    if not results:
        text = "While the cost of building is unknown, so is the effect of prices and volumes."
        return (*texts, CitedText(text, run(facts.run_id)))
    for result in _by_distance(results):
        at = f"{result.side} {result.flip} ({factor(result.factor)} times)"
        name = result.name[:1].upper() + result.name[1:]
        texts.append(CitedText(f'{name}: {result.value}; {at} the answer becomes "{result.becomes}".', result.sources))
    fixed = [r for r in results if not r.becomes]
    if fixed:
        names = "; ".join(r.name for r in fixed)
        text = f"Changed alone, between a tenth and ten times their value, these do not change the answer: {names}."
        texts.append(CitedText(text, tuple(dict.fromkeys(source for r in fixed for source in r.sources))))
    return tuple(texts)


def _accuracy_flip(facts: Facts) -> CitedText:
    test, target = facts.test, facts.bar.target
    if test is None:
        return CitedText("A test accuracy: without one, costs do not count.", run(facts.run_id))
    only = "" if test.low >= target else "only "
    text = f"Accuracy bar: {short_percent(target)}; building clears it {only}up to {percent(test.low, 1)}, where the "
    return CitedText(f"{text}interval of its test accuracy begins.", (*runs(test), "source/bar"))


def _latency_flip(facts: Facts) -> list[CitedText]:
    bar, speed = facts.scenario.latency_bar_ms, facts.cost.speed
    if bar is None or speed is None:
        return []
    which = "the longest that an answer can take" if speed.bounded else "within which 95 % of its answers come"
    seconds = answer_seconds(facts.cost, facts.scenario.images_per_month)
    text = f"Latency bar: {duration(bar / 1000)}; building would keep any bar from {duration(seconds)} up, {which}."
    return [CitedText(text, (*run(*speed.runs), "source/scenario"))]


def _numbers(facts: Facts, results: Sequence[SensitivityResult]) -> Iterator[Number]:
    over = f"USD over the horizon{_least(facts)}"
    yield Number("sensitivity.saved", saved(facts), over, facts.cost_sources)
    for result in results:
        name = f"sensitivity.{result.name.replace(' ', '_')}"
        sources = (*facts.cost_sources, *result.sources)
        yield Number(f"{name}.value", result.value, "text", sources)
        yield Number(f"{name}.saved_if_halved", result.low, over, sources)
        yield Number(f"{name}.saved_if_doubled", result.high, over, sources)
        yield Number(f"{name}.flip_factor", result.factor, "times the value", sources)
        yield Number(f"{name}.flips_at", result.flip or None, "text", sources)
        yield Number(f"{name}.becomes", result.becomes or None, "text", sources)


def _least(facts: Facts) -> str:
    """Words after a saving where only the least cost of the rival is known, and so the least that building saves."""
    rival = rival_of(facts)
    return ", at least" if rival is not None and rival.option.unpriced else ""


def _by_distance(results: Sequence[SensitivityResult]) -> list[SensitivityResult]:
    """The results that change the answer, the smallest change first."""
    return sorted((r for r in results if r.becomes), key=lambda r: abs(math.log(r.factor)))


def _nearest_flip(assumption: Assumption, answer: str) -> tuple[float, str]:
    """The factor nearest to 1 at which the answer changes, and the answer there; NaN and "" where there is none."""
    for step in range(1, _STEPS + 1):
        flips = [
            _bisect(assumption, answer, end ** ((step - 1) / _STEPS), end ** (step / _STEPS))
            for end in (1 / REACH, REACH)
            if _headline(assumption, end ** (step / _STEPS)) != answer
        ]
        if flips:
            return min(flips, key=lambda flip: abs(math.log(flip[0])))
    return math.nan, ""


def _bisect(assumption: Assumption, answer: str, same: float, other: float) -> tuple[float, str]:
    """The flip between a factor that keeps the answer and one that changes it."""
    for _ in range(30):
        middle = math.sqrt(same * other)
        if _headline(assumption, middle) == answer:
            same = middle
        else:
            other = middle
    return other, _headline(assumption, other)


def _headline(assumption: Assumption, factor: float) -> str:
    return verdict_of(assumption.scaled(factor)).headline


def _scaled(price: Price | None, factor: float) -> Price | None:
    return price.scaled(factor) if price else None
