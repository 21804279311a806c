"""Labels of the report: accuracy by the number of labelled images, and how many of them the accuracy bar takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from experiments.decision import commands
from experiments.decision.facts import Facts
from experiments.labels.power_law import (
    REACH,
    HeldOut,
    Interval,
    MeanError,
    PowerLaw,
    crossing,
    fit,
    held_out,
    points_of,
)
from experiments.pages.blocks import Block, Cell, Figure, Missing, Number, Row, Section, Table, numbers_of
from experiments.pages.plots import (
    GREEN,
    INK,
    RUST,
    add_line,
    add_points,
    canvas,
    error_bars,
    label,
    pc,
    segment,
)
from experiments.pages.text import CitedText, count, fine_percent, run_sources, short_percent, span, total
from experiments.reading.study import ADAPT, BUILD, LabelCurve
from experiments.stats import Estimate, mean_accuracy
from sweeps.stages.adapted_result import images_before
from sweeps.words import counted, percent

TITLE = "How many labels"
WAYS: Mapping[str, tuple[str, str]] = {BUILD: ("built from nothing", RUST), ADAPT: ("adapted", GREEN)}
"""The words and the colour of each way to a classifier."""

_SURE = 0.95  # of the drawn pairs of laws must change places
_LAW_POINTS = 60  # of a line


@dataclass(frozen=True, slots=True)
class WayCurve:
    """The curve of one way: an accuracy for each number of labels, and the law through them.

    Attributes:
        sources: the curve's own run, below which all others are.
    """

    way: str
    sources: tuple[str, ...]
    accuracies: Mapping[int, Estimate]
    points: tuple[MeanError, ...]
    law: PowerLaw | None
    held_out: HeldOut | None

    @property
    def words(self) -> str:
        return WAYS[self.way][0]

    @property
    def most(self) -> int:
        """The largest number of labels that was tried."""
        return max(self.accuracies)


def section(facts: Facts) -> Section:
    curve = facts.label_curve
    if curve is None or not curve.runs:
        command = commands.measure_labels(facts.study)
        how = f": `{command}` does that." if facts.subject_runs else ": the study has no complete trial yet."
        text = f"Accuracy by the number of labels was not measured{how}"
        return Section(TITLE, (Missing(text),))
    curves = curves_of(curve, facts.study.data_set.val_images)
    needed = [labels_needed(found, facts.bar.target) for found in curves]
    laws = [text for found in curves for text in _law_sentences(found)]
    decisive = [
        *(_needed_sentence(facts, found, labels) for found, labels in zip(curves, needed, strict=True)),
        *_crossing_sentences(facts, curves),
    ]
    blocks: list[Block] = [
        Figure("label_curve", "Accuracy by labels", _caption(facts, curves), _figure(curves, facts.bar.target)),
        _table(facts, curves),
        *laws,
        *decisive,
        *_caveats(facts, curve),
    ]
    numbers = [number for found, labels in zip(curves, needed, strict=True) for number in _numbers(found, labels)]
    return Section(TITLE, tuple(blocks), {"learning": tuple(decisive)}, tuple(numbers))


def described(curve: LabelCurve | None) -> dict[str, str]:
    """The runs of a curve, as the report lists those that it cites."""
    if curve is None:
        return {}
    runs = {r.run_id: f"{r.labels:,} labels, seed {r.seed}, {WAYS[r.way][0]}" for r in curve.runs}
    return {curve.run_id: "the label curve", **runs}


def curves_of(curve: LabelCurve, images: int) -> list[WayCurve]:
    """The curve of each way, over so many validation images."""
    found, generator = [], np.random.default_rng(0)
    for way in (way for way in WAYS if way in curve.ways):
        runs = curve.of_way(way)
        values = {labels: [r.accuracy for r in some] for labels, some in runs.items()}
        accuracies = {n: mean_accuracy(values[n], tuple(r.run_id for r in some), images) for n, some in runs.items()}
        points = points_of(values, images)
        law, left_out = fit(points, generator), held_out(points, generator)
        found.append(WayCurve(way, run_sources(curve.run_id), accuracies, points, law, left_out))
    return found


def labels_needed(curve: WayCurve, bar: float) -> Interval | None:
    """The labels at which the law reaches the bar, or the fewest tried where their own accuracy does without a law.

    An end that lies below the fewest that were tried is 0, one beyond the reach of the law infinity. None: it cannot be
    said.
    """
    fewest = min(curve.accuracies)
    if curve.law is None:
        return Interval(0.0, fewest) if curve.accuracies[fewest].low >= bar else None
    found = curve.law.labels_for(1 - bar)
    low = 0.0 if found.low < fewest else found.low
    reach = REACH * curve.most
    return None if low > reach else Interval(low, found.high if found.high <= reach else math.inf)


def _law_sentences(curve: WayCurve) -> Iterator[CitedText]:
    """The law of a way, and how well it held where the most labels were left out."""
    name = curve.words.capitalize()
    if curve.law is None:
        text = f"{name}: no law was fitted, as that takes four numbers of labels and an error that falls."
        yield CitedText(text, curve.sources)
        return
    a, _, c = curve.law.best
    floor, _, exponent = curve.law.constants
    text = f"{name}, the error follows a + b / labels^c: c is {c:.2f} (95 % interval {exponent.low:.2f} to "
    text += f"{exponent.high:.2f}), and {percent(a, 1)} ({100 * floor.low:.1f} to {percent(floor.high, 1)}) of error "
    yield CitedText(text + "would stay with any number of labels.", curve.sources)
    if (left := curve.held_out) is not None:
        point, found = left.point, left.predicted
        predicted = f"{100 * (1 - min(1.0, found.high)):.1f} to {percent(1 - max(0.0, found.low), 1)}"
        text = f"Fitted without the {point.labels:,} labels it predicts {predicted} for them; measured were "
        text += f"{percent(1 - point.error, 1)}: it {'held' if left.held else 'did not hold'}."
        yield CitedText(text, curve.sources)


def _needed_sentence(facts: Facts, curve: WayCurve, needed: Interval | None) -> CitedText:
    """The labels that the bar takes, and their price."""
    bar = f"the {short_percent(facts.bar.target)} bar"
    name = curve.words.capitalize()
    smallest = min(curve.accuracies)
    if needed is None or (needed.low == 0 and needed.high == math.inf):
        text = f"{name}: how many labels {bar} takes cannot be said."
    elif needed.high <= smallest:
        text = f"{name}, {bar} takes fewer than {smallest:,} labels{_price(facts, smallest)}, the fewest tried."
    elif needed.low == 0:
        text = f"{name}, {bar} takes at most {count(needed.high)} labels{_price(facts, needed.high)}."
    elif needed.high == math.inf:
        text = f"{name}, {bar} takes at least {count(needed.low)} labels{_price(facts, needed.low)}; how many at most "
        text += "cannot be said."
    else:
        text = f"{name}, {bar} takes {count(needed.low)} to {count(needed.high)} labels"
        text += f"{_price(facts, needed.low, needed.high)}."
    return CitedText(text, (*curve.sources, "source/bar", "source/scenario"))


def _price(facts: Facts, *labels: float) -> str:
    usd, images = facts.scenario.usd_per_label, facts.study.data_set.val_images
    prices = " to ".join(total(usd * number) for number in labels)
    return f" ({prices}, besides the {images:,} validation images)" if usd else ""


def _crossing_sentences(facts: Facts, curves: Sequence[WayCurve]) -> Iterator[CitedText]:
    """Yield sentences on the number of labels at which building and adapting change places."""
    found = {curve.way: curve for curve in curves}
    if not {BUILD, ADAPT} <= found.keys():
        return
    ours, theirs = found[BUILD], found[ADAPT]
    sources = (*ours.sources, "source/scenario")
    if ours.law is None or theirs.law is None:
        yield CitedText("The crossing point is unknown, as not both have a fitted law.", sources)
        return
    low = max(min(ours.accuracies), min(theirs.accuracies))
    high = min(ours.most, theirs.most)
    overtakes, falls_behind = crossing(ours.law, theirs.law, low, high), crossing(theirs.law, ours.law, low, high)
    place, sure = max(overtakes, falls_behind, key=lambda found: found[1])
    first, then = ("adapting", "building") if overtakes[1] >= falls_behind[1] else ("building", "adapting")
    tried = f"between {low:,} and {high:,} labels"
    if sure >= _SURE:
        text = f"Build and adapt change places at {count(place.low)} to {count(place.high)} labels"
        text += f"{_price(facts, place.low, place.high)}: with fewer, {first} is more accurate; with more, {then}."
    elif (either := overtakes[1] + falls_behind[1]) > 1 - _SURE:
        text = f"Whether the two curves cross {tried} is uncertain: they cross in {percent(either, 0)} of the pairs of "
        text += "laws drawn within the errors."
    else:
        ahead = ours if ours.law.error(high) < theirs.law.error(high) else theirs
        text = f"The two do not change places {tried}: at the end {ahead.words} is ahead."
    yield CitedText(text, sources)


def _caveats(facts: Facts, curve: LabelCurve) -> Iterator[CitedText]:
    text = (
        f"All accuracies are of the same {facts.study.data_set.val_images:,} validation images, which no training saw; "
    )
    text += (
        "the test set was not used. A single run's interval covers the images alone. Each run draws its own labels, "
    )
    text += "and with fewer of them a network goes over them more often."
    yield CitedText(text, run_sources(curve.run_id))
    if usd := facts.scenario.usd_per_label:
        images = facts.study.data_set.val_images
        text = f"Prices are of all labels to train on, at hand or not; those of the {images:,} validation images come "
        text += f"to {total(usd * images)}. The costs of the ways count both, less the labels at hand."
        yield CitedText(text, ("source/scenario",))
    if adapted := [r for r in curve.runs if r.way == ADAPT]:
        model, before = adapted[0].model, images_before(adapted[0].pretrained_on)
        text = f"Adapted is a linear head on the features of {model}, which learnt from {before} before; whether these "
        text += "hold validation images is unknown."
        yield CitedText(text, run_sources(curve.run_id))
    if (complete := len(curve.runs)) < curve.planned:
        text = f"The curve has {complete} of {curve.planned} runs"
        text += f"; {curve.diverged} diverged" if curve.diverged else ""
        left = curve.planned - complete - curve.diverged
        text += ": the same command runs the rest." if left else "."
        yield CitedText(text, run_sources(curve.run_id))
    if not _is_of_subject(facts, curve):
        text = f"The curve is of another recipe than the {facts.subject}'s: the study went on after it was measured."
        yield CitedText(text, run_sources(curve.run_id))


def _is_of_subject(facts: Facts, curve: LabelCurve) -> bool:
    """True where the curve has the recipe of the network that the report is about, if from an earlier run of it."""
    runs = facts.study.attempts.set_index("run_id")
    trials = runs["source_trial"].fillna(runs["trial"])
    return curve.source in trials.index and trials[curve.source] in trials[list(facts.subject_runs)].array


def _caption(facts: Facts, curves: Sequence[WayCurve]) -> CitedText:
    text = "Marks are means over runs with 95 % intervals"
    if any(curve.law for curve in curves):
        text += ", lines the laws fitted to them, with the band of their uncertainty"
    text += f"; the flat line is the {short_percent(facts.bar.target)} bar."
    return CitedText(text, (*curves[0].sources, "source/bar"))


def _figure(curves: Sequence[WayCurve], bar: float) -> go.Figure:
    """Accuracy by the number of labels, which has a logarithmic axis."""
    figure = canvas(height=320, top=16)
    counts = [labels for curve in curves for labels in curve.accuracies]
    low, high = min(counts) / 1.3, max(counts) * 1.3
    for curve in curves:
        words, colour = WAYS[curve.way]
        if curve.law is not None:
            grid = np.geomspace(min(curve.accuracies), curve.most, _LAW_POINTS)
            band = [curve.law.interval(labels) for labels in grid]
            x = [round(float(labels), 1) for labels in grid]
            edges = [pc(1 - max(0.0, found.low)) for found in band], [pc(1 - min(1.0, found.high)) for found in band]
            figure.add_scatter(
                x=[*x, *reversed(x)], y=[*edges[0], *reversed(edges[1])], fill="toself", mode="none",
                fillcolor=colour, opacity=0.15, hoverinfo="skip", showlegend=False, name=words,
            )  # fmt: skip
            y = [pc(1 - curve.law.error(labels)) for labels in grid]
            add_line(figure, x, y, name=f"law, {words}", colour=colour, width=1.5)
        found = list(curve.accuracies.values())
        means, lows, highs = ([getattr(each, name) for each in found] for name in ("mean", "low", "high"))
        add_points(
            figure,
            list(curve.accuracies),
            [pc(mean) for mean in means],
            name=words,
            colour=colour,
            error_y=error_bars(means, lows, highs, color=colour),
            hover=f"{words}, %{{x:,}} labels: %{{y:.2f}} %",
        )
    figure.update_layout(
        shapes=[{**segment(0, 1, pc(bar), pc(bar), colour=INK, width=1), "xref": "paper"}],
        annotations=[
            label(f"{short_percent(bar)} bar", 1, pc(bar), xref="paper", xanchor="right", yshift=9),
        ],
    )
    figure.update_xaxes(type="log", title="labelled images to train on", range=[math.log10(low), math.log10(high)])
    figure.update_xaxes(tickvals=sorted(set(counts)), ticktext=[f"{n:,}" for n in sorted(set(counts))])
    figure.update_yaxes(title="validation accuracy (%)")
    return figure


def _table(facts: Facts, curves: Sequence[WayCurve]) -> Table:
    usd, rows = facts.scenario.usd_per_label, []
    for labels in sorted({labels for curve in curves for labels in curve.accuracies}):
        cells = [_accuracy(curve.accuracies.get(labels)) for curve in curves]
        rows.append(Row.of(f"{labels:,}", *cells, total(usd * labels) if usd else ""))
    titles = ("Labels", *(curve.words.capitalize() for curve in curves), "Price of the labels")
    return Table(titles, rows, numbers=range(len(titles)), style="cards tight")


def _accuracy(found: Estimate | None) -> Cell:
    if found is None:
        return Cell("")
    note = f"{span(found, 1)}, {counted(len(found.run_ids), 'run')}"
    return Cell(fine_percent(found.mean), note=note)


def _numbers(curve: WayCurve, needed: Interval | None) -> Iterator[Number]:
    name, sources = f"labels.{curve.way}", curve.sources
    for labels, found in curve.accuracies.items():
        units = dict.fromkeys(("mean", "low", "high"), "share of validation images")
        yield from numbers_of(f"{name}.{labels}", found, run_sources(*found.run_ids), **units)
    law, unit = curve.law, "of error = a + b / labels^c"
    for place, constant in enumerate("abc"):
        yield Number(f"{name}.law.{constant}", law.best[place] if law else None, unit, sources)
        interval = law.constants[place] if law else None
        yield from numbers_of(f"{name}.law.{constant}", interval, sources, low=unit, high=unit)
    left = curve.held_out
    yield Number(f"{name}.held", None if left is None else str(left.held).lower(), "text", sources)
    unit = "labels for the accuracy bar"
    yield from numbers_of(f"{name}.needed", needed, sources, low=unit, high=unit)
