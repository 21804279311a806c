"""Search of the report: trials, pruning, architectures, and accuracy against training compute."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from experiments.decision.facts import Facts
from experiments.pages.blocks import Block, Cell, Figure, Missing, Number, Pairs, Row, Section, Table, numbers_of
from experiments.pages.plots import BLUE, GREEN, GRID, INK, MUTED, RUST, add_line, add_points, canvas, pc
from experiments.pages.text import (
    CitedText,
    capital,
    count_word,
    duration,
    estimate_sources,
    fine_percent,
    flops,
    points,
    run_sources,
)
from experiments.reading.published import Accuracy
from experiments.reading.study import Study
from experiments.stats import FEW_TRIALS, wilson
from sweeps.states import ENDED
from sweeps.words import percent

SAVED_AIM = 0.5  # of the training compute, by pruning
TYPICAL = 0.7  # accuracy of a trial, at which the interval over images is stated
PFLOP = 1e15
BEYOND = 4.0  # systems of unknown compute stand to the right of all others by this factor
_SHORT = {
    "metrics.val/accuracy": "accuracy",
    "metrics.cost/training_flops": "flops",
    "metrics.cost/seconds": "seconds",
    "params.model": "model",
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """The trials of one architecture that has a complete one."""

    name: str
    best: float  # validation accuracy of its best complete trial
    low: float  # 95 % interval of that, over images
    high: float
    run_id: str  # id of the run of that trial
    complete: int
    tried: int
    seconds: float | None  # time to train that trial, validation included


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """Accuracy against compute of all training runs of a study.

    Attributes:
        runs: the columns of `Study.search` and `stage`, with short names for accuracy (validation), flops and model.
        best: pairs (FLOPs, accuracy) of the complete runs that no other beats with less compute.
        champion_flops: mean training FLOPs of the champion's runs.
    """

    runs: pd.DataFrame
    best: tuple[tuple[float, float], ...]
    champion_flops: float | None


def best_so_far(search: pd.DataFrame) -> pd.DataFrame:
    """The trials with a validation accuracy by number, with columns accuracy, model and best (so far).

    Only a complete trial can be the best, as pruned ones did not train to the end; NaN before the first.
    """
    known = search[search["metrics.val/accuracy"].notna() & search["trial"].notna()].sort_values("trial")
    frame = _short(known).reset_index(drop=True)
    return frame.assign(best=frame["accuracy"].where(frame["state"] == "complete").cummax().ffill())


def architectures_of(study: Study) -> tuple[Architecture, ...]:
    """The architectures with a complete trial, the one with the best trial first."""
    trials = best_so_far(study.search)
    complete = trials[trials["state"] == "complete"]
    finished, tried = complete["model"].value_counts(), study.search["params.model"].value_counts()
    best = complete.loc[complete.groupby("model")["accuracy"].idxmax()]
    return tuple(
        Architecture(
            str(t.model),
            float(t.accuracy),
            *wilson(float(t.accuracy), study.trial_images),
            str(t.run_id),
            int(finished[t.model]),
            int(tried[t.model]),
            None if math.isnan(t.seconds) else float(t.seconds),
        )
        for t in best.sort_values(["accuracy", "model"], ascending=[False, True]).itertuples()
        if t.model in tried
    )


def pareto_front(study: Study) -> ParetoFront:
    """The front over the runs of search and confirmation that have a validation accuracy and known compute."""
    again = study.confirm.assign(stage="confirm", trial=study.confirm["source_trial"])
    every = pd.concat([study.search.assign(stage="search"), again], ignore_index=True)
    known = every["metrics.cost/training_flops"].gt(0) & every["metrics.val/accuracy"].notna()
    runs = _short(every[known])
    complete = runs[runs["state"] == "complete"].sort_values(["flops", "accuracy"], ascending=[True, False])
    best = complete[complete["accuracy"] > complete["accuracy"].cummax().shift(fill_value=-1.0)]
    own = study.champion["metrics.cost/training_flops"].dropna()
    champion_flops = float(own.mean()) if len(own) else None
    return ParetoFront(runs, tuple(zip(best["flops"].tolist(), best["accuracy"].tolist(), strict=True)), champion_flops)


def section(facts: Facts) -> Section:
    """The sweep: its counts, its history, its architectures, and accuracy against compute."""
    trials, found, front = best_so_far(facts.study.search), architectures_of(facts.study), pareto_front(facts.study)
    complete = trials[trials["state"] == "complete"]
    progress, choice = _progress_sentence(facts, complete), _architectures_sentence(facts, found)
    blocks: list[Block] = [_summary(facts)]
    if len(trials):
        caption = replace(progress, text=f"{progress.text} Open marks are trials that were stopped early.")
        blocks.append(Figure("history", "Best so far", caption, _history_figure(trials)))
        blocks.append(Figure("architectures", "Accuracy by architecture", choice, _architectures_figure(trials, found)))
    if len(found) > 1:
        blocks.append(_architectures_table(found))
    if len(front.runs):
        caption, figure = _front_caption(facts, front), _front_figure(facts, front)
        blocks.append(Figure("front", "Accuracy against compute", caption, figure))
    else:
        blocks.append(Missing("No run has both an accuracy and its compute on record, so there is nothing to draw."))
    recommendation = {"customisation": (choice,), "learning": (progress, _pruning_sentence(facts))}
    return Section("The sweep", tuple(blocks), recommendation, tuple(_numbers(facts, complete, found)))


def _pruning_sentence(facts: Facts) -> CitedText:
    """The compute that pruning saved, against the aim."""
    saved = facts.study.metrics.get("study/saved_fraction")
    text = "What pruning saved was not recorded." if saved is None else "Pruning saved nothing."
    if saved is not None and saved > 0:
        aim = "which meets" if round(saved, 3) >= SAVED_AIM else "short of"
        text = f"Pruning saved {percent(saved, 1)} of the training compute that full trials would have taken, "
        text += f"{aim} the aim of half."
    return CitedText(text, run_sources(facts.run_id))


def failure(study: Study) -> str:
    """The most frequent reason of the trials that failed, in brackets; "" where none is known."""
    failed = study.search[study.search["state"] == "failed"]
    reasons = failed["tags.reason"].value_counts()
    return f" ({'most often ' if len(reasons) > 1 else ''}{reasons.index[0]})" if len(reasons) else ""


def _counts(study: Study) -> dict[str, int]:
    """The number of trials that are complete, pruned, failed, and unfinished: running or interrupted."""
    states = study.search["state"].value_counts()
    counts = {state: int(states.get(state, 0)) for state in ENDED}
    return {**counts, "unfinished": len(study.search) - sum(counts.values())}


def _planned(study: Study) -> int | None:
    planned = study.params.get("trials", "")
    return int(planned) if planned.isdecimal() else None


def _summary(facts: Facts) -> Pairs:
    counts, planned = _counts(facts.study), _planned(facts.study)
    parts = ("search", "full", "confirm", "final")
    spent, full, again, final = (facts.study.metrics.get(f"study/{part}_flops") for part in parts)
    why = {"failed": failure(facts.study)}
    trials = ", ".join(f"{n} {state}{why.get(state, '')}" for state, n in counts.items() if n or state != "unfinished")
    compute = "not recorded" if facts.cost.flops is None else f"{flops(facts.cost.flops)} so far"
    if spent is not None:
        compute = f"{flops(spent)} spent on the search"
        compute += f", of {flops(full)} that full trials would have taken" if full else ""
        compute += f"; {flops(again)} on confirming" if again else ""
        compute += f"; {flops(final)} on the final" if final else ""
    wall = "not recorded" if facts.cost.seconds is None else duration(facts.cost.seconds)
    if facts.cost.seconds is not None and facts.cost.estimated:
        wall = f"about {wall}, added up over its runs, as the study has not ended"
    return Pairs.of(
        {
            "Trials": f"{trials}; {planned} planned" if planned else trials,
            "Pruning": capital(_pruning_sentence(facts).text.removeprefix("Pruning ")),
            "Judged on": _judged(facts.study),
            "Training compute": compute,
            "Wall time": wall,
            "MLflow run": Cell("", sources=run_sources(facts.run_id)),
        }
    )


def _judged(study: Study) -> str:
    """The validation images behind an accuracy of the search, and the interval that they leave."""
    given = study.params.get("rung_images", "")
    if not given.isdecimal():
        return "a number of validation images that was not recorded"
    rung, end = int(given), study.trial_images
    halves = [(high - low) / 2 for low, high in (wilson(TYPICAL, images) for images in (rung, end))]
    text = f"{rung:,} validation images where trials are pruned (95 % interval of {percent(TYPICAL, 0)}: "
    text += f"\N{PLUS-MINUS SIGN}{points(halves[0])}), {end:,} at the end (\N{PLUS-MINUS SIGN}{points(halves[1])})"
    return text


def _architectures_sentence(facts: Facts, found: Sequence[Architecture]) -> CitedText:
    """The difference that the choice of an architecture makes."""
    if not found:
        text = "No architecture has a complete trial, so what choosing one is worth cannot be said."
        return CitedText(text, run_sources(facts.run_id))
    best, worst = found[0], found[-1]
    tried = f"tried in {best.tried} of {len(facts.study.search)} trials"
    if len(found) == 1:
        text = f"Only one architecture has a complete trial ({best.name}), {tried}, so what choosing another is worth "
        return CitedText(f"{text}cannot be said.", run_sources(best.run_id))
    apart = points(round(best.best, 3) - round(worst.best, 3), 1)  # as far as the two beside it
    text = (
        f"Of the {count_word(len(found))} architectures with a complete trial, the best trials lie "
        f"{apart} of validation accuracy apart, from {worst.name} ({percent(worst.best, 1)}) "
        f"to {best.name} ({percent(best.best, 1)}, {tried}). Each had its own number of trials: part of that is luck."
    )
    return CitedText(text, run_sources(best.run_id, worst.run_id))


def _architectures_table(found: Sequence[Architecture]) -> Table:
    """The architectures by their best trials, with the interval of each and its measured time."""
    columns = (
        "Architecture",
        "Trials",
        "Complete",
        "Best trial",
        "95 % interval of that trial",
        "Training time",
        "Run",
    )
    rows = []
    for one in found:
        interval = f"{percent(one.low, 1)} to {percent(one.high, 1)}"
        time = "not recorded" if one.seconds is None else duration(one.seconds)
        cells = (one.name, str(one.tried), str(one.complete), percent(one.best, 1), interval, time)
        rows.append(Row.of(*cells, Cell("", sources=run_sources(one.run_id))))
    return Table(columns, rows, numbers=(1, 2, 3, 5))


def _progress_sentence(facts: Facts, complete: pd.DataFrame) -> CitedText:
    """The first and the best complete trial, and the place of the best among them."""
    if not len(complete):
        return CitedText("No trial is complete, so the search has taught nothing yet.", run_sources(facts.run_id))
    best, first = _best(complete), complete["accuracy"].iloc[0]
    accuracy = f"{percent(best['accuracy'], 1)} validation accuracy (trial {best['trial']})"
    sources = run_sources(facts.run_id, best["run_id"])
    if len(complete) == 1:
        return CitedText(f"One trial is complete, at {accuracy}: too few to say whether more would help.", sources)
    improved = best["accuracy"] > first
    text = f"The first complete trial stayed the best, at {accuracy}"
    if improved:
        text = f"The search went from {percent(first, 1)} (first complete trial) to {accuracy}"
    if len(complete) < FEW_TRIALS:
        text += f"; {len(complete)} complete trials are too few to say whether more would help."
    elif not improved:
        text += f": none of the {len(complete) - 1} complete trials after it did better."
    else:
        place = 1 + int((complete["trial"] < best["trial"]).sum())
        text += f", number {place} of {len(complete)} that are complete. Where the best one lies does not tell whether "
        text += "more trials would help: by luck alone, any of them is as likely to be the best."
    return CitedText(text, sources)


def _history_figure(trials: pd.DataFrame) -> go.Figure:
    """Validation accuracy of each trial by number, and the best complete one so far (see `best_so_far`)."""
    figure = canvas(height=270)
    _add_trials(figure, trials, x="trial", y="accuracy")
    best = trials[trials["best"].notna()]
    if len(best):
        hover = "best up to trial %{x}: %{y:.1f} %"
        add_line(figure, best["trial"], map(pc, best["best"]), name="best so far", colour=RUST, shape="hv", hover=hover)
    last = trials["trial"].max()
    beside = max(0.5, 0.03 * last)  # the first mark stands beside the axis, not on it
    figure.update_xaxes(title="trial number", range=[-beside, last + beside], dtick=1 if last < 10 else None)
    figure.update_yaxes(title="validation accuracy (%)")
    return figure


def _architectures_figure(trials: pd.DataFrame, order: Sequence[Architecture]) -> go.Figure:
    """Validation accuracy of each trial by architecture, the best architecture on top."""
    ranked = [a.name for a in order]
    names = ranked + sorted(set(trials["model"]) - set(ranked))
    figure = canvas(height=80 + 34 * len(names), left=24 + 6 * max(map(len, names), default=0))
    _add_trials(figure, trials, x="accuracy", y="model")
    figure.update_xaxes(title="validation accuracy (%)")
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], range=[-0.6, len(names) - 0.4])
    return figure


def _add_trials(figure: go.Figure, trials: pd.DataFrame, *, x: str, y: str) -> None:
    """A point for each trial; accuracies in percent."""
    shown = trials.assign(accuracy=trials["accuracy"].map(pc))
    for states, name, symbol, colour in (
        (["complete"], "complete", "circle", BLUE),
        (["pruned"], "pruned, when stopped", "circle-open", MUTED),
        (["failed", "running", "interrupted"], "failed or unfinished", "x-thin-open", MUTED),
    ):
        some = shown[shown["state"].isin(states)]
        if len(some):
            about = [f"trial {t.trial}, {t.model}<br>run {t.run_id[:8]}" for t in some.itertuples()]
            style: dict[str, Any] = {"symbol": symbol, "opacity": 0.85, "customdata": about, "cliponaxis": False}
            add_points(figure, some[x], some[y], name=name, colour=colour, hover=f"%{{customdata}}<br>{name}", **style)


def _front_caption(facts: Facts, front: ParetoFront) -> CitedText:
    known = [a for a in facts.published.accuracies if a.same_test and not math.isnan(a.training_flops)]
    ours, test = front.champion_flops, facts.test
    text = "Each point of this study is a run, on validation images"
    text += "; the champion is on test images." if test and ours else "."
    if not (known and test and ours):
        return CitedText(text, run_sources(facts.run_id))
    least = min(known, key=lambda a: a.training_flops)
    text += (
        f" The champion took {flops(ours)} a run and reached {fine_percent(test.mean)}; the least compute published, "
        f"{least.name}: {flops(least.training_flops)} for {fine_percent(least.accuracy)}."
    )
    return CitedText(text, (*estimate_sources(test), f"source/{least.key}"))


def _front_figure(facts: Facts, front: ParetoFront) -> go.Figure:
    """Accuracy against training compute: each run a point, and published systems on the same axes."""
    figure = canvas(height=380)
    for stage, state, name, symbol, colour in (
        ("search", "complete", "complete trials", "circle", BLUE),
        ("search", "pruned", "pruned trials, when stopped", "circle-open", MUTED),
        ("confirm", "complete", "trained again", "circle", GREEN),
    ):
        some = front.runs[(front.runs["stage"] == stage) & (front.runs["state"] == state)]
        if len(some):
            x, y = map(_pflop, some["flops"]), map(pc, some["accuracy"])
            about = [f"trial {t.trial}, {t.model}" for t in some.itertuples()]
            hover, title = "%{customdata}<br>%{x:.3g} PFLOP, %{y:.1f} %", f"{name} (validation)"
            style: dict[str, Any] = {"symbol": symbol, "size": 8, "opacity": 0.8, "customdata": about}
            add_points(figure, x, y, name=title, colour=colour, hover=hover, **style)
    if len(front.best) > 1:
        compute, accuracy = zip(*front.best, strict=True)
        x, y, name = map(_pflop, compute), map(pc, accuracy), "best for its compute (validation)"
        add_line(figure, x, y, name=name, colour=GREEN, width=1.5, shape="hv")
    if facts.test and front.champion_flops:
        name = f"this study ({facts.model or 'champion'}) (test)"
        at, hover = _pflop(front.champion_flops), "%{x:.3g} PFLOP, %{y:.2f} % of the test images"
        add_points(figure, [at], [pc(facts.test.mean)], name=name, colour=RUST, symbol="diamond", size=13, hover=hover)
    _add_published(figure, [a for a in facts.published.accuracies if a.same_test], front)
    figure.update_xaxes(title="training compute (PFLOP, log scale)", type="log", dtick=1, gridcolor=GRID)
    figure.update_yaxes(title="accuracy (%)")
    return figure


def _add_published(figure: go.Figure, published: Sequence[Accuracy], front: ParetoFront) -> None:
    """Published systems, with a label for the best of each family; those of unknown compute at the right edge."""
    known = [a for a in published if not math.isnan(a.training_flops)]
    unknown = [a for a in published if math.isnan(a.training_flops)]
    edge = BEYOND * max([*(a.training_flops for a in known), *front.runs["flops"].tolist()], default=PFLOP)
    best = {a.name.partition(",")[0]: a.key for a in sorted(known, key=lambda a: a.accuracy)}  # of each family
    labels = {key: family for family, key in best.items()}
    dearest = max((a.training_flops for a in known if a.group == "recipe"), default=0.0)
    above = {True: "top right", False: "top left"}
    places = [above[a.training_flops == dearest] if a.group == "recipe" else "bottom left" for a in known]
    text = {"text": [labels.get(a.key, "") for a in known], "textposition": places}
    styles: list[tuple[list[Accuracy], str, dict[str, Any]]] = [
        (known, "published (test)", {"symbol": "diamond-open", "textfont": {"size": 11, "color": MUTED}, **text}),
        (unknown, "published, compute not stated (at the right edge)", {"symbol": "line-ew-open"}),
    ]
    for some, name, style in styles:
        if some:
            x = (_pflop(edge if math.isnan(a.training_flops) else a.training_flops) for a in some)
            style |= {"customdata": [a.name for a in some], "size": 10, "cliponaxis": False}
            hover = "%{customdata}: %{y:.1f} %"
            add_points(figure, x, (pc(a.accuracy) for a in some), name=name, colour=INK, hover=hover, **style)


def _pflop(compute: float) -> float:
    return float(f"{compute / PFLOP:.6g}")


def _short(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with short names of columns, and whole numbers of trials."""
    short = runs.rename(columns=_SHORT).fillna({"model": "unknown"}).astype({"trial": int})
    return short.copy()  # in one block: pandas warns of a column that is added to hundreds of single ones


def _best(complete: pd.DataFrame) -> pd.Series:  # type: ignore[type-arg, unused-ignore]
    """The best of at least one trial, the first where several are."""
    return complete.loc[complete["accuracy"].idxmax()]


def _numbers(facts: Facts, complete: pd.DataFrame, found: Sequence[Architecture]) -> Iterator[Number]:
    parent, metrics = run_sources(facts.run_id), facts.study.metrics
    for state, count in {"planned": _planned(facts.study), **_counts(facts.study)}.items():
        yield Number(f"search.{state}", count, "trials", parent)
    for name in ("search_flops", "full_flops", "confirm_flops", "final_flops"):
        yield Number(f"search.{name}", metrics.get(f"study/{name}"), "FLOPs", parent)
    yield Number("search.saved_fraction", metrics.get("study/saved_fraction"), "share", parent)
    best, number, first, source = None, None, None, run_sources()
    if len(complete):
        row = _best(complete)
        best, number, source = float(row["accuracy"]), int(row["trial"]), run_sources(row["run_id"])
        first = float(complete["accuracy"].iloc[0])
    yield Number("search.best", best, "share", source)
    yield Number("search.best_trial", number, "trial number", source)
    yield Number("search.first", first, "share", parent)
    units = {"best": "share", "low": "share", "high": "share", "complete": "trials", "tried": "trials"}
    units["seconds"] = "seconds"
    for architecture in found:
        source = run_sources(architecture.run_id)
        yield from numbers_of(f"architecture.{architecture.name}", architecture, source, **units)
