"""What is said of runs side by side: cells and sentences, each from the numbers of `runs.py`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from experiments.comparison.differences import (
    METRICS,
    Classes,
    Comparison,
    Judgement,
    Metric,
    NotPaired,
    Side,
    TrainedRun,
    image_by_image,
    judge,
    regressions,
)
from experiments.comparison.figures import SPLITS, lines
from experiments.pages.text import CitedText, duration, listed, percent, points, run, signed, span
from experiments.stats import LEVEL

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "val/accuracy": "Validation accuracy",
        "test/accuracy": "Test accuracy",
        "val/loss": "Validation loss, nats",
        "test/loss": "Test loss, nats",
        "cost/seconds": "Time to train",
        "cost/images_per_second": "Images a second",
        "cost/training_flops": "Training compute",
        "cost/epochs": "Epochs",
    }
)
CONDITIONS: Mapping[str, str] = MappingProxyType(
    {
        "git_commit": "commit",
        "data_sha256": "data (SHA-256)",
        "device": "device",
        "cpu": "processor",
        "precision": "precision",
        "threads": "threads",
        "torch": "torch",
    }
)
NOT_MEASURED = "not measured"
_HASHES = ("git_commit", "data_sha256")
RULES = (
    "Several runs are averaged; intervals are 95 %, over images and seeds. Test accuracies are compared by McNemar's "
    "test on the same images where both sides are one run whose answers are stored, other accuracies by the interval "
    "of the difference, losses by Welch's test over seeds. Times and images a second count as different from 10 % on, "
    "on the same hardware only, and compute from 1 % on. Each comparison is judged at 5 % by itself, so of twenty one "
    "may differ by chance. Single runs tell two trained networks apart, not their recipes: other seeds may come out "
    "otherwise."
)


@dataclass(frozen=True, slots=True)
class MetricCell:
    """A metric of a side: its value, its interval, and how it stands to the reference."""

    text: str
    interval: str = ""
    judged: str = ""
    regression: bool = False


def rows(comparison: Comparison) -> tuple[tuple[str, tuple[MetricCell, ...]], ...]:
    """(title, cell of each side) of every metric that some side has."""
    shown = [metric for metric in METRICS if any(side.values(metric.key) for side in comparison.sides)]
    return tuple((TITLES[m.key], tuple(_cell(m, side, comparison) for side in comparison.sides)) for m in shown)


def _cell(metric: Metric, side: Side, comparison: Comparison) -> MetricCell:
    value = side.mean(metric.key)
    if value is None:
        return MetricCell(NOT_MEASURED)
    known = side.estimate(metric.key) if metric.key.endswith("accuracy") else None
    judgement = judge(metric, side, comparison.reference) if side is not comparison.reference else None
    return MetricCell(
        _value(metric.key, value),
        span(known) if known else "",
        _judged(metric, judgement, comparison.baseline) if judgement else "",
        comparison.baseline and judgement is not None and judgement.word == "worse",
    )


def _value(key: str, value: float) -> str:
    match key:
        case "cost/seconds":
            return duration(value)
        case "cost/training_flops":
            return f"{value / 1e15:.2f} PFLOP" if value >= 1e15 else f"{value / 1e12:.3g} TFLOP"
        case "cost/images_per_second":
            return f"{value:,.0f}"
        case "cost/epochs":
            return f"{round(value, 2):g}"
        case _ if key.endswith("accuracy"):
            return percent(value)
    return f"{value:.3f}"


def _judged(metric: Metric, judgement: Judgement, baseline: bool) -> str:
    if judgement.word == "unknown":
        return f"not judged: {judgement.reason}"
    word = {"level": "no significant difference", "worse": "regression" if baseline else "worse"}
    stated = _difference(metric, judgement)
    because = {
        "mcnemar": f"McNemar, {probability(judgement.p)}" if judgement.p is not None else "",
        "welch": f"Welch, {probability(judgement.p)}" if judgement.p is not None else "",
        "interval": f"{signed(judgement.interval[0])} to {signed(judgement.interval[1])}" if judgement.interval else "",
        "tolerance": "",
    }[judgement.rule]
    text = word.get(judgement.word, judgement.word)
    if judgement.rule == "tolerance" and judgement.word == "level":
        text = "no difference that counts"
    return f"{text}: {stated}" + (f" ({because})" if because else "")


def _difference(metric: Metric, judgement: Judgement) -> str:
    if judgement.difference is None:
        return ""
    if metric.tolerance is not None:
        return f"{signed(judgement.difference, 1)} %"
    if metric.key.endswith("accuracy"):
        return f"{signed(judgement.difference)} points"
    return f"{judgement.difference:+.3f}"


def setting(name: str, value: str | None) -> str:
    """A parameter's or condition's value for a table: the first letters of a hash, six digits of a long number.

    >>> setting("git_commit", "0123456789abcdef-dirty"), setting("width", "0.75"), setting("torch", None)
    ('01234567-dirty', '0.75', 'not recorded')
    """
    if value is None:
        return "not recorded"
    if name in _HASHES:
        return re.sub(r"[0-9a-f]{9,}", lambda found: found[0][:8], value)
    return re.sub(r"\b\d+\.\d{6,}(e-?\d+)?\b", lambda found: f"{float(found[0]):.6g}", value)


def probability(p: float) -> str:
    """
    >>> probability(0.0312), probability(0.0000001), probability(1.0)
    ('p = 0.031', 'p < 0.001', 'p = 1.000')
    """
    return "p < 0.001" if p < 0.0005 else f"p = {p:.3f}"


# ---------------------------------------------------------------- sentences


def headline(comparison: Comparison) -> CitedText:
    """With a baseline, what is worse than it; without one, how the others stand to the first in accuracy."""
    traces = tuple(trace for side in comparison.sides for trace in run(*side.run_ids))
    text = _regressions(comparison) if comparison.baseline else _standing(comparison)
    return CitedText(text, traces)


def _regressions(comparison: Comparison) -> str:
    name = comparison.reference.name
    found = {side.name: [m for m, _ in regressions(comparison, side)] for side in comparison.others}
    worse = [
        f"{side} in {listed([_in_a_sentence(m.key) for m in metrics])}" for side, metrics in found.items() if metrics
    ]
    if not worse:
        return f"No regression against {name}: nothing that can be judged is worse."
    clean = [side for side, metrics in found.items() if not metrics]
    text = f"Regressions against {name}: {'; '.join(worse)}."
    return text + (f" None found in {listed(clean)}." if clean else "")


def _standing(comparison: Comparison) -> str:
    reference = comparison.reference
    for key, images in (("test/accuracy", "test"), ("val/accuracy", "validation")):
        metric = next(m for m in METRICS if m.key == key)
        judged = {side.name: judge(metric, side, reference) for side in comparison.others}
        known = {name: j for name, j in judged.items() if j is not None and j.word != "unknown"}
        if known:
            words = {
                "better": "is better than",
                "worse": "is worse than",
                "level": "is not significantly different from",
            }
            said = [f"{name} {words[j.word]} {reference.name} ({_difference(metric, j)})" for name, j in known.items()]
            missing = [name for name in judged if name not in known]
            text = f"On the {images} images {listed(said)}."
            return text + (f" {listed(missing)} cannot be judged on them." if missing else "")
    return f"No accuracy of {reference.name} can be compared with another yet."


def _in_a_sentence(key: str) -> str:
    title = TITLES[key].removesuffix(", nats")
    return title[0].lower() + title[1:]


def sides_table(comparison: Comparison) -> list[tuple[Side, str]]:
    """Each side with what it is: how many runs, and the states of those that are not complete."""
    told = []
    for side in comparison.sides:
        count = len(side.runs)
        states = sorted({r.state for r in side.runs} - {"complete"})
        what = side.what + (f", {count} runs" if count > 1 else "")
        told.append((side, what + (f"; {listed(states)}" if states else "")))
    return told


@dataclass(frozen=True, slots=True)
class PairRow:
    """McNemar's test of one side against the reference, as text; or why there is none."""

    name: str
    counts: tuple[str, ...] = ()  # only the reference right, only this side right, both, neither
    difference: str = ""
    test: str = ""
    reason: str = ""


def pairs(comparison: Comparison) -> tuple[PairRow, ...]:
    """Each other side against the reference, image by image."""
    found = []
    for side in comparison.others:
        try:
            test = image_by_image(side, comparison.reference)
        except NotPaired as reason:
            found.append(PairRow(side.name, reason=str(reason)))
            continue
        counts = tuple(f"{n:,}" for n in (test.first, test.second, test.both, test.neither))
        kind = "exact" if test.exact else "chi-squared"
        found.append(PairRow(side.name, counts, signed(test.difference), f"{kind}, {probability(test.p)}"))
    return tuple(found)


def pairs_note(comparison: Comparison) -> str:
    """Which runs stand for sides of several."""
    several = [side for side in comparison.sides if len(side.counted) > 1]
    chosen = [f"{side.name} by run {side.counted[0].run_id[:8]}" for side in several]
    return f"Of several runs the first stands for its side: {listed(chosen)}." if chosen else ""


def class_cells(comparison: Comparison, table: Classes) -> tuple[tuple[str, tuple[MetricCell, ...]], ...]:
    """(class, cell of each side): accuracy, and how it differs from the reference's."""
    at = comparison.sides.index(comparison.reference)
    told = []
    for row in table.rows:
        cells = []
        for index, (value, p) in enumerate(zip(row.accuracies, row.p, strict=True)):
            note = "" if index == at else signed(value - row.accuracies[at], 1)
            note += f" ({probability(p)})" if p is not None else ""
            worse = comparison.baseline and p is not None and p < LEVEL and value < row.accuracies[at]
            cells.append(MetricCell(percent(value, 1), judged=note, regression=worse))
        told.append((row.name, tuple(cells)))
    return tuple(told)


def classes_sentence(comparison: Comparison, table: Classes) -> CitedText:
    """The largest difference from the reference in any class, and how many are significant."""
    at = comparison.sides.index(comparison.reference)
    traces = tuple(trace for side in comparison.sides for trace in run(*side.run_ids))
    gaps = [
        (abs(value - row.accuracies[at]), row.name, side.name, value - row.accuracies[at])
        for row in table.rows
        for side, value in zip(comparison.sides, row.accuracies, strict=True)
        if side is not comparison.reference
    ]
    widest, name, side, gap = max(gaps, key=lambda row: row[0])
    if widest < 5e-5:
        return CitedText(f"All sides are level in every class on the {table.split} images.", traces)
    text = (
        f"On the {table.split} images {side} differs most from {comparison.reference.name} in {name}: "
        f"{points(abs(gap))} {'above' if gap > 0 else 'below'} it"
    )
    tested = [p for row in table.rows for p in row.p if p is not None]
    if tested:
        count = sum(p < LEVEL for p in tested)
        text += f"; {count} of {len(tested)} such differences {'is' if count == 1 else 'are'} significant"
    return CitedText(f"{text}.", traces)


def curves_sentence(comparison: Comparison, what: str) -> CitedText:
    """Which images the curves are of, and which side ends best."""
    drawn = [line for line in lines(comparison, what) if line.split != "train"]
    traces = tuple(trace for side in comparison.sides for trace in run(*side.run_ids))
    splits = sorted({line.split for line in drawn}, reverse=True)
    text = f"Solid: {' or '.join(SPLITS[split] for split in splits)} images; " if drawn else ""
    text = f"{text}{'d' if text else 'D'}otted: training batches"
    if any(len(side.runs) > 1 for side in comparison.sides):
        text += "; the first run of a side is strong, the others faint"
    ends = {line.side: line.values[-1] for line in drawn if line.strong}
    if len(splits) == 1 and len(ends) > 1:
        best = (max if what == "accuracy" else min)(ends, key=ends.__getitem__)
        value = percent(ends[best]) if what == "accuracy" else f"{ends[best]:.3f} nats"
        text += f". {best} ends {'highest' if what == 'accuracy' else 'lowest'}, at {value}"
    elif len(splits) > 1:
        text += ". Sides that were watched on different images are not to be compared by these curves"
    return CitedText(f"{text}.", traces)


def cautions(comparison: Comparison) -> tuple[CitedText, ...]:
    """What is to be read with care in these very runs."""
    said = []
    for side in comparison.sides:
        kept = [r.run_id for r in side.runs if r.params.get("keep_best") == "True"]
        if kept:
            text = f"{side.name} kept its best weights: the test met those; validation figures are of the last epoch."
            said.append(CitedText(text, run(*kept)))
        short = [r for r in side.complete if _epochs(r) < 0.99 * float(r.params.get("epochs", 0))]
        if short:
            text = f"{side.name} ran {_epochs(short[0]):.4g} of {float(short[0].params['epochs']):g} planned epochs."
            said.append(CitedText(text, run(*(r.run_id for r in short))))
        unfinished = [r for r in side.runs if r.state != "complete"]
        if unfinished:
            states = listed(sorted({r.state for r in unfinished}))
            text = f"{side.name} is {states}: its figures are those of its last report, and not judged."
            if side.complete:
                text = f"Of {side.name} only the complete runs are counted ({len(side.complete)} of {len(side.runs)})."
            said.append(CitedText(text, run(*(r.run_id for r in unfinished))))
    return tuple(said)


def _epochs(r: TrainedRun) -> float:
    return r.metrics.get("cost/epochs", math.inf)
