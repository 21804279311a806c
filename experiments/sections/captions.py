"""What to see in each figure, and how often the test set was seen: a sentence each, from the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import pandas as pd

from experiments.decision.costs import build, cheapest, payback_months
from experiments.decision.measures import Measures
from experiments.decision.sensitivity import swings
from experiments.decision.verdict import machine_sources, vendor_sources, why_no_money
from experiments.pages.text import CitedText, flops, listed, percent, plural, points, run, runs
from experiments.reading.published import Accuracy
from experiments.sections.sweep_figures import champion_flops


def looks_sentence(m: Measures) -> CitedText:
    """How often the sealed test set was used."""
    looks, tested = m.looks, len(m.test.run_ids) if m.test else 0
    if not looks.recorded:
        if tested:
            return CitedText(
                f"{tested} {plural(tested, 'run')} met the test set, but this store has no record of test "
                "looks, so how "
                "often it was used cannot be said.",
                runs(m.test) if m.test else (),
            )
        return CitedText("The test set has not been looked at, as far as this store knows.", run(m.run_id))
    times = f"{looks.study} {plural(looks.study, 'time')}"
    text = f"The sealed test set was looked at {times} for this study, {looks.store} in all studies of this store"
    if looks.study < tested:
        text += f"; {tested} runs carry a test accuracy, so the record is incomplete"
    if looks.unreadable:
        text += f"; {looks.unreadable} {plural(looks.unreadable, 'line')} of the record could not be read"
    return CitedText(f"{text}.", run(m.run_id))


def caption(m: Measures, figure: str, curves: pd.DataFrame) -> CitedText:
    """One sentence that says what to see in the figure of that name."""
    return _CAPTIONS[figure](m, curves)


def _see_benchmarks(m: Measures, _: pd.DataFrame) -> CitedText:
    listed_ = [*m.published.group("benchmark"), *m.published.group("system")]
    text = "Filled marks learnt from CIFAR-10 alone, open ones from more images."
    if m.test is None:
        return CitedText(f"{text} This study has no test accuracy to put beside them.", ("source/bar",))
    above = sum(a.accuracy > m.test.mean for a in listed_)
    place = (
        f"{above} of the {len(listed_)} published figures shown lie above ours"
        if above
        else "None of them lies above ours"
    )
    return CitedText(f"{text} {place}; the bar through ours is its 95 % interval.", (*runs(m.test), "source/bar"))


def _see_losses(m: Measures, curves: pd.DataFrame) -> CitedText:
    ends = _ends(curves, "loss")
    if ends is None:
        return CitedText("One of the two losses was not recorded.", run(*m.subject_runs))
    train, val = ends
    text = f"Training loss ends at {train:.3f} and validation loss at {val:.3f} nats an image"
    return CitedText(f"{text}{_first_of(m)}.", run(*m.subject_runs))


def _see_accuracies(m: Measures, curves: pd.DataFrame) -> CitedText:
    ends = _ends(curves, "accuracy")
    if ends is None:
        return CitedText("One of the two accuracies was not recorded.", run(*m.subject_runs))
    train, val = ends
    side = "above" if val >= train else "below"
    text = f"Validation accuracy ends at {percent(val)}, {points(abs(val - train))} {side} training accuracy"
    return CitedText(f"{text}{_first_of(m)}.", run(*m.subject_runs))


def peak_rate(curves: pd.DataFrame) -> tuple[float, float, float]:
    """The highest learning rate of a run, after which share of its steps, and the last one."""
    rates = curves[curves["key"] == "lr"]
    peak = rates.loc[rates["value"].idxmax()]
    return (
        float(peak["value"]),
        float(peak["step"]) / max(float(rates["step"].max()), 1),
        float(rates["value"].iloc[-1]),
    )


def _see_learning_rate(m: Measures, curves: pd.DataFrame) -> CitedText:
    peak, share, last = peak_rate(curves[curves["run_id"] == m.subject_runs[0]])
    text = f"The rate peaks at {peak:.3g}, {percent(share, 0)} of the way, and ends at {last:.2g}."
    return CitedText(text, run(m.subject_runs[0]))


def _see_classes(m: Measures, _: pd.DataFrame) -> CitedText:
    weakest, strongest = m.classes[0], m.classes[-1]
    both = any(c.test is not None for c in m.classes) and any(c.validation is not None for c in m.classes)
    text = (
        f"The weakest class on the {m.class_split} images is {weakest.name} "
        f"({percent(weakest.shown, 1)}), the strongest "
        f"{strongest.name} ({percent(strongest.shown, 1)})"
    )
    return CitedText(text + ("; a line joins validation and test." if both else "."), run(*m.subject_runs))


def _see_confusion(m: Measures, _: pd.DataFrame) -> CitedText:
    assert m.confusion
    pair = m.confusion.worst_pair()
    text = f"Percent of each true class on the {m.confusion.split} images; rows add up to 100, blank is under 0.5"
    seen = (
        f"the darkest cell is {pair[0]} taken for {pair[1]} ({percent(pair[2], 1)})" if pair else "there are no errors"
    )
    return CitedText(f"{text}; {seen}.", run(*m.confusion.run_ids))


def _see_history(m: Measures, _: pd.DataFrame) -> CitedText:
    s = m.search
    if s.best is None:
        return CitedText("No trial is complete, so there is no best one yet.", run(m.run_id))
    text = f"The best complete trial is number {s.best_trial}, at {percent(s.best, 1)}"
    return CitedText(f"{text}; open marks are trials that were stopped early.", (*run(m.run_id), *run(s.best_run)))


def _see_architectures(m: Measures, _: pd.DataFrame) -> CitedText:
    best = m.search.architectures
    if not best:
        return CitedText("No architecture has a complete trial yet.", run(m.run_id))
    text = f"{best[0].name} has the best complete trial ({percent(best[0].best, 1)})"
    second = f", {points(best[0].best - best[1].best)} ahead of {best[1].name}" if len(best) > 1 else ""
    return CitedText(
        f"{text}{second}; {best[0].tried} of {m.search.total} trials tried it.",
        run(best[0].run_id),
    )


def _see_reliability(m: Measures, _: pd.DataFrame) -> CitedText:
    assert m.calibration
    text = (
        f"{percent(m.calibration.surer_than_right, 0)} of the test answers lie in bins under the line, where "
        "the network is surer "
        f"than right; the mean distance, by answers, is {percent(m.calibration.reliability.ece, 1)}."
    )
    return CitedText(text, run(*m.calibration.runs))


def _see_importances(m: Measures, _: pd.DataFrame) -> CitedText:
    (name, share), found = m.importances.shares[0], m.importances
    if found.sure:
        chance = f"the best tenth differs from the others by more than chance in {listed(found.sure)}"
    else:
        chance = "but in none of them does the best tenth differ from the others by more than chance"
    text = (
        f"{name} has the largest part, {percent(share, 0)} of what all explain; {chance}. Judged by the {found.trials} "
        "complete trials alone (PED-ANOVA), as pruned ones were not trained to the end."
    )
    return CitedText(text, run(m.run_id))


def _see_slices(m: Measures, _: pd.DataFrame) -> CitedText:
    part = m.slices[0]
    best = max(range(len(part.accuracies)), key=part.accuracies.__getitem__)
    value = part.values[best]
    shown = value if isinstance(value, str) else f"{value:.3g}"
    text = (
        f"Each point is a complete trial; the best, trial {part.trials[best]}, has {part.parameter} {shown}. "
        "Trials differ "
        "in all parameters at once, so a slope here need not be that parameter's doing."
    )
    return CitedText(text, run(m.run_id))


def _see_front(m: Measures, _: pd.DataFrame) -> CitedText:
    least = min((a for a in m.published.accuracies if a.training_flops == a.training_flops), key=_compute, default=None)
    text = "Each point is a run. Ours are on the validation images but for the champion's test accuracy."
    traces: tuple[str, ...] = run(m.run_id)
    ours = champion_flops(m.front)
    if least and m.test and ours:
        text += (
            f" The champion took {flops(ours)} a run and reached {percent(m.test.mean)}; the least compute "
            f"published, {least.name}: {flops(least.training_flops)} for {percent(least.accuracy)}."
        )
        traces = (*runs(m.test), f"source/{least.key}")
    return CitedText(text, traces)


def _compute(accuracy: Accuracy) -> float:
    return accuracy.training_flops


def _see_cost_curves(m: Measures, _: pd.DataFrame) -> CitedText:
    ours, theirs, months = build(m.cost, m.scenario), cheapest(m.scenario), m.scenario.months
    traces = (*run(m.run_id), *machine_sources(m), "source/scenario", *vendor_sources(theirs))
    if ours is None:
        return CitedText(f"Vendors only: {why_no_money(m)}, so building has no line.", traces)
    crossing = payback_months(ours, theirs)
    if crossing == 0:
        seen = f"building lies under {theirs.name}, the cheapest vendor, from the start"
    elif crossing is None or crossing > months:
        seen = f"building stays over {theirs.name}, the cheapest vendor, to the end"
    else:
        seen = f"building crosses {theirs.name}, the cheapest vendor, after {crossing:.1f} months"
    return CitedText(f"Lines start at what is paid at once: {seen}.", traces)


def _see_tornado(m: Measures, _: pd.DataFrame) -> CitedText:
    found = swings(m)
    near = min((s for s in found if s.becomes), key=lambda s: abs(math.log(s.factor)), default=None)
    text = (
        "Each bar moves one assumption to half and to double; right of 0, building costs less than the cheapest vendor."
    )
    if near:
        side = "below" if near.factor < 1 else "above"
        text += f' The nearest flip: "{near.becomes}", with {near.name} {side} {near.flip} instead of {near.value}.'
    else:
        text += " None of them alone flips the answer within a factor of ten."
    return CitedText(text, (*run(m.run_id), *machine_sources(m), "source/scenario"))


_CAPTIONS: Mapping[str, Callable[[Measures, pd.DataFrame], CitedText]] = MappingProxyType(
    {
        "benchmarks": _see_benchmarks,
        "losses": _see_losses,
        "accuracies": _see_accuracies,
        "learning_rate": _see_learning_rate,
        "classes": _see_classes,
        "confusion": _see_confusion,
        "history": _see_history,
        "architectures": _see_architectures,
        "reliability": _see_reliability,
        "importances": _see_importances,
        "slices": _see_slices,
        "front": _see_front,
        "cost_curves": _see_cost_curves,
        "tornado": _see_tornado,
    }
)


def _ends(curves: pd.DataFrame, what: str) -> tuple[float, float] | None:
    """Last training and validation values of the first run."""
    first = curves[curves["run_id"] == curves["run_id"].iloc[0]] if len(curves) else curves
    train, val = (first[first["key"] == f"{split}/{what}"]["value"] for split in ("train", "val"))
    return (float(train.iloc[-1]), float(val.iloc[-1])) if len(train) and len(val) else None


def _first_of(m: Measures) -> str:
    return " (strong line; the other runs are faint)" if len(m.subject_runs) > 1 else ""
