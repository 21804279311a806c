"""The outcome: how the groups differ from the reference in all metrics, and image by image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from experiments.comparison.differences import (
    METRICS,
    ComparedMetric,
    Comparison,
    Difference,
    Group,
    NotPaired,
    compare,
    image_by_image,
    regressions,
)
from experiments.pages.blocks import Block, Bullets, Cell, Heading, Lead, Row, Section, Table
from experiments.pages.plots import PALETTE
from experiments.pages.text import CitedText, count, listed, probability, run_sources, signed, span
from experiments.reading.study import SPLITS, TrainedRun

RULES = (
    "Several runs of a group are averaged. Intervals are 95 % intervals over images and seeds. If two groups are "
    "single runs with stored answers, their test accuracies are compared with McNemar's test on the same images. Other "
    "accuracies are compared by the 95 % interval of their difference, losses with Welch's t-test over seeds. Times "
    "and images a second differ if they are more than 10 % apart, and are compared on the same hardware only; compute "
    "differs if it is more than 5 % apart. Each comparison has a significance level of 5 % of its own, so about one in "
    "twenty is significant by chance. A comparison of single runs is about these trained networks, not about their "
    "recipes: other seeds may give another result."
)


def lead(comparison: Comparison) -> Section:
    """The answer in a sentence, and the groups."""
    question = "How do these runs differ, by more than chance?"
    if comparison.baseline:
        question = f"Is anything worse than {comparison.reference.name}?"
    rows = [
        Row.of(Cell(group.name, colour=colour), _description(group), Cell("", sources=run_sources(*group.run_ids)))
        for group, colour in zip(comparison.groups, PALETTE, strict=False)
    ]
    groups = Table(("Group", "Description", "Runs"), rows, numbers=())
    return Section("", (Lead(question, headline(comparison)), groups))


def metrics(comparison: Comparison) -> Section:
    caveats = tuple(caveat for group in comparison.groups for caveat in _caveats(group))
    heads = (Heading("Caveats"), Bullets(caveats)) if caveats else ()
    table = Table.of_numbers(("", *comparison.titles), metric_rows(comparison))
    return Section("Results", (table, *_unmeasured(comparison), CitedText(RULES), *heads))


def images(comparison: Comparison) -> Section:
    """McNemar's test of each group against the reference, image by image."""
    name = comparison.reference.name
    intro = (
        f"McNemar's test against {name} on the same test images. It only uses images that one of the two gets right "
        "and the other wrong."
    )
    titles = ("Group", f"Only {name} right", "Only this group right", "Both", "Neither", "Difference, points", "Test")
    rows = [(group.name, _image_cells(group, comparison.reference)) for group in comparison.others]
    blocks: list[Block] = [CitedText(intro), Table.of_numbers(titles, rows)]
    several = [f"run {g.counted[0].run_id[:8]} for {g.name}" for g in comparison.groups if len(g.counted) > 1]
    if several:
        blocks.append(CitedText(f"Of a group of several runs the test takes the first: {listed(several)}."))
    return Section("Image by image", tuple(blocks))


def headline(comparison: Comparison) -> CitedText:
    """The regressions against the baseline; without a baseline, how accuracies differ from the first group's."""
    return CitedText((_regressions if comparison.baseline else _accuracies)(comparison), comparison.sources)


def metric_rows(comparison: Comparison) -> list[tuple[str, list[Cell]]]:
    """(title, a cell for each group) of every metric that a group has."""
    shown = [metric for metric in METRICS if any(group.values(metric.key) for group in comparison.groups)]
    return [(metric.title, [_cell(metric, group, comparison) for group in comparison.groups]) for metric in shown]


def _unmeasured(comparison: Comparison) -> Iterator[CitedText]:
    """A line on the metrics of which the reference has none, as nothing can be judged by them."""
    lacking = [m for m in METRICS if m.direction and comparison.reference.mean(m.key) is None]
    told = [_in_a_sentence(m.title) for m in lacking if any(group.values(m.key) for group in comparison.groups)]
    if told:
        yield CitedText(f"Not judged, as not measured for {comparison.reference.name}: {listed(told)}.")


def _description(group: Group) -> str:
    """Description of a group, with the number of its runs and the states of those that are not complete."""
    count = f", {len(group.runs)} runs" if len(group.runs) > 1 else ""
    states = _unfinished_states(group)
    return f"{group.description}{count}" + (f"; {states}" if states else "")


def _unfinished_states(group: Group) -> str:
    return listed(sorted({r.state for r in group.runs} - {"complete"}))


def _cell(metric: ComparedMetric, group: Group, comparison: Comparison) -> Cell:
    value = group.mean(metric.key)
    if value is None:
        return Cell("not measured")
    interval = group.estimate(metric.key) if metric.key.endswith("accuracy") else None
    difference = None
    if group is not comparison.reference and comparison.reference.values(metric.key):
        difference = compare(metric, group, comparison.reference)
    return Cell(
        metric.text(value),
        note=span(interval) if interval else "",
        judged=_judged(metric, difference, comparison.baseline) if difference else "",
        worse=comparison.baseline and difference is not None and difference.outcome == "worse",
    )


def _judged(metric: ComparedMetric, difference: Difference, baseline: bool) -> str:
    if difference.outcome == "unknown":
        return f"not judged: {difference.reason}"
    words = {
        "better": "better",
        "worse": "regression" if baseline else "worse",
        "not significant": "no difference that counts" if metric.tolerance else "no significant difference",
    }
    because = f" ({difference.test}, {probability(difference.p)})" if difference.p is not None else ""
    if difference.interval:
        because = f" ({signed(difference.interval[0])} to {signed(difference.interval[1])})"
    return f"{words[difference.outcome]}: {_shown(metric, difference)}{because}"


def _shown(metric: ComparedMetric, difference: Difference) -> str:
    assert difference.value is not None  # as the difference is known
    if metric.tolerance is not None:
        often = f"{count(1 + difference.value)} times as much"
        return f"{signed(difference.value, 1)} %" if difference.value < 1 else often
    return f"{signed(difference.value)} points" if metric.key.endswith("accuracy") else f"{difference.value:+.3f}"


def _regressions(comparison: Comparison) -> str:
    name, unjudged = comparison.reference.name, _unjudged(comparison)
    found = {g.name: [_in_a_sentence(m.title) for m in regressions(comparison, g)] for g in comparison.others}
    worse = [f"{group} in {listed(titles)}" for group, titles in found.items() if titles]
    clean = [group for group, titles in found.items() if not titles and group not in unjudged]
    caveat = f"No accuracy or loss of {listed(list(unjudged))} can be compared with {name}: {_whys(unjudged)}."
    if worse:
        text = f"Yes, worse than {name}: {'; '.join(worse)}."
        text += f" No regression was found in {listed(clean)}." if clean else ""
        return f"{text} {caveat}" if unjudged else text
    if unjudged:
        return f"{caveat} Nothing that can be judged is worse."
    return f"No: nothing that can be judged is worse than {name}."


def _unjudged(comparison: Comparison) -> dict[str, str]:
    """The groups of which no accuracy or loss can be compared with the reference, and why."""
    reasons = {}
    keys = [metric.key for metric in METRICS if metric.tolerance is None]
    for group in comparison.others:
        compared = (compare(metric, group, comparison.reference) for metric in METRICS if metric.tolerance is None)
        known = [difference for difference in compared if difference is not None]
        if all(difference.outcome == "unknown" for difference in known):
            told = (d.reason for d in known if not d.reason.startswith("not measured"))
            unmeasured = (g for g in (group, comparison.reference) if all(g.mean(key) is None for key in keys))
            lacks = next((f"none of {each.name} was measured" for each in unmeasured), "none is on the same images")
            reasons[group.name] = next(told, lacks)
    return reasons


def _whys(reasons: Mapping[str, str]) -> str:
    """Reasons by group as words, each with the groups that it does not name."""
    groups = {why: [n for n, reason in reasons.items() if reason == why] for why in reasons.values()}
    return "; ".join(
        why if len(groups) == 1 or f" {names[0]} is " in f" {why}" else f"{why} ({listed(names)})"
        for why, names in groups.items()
    )


def _in_a_sentence(title: str) -> str:
    return title[0].lower() + title[1:].removesuffix(", nats")


def _accuracies(comparison: Comparison) -> str:
    name = comparison.reference.name
    words = {
        "better": "is better than",
        "worse": "is worse than",
        "not significant": "is not significantly different from",
    }
    if all(comparison.reference.mean(f"{split}/accuracy") is None for split in ("test", "val")):
        return f"{name} has no accuracy yet, so that none can be compared with it."
    reasons = {group.name: "no accuracy on the same images" for group in comparison.others}
    for split in ("test", "val"):
        metric = next(m for m in METRICS if m.key == f"{split}/accuracy")
        found = {group.name: compare(metric, group, comparison.reference) for group in comparison.others}
        known = {n: d for n, d in found.items() if d is not None and d.outcome != "unknown"}
        if known:
            told = listed([f"{n} {words[d.outcome]} {name} ({_shown(metric, d)})" for n, d in known.items()])
            missing = [n for n in found if n not in known]
            text = f"On the {SPLITS[split]} images {told}."
            return text + (f" {listed(missing)} cannot be compared on them." if missing else "")
        reasons |= {n: d.reason for n, d in found.items() if d and not d.reason.startswith("not measured")}
    return f"No accuracy of {name} can be compared with another: {_whys(reasons)}."


def _image_cells(group: Group, reference: Group) -> list[Cell]:
    try:
        test = image_by_image(group, reference)
    except NotPaired as reason:
        return [Cell(f"Answers to single images: {reason}.", style="missing", span=6)]
    counts = [f"{count:,}" for count in (test.first, test.second, test.both, test.neither)]
    kind = "exact" if test.exact else "chi-squared"
    return [Cell(text) for text in (*counts, signed(test.difference), f"{kind}, {probability(test.p)}")]


def _caveats(group: Group) -> Iterator[CitedText]:
    kept = [r for r in group.runs if r.params.get("keep_best") == "True"]
    short = [r for r in group.complete if _epochs(r) < 0.99 * _planned(r)]
    unfinished = [r for r in group.runs if r.state != "complete"]
    if kept:
        text = f"{group.name} was tested with its best weights; its validation figures are of the last epoch."
        yield _cited(text, kept)
    if short:
        ran = f"{_epochs(short[0]):.4g} of {_planned(short[0]):g}"
        yield _cited(f"{group.name} ran {ran} planned epochs.", short)
    if unfinished and group.complete:
        counted = f"{len(group.complete)} of {len(group.runs)}"
        yield _cited(f"Only the complete runs of {group.name} count ({counted}).", unfinished)
    elif unfinished:
        states = _unfinished_states(group)
        yield _cited(f"{group.name} is {states}: its latest figures are shown but not compared.", unfinished)


def _cited(text: str, runs: Sequence[TrainedRun]) -> CitedText:
    return CitedText(text, run_sources(*(r.run_id for r in runs)))


def _epochs(r: TrainedRun) -> float:
    return r.metrics.get("cost/epochs", math.inf)


def _planned(r: TrainedRun) -> float:
    """Return the planned epochs; 0 where none are recorded, or as in "auto" no number."""
    try:
        return float(r.params.get("epochs", 0))
    except ValueError:
        return 0
