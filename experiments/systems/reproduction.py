"""The published systems beside their reproductions, as numbers.

Pure functions of result files, shipped recipes and published figures. None means: not measured, or not published.
What a run has not reached is never extrapolated: a schedule that was cut short is held against the published curve at
the same epoch, and nothing is said of its end.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from cifar_core.evaluation.metrics import ANIMALS, VEHICLES
from cifar_core.recipes import SYSTEMS
from experiments.reading.published import Accuracy, Published, PublishedError
from experiments.reading.published_curves import FIRST_BATCHES, PublishedCurves, Series, load_curves
from experiments.reading.results import Result, departures
from experiments.stats import TEST_IMAGES, Estimate, difference, mean_accuracy

NEAR = 0.01  # up to a point below the published accuracy counts as reproduced, and so does all above it
_NEXT_TO = 0.2  # epochs: a point of a curve this near to a whole epoch is the end of that epoch
_SPLITS: Mapping[str, str] = MappingProxyType({"train": "training", "val": "validation", "test": "test"})


@dataclass(frozen=True, slots=True)
class Gap:
    """Ours less what was published, with its 95 % interval where it can be had."""

    mean: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Meeting:
    """Ours and the published curve at the last epoch that both have."""

    quantity: str  # test_accuracy | train_loss
    epoch: float
    ours: float  # mean over runs
    published: float
    gap: Gap


@dataclass(frozen=True, slots=True)
class ClassRow:
    """Test accuracy in one class or group of classes."""

    name: str
    published: float
    ours: float | None  # mean over whole runs
    group: bool = False

    @property
    def gap(self) -> float | None:
        return None if self.ours is None else self.ours - self.published


@dataclass(frozen=True, slots=True)
class Line:
    """A curve to be drawn; an end is one point, a level is what was published for the end."""

    split: str  # training | validation | test
    kind: str  # ours | end | published | level
    series: Series
    seed: int | None = None

    @property
    def name(self) -> str:
        whose = "ours" if self.kind in ("ours", "end") else "published"
        return f"{self.split}{' at the end' if self.kind in ('end', 'level') else ''}, {whose}"


@dataclass(frozen=True, slots=True)
class Overlay:
    """Our curves and the published ones by epoch; nothing where no run has come to the end of an epoch."""

    accuracies: tuple[Line, ...]  # shares
    losses: tuple[Line, ...]  # mean nats an image


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """One published system and its reproductions."""

    name: str
    published: Accuracy
    curves: PublishedCurves
    recipe: Mapping[str, Any]  # the shipped one
    runs: tuple[Result, ...]  # by seed

    @property
    def faithful(self) -> tuple[Result, ...]:
        """The runs of the shipped recipe; a narrower network, say, is another system."""
        return tuple(r for r in self.runs if not departures(r, self.recipe))

    @property
    def whole(self) -> tuple[Result, ...]:
        """Those of them whose schedule was run to its end."""
        return tuple(r for r in self.faithful if r.whole)

    @property
    def judged(self) -> tuple[Result, ...]:
        """The runs that are compared: the whole ones or, where there is none, all of the shipped recipe."""
        return self.whole or self.faithful

    @property
    def accuracy(self) -> Estimate | None:
        """Test accuracy at the end of the schedule."""
        return _mean([(r, r.test.accuracy) for r in self.whole if r.test is not None])

    @property
    def gap(self) -> Gap | None:
        return _gap(self.accuracy, self.published.accuracy)

    @property
    def near(self) -> bool:
        """A whole run is there, and its accuracy is within a point of the published one or above."""
        return self.gap is not None and self.gap.mean >= -NEAR - 1e-9

    @property
    def best(self) -> Estimate | None:
        """The highest test accuracy of any epoch, of whole runs that were watched on the test images."""
        known = [(r, best[1]) for r in self.whole if (best := best_epoch(r)) is not None]
        return _mean(known) if len(known) == len(self.whole) else None

    @property
    def best_gap(self) -> Gap | None:
        return None if self.curves.best is None else _gap(self.best, self.curves.best[1])

    @property
    def meeting(self) -> Meeting | None:
        """The last epoch at which all judged runs and the published curve have the same quantity."""
        quantity = "test_accuracy" if "test_accuracy" in self.curves.series else "train_loss"
        theirs = self.curves.series.get(quantity)
        # The log of three_conv goes on from an earlier run: its epochs are no epochs of ours.
        if theirs is None or not self.judged or self.name == "three_conv":
            return None
        ours = [our_series(r).get(quantity, Series((), ())) for r in self.judged]
        for epoch, value in zip(reversed(theirs.epochs), reversed(theirs.values), strict=True):
            found = [v for series in ours if (v := series.at(epoch)) is not None]
            if len(found) == len(ours):
                mean = statistics.fmean(found)
                gap = Gap(mean - value)
                if quantity == "test_accuracy":
                    gap = _gap(_mean(list(zip(self.judged, found, strict=True))), value) or gap
                return Meeting(quantity, epoch, mean, value, gap)
        return None

    @property
    def classes(self) -> tuple[ClassRow, ...]:
        """Each class that has a published accuracy, the weakest published one first, then animals and vehicles."""
        published = self.curves.classes
        if not published:
            return ()
        tests = [r.test.class_accuracy for r in self.whole if r.test is not None]
        ours = {name: statistics.fmean(test[name] for test in tests) for name in published} if tests else {}
        rows = [
            ClassRow(name, published[name], ours.get(name)) for name in sorted(published, key=published.__getitem__)
        ]
        for group, names in (("animals", ANIMALS), ("vehicles", VEHICLES)):
            own = statistics.fmean(ours[name] for name in names) if ours else None
            rows.append(ClassRow(group, statistics.fmean(published[name] for name in names), own, group=True))
        return tuple(rows)

    @property
    def overlay(self) -> Overlay:
        return Overlay(accuracies=self._lines("accuracy"), losses=self._lines("loss"))

    def _lines(self, what: str) -> tuple[Line, ...]:
        lines = [
            Line(word, "ours", series, r.seed)
            for split, word in _SPLITS.items()
            for r in self.faithful
            if (series := our_series(r).get(f"{split}_{what}")) is not None and not _is_end(r, split)
        ]
        if not lines:
            return ()
        end = max(epoch for line in lines for epoch in line.series.epochs)
        if what == "accuracy":
            for r in self.faithful:
                if r.test is not None and r.watched != "test":
                    lines.append(Line("test", "end", Series((r.epochs_run,), (r.test.accuracy,)), r.seed))
            if "test_accuracy" not in self.curves.series:
                level = self.published.accuracy
                lines.append(Line("test", "level", Series((0.0, end), (level, level))))
        for split, word in _SPLITS.items():
            if (published := self.curves.series.get(f"{split}_{what}")) is not None:
                lines.append(Line(word, "published", published))
        return tuple(lines)


def side_by_side(
    published: Published, results: Sequence[Result], recipes: Mapping[str, Mapping[str, Any]]
) -> tuple[System, ...]:
    """Every published system with its runs, and the shipped recipe that they should have.

    Raises:
        PublishedError: a system has no published accuracy, or its published curves break a rule.
    """
    figures = {a.key: a for a in published.group("system")}
    if missing := [name for name in SYSTEMS if name not in figures]:
        raise PublishedError(f"an accuracy {missing[0]!r} of group system must be there, but is missing")
    return tuple(
        System(
            name=name,
            published=figures[name],
            curves=load_curves(name),
            recipe=recipes[name],
            runs=tuple(r for r in results if r.name == name),
        )
        for name in SYSTEMS
    )


def newest(systems: Sequence[System]) -> datetime.date | None:
    """The day of the newest run."""
    return max((r.date for s in systems for r in s.runs), default=None)


def our_series(result: Result) -> Mapping[str, Series]:
    """A run's curves at whole epochs, in the quantities of `PublishedCurves.series`.

    Losses of points between epochs are joined to the mean over the epoch; that of five_conv stays the one of the
    first batches, as it was published. A run that was not watched on the test images has one point of test accuracy,
    at its end, unless it kept other weights than the last.
    """
    ends = _ends(result)
    losses = _first_batches(result) if result.name == "five_conv" else _epoch_means(result, ends, "train_loss")
    split = {"validation": "val", "test": "test"}[result.watched]
    series = {
        "train_loss": losses,
        "train_accuracy": _epoch_means(result, ends, "train_accuracy"),
        f"{split}_loss": _at_ends(result, ends, "watched_loss"),
        f"{split}_accuracy": _at_ends(result, ends, "watched_accuracy"),
    }
    last = round(result.epochs_run)
    if split == "val" and result.test is not None and result.kept == "last" and _near(result.epochs_run, last):
        series["test_accuracy"] = Series((float(last),), (result.test.accuracy,))
    return {quantity: s for quantity, s in series.items() if s.epochs}


def best_epoch(result: Result) -> tuple[float, float] | None:
    """(epoch, share) of the highest test accuracy, the first of equals; None where no curve of it was kept."""
    tested = our_series(result).get("test_accuracy")
    if tested is None or result.watched != "test":
        return None
    best = max(tested.values)
    return tested.epochs[tested.values.index(best)], best


def _is_end(result: Result, split: str) -> bool:
    return split == "test" and result.watched != "test"


def _near(epoch: float, whole: int) -> bool:
    return whole > 0 and abs(epoch - whole) < _NEXT_TO


def _ends(result: Result) -> dict[int, int]:
    """The index of the point at the end of each whole epoch."""
    ends: dict[int, int] = {}
    for index, point in enumerate(result.curve):
        whole = round(point.epoch)
        known = ends.get(whole)
        if _near(point.epoch, whole) and (
            known is None or abs(point.epoch - whole) < abs(result.curve[known].epoch - whole)
        ):
            ends[whole] = index
    return ends


def _at_ends(result: Result, ends: Mapping[int, int], attribute: str) -> Series:
    known = {n: v for n, index in ends.items() if (v := getattr(result.curve[index], attribute)) is not None}
    return Series(tuple(map(float, known)), tuple(known.values()))


def _epoch_means(result: Result, ends: Mapping[int, int], attribute: str) -> Series:
    """Means over whole epochs of what the points hold since the point before, weighted by the steps between."""
    steps = [0, *(point.step for point in result.curve)]
    weights = [after - before for before, after in pairwise(steps)]
    values = [getattr(point, attribute) for point in result.curve]
    starts = {0: -1, **ends}
    means = {}
    for whole, index in ends.items():
        if whole - 1 in starts:
            part = slice(starts[whole - 1] + 1, index + 1)
            means[float(whole)] = statistics.fmean(values[part], weights[part])
    return Series(tuple(means), tuple(means.values()))


def _first_batches(result: Result) -> Series:
    """The loss of five_conv over the first batches of each epoch: at points that follow right after a whole epoch."""
    found = {}
    begun = 0.0
    for point in result.curve:
        whole = round(begun)
        if abs(begun - whole) < _NEXT_TO and abs(point.epoch - whole - FIRST_BATCHES) < _NEXT_TO / 2:
            found[whole + FIRST_BATCHES] = point.train_loss
        begun = point.epoch
    return Series(tuple(found), tuple(found.values()))


def _mean(known: Sequence[tuple[Result, float]]) -> Estimate | None:
    if not known:
        return None
    images = min(r.test.images if r.test is not None else TEST_IMAGES for r, _ in known)
    return mean_accuracy([value for _, value in known], tuple(r.run_id for r, _ in known), images)


def _gap(ours: Estimate | None, published: float) -> Gap | None:
    return None if ours is None else Gap(ours.mean - published, difference(ours, published))
