"""Groups of runs, and the differences between them that are more than chance: pure functions.

None stands for "not measured".
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter

from experiments.pages.text import duration, fine_percent, flops, run_sources
from experiments.reading.study import TrainedRun
from experiments.stats import (
    SIGNIFICANCE_LEVEL,
    Estimate,
    McNemar,
    difference_interval,
    mcnemar,
    mean_accuracy,
    welch,
)

# Conditions that must be equal for times to be compared, and their names.
HARDWARE: Mapping[str, str] = {
    "device": "device",
    "cpu": "processor",
    "threads": "number of threads",
    "precision": "precision",
}

# The settings of a run.
PARAMETERS, CONDITIONS = attrgetter("params"), attrgetter("conditions")


class NotPaired(Exception):
    """Two groups cannot be compared image by image; the message says why."""


@dataclass(frozen=True, slots=True)
class Group:
    """The runs that one argument of --runs names: the same recipe with different seeds."""

    name: str
    description: str
    runs: tuple[TrainedRun, ...]

    @property
    def run_ids(self) -> tuple[str, ...]:
        return tuple(r.run_id for r in self.runs)

    @property
    def complete(self) -> tuple[TrainedRun, ...]:
        return tuple(r for r in self.runs if r.state == "complete")

    @property
    def counted(self) -> tuple[TrainedRun, ...]:
        """The complete runs, or all runs if none is complete."""
        return self.complete or self.runs

    def values(self, metric: str) -> list[float]:
        return [r.metrics[metric] for r in self.counted if metric in r.metrics]

    def mean(self, metric: str) -> float | None:
        values = self.values(metric)
        return statistics.fmean(values) if values else None

    def estimate(self, metric: str) -> Estimate | None:
        """The mean accuracy of the complete runs with its 95 % interval; None if their data set is not recorded."""
        known = [r for r in self.complete if metric in r.metrics]
        if not known or any("data_sha256" not in r.conditions for r in known):
            return None
        split = metric.partition("/")[0]
        whole = (r.data_set.test_images if split == "test" else r.data_set.val_images for r in known)
        images = min(r.images.get(split, count) for r, count in zip(known, whole, strict=True))
        return mean_accuracy([r.metrics[metric] for r in known], tuple(r.run_id for r in known), images)

    def setting(self, name: str, of: Callable[[TrainedRun], Mapping[str, str]]) -> str | None:
        """The value of a parameter or a condition; all values, if the runs differ."""
        values = dict.fromkeys(of(r)[name] for r in self.runs if name in of(r))
        return ", ".join(values) if values else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Groups of runs and the one that the others are compared with.

    Attributes:
        baseline: True if the user chose the reference, so that a worse result is a regression.
    """

    groups: tuple[Group, ...]
    reference: Group
    baseline: bool

    @property
    def is_of_same_data(self) -> bool:
        """True if all groups are known to be of the same data."""
        return not any(_other_data(group, self.reference) for group in self.groups)

    @property
    def others(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group is not self.reference)

    @property
    def titles(self) -> tuple[str, ...]:
        """The names of the groups as column titles, with the baseline marked."""
        marked = self.reference if self.baseline else None
        return tuple(f"{group.name} (baseline)" if group is marked else group.name for group in self.groups)

    @property
    def sources(self) -> tuple[str, ...]:
        """All runs, as sources of a text."""
        return tuple(source for group in self.groups for source in run_sources(*group.run_ids))


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """A metric that the groups are compared by.

    Attributes:
        key: name of the metric in MLflow.
        direction: 1 if higher is better, -1 if lower is better, 0 if the metric is shown but not compared.
        text: function that formats a value.
        tolerance: largest relative difference that does not count; None for metrics with a statistical test.
    """

    key: str
    title: str
    direction: int
    text: Callable[[float], str]
    tolerance: float | None = None


METRICS = (
    ComparedMetric("val/accuracy", "Validation accuracy", 1, fine_percent),
    ComparedMetric("test/accuracy", "Test accuracy", 1, fine_percent),
    ComparedMetric("test/tta_accuracy", "Test accuracy, with test-time augmentation", 0, fine_percent),
    ComparedMetric("val/loss", "Validation loss, nats", -1, "{:.3f}".format),
    ComparedMetric("test/loss", "Test loss, nats", -1, "{:.3f}".format),
    ComparedMetric("cost/seconds", "Time to train", -1, duration, 0.1),  # the speed of a machine varies by a tenth
    ComparedMetric("cost/images_per_second", "Images a second", 1, "{:,.0f}".format, 0.1),
    ComparedMetric("cost/training_flops", "Training compute", -1, flops, 0.05),  # a budget is rounded to whole steps
    ComparedMetric("cost/epochs", "Epochs", 0, lambda epochs: f"{round(epochs, 2):g}"),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between a group and the reference in one metric.

    Attributes:
        outcome: "better", "worse", "not significant" or "unknown".
        value: group less reference; for costs, as a share of the reference.
        test: test that gave p, "McNemar" or "Welch"; "" for accuracies with an interval, and for costs.
        interval: 95 % confidence interval of value.
        reason: why the outcome is unknown.
    """

    outcome: str
    value: float | None = None
    test: str = ""
    p: float | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""


def compare(metric: ComparedMetric, group: Group, reference: Group) -> Difference | None:
    """Compare a group with the reference; None for a setting, or if neither group has the metric."""
    ours, theirs = group.mean(metric.key), reference.mean(metric.key)
    if metric.direction == 0 or (ours is None and theirs is None):
        return None
    if ours is None or theirs is None:
        return Difference("unknown", reason=f"not measured for {group.name if ours is None else reference.name}")
    unfinished = next((g.name for g in (group, reference) if not g.complete), None)
    if unfinished is not None:
        return Difference("unknown", reason=f"{unfinished} is not complete")
    if metric.tolerance is not None:
        return _compare_cost(metric, group, reference, ours, theirs)
    if other := _other_data(group, reference):
        return Difference("unknown", reason=other)
    if metric.direction > 0:
        return _compare_accuracy(metric, group, reference)
    p = welch(group.values(metric.key), reference.values(metric.key))
    if p is None:
        several = min(len(each.values(metric.key)) for each in (group, reference)) > 1
        return Difference("unknown", reason="no spread over seeds" if several else "needs two seeds on both sides")
    return Difference(_outcome(theirs - ours, p), ours - theirs, "Welch", p)


def regressions(comparison: Comparison, group: Group) -> list[ComparedMetric]:
    """The metrics in which a group is worse than the reference."""
    return [m for m in METRICS if (d := compare(m, group, comparison.reference)) and d.outcome == "worse"]


def _compare_accuracy(metric: ComparedMetric, group: Group, reference: Group) -> Difference:
    if metric.key == "test/accuracy" and len(group.complete) == len(reference.complete) == 1:
        with suppress(NotPaired):  # the interval needs no answers to single images
            test = image_by_image(group, reference)
            return Difference(_outcome(test.difference, test.p), test.difference, "McNemar", test.p)
    ours, theirs = group.estimate(metric.key), reference.estimate(metric.key)
    assert ours is not None
    assert theirs is not None
    low, high = difference_interval(ours, theirs)
    value = ours.mean - theirs.mean
    return Difference(_outcome(0 if low <= 0 <= high else value), value, interval=(low, high))


def _compare_cost(metric: ComparedMetric, group: Group, reference: Group, ours: float, theirs: float) -> Difference:
    if not theirs:
        return Difference("unknown", reason=f"{reference.name} has none")
    other = next(filter(None, (_unlike(group, reference, name, noun) for name, noun in HARDWARE.items())), "")
    if other and metric.key != "cost/training_flops":
        return Difference("unknown", reason=other)
    share = ours / theirs - 1
    return Difference(_outcome(metric.direction * share if abs(share) > (metric.tolerance or 0) else 0), share)


def _other_data(group: Group, reference: Group) -> str:
    return _unlike(group, reference, "data_sha256", "data set")


def _unlike(group: Group, reference: Group, name: str, noun: str) -> str:
    """Return why the two are not known to have the same condition; "" if they are."""
    for each in (group, reference):
        if any(name not in r.conditions for r in each.counted):
            return f"the {noun} of {each.name} is not recorded"
    return "" if group.setting(name, CONDITIONS) == reference.setting(name, CONDITIONS) else f"another {noun}"


def _outcome(gain: float, p: float = 0.0) -> str:
    return "not significant" if gain == 0 or p >= SIGNIFICANCE_LEVEL else "better" if gain > 0 else "worse"


def image_by_image(group: Group, reference: Group, label: str | None = None) -> McNemar:
    """McNemar's test between the first complete run of the reference ("first") and of the group ("second").

    Args:
        label: only test images of this class.

    Raises:
        NotPaired: a run has no stored answers (to images of this class), or the runs are not known to have been tested
            on the same images.
    """
    theirs, ours = reference.counted[0].answers, group.counted[0].answers
    if theirs is None or ours is None:
        lacks = reference if theirs is None else group
        tested = "test/accuracy" in lacks.counted[0].metrics
        raise NotPaired(f"not stored for {lacks.name}" if tested else f"none of {lacks.name}, which was not tested")
    if other := _other_data(group, reference):
        raise NotPaired(other)
    if theirs.true != ours.true:
        raise NotPaired(f"{group.name} and {reference.name} were tested on different images")
    chosen = [label is None or true == label for true in theirs.true]
    if not any(chosen):
        raise NotPaired(f"not stored for {label}")
    first, second = (list(itertools.compress(answers.right, chosen)) for answers in (theirs, ours))
    return mcnemar(first, second)
