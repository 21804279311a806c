"""Runs side by side, as numbers: where they were set differently, what came out, and which differences are chance.

Everything here is a pure function of the sides. None means: not measured.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from cifar_core.data import CLASSES
from experiments.stats import (
    LEVEL,
    TEST_IMAGES,
    VAL_IMAGES,
    Estimate,
    McNemar,
    gap_interval,
    holm,
    mcnemar,
    mean_accuracy,
    welch,
)

# Conditions that must be the same if times are to be compared, and their names.
HARDWARE: Mapping[str, str] = MappingProxyType(
    {"device": "device", "cpu": "processor", "threads": "number of threads", "precision": "precision"}
)


class NotPaired(Exception):
    """Two runs cannot be compared image by image; the message says why."""


@dataclass(frozen=True, slots=True)
class ImageAnswers:
    """What a run called each test image, in the order of the test set, and what each is."""

    true: tuple[str, ...]
    called: tuple[str, ...]

    @property
    def right(self) -> tuple[bool, ...]:
        return tuple(t == c for t, c in zip(self.true, self.called, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """One run as it was recorded; names of metrics, parameters and conditions are those in MLflow."""

    run_id: str
    what: str
    state: str  # complete | pruned | failed | running | interrupted
    date: datetime.date
    params: Mapping[str, str]
    conditions: Mapping[str, str]  # commit, data, hardware, versions
    metrics: Mapping[str, float]
    curves: Mapping[str, tuple[tuple[int, float], ...]]  # metric -> (optimiser step, value), by step
    steps_an_epoch: float | None
    images: Mapping[str, int]  # val | test -> how many the final accuracy is over, where that is known
    answers: ImageAnswers | None  # to the test images


@dataclass(frozen=True, slots=True)
class Side:
    """What one name on the command line stands for: runs of one recipe, by seed."""

    name: str
    what: str
    runs: tuple[TrainedRun, ...]

    @property
    def run_ids(self) -> tuple[str, ...]:
        return tuple(r.run_id for r in self.runs)

    @property
    def counted(self) -> tuple[TrainedRun, ...]:
        """The complete runs or, where there is none, all."""
        return self.complete or self.runs

    @property
    def complete(self) -> tuple[TrainedRun, ...]:
        return tuple(r for r in self.runs if r.state == "complete")

    def values(self, metric: str) -> list[float]:
        return [r.metrics[metric] for r in self.counted if metric in r.metrics]

    def mean(self, metric: str) -> float | None:
        values = self.values(metric)
        return statistics.fmean(values) if values else None

    def estimate(self, metric: str) -> Estimate | None:
        """An accuracy with its 95 % interval; a run that is not complete has none, being met on fewer images."""
        known = [r for r in self.complete if metric in r.metrics]
        if not known:
            return None
        split = metric.partition("/")[0].removesuffix("_class")
        images = min(r.images.get(split, TEST_IMAGES if split == "test" else VAL_IMAGES) for r in known)
        return mean_accuracy([r.metrics[metric] for r in known], tuple(r.run_id for r in known), images)

    def setting(self, name: str, of: Callable[[TrainedRun], Mapping[str, str]]) -> str | None:
        """A parameter's or condition's value, or all of them where the runs differ."""
        values = dict.fromkeys(of(r)[name] for r in self.runs if name in of(r))
        return ", ".join(values) if values else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sides, and the one of them that the others are set against."""

    sides: tuple[Side, ...]
    reference: Side
    baseline: bool  # the reference was asked for: what is worse than it is a regression

    @property
    def others(self) -> tuple[Side, ...]:
        return tuple(side for side in self.sides if side is not self.reference)


# ------------------------------------------------------------------ what was set


@dataclass(frozen=True, slots=True)
class Settings:
    """Parameters or conditions of the sides."""

    different: tuple[tuple[str, tuple[str | None, ...]], ...]  # (name, value on each side; None: not recorded)
    common: tuple[tuple[str, str], ...]
    partial: tuple[str, ...]  # recorded on some sides only, and the same on those


def parameters(sides: Sequence[Side]) -> Settings:
    return _settings(sides, lambda r: r.params)


def conditions(sides: Sequence[Side]) -> Settings:
    return _settings(sides, lambda r: r.conditions)


def _settings(sides: Sequence[Side], of: Callable[[TrainedRun], Mapping[str, str]]) -> Settings:
    names = dict.fromkeys(name for side in sides for r in side.runs for name in of(r))
    rows = [(name, tuple(side.setting(name, of) for side in sides)) for name in names]
    different, common, partial = [], [], []
    for name, values in rows:
        known = {value for value in values if value is not None}
        if len(known) > 1:
            different.append((name, values))
        elif None in values:
            partial.append(name)
        else:
            common.append((name, known.pop()))
    return Settings(tuple(different), tuple(common), tuple(partial))


# ------------------------------------------------------------------ what came out


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that each side is judged by."""

    key: str
    sense: int  # 1: higher is better, -1: lower is better, 0: a setting, not judged
    tolerance: float | None = None  # of costs: a smaller share of the reference counts as no difference


METRICS = (
    Metric("val/accuracy", 1),
    Metric("test/accuracy", 1),
    Metric("val/loss", -1),
    Metric("test/loss", -1),
    Metric("cost/seconds", -1, 0.1),  # the speed of a machine drifts by a tenth
    Metric("cost/images_per_second", 1, 0.1),
    Metric("cost/training_flops", -1, 0.01),  # a budget is rounded to whole steps
    Metric("cost/epochs", 0),
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a side stands to the reference in one metric, and by which rule."""

    word: str  # better | worse | level (no significant difference) | unknown
    rule: str = ""  # mcnemar | interval | welch | tolerance
    difference: float | None = None  # side less reference; of costs as a share of the reference
    p: float | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""  # why it is unknown


def judge(metric: Metric, side: Side, reference: Side) -> Judgement | None:
    """None for a setting, and where neither side has the metric."""
    ours, theirs = side.mean(metric.key), reference.mean(metric.key)
    if metric.sense == 0 or (ours is None and theirs is None):
        return None
    if ours is None or theirs is None:
        return Judgement("unknown", reason=f"not measured for {side.name if ours is None else reference.name}")
    unfinished = next((s.name for s in (side, reference) if not s.complete), None)
    if unfinished is not None:
        return Judgement("unknown", reason=f"{unfinished} is not complete")
    if metric.tolerance is not None:
        return _judge_cost(metric, metric.tolerance, side, reference)
    return _judge_accuracy(metric, side, reference) if metric.sense > 0 else _judge_loss(metric, side, reference)


def regressions(comparison: Comparison, side: Side) -> tuple[tuple[Metric, Judgement], ...]:
    """The metrics in which a side is worse than the reference."""
    judged = [(metric, judge(metric, side, comparison.reference)) for metric in METRICS]
    return tuple((metric, j) for metric, j in judged if j is not None and j.word == "worse")


def _judge_accuracy(metric: Metric, side: Side, reference: Side) -> Judgement:
    if metric.key == "test/accuracy" and len(side.complete) == len(reference.complete) == 1:
        try:
            test = image_by_image(side, reference)
            word = _word(test.difference if test.p < LEVEL else 0)
            return Judgement(word, "mcnemar", test.difference, p=test.p)
        except NotPaired:
            pass  # the interval asks for no single images
    ours, theirs = side.estimate(metric.key), reference.estimate(metric.key)
    assert ours is not None
    assert theirs is not None
    low, high = gap_interval(ours, theirs)
    word = "better" if low > 0 else "worse" if high < 0 else "level"
    return Judgement(word, "interval", ours.mean - theirs.mean, interval=(low, high))


def _judge_loss(metric: Metric, side: Side, reference: Side) -> Judgement:
    ours, theirs = side.values(metric.key), reference.values(metric.key)
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    p = welch(ours, theirs)
    if p is None:
        return Judgement("unknown", difference=difference, reason="needs two seeds on both sides")
    return Judgement(_word(-difference if p < LEVEL else 0), "welch", difference, p=p)


def _judge_cost(metric: Metric, tolerance: float, side: Side, reference: Side) -> Judgement:
    ours, theirs = side.mean(metric.key), reference.mean(metric.key)
    assert ours is not None
    if not theirs:
        return Judgement("unknown", reason=f"{reference.name} has none")
    share = ours / theirs - 1
    other = [name for name in HARDWARE if len({_condition(side, name), _condition(reference, name)}) > 1]
    if other and metric.key != "cost/training_flops":
        return Judgement("unknown", difference=share, reason=f"another {HARDWARE[other[0]]}")
    return Judgement(_word(metric.sense * share if abs(share) > tolerance else 0), "tolerance", share)


def _condition(side: Side, name: str) -> str | None:
    return side.setting(name, lambda r: r.conditions)


def _word(gain: float) -> str:
    return "better" if gain > 0 else "worse" if gain < 0 else "level"


# ------------------------------------------------------------------ image by image


def image_by_image(side: Side, reference: Side) -> McNemar:
    """McNemar's test of the first complete run of the reference (first) and of the side (second).

    Raises:
        NotPaired: one of them has no stored answers, or they met other images.
    """
    first, second = _paired(side, reference)
    return mcnemar(first.right, second.right)


def _paired(side: Side, reference: Side) -> tuple[ImageAnswers, ImageAnswers]:
    found = []
    for s in (reference, side):
        answers = s.counted[0].answers
        if answers is None:
            raise NotPaired(f"not stored for {s.name}")
        found.append(answers)
    if found[0].true != found[1].true:
        raise NotPaired(f"{side.name} and {reference.name} did not meet the same images")
    return found[0], found[1]


# ------------------------------------------------------------------ class by class


@dataclass(frozen=True, slots=True)
class ClassRow:
    """The accuracy in one class on each side, and the p of McNemar's test against the reference (Holm over classes)."""

    name: str
    accuracies: tuple[float, ...]
    p: tuple[float | None, ...]  # None for the reference, and where single images are not stored


@dataclass(frozen=True, slots=True)
class Classes:
    split: str  # test | validation | "": no split that all sides have
    rows: tuple[ClassRow, ...]  # by the reference's accuracy, the weakest first


def classes(comparison: Comparison) -> Classes:
    """Accuracy by class on the test images or, where a side has none of those, on the validation images."""
    sides, reference = comparison.sides, comparison.reference
    for split, prefix in (("test", "test_class/"), ("validation", "val_class/")):
        table = {name: [side.mean(prefix + name) for side in sides] for name in CLASSES}
        known = {n: tuple(v for v in values if v is not None) for n, values in table.items() if None not in values}
        if known:
            tests = [_class_tests(side, reference, list(known)) if split == "test" else {} for side in sides]
            rows = [ClassRow(name, values, tuple(t.get(name) for t in tests)) for name, values in known.items()]
            at = sides.index(reference)
            return Classes(split, tuple(sorted(rows, key=lambda row: (row.accuracies[at], row.name))))
    return Classes("", ())


def _class_tests(side: Side, reference: Side, names: Sequence[str]) -> Mapping[str, float]:
    """The adjusted p by class; empty for the reference itself, and where single images are not stored."""
    if side is reference or not len(side.complete) == len(reference.complete) == 1:
        return {}  # the mean over several runs has no single images
    try:
        theirs, ours = _paired(side, reference)
    except NotPaired:
        return {}
    values = []
    for name in names:
        at = [k for k, true in enumerate(theirs.true) if true == name]
        pair = [[answers.called[k] == name for k in at] for answers in (theirs, ours)]
        values.append(mcnemar(*pair).p if at else 1.0)
    return dict(zip(names, holm(values), strict=True))
