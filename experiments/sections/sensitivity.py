"""Sensitivity in the report: the assumptions that change the answer alone, and what building saves as each moves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import plotly.graph_objects as go

from experiments.decision.facts import Facts
from experiments.decision.machines import answer_seconds
from experiments.decision.sensitivity import AS_IT_IS, Saving, SensitivityResult, nearest_flips, saved, sensitivity
from experiments.decision.verdict import ways_of
from experiments.pages.blocks import Block, Bullets, Figure, Missing, Number, Section
from experiments.pages.plots import BLUE, MUTED, PAPER, RUST, canvas, in_figure, label
from experiments.pages.text import (
    CitedText,
    beside_bar,
    capital,
    estimate_sources,
    factor,
    percent_beside,
    run_sources,
    short_duration,
    short_percent,
    total,
)
from experiments.reading.scenario import slug

LINE = 40  # letters of a label that a phone has room for
_LEAST = ", at least"  # words after a saving of which only the least is known
VISIBLE = 0.02  # of the widest bar: shorter ones that flip nothing are not drawn


def section(facts: Facts) -> Section:
    results, unknown = sensitivity(facts), math.isnan(saved(facts).usd)
    why = "there are no two costs to compare"
    if results and unknown:
        why = "every way other than building misses a bar"
        if ways_of(facts)[0].misses:
            why = "building misses a bar, and no saving makes up for that"
    drawn: Block = Missing(f"There is no figure of the assumptions, as {why}.")
    if results and not unknown:
        widest = max(result.width for result in results)
        shown = [r for r in results if r.becomes or r.width >= VISIBLE * widest]
        drawn = Figure("tornado", "What moves the decision", _caption(facts, shown), tornado(shown))
    return Section(
        "What would change the answer",
        (Bullets(_flips(facts, results)), drawn),
        numbers=tuple(_numbers(facts, results)),
    )


def tornado(results: Sequence[SensitivityResult]) -> go.Figure:
    """The savings of building with each assumption halved and doubled, the largest effect on top.

    A saving that is not known has no bar.
    """
    rows = list(reversed(results))
    flips = [f"“{r.becomes}” {r.side} {r.flip}" if r.becomes else "flips nothing" for r in rows]
    two_lines = [len(r.name) + len(flip) > LINE for r, flip in zip(rows, flips, strict=True)]
    pitch = 56 if any(two_lines) else 42  # pixels of a row
    figure = canvas(height=64 + pitch * len(rows), left=10)
    saving = results[0].now.usd
    for name, colour, gains in (("halved", BLUE, [r.low for r in rows]), ("doubled", RUST, [r.high for r in rows])):
        known = [(y, gain.usd) for y, gain in enumerate(gains) if not math.isnan(gain.usd)]
        texts = [total(usd) if usd >= 0 else f"-{total(-usd)}" for _, usd in known]
        figure.add_bar(
            x=[round(usd - saving, 2) for _, usd in known],
            y=[y for y, _ in known],
            base=round(saving, 2),
            orientation="h",
            width=[(7 if colour == RUST and rows[y].is_one_sided else 15) / pitch for y, _ in known],  # to see both
            name=name,
            marker={"color": colour},
            customdata=[[rows[y].name, text] for (y, _), text in zip(known, texts, strict=True)],
            hovertemplate=f"%{{customdata[0]}} {name}: building saves %{{customdata[1]}}<extra></extra>",
        )
    place: dict[str, Any] = {
        "xref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 8,
        "align": "left",
        "bgcolor": PAPER,
    }
    figure.layout.annotations = [
        label(f"<b>{r.name}</b>:{'<br>' if broken else ' '}{in_figure(flip)}", 0, y, size=11.5, **place)
        for y, (r, flip, broken) in enumerate(zip(rows, flips, two_lines, strict=True))
    ]
    figure.add_vline(x=0, line={"color": MUTED, "width": 1.5})
    figure.add_vline(x=round(saving, 2), line={"color": MUTED, "width": 1, "dash": "dot"})
    least = _LEAST if any(each.least for each in _savings(results)) else ""
    figure.update_xaxes(title=f"saved by building over the horizon (US dollars{least})", tickformat=",.0f", nticks=6)
    figure.update_yaxes(visible=False, range=[-0.6, len(rows) - 0.2])
    figure.update_layout(barmode="overlay")
    return figure


def _caption(facts: Facts, results: Sequence[SensitivityResult]) -> CitedText:
    text = "Each bar halves or doubles one assumption, from the saving as assumed (dotted); right of 0, building then "
    text += "costs less than what else is cheapest"
    savings = _savings(results)
    if some := [each for each in savings if each.least]:
        text += f", of which {'' if len(some) == len(savings) else 'sometimes '}only the least is known"
    text += ". "
    if any(math.isnan(each.usd) for each in savings):
        text += "Where a bar is missing, building or every other way misses a requirement. "
    flips = nearest_flips(results)
    if flips:
        near = flips[0]
        text += f"The nearest flip: “{near.becomes}”, with {near.name} {near.change}."
    else:
        text += "None of them alone changes the answer within a factor of ten."
    return CitedText(text, facts.cost_sources)


def _flips(facts: Facts, results: Sequence[SensitivityResult]) -> tuple[CitedText, ...]:
    """The changes of each assumption that change the answer, the nearest first, then the assumptions without one."""
    texts = [_accuracy_flip(facts), *_latency_flip(facts)]
    if not results:
        text = "While the cost of building is unknown, so is the effect of prices and volumes."
        return (*texts, CitedText(text, run_sources(facts.run_id)))
    for result in nearest_flips(results):
        at = f"{result.value}; {result.side} {result.flip} ({factor(result.factor)} times)"
        if result.value == AS_IT_IS:
            at = result.change
        texts.append(CitedText(f"{capital(result.name)}: {at} the answer becomes “{result.becomes}”.", result.sources))
    fixed = [r for r in results if not r.becomes]
    if fixed:
        names = "; ".join(r.name for r in fixed)
        text = f"Changed alone, between a tenth and ten times their value, these do not change the answer: {names}."
        texts.append(CitedText(text, tuple(dict.fromkeys(source for r in fixed for source in r.sources))))
    return tuple(texts)


def _accuracy_flip(facts: Facts) -> CitedText:
    test, target = facts.test, facts.bar.target
    if test is None:
        return CitedText("Test accuracy: until it is measured, costs decide nothing.", run_sources(facts.run_id))
    only = "" if test.low >= target else "only "
    low = percent_beside(test.low, 2, target)
    text = f"Accuracy bar: {short_percent(target)}; building clears it {only}up to about {low}, where the interval of "
    return CitedText(f"{text}its test accuracy begins.", (*estimate_sources(test), "source/bar"))


def _latency_flip(facts: Facts) -> list[CitedText]:
    bar, speed = facts.scenario.latency_bar_ms, facts.cost.speed
    if bar is None or speed is None:
        return []
    text, sources = f"Latency bar: {short_duration(bar)}; ", (*run_sources(*speed.runs), "source/scenario")
    seconds = answer_seconds(facts.cost, facts.scenario.images_per_month)
    if seconds is None:
        text += "which bars building would keep is unknown, as its answers took too unequally long when timed."
        return [CitedText(text, sources)]
    which = "by the speed of its training" if speed.bounded else "within which 95 % of its answers come"
    least = beside_bar(1000 * seconds, lambda shown: shown <= bar)
    text += f"building would keep any bar from about {short_duration(least)} up, {which}."
    return [CitedText(text, sources)]


def _numbers(facts: Facts, results: Sequence[SensitivityResult]) -> Iterator[Number]:
    def saving(name: str, each: Saving, sources: tuple[str, ...]) -> Number:
        return Number(name, each.usd, f"USD over the horizon{_LEAST if each.least else ''}", sources)

    yield saving("sensitivity.saved", saved(facts), facts.cost_sources)
    for result in results:
        name = f"sensitivity.{slug(result.name)}"
        sources = (*facts.cost_sources, *result.sources)
        yield Number(f"{name}.value", result.value, "text", sources)
        yield saving(f"{name}.saved_if_halved", result.low, sources)
        yield saving(f"{name}.saved_if_doubled", result.high, sources)
        yield Number(f"{name}.flip_factor", result.factor, "times the value", sources)
        yield Number(f"{name}.flips_at", result.flip or None, "text", sources)
        yield Number(f"{name}.becomes", result.becomes or None, "text", sources)


def _savings(results: Sequence[SensitivityResult]) -> list[Saving]:
    return [each for result in results for each in (result.now, result.low, result.high)]
