"""First screen of the report: the decision, each way's cost against its accuracy, and what would flip the decision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
from scipy.optimize import isotonic_regression

from experiments.decision import commands
from experiments.decision.costs import turning_point
from experiments.decision.facts import Facts
from experiments.decision.machines import machines_on
from experiments.decision.sensitivity import nearest_flips, sensitivity
from experiments.decision.verdict import Standing, Verdict, Way, judge, unknown_wait, verdict_of
from experiments.pages.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Figure,
    Lead,
    Link,
    Row,
    Section,
    Table,
    estimate_numbers,
)
from experiments.pages.plots import (
    RUST,
    add_points,
    canvas,
    cut_name,
    error_bars,
    in_figure,
    label,
    pc,
    segment,
    way_colours,
)
from experiments.pages.text import (
    CitedText,
    capital,
    duration,
    fine_percent,
    listed,
    money,
    percent_beside,
    rough_percent,
    run_sources,
    short_percent,
    span,
    total,
    total_difference,
    years,
)
from experiments.reading.scenario import slug
from sweeps.words import counted, percent

COST_RATIO = 1.2  # between a measured and an assumed cost, in either direction, from which the report mentions it
FLIPS = 2  # of assumptions that the first screen names
UNKNOWN = "unknown"
WHAT_IF = "what-if.html"  # the page of sliders, beside the report
_LONGEST_ALONG = 30  # letters of a label along a line
_NEAR = 0.03  # of the costs' range: lines that are nearer have one label
_FAINT = 0.35  # opacity of a way that misses a bar


def section(facts: Facts) -> Section:
    verdict = verdict_of(facts)
    ways = verdict.ways
    lead = Lead(
        question="Should we build the classifier ourselves, as this study did, adapt one, or buy one?",
        answer=verdict.headline,
        because=_because(facts, verdict),
        facts=tuple(_flips(facts, verdict)),
    )
    try_it = Link("Move the assumptions, and see the answer change", WHAT_IF)
    blocks: list[Block] = [lead, _figure(facts, ways), try_it, _table(facts, ways)]
    if verdict.answer == "Not yet" and verdict.contender and verdict.contender.commands:
        blocks.insert(1, Code("\n".join(verdict.contender.commands)))
    numbers = (
        number
        for way in ways
        if way.option.kind == "buy" and way.measured and way.accuracy is not None
        for number in estimate_numbers(f"{way.option.key}.accuracy", way.accuracy, way.sources)
    )
    return Section("", (*blocks, Bullets(tuple(_notes(facts, verdict)))), numbers=tuple(numbers))


def _because(facts: Facts, verdict: Verdict) -> CitedText:
    """The reason of the rule that decides."""
    months, over = facts.scenario.months, f"over {years(facts.scenario.horizon_years)}"
    best, contender = verdict.best, verdict.contender

    def cost(way: Way) -> str:
        return way.option.stated(months)

    sure = "Nothing is known to clear every bar."
    if best is not None:
        sure = f"Of what is known to clear every bar, {_doing(best)} costs least: {cost(best)}."
    sources = ["source/scenario", *(source for way in (best, contender) if way for source in _sources(way))]
    if verdict.answer == "Either":
        first, *others = verdict.near
        named = " and ".join([f"{first.subject} ({cost(first)})", *(f"{way.title} ({cost(way)})" for way in others)])
        text = f"{named} clear every bar and cost about the same {over}."
    elif contender is not None:
        price = f"would cost {cost(contender)} {over}"
        if contender.option.kind == "build" and contender.option.unpriced:
            price = "may be the cheapest"
        bare = [check.bar for check in contender.unknown if check.reason.startswith("has no known")]
        doubts = [f"its {listed(bare)} {'is' if len(bare) == 1 else 'are'} unknown"] * bool(bare)
        doubts += [f"it {check.reason}" for check in contender.unknown if check.bar not in bare]
        text = f"{contender.subject} {price}, but {', and '.join(doubts)}. {sure}"
        if contender.option.kind == "adapt" and not contender.measured:
            reason = contender.checks[0].reason
            counted_in = "with one machine, and without the compute of its training"
            price += f", {counted_in if contender.option.serving else 'without its compute'}"
            text = f"{contender.subject} {price}. It {reason}, and was not tested here. {sure}"
    elif best is None:
        reasons = " ".join(f"{way.subject} {way.misses[0].reason}." for way in verdict.ways)
        text = f"Every way misses a bar. {reasons}"
    else:
        others = [way for way in verdict.ways if way.clears and way.title != best.title]
        text = f"Of what is known to clear every bar, {_doing(best)} costs least {over}: {cost(best)}"
        nearest, unsure = (
            min(some, key=lambda way: (way.option.total(months), way.title), default=None)
            for some in (others, [way for way in verdict.ways if way.unknown and not way.option.unpriced])
        )
        if nearest is not None:
            gap = total_difference(nearest.option.total(months), best.option.total(months))
            text += f", {gap} less than {nearest.title}" if gap else f", about as much as {nearest.title}"
        else:
            text = f"Only {_doing(best)} is known to clear every bar, for {cost(best)} {over}"
            if unsure is not None:
                text += f"; {unsure.title} would cost {cost(unsure)} ({unsure.doubts})"
                sources += _sources(unsure)
        text += "."
    return CitedText(text, tuple(dict.fromkeys(sources)))


def _doing(way: Way) -> str:
    return f"adapting {way.title}" if way.option.kind == "adapt" else way.title


def _flips(facts: Facts, verdict: Verdict) -> Iterator[tuple[str, CitedText]]:
    """Labels and changes that would alter the headline: a measurement of the way that may win, then assumptions."""
    months, contender = facts.scenario.months, verdict.contender
    if contender is not None:
        won = judge([_cleared(w) if w.title == contender.title else w for w in verdict.ways], months).headline
        others = [way for way in verdict.ways if way.title != contender.title]
        lost = judge(others, months).headline
        none = judge([way for way in others if not way.unknown or way.option.kind == "build"], months).headline
        head = "Once that is settled" if contender.is_close else "Once it is measured"
        text = f"If {contender.title} proves to clear the bars: “{won}”. If not: “{lost}”."
        if all(check.bar == "price" for check in contender.unknown):  # it clears the bars, and may cost anything
            head, text = "Without it", f"If {contender.title} proves too dear: “{lost}”."
        elif contender.option.unpriced and (limits := _price_limits(contender, others, months, won, lost)):
            under, beyond = map(total, limits)
            text = f"If {contender.title} proves to clear the bars and to cost under {under}: “{won}”. If it misses "
            text += f"one or costs over {beyond}: “{lost}”."
        if none != lost:
            text += f" If nothing else that is unmeasured clears the bars: “{none}”."
        yield head, CitedText(text, ("source/scenario", *_sources(contender)))
    for number, result in enumerate(nearest_flips(sensitivity(facts))[:FLIPS]):
        text = f"{capital(result.name)} {result.change}: “{result.becomes}”."
        yield "Would change it too" if number else "Would change it", CitedText(text, result.sources)


def _cleared(way: Way) -> Way:
    """The way as if all that is unknown of it had proved to clear its bar."""
    checks = tuple(replace(c, standing=Standing.CLEARS) if c.standing is Standing.UNKNOWN else c for c in way.checks)
    return replace(way, checks=checks)


def _price_limits(
    contender: Way, others: Sequence[Way], months: float, won: str, lost: str
) -> tuple[float, float] | None:
    """The cost over the horizon below which a way that clears the bars wins, and that above which it changes nothing.

    Args:
        won: headline if it costs no more than is known.
        lost: headline without it.

    Returns:
        None if it wins at any price, or at none.
    """
    cleared, option = _cleared(contender), contender.option

    def headline(usd: float) -> str:
        dearer = replace(option, people=option.people + usd - option.total(months))
        return judge([replace(cleared, option=dearer), *others], months).headline

    least, most = max(option.total(months), 0.01), 10 * max((way.option.total(months) for way in others), default=0.01)
    if headline(least) != won or headline(most) == won:
        return None
    return turning_point(headline, won, least, most), turning_point(headline, lost, most, least)


def _notes(facts: Facts, verdict: Verdict) -> Iterator[CitedText]:
    """Yield the next steps, and caveats of the decision."""
    if verdict.answer == "Build":
        text = f"Next: `{commands.serve(facts.study)}` answers with the store's champion over HTTP."
        yield CitedText(text, run_sources(facts.run_id))
    s, cost, ours = facts.scenario, facts.cost, verdict.ways[0].option
    people = "People"
    if s.people_usd and not ours.unpriced:
        people += f" are {rough_percent(s.people_usd / ours.total(s.months))} of the cost of building"
    people += f": {s.engineering_hours:g} h to build and {s.maintenance_hours_per_year:g} h a year to maintain"
    guess = ", which nobody measured" if s.is_example else ""
    yield CitedText(f"{people}{guess}.", ("source/scenario",))
    if cost.machine is not None and not ours.unpriced and s.latency_bar_ms is not None:
        count = machines_on(cost, s.images_per_month)
        fast = f", taken to be as fast as the {cost.processor} of the study" if cost.processor else ""
        text = f"Building counts {counted(count, 'machine')} ({cost.machine.name}) and no spare{fast}."
        yield CitedText(text, facts.cost_sources)
    for way in verdict.ways:
        speed, told = way.cost and way.cost.speed, way is verdict.contender and s.latency_bar_ms is not None
        if way.seconds is None and speed and speed.uneven and not told:
            yield CitedText(f"{way.subject} {unknown_wait(speed)}.", run_sources(*speed.runs))
    if facts.is_cifar10:
        yield CitedText("Accuracies are on CIFAR-10: `make study IMAGES=DIR` measures them on your own images.")
    if facts.test is not None and len(facts.test.run_ids) == 1:
        text = "The network is one training run: its interval covers the test images, not another training of it."
        yield CitedText(text, run_sources(*facts.test.run_ids))
    if (lost := facts.study.diverged) and facts.test is not None:
        text = f"{lost} of {lost + len(facts.study.champion)} final runs diverged, and are not in the accuracy of "
        text += "building: a retraining may diverge too."
        yield CitedText(text, run_sources(facts.run_id))
    if (adapted := facts.study.adapted) is not None:
        yield CitedText(adapted.overlap, run_sources(adapted.run_id))
    vendors = {slug(vendor.name) for vendor in s.vendors}
    if unused := [score.vendor for key, score in facts.scores.items() if key not in vendors]:
        text = f"Answers of {listed(unused)} were scored, but {s.file} has no vendor of that name."
        yield CitedText(text, ("source/scenario",))
    for vendor in s.vendors:
        score = facts.scores.get(slug(vendor.name))
        if vendor.tokens and score is not None and score.usd and score.missing < score.images:
            by_token = replace(vendor, per_call=None, endpoint=None)  # which is all that a measurement pays for
            paid, assumed = 1000 * score.usd / (score.images - score.missing), by_token.serving(1000, waits=False)
            if not 1 / COST_RATIO < paid / assumed < COST_RATIO:
                text = f"{vendor.name} cost {money(paid)} for 1,000 images when it was measured, but the scenario's "
                text += f"tokens make {money(assumed)}: set its image_tokens and answer_tokens."
                yield CitedText(text, (f"source/{score.key}", "source/scenario"))
    named = [way for way in (verdict.best, verdict.contender) if way]
    keys = {s.removeprefix("source/") for way in named for s in way.option.sources}
    prices = [price for price in facts.published.prices if price.key in keys and price.age(facts.as_of)]
    if prices:
        old = listed([f"{price.name} ({price.when})" for price in prices])
        text = f"Prices behind it that are older than a year, or undated: {old}."
        yield CitedText(text, tuple(f"source/{price.key}" for price in prices))


def _figure(facts: Facts, ways: Sequence[Way]) -> Figure:
    text = "Further right costs more, further up is more accurate; the line across is the "
    text += f"{short_percent(facts.bar.target)} bar. Filled marks were measured here, open ones published; a line "
    text += "without a mark is an unknown accuracy. Faint ways miss a bar; what the answer names is thick."
    caption = CitedText(text, ("source/bar", "source/scenario"))
    return Figure("ways", "Cost against accuracy", caption, cost_against_accuracy(facts, ways))


def cost_against_accuracy(facts: Facts, ways: Sequence[Way]) -> go.Figure:
    """Each way at its cost over the horizon and its accuracy, with the interval of that, and the accuracy bar."""
    months, target = facts.scenario.months, pc(facts.bar.target)
    drawn = [w for w in ways if w.option.total(months) > 0 and not (w.option.kind == "build" and w.option.unpriced)]
    drawn = [way if way.same_test else replace(way, accuracy=None) for way in drawn]
    drawn.sort(key=lambda way: (way.option.total(months), way.title))
    lowest = min([target, *(pc(way.accuracy.low) for way in drawn if way.accuracy)])
    floor = max(0.0, 10 * (lowest // 10) - 10)
    figure = canvas(height=290, left=52, top=14)
    figure.layout.margin.r = 40  # for the bar's label
    shapes = [{**segment(0, 1, target, target, colour=RUST, width=1.5), "xref": "paper", "layer": "between"}]
    bar = f"{short_percent(facts.bar.target)}<br>bar"
    annotations = [label(bar, 1, target, colour=RUST, xref="paper", xanchor="left", align="left", xshift=3)]
    colours = way_colours([way.title for way in ways])
    chosen = [way.title for way in judge(ways, months).named]
    for way in sorted(drawn, key=lambda way: way.title in chosen):  # the last one is on top
        usd = round(way.option.total(months), 2)
        accuracy, colour = way.accuracy, colours[way.title]
        low, mean, high = (floor / 100, (floor / 100 + 1) / 2, 1.0)
        if accuracy:
            low, mean, high = accuracy.low, accuracy.mean, accuracy.high
        what = fine_percent(accuracy.mean) if accuracy else "accuracy unknown"
        thickness = 3 if way.title in chosen else 2 if accuracy else 1
        add_points(
            figure,
            [usd],
            [pc(mean)],
            name=way.title,
            colour=colour,
            symbol="line-ns" if accuracy is None else "circle" if way.measured else "circle-open",
            size=11,
            error_y=error_bars([mean], [low], [high], thickness=thickness, width=4, color=colour),
            showlegend=False,
            hover=f"{in_figure(way.title)}: {way.option.stated(months)}, {what}",
        )
        figure.data[-1].opacity = _FAINT if way.misses else 1  # of its interval too
    places = [math.log10(way.option.total(months)) for way in drawn]
    annotations += _labels(drawn, places, (floor, 100.0), colours)
    figure.update_layout(shapes=shapes, annotations=annotations)
    figure.update_xaxes(title="cost over the horizon (US dollars)", type="log", tickformat="$,~s", nticks=6)
    if places:  # else plotly makes room for labels on the right, which squeezes the marks
        room = 0.06 * (places[-1] - places[0] + 1)
        figure.update_xaxes(range=[places[0] - room, places[-1] + room])
        if 1 <= places[-1] - places[0] <= 2:  # else plotly labels every digit there
            figure.update_xaxes(dtick="D2")
    figure.update_yaxes(title="accuracy (%)", range=[floor, 102])
    return figure


def _labels(
    ways: Sequence[Way], places: Sequence[float], heights: tuple[float, float], colours: Mapping[str, str]
) -> Iterator[dict[str, object]]:
    """A label beside each mark, towards the middle of the figure, and along each line without a mark.

    The latter are at the end of the line that is further from the marks.

    Args:
        places: positions of the ways on the axis of costs, ascending.
        heights: lowest and highest position, in percent of accuracy.
    """
    low, high = heights
    known = sorted(((pc(way.accuracy.mean), way.title) for way in ways if way.accuracy), reverse=True)
    apart = _apart([accuracy for accuracy, _ in known], 0.07 * (high - low))
    beside = {title: height for (_, title), height in zip(known, apart, strict=True)}
    lines: list[tuple[float, list[str]]] = []  # those that fall together have one label
    for way, x in zip(ways, places, strict=True):
        cut = cut_name(way.title) if way.accuracy else cut_name(way.title, _LONGEST_ALONG)
        name, colour = in_figure(cut), colours[way.title]
        if way.accuracy:
            anchor, shift = ("left", 8) if x <= (places[0] + places[-1]) / 2 else ("right", -8)
            yield label(name, x, beside[way.title], colour=colour, xanchor=anchor, xshift=shift)
            continue
        near = bool(lines) and x - lines[-1][0] < _NEAR * (places[-1] - places[0])
        names = lines.pop()[1] if near else []
        lines.append((x, [*names, f"<span style='color:{colour}'>{name}</span>"]))
    above = bool(apart) and high - apart[0] > apart[-1] - low
    y, end, align, shift = (high, "top", "right", 8) if above else (low, "bottom", "left", 4)
    for x, names in lines:
        text = "<br>".join(names)
        yield label(text, x, y, textangle=-90, xanchor="left", yanchor=end, align=align, yshift=shift)


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Return falling heights that are at least `gap` apart, as near as can be to the given ones, which fall too."""
    if not heights:
        return []
    steps = gap * np.arange(len(heights))
    moved = isotonic_regression(np.asarray(heights) + steps, increasing=False).x - steps
    return [float(height) for height in moved]


def _table(facts: Facts, ways: Sequence[Way]) -> Table:
    """All ways, the cheapest first, with what is unknown of each; up to about a year the costs have one column."""
    months, horizon = facts.scenario.months, years(facts.scenario.horizon_years)
    longer = months > 12 and horizon != years(1)
    rows = []
    for way in sorted(ways, key=lambda way: (bool(way.misses), way.option.total(months), way.title)):
        costs = [way.option.stated(m) for m in ((12, months) if longer else (months,))]
        rows.append(
            Row.of(
                way.subject,
                _accuracy(way, facts.bar.target),
                *costs,
                UNKNOWN if way.seconds is None else duration(way.seconds),
                _labels_needed(facts, way),
                _standing(way),
                style="ours" if way.option.kind == "build" else "",
            )
        )
    over = ("First year", horizon.capitalize()) if longer else (horizon.capitalize(),)
    titles = ("", "Accuracy", *over, "Time to answer (95 %)", "Labels", "Against the bars")
    return Table(titles, rows, numbers=range(1, 3 + len(over)), style="cards tight")


def _accuracy(way: Way, target: float) -> Cell:
    if way.accuracy is None:
        return Cell(UNKNOWN, sources=way.sources if way.option.kind == "build" else ())
    if way.measured:
        shown = percent_beside(way.accuracy.mean, 2, target)
        return Cell(shown, note=span(way.accuracy, 1, target), sources=way.sources)
    note = "published" if way.same_test else "published, on other test images"
    return Cell(percent(way.accuracy.mean, 1), note=note, sources=way.sources)


def _labels_needed(facts: Facts, way: Way) -> str:
    if way.option.kind == "build":
        return "training set"
    if way.option.kind == "adapt":
        return "for adapting"
    trained = {vendor.name for vendor in facts.scenario.vendors if vendor.training}
    return "training set" if way.option.name in trained else "none"


def _standing(way: Way) -> str:
    if way.misses:
        return f"misses {listed([check.bar for check in way.misses])}: {way.misses[0].reason}"
    return way.doubts or "clears all"


def _sources(way: Way) -> tuple[str, ...]:
    return (*way.option.sources, *way.sources)
