"""What a study measured, as the numbers that the report states: accuracy, classes, search, cost.

Everything here is a pure function of a `Study` and the `Published` figures. None means: not measured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from experiments.published import Bar, Price, Published
from experiments.results import Looks, Study, champion_runs

HOURS_A_MONTH = 730.0  # 365 days / 12
VAL_IMAGES = 5000
TEST_IMAGES = 10_000

# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom; beyond them the normal one will do.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_Z = 1.96


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean accuracy over runs with its 95 % interval, all as shares in [0, 1]."""

    mean: float
    low: float
    high: float
    run_ids: tuple[str, ...]
    images: int


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    name: str
    validation: float | None
    test: float | None

    @property
    def shown(self) -> float:
        """Test accuracy, or validation accuracy where there is none; NaN where neither was measured."""
        return next((v for v in (self.test, self.validation) if v is not None), math.nan)


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often images of a class (row) were called another (column), as shares of the row, over all runs."""

    classes: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    run_ids: tuple[str, ...]
    images: int  # in each run
    split: str  # test | validation

    def worst_pair(self) -> tuple[str, str, float] | None:
        """(true class, called class, share of the true class) of the most frequent confusion."""
        pairs = [
            (-share, self.classes[i], self.classes[j])
            for i, row in enumerate(self.shares)
            for j, share in enumerate(row)
            if i != j and share > 0
        ]
        if not pairs:
            return None
        share, true, called = min(pairs)
        return true, called, -share


@dataclass(frozen=True, slots=True)
class Architecture:
    name: str
    best: float  # validation accuracy of its best complete trial
    run_id: str
    complete: int
    tried: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How the sweep went."""

    planned: int | None
    complete: int
    pruned: int
    failed: int
    unfinished: int  # left running or interrupted
    saved_fraction: float | None  # of the training compute that unpruned trials would have taken
    search_flops: float | None
    full_flops: float | None
    confirm_flops: float | None
    architectures: tuple[Architecture, ...]  # with a complete trial; best first
    best: float | None  # validation accuracy of the best complete trial
    best_run: str
    best_trial: int | None
    last_trial: int | None  # the highest number of a complete trial
    first: float | None  # validation accuracy of the first complete trial

    @property
    def total(self) -> int:
        return self.complete + self.pruned + self.failed + self.unfinished


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What building took, and what it would cost; US dollars at the price of `machine`."""

    seconds: float | None  # wall time of the whole study
    estimated: bool  # seconds come from adding up the runs, as the study did not end
    machine: Price | None
    machines: int  # how many of them the study would fill
    study_usd: float | None
    retrain_seconds: float | None  # mean over the runs of the recipe
    retrain_usd: float | None
    images_per_second: float | None  # while training
    per_1000_usd: float | None  # labelling at training speed, an upper bound
    month_usd: float | None  # one machine kept on
    device: str
    runs: tuple[str, ...]  # that retraining and labelling were measured on


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """Every number that the verdict and the report rest on."""

    study: str
    run_id: str  # of the study's parent run
    state: str
    as_of: date  # the day the study ended: what the age of a published figure is measured from
    bar: Bar
    published: Published
    has_champion: bool
    subject_runs: tuple[str, ...]
    model: str | None
    parameters: int | None
    validation: Estimate | None
    test: Estimate | None
    looks: Looks
    classes: tuple[ClassAccuracy, ...]  # weakest first
    class_split: str  # test | validation: what they are sorted by
    confusion: Confusion | None
    search: Search
    cost: Cost


def measure(study: Study, published: Published) -> Measures:
    """The numbers of a study, beside the published figures."""
    subject = study.subject
    confusion = _confusion(study)
    test_images = confusion.images if confusion and confusion.split == "test" else TEST_IMAGES
    val_images = study.exhibits.validation_images or VAL_IMAGES
    tested = study.champion[study.champion["metrics.test/accuracy"].notna()]
    classes = _classes(subject)
    return Measures(
        study=study.name,
        run_id=study.run_id,
        state=study.state,
        as_of=study.end.date(),
        bar=published.bar,
        published=published,
        has_champion=len(study.champion) > 0,
        subject_runs=tuple(subject["run_id"]),
        model=_only(subject, "params.model"),
        parameters=_parameters(subject),
        validation=estimate(subject, "metrics.val/accuracy", val_images),
        test=estimate(tested, "metrics.test/accuracy", test_images),
        looks=study.looks,
        classes=classes,
        class_split="test" if any(c.test is not None for c in classes) else "validation",
        confusion=confusion,
        search=_search(study),
        cost=_cost(study, published),
    )


def estimate(runs: pd.DataFrame, column: str, images: int) -> Estimate | None:
    """The mean of an accuracy over runs with a 95 % interval, or None without runs.

    The interval joins two doubts: other seeds (Student's t over the runs, nothing where there is one run) and
    other images (Wilson, 1927; the runs share their images, so more runs do not make it smaller). The two
    half-widths are added in squares, on each side (Zou & Donner, 2008).
    """
    known = runs[runs[column].notna()]
    if not len(known):
        return None
    return mean_accuracy([float(v) for v in known[column]], tuple(known["run_id"]), images)


def mean_accuracy(values: Sequence[float], run_ids: tuple[str, ...], images: int) -> Estimate:
    """What `estimate` says, of accuracies that are at hand; at least one."""
    mean = statistics.fmean(values)
    low, high = wilson(mean, images)
    seeds = 0.0
    if len(values) > 1:
        t = _T[len(values) - 2] if len(values) - 2 < len(_T) else _Z
        seeds = t * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(
        mean,
        max(0.0, mean - math.hypot(mean - low, seeds)),
        min(1.0, mean + math.hypot(high - mean, seeds)),
        run_ids,
        images,
    )


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share of `count` independent cases."""
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def against(ours: Estimate, published: float, images: int = TEST_IMAGES) -> str:
    """ "higher", "lower" or "level": ours against a published accuracy on as many images.

    Level means that the difference is within what chance explains (95 %).
    """
    low, high = difference(ours, published, images)
    return "higher" if low > 0 else "lower" if high < 0 else "level"


def difference(ours: Estimate, published: float, images: int = TEST_IMAGES) -> tuple[float, float]:
    """The 95 % interval of ours less a published accuracy, as shares.

    It joins our interval with that of the published figure over its test images, in squares on each side. What
    other seeds would have done to the published figure is not known and not in it.
    """
    gap = ours.mean - published
    low, high = wilson(published, images)
    return (
        gap - math.hypot(ours.mean - ours.low, high - published),
        gap + math.hypot(ours.high - ours.mean, published - low),
    )


def best_so_far(search: pd.DataFrame) -> pd.DataFrame:
    """Trials with a validation accuracy, by number: trial, accuracy, state, model, run_id, best so far.

    Only a complete trial can be the best, as pruned ones were stopped on the way; NaN before the first.
    """
    known = search[search["metrics.val/accuracy"].notna() & search["trial"].notna()].sort_values("trial")
    frame = pd.DataFrame(
        {
            "trial": known["trial"].astype(int),
            "accuracy": known["metrics.val/accuracy"],
            "state": known["state"],
            "model": known["params.model"].fillna("unknown"),
            "run_id": known["run_id"],
        }
    ).reset_index(drop=True)
    frame["best"] = frame["accuracy"].where(frame["state"] == "complete").cummax().ffill()
    return frame


def _search(study: Study) -> Search:
    search, metrics = study.search, study.metrics
    states = search["state"]
    trials = best_so_far(search)
    complete = trials[trials["state"] == "complete"]
    best = complete.sort_values(["accuracy", "trial"], ascending=[False, True], kind="stable").head(1)
    tried = search["params.model"].value_counts().to_dict()
    architectures = tuple(
        Architecture(
            str(name),
            float(row.accuracy),
            str(row.run_id),
            int((complete["model"] == name).sum()),
            tried[name],
        )
        for name in complete["model"].drop_duplicates()
        if name in tried
        for row in complete[complete["model"] == name].nlargest(1, "accuracy").itertuples()
    )
    counts = {state: int((states == state).sum()) for state in ("complete", "pruned", "failed")}
    planned = study.params.get("trials", "")
    return Search(
        planned=int(planned) if planned.isdigit() else None,
        **counts,
        unfinished=len(search) - sum(counts.values()),
        saved_fraction=metrics.get("study/saved_fraction"),
        search_flops=metrics.get("study/search_flops"),
        full_flops=metrics.get("study/full_flops"),
        confirm_flops=metrics.get("study/confirm_flops"),
        architectures=tuple(sorted(architectures, key=lambda a: (-a.best, a.name))),
        best=float(best["accuracy"].iloc[0]) if len(best) else None,
        best_run=str(best["run_id"].iloc[0]) if len(best) else "",
        best_trial=int(best["trial"].iloc[0]) if len(best) else None,
        last_trial=int(complete["trial"].max()) if len(complete) else None,
        first=float(complete["accuracy"].iloc[0]) if len(complete) else None,
    )


def _cost(study: Study, published: Published) -> Cost:
    subject = study.subject
    device = study.tags.get("device", "").partition(":")[0]
    machine = published.compute(device)
    workers, threads = _whole(study.tags.get("workers")), _whole(study.tags.get("threads"))
    seconds = study.metrics.get("study/seconds")
    estimated = seconds is None
    if seconds is None:
        spent = float(study.attempts["metrics.cost/seconds"].sum())
        seconds = spent / workers if spent > 0 else None
    # A GPU is shared by the workers; a CPU's threads add up, and whole machines are paid for.
    machines = math.ceil(workers * threads / machine.units) if machine and device == "cpu" else 1
    retrain = _mean(subject["metrics.cost/seconds"])
    speed = _mean(subject["metrics.cost/images_per_second"])
    hourly = machine.usd if machine else None
    run_threads = max((_whole(t) for t in subject["tags.threads"]), default=1)
    run_machines = math.ceil(run_threads / machine.units) if machine and device == "cpu" else 1
    return Cost(
        seconds=seconds,
        estimated=estimated,
        machine=machine,
        machines=machines,
        study_usd=_money(hourly, seconds, machines),
        retrain_seconds=retrain,
        retrain_usd=_money(hourly, retrain, run_machines),
        images_per_second=speed,
        per_1000_usd=_money(hourly, 1000 / speed if speed else None, run_machines),
        month_usd=_money(hourly, HOURS_A_MONTH * 3600, run_machines),
        device=device,
        runs=tuple(subject["run_id"]),
    )


def _money(hourly: float | None, seconds: float | None, machines: int) -> float | None:
    return None if hourly is None or seconds is None else hourly * machines * seconds / 3600


def _mean(column: pd.Series) -> float | None:  # type: ignore[type-arg, unused-ignore]
    known = [float(v) for v in column.dropna()]
    return statistics.fmean(known) if known else None


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdigit() and int(text) > 0 else 1


def _only(runs: pd.DataFrame, column: str) -> str | None:
    return next((str(v) for v in runs[column] if v is not None), None) if column in runs else None


def _parameters(subject: pd.DataFrame) -> int | None:
    text = _only(subject, "params.parameters")
    try:
        return int(float(text)) if text else None
    except ValueError:
        return None


def _classes(subject: pd.DataFrame) -> tuple[ClassAccuracy, ...]:
    means: dict[str, dict[str, float | None]] = {
        split: {c.removeprefix(prefix): _mean(subject[c]) for c in subject if c.startswith(prefix)}
        for split, prefix in (("validation", "metrics.val_class/"), ("test", "metrics.test_class/"))
    }
    names = sorted({name for split in means.values() for name, value in split.items() if value is not None})
    rows = [ClassAccuracy(n, means["validation"].get(n), means["test"].get(n)) for n in names]
    return tuple(sorted(rows, key=lambda row: (row.shown, row.name)))


def _confusion(study: Study) -> Confusion | None:
    matrices: Mapping[str, Sequence[Sequence[int]]] = study.exhibits.confusions
    classes = study.exhibits.classes
    square = {r: m for r, m in matrices.items() if np.shape(m) == (len(classes), len(classes))}
    if not square:
        return None
    counts = np.sum([np.asarray(m, dtype=float) for m in square.values()], axis=0)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return Confusion(
        classes=classes,
        shares=tuple(tuple(float(v) for v in row) for row in shares),
        run_ids=tuple(square),
        images=round(float(counts.sum()) / len(square)),
        split="test" if len(champion_runs(study.confirm)) else "validation",
    )
