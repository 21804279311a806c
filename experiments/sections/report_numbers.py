"""report.json: every number of the report under a stable name, with its unit and the runs and sources it comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from experiments.decision.costs import break_even, build, buy, cheapest, payback_months
from experiments.decision.measures import Measures
from experiments.decision.sensitivity import Swing, saved
from experiments.decision.verdict import Verdict, machine_sources
from experiments.pages.page import Picture
from experiments.pages.text import CitedText, run, runs
from experiments.reading.studies import Study
from experiments.sections.captions import peak_rate
from experiments.stats import Estimate
from experiments.systems.reproduction import System

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Number:
    """One figure; `traces` as in `CitedText`. None means: not measured, or none there is."""

    name: str
    value: float | int | str | None
    unit: str  # share | seconds | FLOPs | USD | ...
    sources: tuple[str, ...]


def numbers_json(
    study: Study,
    m: Measures,
    verdict: Verdict,
    swings: Sequence[Swing],
    systems: Sequence[System],
    pictures: Mapping[str, Picture],
) -> bytes:
    """The file; the same report gives the same bytes."""
    found = list(numbers(study, m, swings, systems))
    document = {
        "schema": SCHEMA,
        "study": {"name": m.study, "run": m.run_id, "state": m.state, "as_of": m.as_of.isoformat()},
        "verdict": {
            "answer": verdict.answer,
            "because": _said(verdict.because),
            "facts": [_said(fact) for fact in verdict.facts],
            "rules": [{"if": r.condition, "then": r.answer, "holds": r.holds} for r in verdict.rules],
            "decided_by": verdict.decided_by + 1,
        },
        "numbers": {n.name: {"value": _plain(n.value), "unit": n.unit, "from": list(n.sources)} for n in found},
        "figures": {name: _figure(picture) for name, picture in pictures.items()},
    }
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def numbers(study: Study, m: Measures, swings: Sequence[Swing], systems: Sequence[System]) -> Iterator[Number]:
    """Every number, by subject."""
    yield from _accuracy(m)
    yield from _curves(study, m)
    yield from _search(study, m)
    yield from _cost(m)
    yield from _scenario(m)
    yield from _sensitivity(m, swings)
    yield from _published(m)
    for system in systems:
        traces = (f"source/{system.name}", *run(*(r.run_id for r in system.runs)))
        if system.accuracy:
            yield from _estimate(f"system.{system.name}.test", system.accuracy, traces)
        for result in system.runs:
            own = (*run(result.run_id), f"source/{system.name}")
            yield Number(f"system.{system.name}.seed{result.seed}.epochs_run", result.epochs_run, "epochs", own)
            if result.test is not None:
                yield Number(f"system.{system.name}.seed{result.seed}.test", result.test.accuracy, "share", own)


def _accuracy(m: Measures) -> Iterator[Number]:
    for name, estimate in (("test", m.test), ("validation", m.validation)):
        if estimate:
            yield from _estimate(f"accuracy.{name}", estimate, runs(estimate))
        else:
            yield Number(f"accuracy.{name}.mean", None, "share", run(m.run_id))
    if m.test and m.validation:
        gap = m.validation.mean - m.test.mean
        yield Number("accuracy.validation_less_test", gap, "share", (*runs(m.test), *runs(m.validation)))
    subject = run(*m.subject_runs)
    yield Number("model.parameters", m.parameters, "weights", subject)
    for row in m.classes:
        for name, value in (("validation", row.validation), ("test", row.test), ("low", row.low), ("high", row.high)):
            yield Number(f"class.{row.name}.{name}", value, "share", subject)
        yield Number(f"class.{row.name}.images", row.images, "images a run", subject)
    for name, estimate in m.groups.items():
        yield from _estimate(f"group.{name}", estimate, runs(estimate))
    if m.confusion:
        traces = run(*m.confusion.run_ids)
        yield Number("confusion.images", m.confusion.images, "images a run", traces)
        for true, shares in zip(m.confusion.classes, m.confusion.shares, strict=True):
            for called, share in zip(m.confusion.classes, shares, strict=True):
                yield Number(f"confusion.{true}.{called}", share, "share of the true class", traces)
        pair = m.confusion.weakest_pair()
        if pair:
            yield Number("confusion.weakest_pair.share", pair[2], f"share of {pair[0]} and {pair[1]}", traces)
    if m.calibration:
        c, traces = m.calibration.reliability, run(*m.calibration.runs)
        yield Number("calibration.ece", c.ece, "share", traces)
        yield Number("calibration.mean_confidence", c.mean_confidence, "share", traces)
        yield Number("calibration.mean_accuracy", c.mean_accuracy, "share", traces)
        yield Number("calibration.surer_than_right", m.calibration.surer_than_right, "share", traces)
        for i, (n, sure, right) in enumerate(zip(c.counts, c.confidence, c.accuracy, strict=True)):
            yield Number(f"calibration.bin{i}.answers", n, "answers", traces)
            yield Number(f"calibration.bin{i}.confidence", sure, "share", traces)
            yield Number(f"calibration.bin{i}.accuracy", right, "share", traces)
    store = run(m.run_id)
    yield Number("looks.study", m.looks.study if m.looks.recorded else None, "looks", store)
    yield Number("looks.store", m.looks.store if m.looks.recorded else None, "looks", store)


def _curves(study: Study, m: Measures) -> Iterator[Number]:
    """Where the curves of the first run end."""
    first = study.curves[study.curves["run_id"].isin(m.subject_runs[:1])]
    traces = run(*m.subject_runs[:1])
    for key, unit in (
        ("train/loss", "nats"),
        ("val/loss", "nats"),
        ("train/accuracy", "share"),
        ("val/accuracy", "share"),
    ):
        points = first[first["key"] == key]["value"]
        if len(points):
            yield Number(f"curve.{key.replace('/', '_')}.last", float(points.iloc[-1]), unit, traces)
    if (first["key"] == "lr").any():
        for name, value in zip(("peak", "peak_at", "last"), peak_rate(first), strict=True):
            yield Number(f"curve.lr.{name}", value, "share of the steps" if name == "peak_at" else "rate", traces)


def _search(study: Study, m: Measures) -> Iterator[Number]:
    s, parent = m.search, run(m.run_id)
    for name in ("planned", "complete", "pruned", "failed", "unfinished"):
        yield Number(f"search.{name}", getattr(s, name), "trials", parent)
    for name in ("search_flops", "full_flops", "confirm_flops"):
        yield Number(f"search.{name}", getattr(s, name), "FLOPs", parent)
    yield Number("search.saved_fraction", s.saved_fraction, "share", parent)
    yield Number("search.best", s.best, "share", run(s.best_run))
    yield Number("search.best_trial", s.best_trial, "trial number", run(s.best_run))
    yield Number("search.first", s.first, "share", parent)
    yield Number("search.last_trial", s.last_trial, "trial number", parent)
    for architecture in s.architectures:
        for name, unit in (("best", "share"), ("complete", "trials"), ("tried", "trials")):
            value = getattr(architecture, name)
            yield Number(f"architecture.{architecture.name}.{name}", value, unit, run(architecture.run_id))
    for parameter, share in m.importances.shares:
        yield Number(f"importance.{parameter}", share, "share", parent)
    yield Number("importance.trials", m.importances.trials, "trials", parent)
    if m.selection:
        chosen = m.selection
        traces = (*run(chosen.search_run), *(runs(chosen.confirmed) if chosen.confirmed else ()))
        yield Number("selection.trial", chosen.trial, "trial number", traces)
        yield Number("selection.searched", chosen.searched, "share", traces)
        yield Number("selection.search_flops", chosen.search_flops, "FLOPs", traces)
        yield Number("selection.confirm_flops", chosen.confirm_flops, "FLOPs", traces)
        if chosen.confirmed:
            yield from _estimate("selection.confirmed", chosen.confirmed, traces)
    for source, again in study.confirm.groupby("source_trial", sort=True):
        known = again[again["state"] == "complete"]["metrics.val/accuracy"].dropna()
        mean = float(known.mean()) if len(known) else None
        yield Number(f"confirmed.trial{source:g}.validation", mean, "share", run(*again["run_id"]))


def _cost(m: Measures) -> Iterator[Number]:
    cost, s = m.cost, m.scenario
    study, machine = run(m.run_id), machine_sources(m)
    recipe = run(*cost.runs)
    yield Number("cost.study.seconds", cost.seconds, "seconds", study)
    yield Number("cost.study.flops", cost.flops, "FLOPs", study)
    yield Number("cost.study.energy", None, "joules (not measured)", study)
    yield Number("cost.study.usd", cost.study_usd, "USD", (*study, *machine))
    yield Number("cost.study.machines", cost.machines, "machines", study)
    yield Number("cost.retraining.seconds", cost.retrain_seconds, "seconds", recipe)
    yield Number("cost.retraining.flops", cost.retrain_flops, "FLOPs", recipe)
    yield Number("cost.retraining.usd", cost.retrain_usd, "USD", (*recipe, *machine))
    yield Number("cost.training.images_per_second", cost.training_per_second, "images a second", recipe)
    if speed := cost.speed:
        traces, bound = run(*speed.runs), " (bound)" if speed.bounded else ""
        yield Number("serving.latency", speed.latency, f"seconds{bound}", traces)
        yield Number("serving.latency95", speed.slow, "seconds", traces)
        yield Number("serving.batch", speed.batch, "images", traces)
        yield Number("serving.images_per_second", speed.per_second_batched, f"images a second{bound}", traces)
        yield Number("serving.per_1000_single", cost.per_1000_single_usd, f"USD{bound}", (*traces, *machine))
        yield Number("serving.per_1000_batched", cost.per_1000_usd, f"USD{bound}", (*traces, *machine))
        yield Number("serving.machine_month", cost.month_usd, "USD", machine)
    ours = build(cost, s)
    all_of_it = (*study, *machine, "source/scenario")
    ways = [(ours, "build", all_of_it)] if ours else []
    ways += [
        (
            buy(v, s),
            f"buy.{v.training.key.removesuffix('-training')}",
            (*(f"source/{p.key}" for p in v.prices), "source/scenario"),
        )
        for v in s.vendors
    ]
    for way, name, traces in ways:
        for part in ("people", "training", "once", "month"):
            yield Number(f"{name}.{part}", getattr(way, part), "USD" + (" a month" if part == "month" else ""), traces)
        yield Number(f"{name}.retraining", way.retraining * s.months, "USD over the horizon", traces)
        yield Number(f"{name}.serving_month", way.serving, "USD a month", traces)
        yield Number(f"{name}.serving", way.serving * s.months, "USD over the horizon", traces)
        yield Number(f"{name}.total", way.total(s.months), "USD over the horizon", traces)
        if way.vendor and ours:
            volume = break_even(cost, way.vendor, s)
            yield Number(f"{name}.break_even", volume, "images a month", (*all_of_it, *traces))
            share = s.images_per_month / volume if volume else None
            yield Number(f"{name}.scenario_over_break_even", share, "share", (*all_of_it, *traces))
    if ours:
        yield Number("payback.months", payback_months(ours, cheapest(s)), "months", all_of_it)
        yield Number("build.people_share", ours.people / ours.total(s.months), "share", all_of_it)


def _scenario(m: Measures) -> Iterator[Number]:
    for field in fields(m.scenario):
        value = getattr(m.scenario, field.name)
        if isinstance(value, int | float) or (value is None and field.name != "compute"):
            yield Number(f"scenario.{field.name}", value, "as in the file", ("source/scenario",))
    yield Number("scenario.people", m.scenario.people_usd, "USD", ("source/scenario",))


def _sensitivity(m: Measures, swings: Sequence[Swing]) -> Iterator[Number]:
    gain = saved(m)
    traces = (*run(m.run_id), *machine_sources(m), "source/scenario")
    yield Number("sensitivity.saved", gain, "USD over the horizon", traces)
    for swing in swings:
        name = f"sensitivity.{swing.name.replace(' ', '_')}"
        own = (*traces, *swing.sources)
        yield Number(f"{name}.value", swing.value, "text", own)
        yield Number(f"{name}.saved_if_halved", swing.low, "USD over the horizon", own)
        yield Number(f"{name}.saved_if_doubled", swing.high, "USD over the horizon", own)
        yield Number(f"{name}.flip_factor", swing.factor, "times the value", own)
        yield Number(f"{name}.flips_at", swing.flip or None, "text", own)
        yield Number(f"{name}.becomes", swing.becomes or None, "text", own)


def _published(m: Measures) -> Iterator[Number]:
    for name in ("target", "start", "rework"):
        yield Number(f"bar.{name}", getattr(m.bar, name), "share", ("source/bar",))
    for a in m.published.accuracies:
        yield Number(f"published.{a.key}", a.accuracy, "share of test images", (f"source/{a.key}",))
        if a.best > a.accuracy:
            yield Number(f"published.{a.key}.best", a.best, "share of test images", (f"source/{a.key}",))
        if not math.isnan(a.training_flops):
            yield Number(f"published.{a.key}.flops", a.training_flops, "FLOPs", (f"source/{a.key}",))
    units = {"prediction": "USD for 1,000 images"}
    for p in m.published.prices:
        yield Number(f"price.{p.key}", p.usd, units.get(p.role, "USD an hour"), (f"source/{p.key}",))
        if p.role == "training":
            yield Number(f"price.{p.key}.least_purchase", p.least_purchase, "USD", (f"source/{p.key}",))
    if m.cost.machine and m.cost.machine not in m.published.prices:
        yield Number("price.scenario-compute", m.cost.machine.usd, "USD an hour", ("source/scenario",))
    for name, value in zip(("least", "most"), m.published.fresh_test_set.points_lower, strict=True):
        yield Number(f"fresh.points_lower.{name}", value, "points", ("source/fresh",))
        if m.test:
            left = m.test.mean - value / 100
            yield Number(f"fresh.accuracy_less_{name}", left, "share", ("source/fresh", *runs(m.test)))


def _estimate(name: str, estimate: Estimate, traces: tuple[str, ...]) -> Iterator[Number]:
    for part in ("mean", "low", "high"):
        yield Number(f"{name}.{part}", getattr(estimate, part), "share", traces)
    yield Number(f"{name}.images", estimate.images, "images a run", traces)
    yield Number(f"{name}.runs", len(estimate.run_ids), "runs", traces)


def _figure(picture: Picture) -> dict[str, Any]:
    series = []
    for trace in picture.figure.data if picture.figure is not None else ():
        drawn = trace.to_plotly_json()
        series.append({key: drawn[key] for key in ("name", "x", "y", "z", "base") if drawn.get(key) is not None})
    return {"title": picture.title, "caption": _said(picture.caption), "series": series}


def _said(sentence: CitedText) -> dict[str, Any]:
    return {"text": sentence.text, "from": list(sentence.sources)}


def _plain(value: float | str | None) -> float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
