"""Selection of the champion: the candidates, and search accuracy against retraining."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.decision.facts import Facts
from experiments.pages.blocks import Block, Cell, Missing, Number, Row, Section, Table, estimate_numbers, numbers_of
from experiments.pages.text import CitedText, count, estimate_sources, fine_percent, points, run_sources, signed
from experiments.reading.study import Study
from experiments.stats import Estimate, difference_interval, estimate, mean_accuracy
from sweeps.stages.confirmation import Gain
from sweeps.studies.study import Beginning


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe of the search that was trained again."""

    trial: int
    model: str
    complete: int  # runs
    diverged: int  # runs
    run_ids: tuple[str, ...]
    accuracy: float | None  # mean validation accuracy of its complete runs
    accuracy_runs: tuple[str, ...]  # the runs of that mean
    champion: bool
    baseline: Beginning | None  # what the search began with, if it was this recipe


@dataclass(frozen=True, slots=True)
class SelectionBias:
    """Search accuracy of the best trial against retraining."""

    trial: int
    searched: float  # its validation accuracy in the search: the best of all complete trials
    search_run: str
    trials: int  # complete ones that it is the best of
    confirmed: Estimate | None  # validation accuracy of its new runs; None: it was not trained again
    as_searched: Estimate | None  # that, with an interval over as many images as `searched` is over
    search_flops: float | None
    confirm_flops: float | None

    @property
    def same_compute(self) -> bool:
        """The new runs had the same compute, within a tenth, so that luck explains the change."""
        if not self.search_flops or not self.confirm_flops:
            return False
        return abs(self.confirm_flops / self.search_flops - 1) < 0.1


def candidates_of(study: Study) -> tuple[Candidate, ...]:
    """The recipes that were trained again: the champion, then by mean validation accuracy."""
    found = []
    for source, again in study.confirm.groupby("source_trial", sort=True):
        complete = again[again["state"] == "complete"]
        known = complete[complete["metrics.val/accuracy"].notna()]
        found.append(
            Candidate(
                trial=int(source),
                model=next((v for v in again["params.model"] if v is not None), "unknown"),
                complete=len(complete),
                diverged=int((again["state"] == "pruned").sum()),
                run_ids=tuple(again["run_id"]),
                accuracy=float(known["metrics.val/accuracy"].mean()) if len(known) else None,
                accuracy_runs=tuple(known["run_id"]),
                champion=source == study.champion_trial,
                baseline=next((kind for kind in Beginning if (again["tags.baseline"] == kind).any()), None),
            )
        )
    return tuple(sorted(found, key=lambda c: (not c.champion, -(c.accuracy or 0), c.trial)))


def selection_bias(study: Study, images: int) -> SelectionBias | None:
    """The selection bias on that many validation images; None where no trial is complete."""
    complete = study.complete_trials
    if not len(complete):
        return None
    row = complete.iloc[0]
    again = study.confirm[(study.confirm["source_trial"] == row["trial"]) & (study.confirm["state"] == "complete")]
    compute = again["metrics.cost/training_flops"].dropna()
    own = row["metrics.cost/training_flops"]
    return SelectionBias(
        trial=int(row["trial"]),
        searched=float(row["metrics.val/accuracy"]),
        search_run=str(row["run_id"]),
        trials=len(complete),
        confirmed=estimate(again, "metrics.val/accuracy", images),
        as_searched=estimate(again, "metrics.val/accuracy", min(images, study.trial_images)),
        search_flops=None if math.isnan(own) else float(own),
        confirm_flops=float(compute.mean()) if len(compute) else None,
    )


def section(facts: Facts) -> Section:
    """The candidates, and what choosing the best did to its accuracy."""
    candidates = candidates_of(facts.study)
    images = facts.study.data_set.val_images
    bias = selection_bias(facts.study, images)
    missing = "No trial is complete, so there is no network to show."
    if facts.subject_runs:
        missing = "No recipe was confirmed. The report is about the best complete trial, judged on validation images."
    blocks: tuple[Block, ...] = (Missing(missing),)
    if candidates:
        first = next((candidate.baseline for candidate in candidates if candidate.baseline), None)
        began = ", and the one that it began with," if first else ""
        text = f"The best recipes of the search{began} were trained again. "
        text += "The one with the highest mean validation accuracy"
        steady = candidates[0].champion and not candidates[0].diverged
        text += ", of those without a run that diverged," if steady and any(c.diverged for c in candidates) else ""
        text += " is the champion"
        known_good = first == Beginning.KNOWN_GOOD
        text += ", unless its lead on the starting recipe is within chance." if known_good else "."
        if len(candidates) == 1 and candidates[0].champion:
            only = "The recipe that the search began with" if first else "The best recipe of the search"
            text = f"{only} was trained again, and is the champion."
        text += _final_sentence(facts)
        blocks = (CitedText(text), _table(candidates))
    # The gain is the better comparison, of the answers to each image.
    judged = gain_sentence(facts.study) or lead_sentence(candidates, images)
    said = () if judged is None else (judged,)
    blocks = (*blocks, *said)
    learning = (*said, *((bias_sentence(bias),) if bias and facts.study.has_selected else ()))
    return Section(
        "How the champion was chosen",
        blocks,
        {"learning": learning} if learning else {},
        tuple(_numbers(facts.study, candidates, bias)),
    )


def _final_sentence(facts: Facts) -> str:
    """The training of the champion on all training images."""
    study = facts.study
    if facts.has_champion:
        runs = f": {study.diverged} of {study.diverged + len(study.champion)} runs diverged" if study.diverged else ""
        return f" Its recipe was then trained on all training images{runs}."
    if study.champion_trial is None:
        return " That choice has not been made yet."
    states = set(study.final[study.final["source_trial"] == study.champion_trial]["state"])
    if not states:
        return " The training of its recipe on all training images has not begun yet."
    how = {"running": "is still running", "interrupted": "was interrupted", "failed": "has failed"}
    ended = next((words for state, words in how.items() if state in states), "diverged")
    return f" The training of its recipe on all training images {ended}."


def gain_sentence(study: Study) -> CitedText | None:
    """Gain of the search over the recipe that it began with, with its interval; None where it was not measured."""
    mean, low, high = (study.metrics.get(f"study/search_gain{end}") for end in ("", "_low", "_high"))
    beginning = next((candidate.baseline for candidate in candidates_of(study) if candidate.baseline), None)
    if mean is None or low is None or high is None or beginning is None:
        return None
    how = "Both were trained again in the same way, and judged on the validation images."
    return CitedText(f"{Gain(mean, low, high, beginning).describe()}. {how}", run_sources(study.run_id))


def lead_sentence(candidates: Sequence[Candidate], images: int) -> CitedText | None:
    """Lead of the champion over the next candidate; None without two that were validated."""
    known = [candidate for candidate in candidates if candidate.accuracy is not None]
    if len(known) < 2 or not known[0].champion:
        return None
    first, second = known[0], max(known[1:], key=lambda candidate: (candidate.accuracy or 0, -candidate.trial))
    ours, theirs = (mean_accuracy([c.accuracy or 0], c.accuracy_runs, images) for c in (first, second))
    low, high = difference_interval(ours, theirs)
    gap = ours.mean - theirs.mean
    chance = "within chance" if low <= 0 <= high else "more than chance explains"
    text = (
        f"Against the recipe of trial {second.trial} the champion has {signed(gap)} points of validation accuracy, or "
    )
    text += f"{round(gap * images)} of {images:,} images (95 % interval over images {signed(low)} to {signed(high)}): "
    return CitedText(f"{text}{chance}.", (*estimate_sources(ours), *estimate_sources(theirs)))


def bias_sentence(bias: SelectionBias) -> CitedText:
    """The best validation accuracy of the search, against the same recipe trained from new seeds."""
    accuracy = f"{fine_percent(bias.searched)} validation accuracy (trial {bias.trial})"
    best = f"The best of {bias.trials} complete trials" if bias.trials > 1 else "The only complete trial"
    best += f" had {accuracy}"
    if bias.confirmed is None or bias.as_searched is None:
        text = f"{best}. It was not trained again, so how much of that is luck cannot be said."
        return CitedText(text, run_sources(bias.search_run))
    change = bias.confirmed.mean - bias.searched
    again = f"{best}; trained again from new seeds, its recipe reached {fine_percent(bias.confirmed.mean)}"
    if bias.same_compute:
        judged = f"choosing the best {'flattered it' if change < 0 else 'did not flatter it'}"
        text = f"more than chance explains: {judged}"
        if bias.as_searched.low <= bias.searched <= bias.as_searched.high:
            text = "within chance: choosing the best did not flatter it noticeably"
        text = f"{again} with the same compute, {points(abs(change))} {'less' if change < 0 else 'more'}, {text}."
    elif bias.search_flops and bias.confirm_flops:
        text = (
            f"{again} with {count(bias.confirm_flops / bias.search_flops)} times the compute "
            f"({bias.confirm_flops / 1e12:.2f} against {bias.search_flops / 1e12:.2f} TFLOP), so selection bias cannot "
            "be told from the effect of more training."
        )
    else:
        text = f"{again}; how the compute of the two compares was not recorded."
    return CitedText(text, _sources(bias))


def _table(candidates: Sequence[Candidate]) -> Table:
    titles = ("Recipe of", "Architecture", "Runs complete", "Validation accuracy", "Runs")
    rows = [
        Row.of(
            f"trial {c.trial}{', where the search began' if c.baseline else ''}{', champion' if c.champion else ''}",
            c.model,
            f"{c.complete} of {len(c.run_ids)}{f', {c.diverged} diverged' if c.diverged else ''}",
            "none yet" if c.accuracy is None else fine_percent(c.accuracy),
            Cell("", sources=run_sources(*c.run_ids)),
            style="ours" if c.champion else "",
        )
        for c in candidates
    ]
    return Table(titles, rows, numbers=(2, 3))


def _numbers(study: Study, candidates: Sequence[Candidate], bias: SelectionBias | None) -> Iterator[Number]:
    for end in ("", "_low", "_high"):
        if (gain := study.metrics.get(f"study/search_gain{end}")) is not None:
            yield Number(f"selection.search_gain{end}", gain, "share", run_sources(study.run_id))
    if bias:
        sources = _sources(bias)
        units = {"trial": "trial number", "searched": "share", "search_flops": "FLOPs", "confirm_flops": "FLOPs"}
        yield from numbers_of("selection", bias, sources, **units)
        if bias.confirmed:
            yield from estimate_numbers("selection.confirmed", bias.confirmed, sources)
    for c in candidates:
        yield Number(f"confirmed.trial{c.trial}.validation", c.accuracy, "share", run_sources(*c.accuracy_runs))


def _sources(bias: SelectionBias) -> tuple[str, ...]:
    return (*run_sources(bias.search_run), *(estimate_sources(bias.confirmed) if bias.confirmed else ()))
