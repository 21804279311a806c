"""Classes of the report: accuracy by class and by group of classes, and the confusion matrix."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from cifar_core.data.data_set import DataSet
from experiments.decision.facts import Facts
from experiments.pages.blocks import Block, Figure, Missing, Number, Row, Section, Table, estimate_numbers, numbers_of
from experiments.pages.plots import (
    BLUE,
    MUTED,
    RUST,
    add_points,
    canvas,
    error_bars,
    in_figure,
    label,
    name_axis,
    pc,
    room_for,
    segment,
)
from experiments.pages.text import (
    CitedText,
    estimate_sources,
    fine_percent,
    listed,
    percent_beside,
    points,
    run_sources,
    short_percent,
    span,
)
from experiments.reading.published import Bar
from experiments.reading.study import Study
from experiments.stats import Estimate, difference_interval, estimate, mean_accuracy
from sweeps.words import percent

_MOST_SHOWN = 30  # classes in a figure or table; `report.json` has all
_MOST_SCALED = 12  # classes in a confusion matrix that is as wide as the page
_MOST_NAMED = 6  # classes in a sentence
UNEVEN = 0.10  # a gap between the best and the weakest class from which classes are called uneven


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """Accuracy within one class, as means over runs.

    Attributes:
        interval: accuracy that is shown, with its interval over the images of the class. The intervals of all classes
            are right together with 95 %, as the weakest and the strongest class are picked from them.
        group: group of classes that the data set puts the class in; empty if none.
    """

    name: str
    validation: float | None
    test: float | None
    interval: Estimate | None = None
    group: str = ""

    @property
    def shown(self) -> float:
        """Test accuracy, or validation accuracy where there is none; NaN where neither was measured."""
        return next((v for v in (self.test, self.validation) if v is not None), math.nan)

    @property
    def low(self) -> float:
        """Lower end of the interval; `shown` without one."""
        return self.interval.low if self.interval else self.shown

    @property
    def high(self) -> float:
        """Upper end of the interval; `shown` without one."""
        return self.interval.high if self.interval else self.shown

    def __str__(self) -> str:
        return f"{self.name} ({percent(self.shown, 1)})"


@dataclass(frozen=True, slots=True)
class Confusion:
    """Shares of the images of each class (row) that were predicted as each class (column), over all runs."""

    classes: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    run_ids: tuple[str, ...]
    split: str  # test | validation
    counts: tuple[int, ...]  # images of each class, in each run

    @property
    def images(self) -> int:
        """Number of images, in each run."""
        return sum(self.counts)

    def pairs(self) -> list[tuple[str, str, float]]:
        """(class, class, share of the images of both predicted as each other), largest share first, none of 0."""
        n, shares = self.counts, self.shares
        pairs = [
            (self.classes[i], self.classes[j], (shares[i][j] * n[i] + shares[j][i] * n[j]) / (n[i] + n[j]))
            for i, j in combinations(range(len(self.classes)), 2)
            if (shares[i][j] or shares[j][i]) and n[i] + n[j]
        ]
        return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))

    def most_confused(self, count: int) -> Confusion:
        """The part for at most `count` classes, those of the first pairs; the whole if it has no more."""
        if len(self.classes) <= count:
            return self
        chosen = list(dict.fromkeys(name for pair in self.pairs() for name in pair[:2]))[:count]
        places = [place for place, name in enumerate(self.classes) if name in chosen]
        return replace(
            self,
            classes=tuple(self.classes[i] for i in places),
            shares=tuple(tuple(self.shares[i][j] for j in places) for i in places),
            counts=tuple(self.counts[i] for i in places),
        )


@dataclass(frozen=True, slots=True)
class ClassResults:
    """All results by class.

    Attributes:
        rows: classes, the weakest first.
        split: split that `rows` are sorted by: test or validation.
        groups: accuracy by group of classes, on the images of the confusion matrices.
        run_ids: ids of the runs that `rows` are means over.
        validated: ids of the runs with the validation accuracies: of the confirmation if `run_ids` are finals.
    """

    rows: tuple[ClassAccuracy, ...]
    split: str
    groups: Mapping[str, Estimate]
    confusion: Confusion | None
    run_ids: tuple[str, ...]
    validated: tuple[str, ...]

    @property
    def lowest(self) -> float:
        """The lowest accuracy of a class on either split."""
        return min(v for row in self.rows for v in (row.validation, row.test) if v is not None)


def class_results(study: Study) -> ClassResults:
    """The results by class of the runs that the report is about."""
    confusion = confusion_of(study)
    rows = class_accuracies(study.subject, study.validated, confusion, study.data_set)
    split = "test" if any(row.test is not None for row in rows) else "validation"
    run_ids, validated = (tuple(runs["run_id"]) for runs in (study.subject, study.validated))
    return ClassResults(rows, split, groups_of(study), confusion, run_ids, validated)


def class_accuracies(
    subject: pd.DataFrame, validated: pd.DataFrame, confusion: Confusion | None, data_set: DataSet
) -> tuple[ClassAccuracy, ...]:
    """The classes, weakest first; those of the split of `confusion` have an interval.

    Test accuracies are those of the runs `subject`, validation accuracies those of the runs `validated`.
    """
    counts = dict(zip(confusion.classes, confusion.counts, strict=True)) if confusion else {}
    means = _means(validated, "metrics.val_class/") | _means(subject, "metrics.test_class/")
    names = dict(zip(data_set.keys, data_set.classes, strict=True))
    rows = []
    for key in {column.partition("/")[2] for column in means}:
        name = names.get(key, key)
        columns = {"validation": f"metrics.val_class/{key}", "test": f"metrics.test_class/{key}"}
        validation, test = (means.get(column) for column in columns.values())
        interval = None
        if confusion and confusion.split == ("validation" if test is None else "test") and (images := counts.get(name)):
            interval = estimate(subject, columns[confusion.split], images, family=len(counts))
        rows.append(ClassAccuracy(name, validation, test, interval, data_set.group_of(name) or ""))
    return tuple(sorted(rows, key=lambda row: (row.shown, row.name)))


def _means(runs: pd.DataFrame, prefix: str) -> dict[str, float]:
    columns = (column for column in runs if column.startswith(prefix))
    return {column: statistics.fmean(known) for column in columns if len(known := runs[column].dropna())}


def groups_of(study: Study) -> dict[str, Estimate]:
    """Accuracy on each group of classes of the data set, on the images of the confusion matrices."""
    matrices = study.artifacts.confusions
    found = {}
    for group, names in study.data_set.groups:
        rows = [i for i, name in enumerate(study.artifacts.classes) if name in names]
        images = [int(m[rows].sum()) for m in matrices.values()]
        if rows and matrices and all(images):
            shares = [float(m[rows, rows].sum() / count) for m, count in zip(matrices.values(), images, strict=True)]
            found[group] = mean_accuracy(shares, tuple(matrices), images[0])
    return found


def confusion_of(study: Study) -> Confusion | None:
    """The confusion matrix over all runs, or None without any."""
    matrices = study.artifacts.confusions
    if not matrices:
        return None
    counts = np.sum(list(matrices.values()), axis=0).astype(float)
    of_class = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(of_class, 1)
    return Confusion(
        classes=study.artifacts.classes,
        shares=tuple(tuple(float(v) for v in row) for row in shares),
        run_ids=tuple(matrices),
        split="test" if len(study.champion) else "validation",
        counts=tuple(round(float(n) / len(matrices)) for n in of_class[:, 0]),
    )


def section(facts: Facts) -> Section:
    """Strong and weak classes, and which are taken for which."""
    found = class_results(facts.study)
    blocks: list[Block] = [Missing("Accuracy by class was not measured yet.")]
    if found.rows:
        figure = _class_figure(found, found.rows[:_MOST_SHOWN], facts.bar)
        blocks = [Figure("classes", "Accuracy by class", _class_caption(found, facts.bar), figure)]
        seeds = ", joined with the spread over seeds" if len(found.run_ids) > 1 else ""
        text = f"Intervals are for the {found.split} images; those of all {len(found.rows)} classes are right together "
        text += f"with 95 % (Clopper & Pearson, 1934; Bonferroni{seeds}). Classes are sorted from the weakest on."
        blocks += [_table(found), CitedText(text), *balanced_sentence(facts.study, found.split)]
    learning: tuple[CitedText, ...] = ()
    if found.confusion:
        learning = (weakest_pair(found.confusion),)
        blocks += _confusion_blocks(found.confusion, learning[0])
    else:
        blocks.append(Missing("There is no confusion matrix yet."))
    recommendation = {
        "performance": (*weakest_class(found, facts.bar), *weaker_group(found)),
        "customisation": evenness(found),
        "learning": learning,
    }
    return Section("Classes", tuple(blocks), recommendation, tuple(_numbers(found)))


def balanced_sentence(study: Study, split: str) -> tuple[CitedText, ...]:
    """The balanced accuracy, which is recorded where the classes have different numbers of images."""
    column = f"metrics.{'val' if split == 'validation' else split}/balanced_accuracy"
    known = study.subject[column].dropna() if column in study.subject else []
    if not len(known):
        return ()
    text = (
        f"The classes have different numbers of {split} images: the balanced accuracy, the mean over the classes, is "
        f"{fine_percent(statistics.fmean(known))}."
    )
    return (CitedText(text, run_sources(*study.subject["run_id"])),)


def weakest_class(found: ClassResults, bar: Bar) -> tuple[CitedText, ...]:
    """The class that is known to be the weakest on the test images against the accuracy bar, and all that miss it."""
    tested = [row for row in found.rows if row.test is not None]
    if not tested:
        return ()
    # The lowest of all may be a class of so few images that nothing is known of it.
    missed = sorted((row for row in tested if row.high < bar.target), key=lambda row: row.high)
    weakest = missed[0] if missed else min(tested, key=lambda row: row.low)
    clears = "clears the bar too" if weakest.low >= bar.target else "cannot be told from the bar"
    interval = f" (95 % interval {span(weakest.interval, 1, bar.target)})" if weakest.interval else ""
    who = f"The weakest class, {weakest.name}," if weakest is tested[0] else f"The class {weakest.name}"
    if all(row.shown == weakest.shown and row.interval == weakest.interval for row in tested):
        who, missed = "Every class", missed[:1]
    shown = percent_beside(weakest.shown, 1, bar.target)
    text = f"{who} is right {shown} of the time{interval} and by itself {'misses the bar' if missed else clears}"
    if others := [row.name for row in missed[1:]]:
        more = [f"{len(others) - _MOST_NAMED} more"] * (len(others) > _MOST_NAMED)
        text += f", as {'does' if len(others) == 1 else 'do'} {listed([*others[:_MOST_NAMED], *more])}"
    return (CitedText(f"{text}.", (*run_sources(*found.run_ids), "source/bar")),)


def weaker_group(found: ClassResults) -> tuple[CitedText, ...]:
    """One group of classes against the other, beyond chance or not; of tested classes."""
    if found.split != "test" or len(found.groups) != 2:
        return ()
    (one, first), (other, second) = found.groups.items()
    low, high = difference_interval(first, second)
    both = f"{one} {percent(first.mean, 1)}, {other} {percent(second.mean, 1)}"
    if low <= 0 <= high:
        text = f"{one.capitalize()} and {other} do not differ in accuracy beyond chance: {both}."
    else:
        weaker = one if high < 0 else other
        text = f"{weaker.capitalize()} are the weaker group, by {points(abs(first.mean - second.mean), 1)}: {both}."
    return (CitedText(text, estimate_sources(first)),)


def evenness(found: ClassResults) -> tuple[CitedText, ...]:
    """The gap between a weak and a strong class, as far as the intervals, which hold for all classes together, show."""
    rows = [row for row in found.rows if found.split != "test" or row.test is not None]
    if len(rows) < 2:
        return ()
    weak, strong = min(rows, key=lambda row: row.high), max(rows, key=lambda row: row.low)
    least, most = strong.low - weak.high, max(row.high for row in rows) - min(row.low for row in rows)
    known = all(row.interval for row in rows)
    uneven = round(strong.shown - weak.shown, 9) >= UNEVEN and least > 0
    if not uneven:
        weak, strong = rows[0], rows[-1]
    gap = points(strong.shown - weak.shown, 1)
    equal = weak.shown == strong.shown
    if uneven:
        text = f"Accuracy differs between classes on the {found.split} images: {weak} lies {gap} under {strong}. More "
        text += "training images of the weak classes, or adapting a pretrained network, may improve that."
    elif known and most < UNEVEN:
        apart = "all are right equally often" if equal else f"{weak} lies only {gap} under {strong}"
        text = f"Accuracy hardly differs between classes on the {found.split} images: {apart}, so none needs special "
        text += "treatment."
    else:
        apart = "all are equal here" if equal else f"{weak} lies {gap} under {strong}"
        text = f"Whether accuracy differs between classes is not known from the {found.split} images: {apart}"
        if known:
            text += f"; the largest gap is {100 * max(0.0, least):.1f} to {points(most, 1)} (95 % interval)"
        text += "."
    return (CitedText(text, run_sources(*found.run_ids)),)


def weakest_pair(matrix: Confusion) -> CitedText:
    """The two classes that are most often confused with each other."""
    text = f"No image of the {matrix.split} set is taken for another class."
    if pairs := matrix.pairs():
        one, other, share = pairs[0]
        text = (
            f"The weakest pair is {one} and {other}: {percent(share, 1)} of the images of the two in the "
            f"{matrix.split} set are taken for the other."
        )
    return CitedText(text, run_sources(*matrix.run_ids))


def _class_caption(found: ClassResults, bar: Bar) -> CitedText:
    both = any(row.test is not None for row in found.rows) and any(row.validation is not None for row in found.rows)
    text = f"Sorted by {found.split} accuracy, the weakest class on top"
    if both:
        text += "; a line joins validation and test. Validation is of the confirmation, which is shorter than the "
        text += "final and has fewer training images"
    text += "."
    if len(found.rows) > _MOST_SHOWN:
        text += f" These are the weakest {_MOST_SHOWN} of {len(found.rows)} classes; report.json has all."
    if found.lowest < bar.target:
        text += f" The dotted line is the bar of {short_percent(bar.target)}."
    return CitedText(text, run_sources(*dict.fromkeys((*found.run_ids, *found.validated))))


def _class_figure(found: ClassResults, rows: Sequence[ClassAccuracy], bar: Bar) -> go.Figure:
    """Accuracy of the classes `rows` on validation and test images, the weakest on top."""
    figure = canvas(height=72 + 27 * len(rows), left=room_for([row.name for row in rows], 82))
    intervals = [row.interval for row in rows if row.interval]
    for split, colour, symbol in (("validation", BLUE, "circle-open"), ("test", RUST, "circle")):
        values = [getattr(row, split) for row in rows]
        name, bars = split, None
        texts = [in_figure(row.name) for row in rows]
        if split == found.split and len(intervals) == len(rows):
            lows, highs = [i.low for i in intervals], [i.high for i in intervals]
            name, bars = f"{split} with 95 % interval", error_bars(values, lows, highs, width=0, color=colour)
            texts = [f"{text} ({i.images:,} images)" for text, i in zip(texts, intervals, strict=True)]
        if any(v is not None for v in values):
            add_points(
                figure,
                [None if v is None else pc(v) for v in values],
                [in_figure(row.name) for row in rows],
                name=name,
                colour=colour,
                symbol=symbol,
                size=10,
                error_x=bars,
                customdata=texts,
                hover=f"%{{customdata}}, {split}: %{{x:.1f}} %",
            )
    figure.layout.shapes = [
        segment(100 * row.validation, 100 * row.test, y, y)
        for y, row in enumerate(rows)
        if row.validation is not None and row.test is not None
    ]
    if found.lowest < bar.target:
        figure.add_vline(x=100 * bar.target, line={"color": MUTED, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="accuracy (%)")
    return figure.update_yaxes(autorange="reversed", **name_axis([row.name for row in rows]))


def _table(found: ClassResults) -> Table:
    tested = found.confusion is not None and found.confusion.split == "test"
    grouped, rows = any(row.group for row in found.rows), []
    differ = len({row.interval.images for row in found.rows if row.interval}) > 1
    counted = [f"{found.split.capitalize()} images"] * differ
    titles = ("Class", *["Group"] * grouped, "Validation", "Test", "95 % interval", *counted)
    for row in found.rows[:_MOST_SHOWN]:
        values = ("not measured" if v is None else percent(v, 1) for v in (row.validation, row.test))
        group = [row.group.removesuffix("s") or "other"] * grouped
        interval = (span(row.interval, 1), f"{row.interval.images:,}") if row.interval else ("not known", "not known")
        rows.append(Row.of(row.name, *group, *values, *interval[: 1 + differ]))
    for name, accuracy in found.groups.items():
        mean = percent(accuracy.mean, 1)
        means = ("", mean) if tested else (mean, "")
        images = [f"{accuracy.images:,}"] * differ
        rows.append(Row.of(f"all {name}", *[""] * grouped, *means, span(accuracy, 1), *images, style="sum"))
    return Table(titles, rows, numbers=tuple(range(1 + grouped, len(titles))), style="cards tight")


def _confusion_blocks(matrix: Confusion, weakest: CitedText) -> Sequence[Block]:
    shown = matrix.most_confused(_MOST_SHOWN)
    text = "Percent of each true class; rows add up to 100, blank is under 0.5."
    if shown is not matrix:
        if not shown.classes:
            return (weakest,)
        some = f"the {len(shown.classes)} most confused of {len(matrix.classes)} classes"
        text = f"Percent of each true class, of {some}; blank is under 0.5."
    caption = CitedText(f"{text} {weakest.text}", weakest.sources)
    return (Figure("confusion", "Confusion matrix", caption, _confusion_figure(shown)),)


def _confusion_figure(matrix: Confusion) -> go.Figure:
    """Percent of each class (row) predicted as each class; colour shows errors only.

    With more than 12 classes it has a width of its own, which a phone scrolls, as its numbers need that.
    """
    percents = [[100 * v for v in row] for row in matrix.shares]
    errors = [[None if i == j else round(v, 3) for j, v in enumerate(row)] for i, row in enumerate(percents)]
    names = [in_figure(name) for name in matrix.classes]
    count, digits = len(names), 11.0
    room = room_for(matrix.classes, 92)
    figure = canvas(height=max(400, 16 * count + room), left=room + 8, bottom=room)
    if count > _MOST_SCALED:
        digits, figure.layout.width = 9.5, room + 8 + 19 * count + 14
    figure.add_heatmap(
        z=errors,
        x=names,
        y=names,
        colorscale=[[0, "rgba(196,103,58,0)"], [1, "rgba(196,103,58,0.85)"]],
        zmin=0,
        zmax=max(1, *(value or 0 for row in errors for value in row)),  # else no errors at all are drawn as large
        showscale=False,
        hovertext=[
            [f"{true} taken for {other}: {v:.1f} %" for other, v in zip(names, row, strict=True)]
            for true, row in zip(names, percents, strict=True)
        ],
        hoverinfo="text",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    figure.layout.annotations = [
        label(f"<b>{whole}</b>" if i == j else str(whole), j, i, size=digits)  # by place, as names may be numbers
        for i, row in enumerate(percents)
        for j, value in enumerate(row)
        if (whole := int(value + 0.5)) or i == j
    ]
    axis = name_axis(matrix.classes)
    figure.update_xaxes(title="taken for", tickangle=-45, **axis)
    figure.update_yaxes(title="true class", autorange="reversed", **axis)
    return figure


def _numbers(found: ClassResults) -> Iterator[Number]:
    sources = run_sources(*found.run_ids)
    for row in found.rows:
        name = f"class.{row.name}"
        yield from numbers_of(name, row, run_sources(*found.validated), validation="share")
        yield from numbers_of(name, row, sources, test="share")
        yield from numbers_of(name, row.interval, sources, low="share", high="share", images="images a run")
    for name, group in found.groups.items():
        yield from estimate_numbers(f"group.{name}", group, estimate_sources(group))
    if found.confusion:
        matrix, sources = found.confusion, run_sources(*found.confusion.run_ids)
        yield Number("confusion.images", matrix.images, "images a run", sources)
        for true, shares in zip(matrix.classes, matrix.shares, strict=True):
            for predicted, share in zip(matrix.classes, shares, strict=True):
                if len(matrix.classes) > _MOST_SHOWN and not share:
                    continue  # there are too many of them
                yield Number(f"confusion.{true}.{predicted}", share, "share of the true class", sources)
        for one, other, share in matrix.pairs()[:1]:
            yield Number("confusion.weakest_pair.share", share, f"share of {one} and {other}", sources)
