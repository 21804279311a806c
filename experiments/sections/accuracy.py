"""Accuracy of the report: the network beside published figures and the accuracy bar."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import plotly.graph_objects as go

from experiments.decision.facts import Facts
from experiments.decision.verdict import ways_of
from experiments.pages.blocks import Cell, Figure, Number, Row, Section, Table, estimate_numbers, numbers_of
from experiments.pages.plots import BLUE, INK, MUTED, RUST, add_points, canvas, error_bars, label, pc, segment
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
    times,
)
from experiments.reading.published import Accuracy, Bar
from experiments.sections.classes import class_results
from experiments.stats import Estimate, against_published, difference_interval
from sweeps.words import counted, percent

_REWORK = "needs work on architecture, loss and optimiser"


def section(facts: Facts) -> Section:
    """Test accuracy beside the published figures, against the bar, and how often the test set was used."""
    test = facts.test
    target, start, rework = _levels(facts.bar)
    levels = target
    if facts.is_cifar10:
        levels += f"; over {start} is a start; under {rework} {_REWORK}"
    same = ""
    if facts.is_cifar10:
        all_same = all(a.same_test for a in facts.published.accuracies)
        same = f"{'All' if all_same else 'All but those marked'} are accuracies on the same 10,000 test images."
    if test:
        count, lost = len(test.run_ids), facts.study.diverged
        ours = f"{counted(count, 'run')} of the champion"
        if lost:
            ours = f"{count} of {count + lost} runs of the champion, as {lost} diverged"
        if count > 1:
            same += f" Ours is the mean of {ours}; its 95 % interval combines the variance of seeds with the sampling "
            same += f"error of {test.images:,} test images."
        else:
            same += f" Ours is {ours}; its 95 % interval covers the sampling of {test.images:,} test images alone. "
            same += f"Another training{_retrained(facts)} may lie outside."
    return Section(
        "Accuracy beside published figures" if facts.is_cifar10 else "Accuracy",
        (
            *((_figure(facts),) if facts.is_cifar10 else ()),
            CitedText(f"The bar is {levels}.", ("source/bar",)),
            _table(facts),
            *((CitedText(same.strip()),) if same else ()),
            evaluations_sentence(facts),
        ),
        {"performance": tuple(_performance(facts)), "learning": validation_against_test(facts)},
        tuple(_numbers(facts)),
    )


def _retrained(facts: Facts) -> str:
    often = facts.scenario.retraining_per_year
    return f", as the scenario has {times(often)} a year," if often else ""


def bar_sentence(facts: Facts) -> CitedText:
    """Test accuracy against the published bar: target, start, rework."""
    bar, test = facts.bar, facts.test
    target, start, rework = _levels(bar)
    if test is None:
        if facts.validation is None:
            return CitedText("No trial has finished, so performance cannot be judged yet.", run_sources(facts.run_id))
        text = (
            "Accuracy on unseen images is not known yet. On the validation images the network reaches "
            f"{fine_percent(facts.validation.mean)}"
        )
        text += "; trials were selected on these images, so the figure flatters." if facts.study.has_selected else "."
        return CitedText(text, estimate_sources(facts.validation))
    levels = (bar.target, bar.start, bar.rework) if facts.is_cifar10 else (bar.target,)
    ours = f"At {percent_beside(test.mean, 2, *levels)} the network"
    interval = f"95 % interval, {span(test, 2, bar.target)},"
    if test.low >= bar.target:
        text = f"{ours} clears the {target} bar; the whole {interval} does."
    elif test.mean >= bar.target:
        text = f"{ours} meets the {target} bar, but its {interval} reaches below."
    elif test.high >= bar.target:
        text = f"{ours} misses the {target} bar, though its {interval} reaches it."
    elif not facts.is_cifar10:
        text = f"{ours} misses the {target} bar."
    elif test.mean > bar.start:
        text = f"{ours} misses the {target} bar; being over {start}, it is a start."
    elif test.mean >= bar.rework:
        text = f"{ours} misses the {target} bar, and is not over the {start} that counts as a start."
    else:
        text = f"{ours} misses the {target} bar; being under {rework}, it {_REWORK}."
    return CitedText(text, (*estimate_sources(test), "source/bar"))


def _levels(bar: Bar) -> tuple[str, str, str]:
    return short_percent(bar.target), short_percent(bar.start), short_percent(bar.rework)


def evaluations_sentence(facts: Facts) -> CitedText:
    """Count of evaluations on the sealed test set."""
    used, tested = facts.study.test_set_evaluations, len(facts.test.run_ids) if facts.test else 0
    if not used.recorded:
        if facts.test is None:
            return CitedText("The test set was not used, as far as this store knows.", run_sources(facts.run_id))
        text = f"{counted(tested, 'run')} used the test set, but this store has no record of its use."
        return CitedText(text, estimate_sources(facts.test))
    text = f"The sealed test set was used {times(used.study)} for this study"
    if used.again:
        text += f", {times(used.again)} of them by a run that was on record before"
    if used.adapted:
        text += f", and {times(used.adapted)} for its adapted network"
    if used.store > used.study + used.adapted:
        text += f"; the store's record has {used.store} uses of test sets in all, with exports, scored answers, "
        text += "adapted networks and reproductions"
    if used.study < tested:
        carry = "run carries" if tested == 1 else "runs carry"
        text += f"; {tested} {carry} a test accuracy, so the record is incomplete"
    if used.unreadable:
        text += f"; {counted(used.unreadable, 'line')} of the record could not be read"
    return CitedText(f"{text}.", run_sources(facts.run_id))


def validation_against_test(facts: Facts) -> tuple[CitedText, ...]:
    """Validation accuracy of the recipe when it was chosen, and test accuracy of its final."""
    test, validation = facts.test, facts.validation
    if validation is None:
        return ()
    if test is None:
        text = "How far validation accuracy can be trusted cannot be said before a test."
        return (CitedText(text, estimate_sources(validation)),)
    text = (
        f"On the validation images its recipe reached {fine_percent(validation.mean)} when it was chosen. The final "
        f"was trained longer, on all images, and reaches {fine_percent(test.mean)} of the test images."
    )
    low, high = difference_interval(validation, test)
    if low > 0:
        text += f" That is {points(validation.mean - test.mean)} less (95 % interval {100 * low:.2f} to "
        text += f"{100 * high:.2f}), more than chance explains{_most_lost(facts)}."
    return (CitedText(text, (*estimate_sources(validation), *estimate_sources(test))),)


def _most_lost(facts: Facts) -> str:
    """The class with the largest part in a test accuracy below that of validation; "" if none is known."""
    lost = [
        ((row.validation - row.test) * row.interval.images, row.name, row.validation, row.test)
        for row in class_results(facts.study).rows
        if row.validation is not None and row.test is not None and row.interval
    ]
    part, name, validation, test = max(lost, default=(0.0, "", 0.0, 0.0))
    if part <= 0:  # as the classes have other shares of the test images
        return ""
    shares = f"{percent(validation, 1)} of its validation and {percent(test, 1)} of its test images"
    return f"; the class {name} has the largest part in it, with {shares} right"


def augmented_sentence(facts: Facts) -> CitedText | None:
    """Test accuracy with test-time augmentation, and what it costs; None if it was not measured."""
    if facts.augmented is None:
        return None
    text = (
        f"With test-time augmentation ({facts.views or 'several'} views of each image, at as many times the work) it "
        f"reaches {fine_percent(facts.augmented.mean)} ({span(facts.augmented)}); the verdict rests on the plain "
        "accuracy."
    )
    return CitedText(text, estimate_sources(facts.augmented))


def _performance(facts: Facts) -> Iterator[CitedText]:
    yield bar_sentence(facts)
    if facts.test is None:
        return
    if (augmented := augmented_sentence(facts)) is not None:
        yield augmented
    if five_conv := next((a for a in _comparable(facts, "system") if a.key == "five_conv"), None):
        yield _comparison(facts.test, five_conv, "the published five_conv network")
    if same := [a for a in _comparable(facts, "benchmark", "system", "recipe") if a.same_data]:
        best = max(same, key=lambda a: a.best)
        name = best.name[:1].lower() + best.name[1:]
        what = ", as accurate as any published here that was trained on CIFAR-10 alone"
        yield _comparison(facts.test, best, name, what)
    downloads = _comparable(facts, "recipe", "download")
    public = max(downloads, key=lambda a: (a.accuracy, a.key), default=None)
    if public and against_published(facts.test, public.accuracy) == "lower":
        more = "" if public.same_data else " after training on more images"
        note = f" ({public.note})" if public.note else ""
        text = (
            f"What can be downloaded is reported to reach more: {public.name}, {public.figure} on the same test "
            f"images{more}{note}."
        )
        yield CitedText(text, (f"source/{public.key}", *estimate_sources(facts.test)))
    unknown = [way.title for way in ways_of(facts)[1:] if way.accuracy is None or not way.same_test]
    if unknown:
        text = f"Accuracy on these images is neither published nor measured for {listed(unknown)}."
        yield CitedText(text, ("source/scenario",))
    if facts.is_cifar10:
        yield fresh_sentence(facts, facts.test)


def fresh_sentence(facts: Facts, test: Estimate) -> CitedText:
    """The accuracy to expect on images collected anew, against the bar."""
    fresh, target = facts.published.fresh_test_set.points_lower, facts.bar.target
    low, high = (_after_loss(test, p) for p in reversed(fresh))
    clears = "still at or above" if low >= target else "below" if high < target else "on both sides of"
    text = (
        f"On images collected anew, networks lost {fresh[0]:g} to {fresh[1]:g} points; that would leave "
        f"{span(replace(test, low=low, high=high), 1, target)}, {clears} the bar."
    )
    return CitedText(text, ("source/fresh", *estimate_sources(test)))


def _after_loss(test: Estimate, lost: float) -> float:
    """The accuracy less so many points, at least 0."""
    return max(0.0, test.mean - lost / 100)


def _comparison(ours: Estimate, theirs: Accuracy, name: str, what: str = "") -> CitedText:
    gap = ours.mean - theirs.accuracy
    opening = {
        "higher": f"It is {points(gap)} more accurate than {name}",
        "lower": f"It is {points(-gap)} less accurate than {name}",
        "not_significant": f"It cannot be told from {name}",
    }[against_published(ours, theirs.accuracy)]
    same = "same test images" + ("" if theirs.same_data else ", but trained on more")
    return CitedText(f"{opening} ({theirs.stated}; {same}){what}.", (*estimate_sources(ours), f"source/{theirs.key}"))


def _comparable(facts: Facts, *groups: str) -> list[Accuracy]:
    """The published accuracies of these groups, but for those on other test images, which compare with nothing here."""
    return [a for a in facts.published.accuracies if a.group in groups and a.same_test]


def _name(facts: Facts) -> str:
    return f"this study ({facts.model})" if facts.model else "this study"


def _figure(facts: Facts) -> Figure:
    shown = _comparable(facts, "benchmark", "system", "recipe", "download")  # a service may lie far below, out of sight
    text, sources = "Filled marks were trained on CIFAR-10 alone, open ones on more images.", run_sources()
    if facts.test is None:
        text += " This study has no test accuracy to put beside them."
    else:
        compared = [against_published(facts.test, a.accuracy) for a in shown]
        above, level = compared.count("lower"), compared.count("not_significant")
        lie = "lies" if above == 1 else "lie"
        text += f" Of the {len(compared)} published figures drawn here, {above} {lie} above ours by more than chance "
        text += f"and {level} cannot be told from it; the line through ours is its 95 % interval. Services are in the "
        text += "table."
        sources = estimate_sources(facts.test)
    figure = benchmarks(shown, facts.test, _name(facts), facts.bar)
    return Figure("benchmarks", "Test accuracy", CitedText(text, (*sources, "source/bar")), figure)


def benchmarks(published: Sequence[Accuracy], ours: Estimate | None, own_name: str, bar: Bar) -> go.Figure:
    """Accuracies one below the other, the best on top: published ones and, with its interval, ours."""
    # Short names: on a narrow screen, that of a low accuracy would run into its figure.
    rows: list[tuple[float, str, str, bool, int, Estimate | None]] = [
        (a.accuracy, a.name.removesuffix(", as published"), a.date[:4], a.same_data, a.decimals, None)
        for a in published
    ]
    rows += [(ours.mean, own_name, "", True, 2, ours)] if ours else []
    rows.sort(key=lambda row: row[:2])
    lowest = min(40, 10 * math.floor(10 * min((row[0] for row in rows), default=1)))  # where the axis begins
    levels = [(100 * bar.rework, MUTED, 1.0), (100 * bar.start, MUTED, 1.0), (100 * bar.target, RUST, 1.5)]
    figure = canvas(height=62 + 38 * len(rows), left=6, top=26)
    target = f"{short_percent(bar.target)} bar"
    shapes, labels = [], [label(target, 100 * bar.target, 1, colour=RUST, yref="paper", yanchor="bottom")]
    for y, (share, name, year, same_data, digits, own) in enumerate(rows):
        shapes += [segment(x, x, y - 0.15, y + 0.1, colour=colour, width=width) for x, colour, width in levels]
        shapes.append(segment(lowest, 100 * share, y, y, width=1))
        when = f"  <span style='font-size:11px'>{year}</span>" if year else ""
        title, ink, colour = (f"<b>{name}</b>", RUST, RUST) if own else (f"{name}{when}", INK, BLUE)
        labels.append(label(title, 0, y, colour=ink, size=13, xref="paper", xanchor="left", yshift=13))
        add_points(
            figure,
            [pc(share)],
            [y],
            name=name,
            colour=colour,
            symbol="circle" if same_data else "circle-open",
            size=11,
            error_x=error_bars([own.mean], [own.low], [own.high], width=5) if own else None,
            text=[f"{100 * share:.{digits}f}"],
            textposition="top center",
            textfont={"color": colour, "size": 12},
            hover=f"{name}: %{{x:.2f}} %",
            showlegend=False,
        )
    figure.update_layout(shapes=shapes, annotations=labels)
    ticks = sorted({*range(lowest, 41, 10), 60, 80, 90, 100, *(round(level, 2) for level, _, _ in levels)})
    figure.update_xaxes(title="test accuracy (%)", range=[lowest, 102], tickvals=ticks, showgrid=False)
    figure.update_yaxes(visible=False, range=[-0.6, len(rows) - 0.2])
    return figure


def _table(facts: Facts) -> Table:
    test, target = facts.test, facts.bar.target
    validated = "" if facts.has_champion else ", without its validation images"
    ours = Row.of(
        Cell(_name(facts), note=f"{facts.parameters:,} weights" if facts.parameters else ""),
        Cell(percent_beside(test.mean, 2, target), note=span(test, 2, target)) if test else "not measured",
        Cell(f"{facts.study.data_set.name} alone{validated}", style="plain"),
        Cell("", sources=estimate_sources(test) if test else run_sources(*facts.subject_runs)),
        style="ours",
    )
    theirs = (
        Row.of(
            a.name,
            Cell(a.figure, note="" if a.same_test else "on other test images"),
            "CIFAR-10\N{NO-BREAK SPACE}alone" if a.same_data else "more\N{NO-BREAK SPACE}images",
            Cell(a.source, sources=(f"source/{a.key}",)),
        )
        for a in sorted(facts.published.accuracies, key=lambda a: a.best, reverse=True)
    )
    return Table(("System", "Test accuracy", "Trained on", "Source"), (ours, *theirs), numbers=(1,))


def _numbers(facts: Facts) -> Iterator[Number]:
    test, validation, study = facts.test, facts.validation, run_sources(facts.run_id)
    for name, estimate in (("test", test), ("validation", validation)):
        if estimate:
            yield from estimate_numbers(f"accuracy.{name}", estimate, estimate_sources(estimate))
        else:
            yield Number(f"accuracy.{name}.mean", None, "share", study)
    if facts.augmented:
        yield from estimate_numbers("accuracy.test_augmented", facts.augmented, estimate_sources(facts.augmented))
    yield Number("model.parameters", facts.parameters, "weights", run_sources(*facts.subject_runs))
    used = facts.study.test_set_evaluations
    yield from numbers_of("looks", used if used.recorded else None, study, study="looks", store="looks")
    levels = ("target", "start", "rework") if facts.is_cifar10 else ("target",)
    yield from numbers_of("bar", facts.bar, ("source/bar",), **dict.fromkeys(levels, "share"))
    for a in facts.published.accuracies:
        source = (f"source/{a.key}",)
        yield Number(f"published.{a.key}", a.accuracy, "share of test images", source)
        if a.best > a.accuracy:
            yield Number(f"published.{a.key}.best", a.best, "share of test images", source)
        if not math.isnan(a.training_flops):
            yield Number(f"published.{a.key}.flops", a.training_flops, "FLOPs", source)
    if not facts.is_cifar10:
        return
    for name, value in zip(("least", "most"), facts.published.fresh_test_set.points_lower, strict=True):
        yield Number(f"fresh.points_lower.{name}", value, "points", ("source/fresh",))
        if test:
            left = _after_loss(test, value)
            yield Number(f"fresh.accuracy_less_{name}", left, "share", ("source/fresh", *estimate_sources(test)))
