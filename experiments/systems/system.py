"""The published systems and their reproductions, as numbers.

Pure functions of result files, shipped recipes and published figures. None means: not measured, or not published.
Nothing is extrapolated: a schedule that was cut short is compared with the published curve at the same epoch.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cifar_core.data.data_set import CIFAR10
from cifar_core.recipes import SYSTEMS, read_recipe
from experiments.reading.published import Accuracy, Published
from experiments.reading.published_curves import FIRST_BATCHES, PublishedCurves, Series, load_curves
from experiments.reading.results import Result, departures
from experiments.stats import TEST_IMAGES, Estimate, difference_interval, mean_accuracy, published_estimate
from sweeps.validation import InvalidFileError

TOLERANCE = 0.01  # a system is reproduced within a point of its published accuracy, above or below
_AROUND = 0.2  # epochs: a point of a curve this near to a whole epoch is the end of that epoch


@dataclass(frozen=True, slots=True)
class Gap:
    """Ours minus the published figure, with the 95 % interval where it is known."""

    mean: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class CommonEpoch:
    """Ours and the published curve at the last epoch that both have."""

    quantity: str  # test_accuracy | train_loss
    epoch: float
    ours: float  # mean over runs
    published: float
    gap: Gap


@dataclass(frozen=True, slots=True)
class ClassComparison:
    """Test accuracy in one class or group of classes."""

    name: str
    published: float
    ours: float | None  # mean over complete runs
    group: bool = False

    @property
    def gap(self) -> float | None:
        return None if self.ours is None else self.ours - self.published


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """One published system and its reproductions."""

    name: str
    published: Accuracy
    curves: PublishedCurves
    recipe: Mapping[str, Any]  # the shipped one
    runs: tuple[Result, ...]  # by seed

    @property
    def matching(self) -> tuple[Result, ...]:
        """The runs of the shipped recipe; a narrower network, say, is another system."""
        return tuple(r for r in self.runs if not departures(r, self.recipe))

    @property
    def complete(self) -> tuple[Result, ...]:
        """The matching runs whose schedule has ended."""
        return tuple(r for r in self.matching if r.complete)

    @property
    def compared(self) -> tuple[Result, ...]:
        """The runs that are compared: the complete ones or, if there are none, all matching ones."""
        return self.complete or self.matching

    @property
    def accuracy(self) -> Estimate | None:
        """Test accuracy at the end of the schedule."""
        return _mean([(r, r.test.accuracy) for r in self.complete if r.test is not None])

    @property
    def gap(self) -> Gap | None:
        return _gap(self.accuracy, self.published.accuracy)

    @property
    def within_tolerance(self) -> bool:
        """There is a complete run, and the accuracy is within a point of the published one."""
        return self.gap is not None and abs(self.gap.mean) <= TOLERANCE + 1e-9

    @property
    def best(self) -> Estimate | None:
        """The highest test accuracy of any epoch, if all complete runs were evaluated on the test images by epoch."""
        known = [(r, best[1]) for r in self.complete if (best := best_epoch(r)) is not None]
        return _mean(known) if len(known) == len(self.complete) else None

    @property
    def best_gap(self) -> Gap | None:
        return None if self.curves.best is None else _gap(self.best, self.curves.best[1])

    @property
    def common_epoch(self) -> CommonEpoch | None:
        """The last epoch at which all compared runs and the published curve have the same quantity."""
        quantity = "test_accuracy" if "test_accuracy" in self.curves.series else "train_loss"
        theirs = self.curves.series.get(quantity)
        # The log of three_conv continues an earlier run, so its epochs are not the same as ours.
        if theirs is None or not self.compared or self.name == "three_conv":
            return None
        ours = [our_series(r).get(quantity, Series((), ())) for r in self.compared]
        for epoch, value in zip(reversed(theirs.epochs), reversed(theirs.values), strict=True):
            found = [v for series in ours if (v := series.at(epoch)) is not None]
            if len(found) == len(ours):
                mean = statistics.fmean(found)
                gap = Gap(mean - value)
                if quantity == "test_accuracy":
                    gap = _gap(_mean(list(zip(self.compared, found, strict=True))), value) or gap
                return CommonEpoch(quantity, epoch, mean, value, gap)
        return None

    @property
    def classes(self) -> tuple[ClassComparison, ...]:
        """Each class that has a published accuracy, the weakest published one first, then animals and vehicles."""
        published = self.curves.classes
        if not published:
            return ()
        tests = [r.test.class_accuracy for r in self.complete if r.test is not None]
        members = {name: (name,) for name in sorted(published, key=published.__getitem__)}
        return tuple(
            ClassComparison(
                label,
                statistics.fmean(published[name] for name in names),
                statistics.fmean(test[name] for test in tests for name in names) if tests else None,
                group=len(names) > 1,
            )
            for label, names in (members | dict(CIFAR10.groups)).items()
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The runs that are compared (if there are none, all) and the published figure, as sources of a text."""
        return (*(f"run/{r.run_id}" for r in self.compared or self.runs), f"source/{self.name}")


def load_systems(published: Published, results: Sequence[Result]) -> tuple[System, ...]:
    """Every published system with its runs, its published curves, and its shipped recipe.

    Raises:
        InvalidFileError: a system has no published accuracy, or its published curves break a rule.
    """
    figures = {a.key: a for a in published.accuracies if a.group == "system"}
    if missing := [name for name in SYSTEMS if name not in figures]:
        raise InvalidFileError(f"an accuracy {missing[0]!r} of group system must be there, but is missing")
    return tuple(
        System(
            name=name,
            published=figures[name],
            curves=load_curves(name),
            recipe=read_recipe(name).to_dict(),
            runs=tuple(r for r in results if r.name == name),
        )
        for name in SYSTEMS
    )


def our_series(result: Result) -> Mapping[str, Series]:
    """The curves of a run at whole epochs, in the quantities of `PublishedCurves.series`.

    Training losses are means over the epoch; that of five_conv is over its first batches, as it was published. A run
    that was not evaluated on the test images by epoch has one point of test accuracy, at its end, unless the tested
    weights are not the last ones.
    """
    ends = _ends(result)
    losses = _first_batches(result) if result.name == "five_conv" else _epoch_means(result, ends, "train_loss")
    split = "val" if result.watched == "validation" else "test"
    series = {
        "train_loss": losses,
        "train_accuracy": _epoch_means(result, ends, "train_accuracy"),
        f"{split}_loss": _values_at(result, ends, "watched_loss"),
        f"{split}_accuracy": _values_at(result, ends, "watched_accuracy"),
    }
    last = round(result.epochs_run)
    if split == "val" and result.test is not None and result.kept == "last" and _is_end(result.epochs_run, last):
        series["test_accuracy"] = Series((float(last),), (result.test.accuracy,))
    return {quantity: s for quantity, s in series.items() if s.epochs}


def best_epoch(result: Result) -> tuple[float, float] | None:
    """(epoch, share) of the highest test accuracy; None if the run was not evaluated on the test images by epoch."""
    tested = our_series(result).get("test_accuracy") if result.watched == "test" else None
    return None if tested is None else tested.highest


def tested_epoch(result: Result) -> float:
    """The epoch of the weights that were tested: the last one, or that of the lowest validation loss."""
    losses = {p.epoch: p.watched_loss for p in result.curve if p.watched_loss is not None}
    return min(losses, key=losses.__getitem__) if result.kept == "best" and losses else result.epochs_run


def _is_end(epoch: float, whole: int) -> bool:
    return whole > 0 and abs(epoch - whole) < _AROUND


def _ends(result: Result) -> dict[int, int]:
    """The index of the point at the end of each whole epoch: the nearest one."""
    near: dict[int, list[int]] = {}
    for index, point in enumerate(result.curve):
        whole = round(point.epoch)
        if _is_end(point.epoch, whole):
            near.setdefault(whole, []).append(index)
    return {n: min(found, key=lambda index: abs(result.curve[index].epoch - n)) for n, found in near.items()}


def _values_at(result: Result, ends: Mapping[int, int], attribute: str) -> Series:
    known = {n: v for n, index in ends.items() if (v := getattr(result.curve[index], attribute)) is not None}
    return Series(tuple(map(float, known)), tuple(known.values()))


def _epoch_means(result: Result, ends: Mapping[int, int], attribute: str) -> Series:
    """Means over whole epochs of the points, weighted by the steps since the previous point."""
    weights = [after - before for before, after in pairwise([0, *(point.step for point in result.curve)])]
    values = [getattr(point, attribute) for point in result.curve]
    means = {}
    for (before, start), (whole, end) in pairwise([(0, -1), *ends.items()]):
        if whole == before + 1:
            part = slice(start + 1, end + 1)
            means[float(whole)] = statistics.fmean(values[part], weights[part])
    return Series(tuple(means), tuple(means.values()))


def _first_batches(result: Result) -> Series:
    """The loss of five_conv over the first batches of each epoch, from the points right after a whole epoch."""
    found = {}
    begun = 0.0
    for point in result.curve:
        whole = round(begun)
        if abs(begun - whole) < _AROUND and abs(point.epoch - whole - FIRST_BATCHES) < _AROUND / 2:
            found[whole + FIRST_BATCHES] = point.train_loss
        begun = point.epoch
    return Series(tuple(found), tuple(found.values()))


def _mean(known: Sequence[tuple[Result, float]]) -> Estimate | None:
    if not known:
        return None
    images = min(r.test.images if r.test is not None else TEST_IMAGES for r, _ in known)
    return mean_accuracy([value for _, value in known], tuple(r.run_id for r, _ in known), images)


def _gap(ours: Estimate | None, published: float) -> Gap | None:
    if ours is None:
        return None
    return Gap(ours.mean - published, difference_interval(ours, published_estimate(published)))
