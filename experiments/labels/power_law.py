"""Power law of a label curve: error(n) = a + b * n^-c with its uncertainty, and what follows from it.

Such laws describe errors over the number of training examples well (Hestness et al., "Deep learning scaling is
predictable, empirically", 2017); a is the error that no number of labels removes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

LEAST_POINTS = 4  # numbers of labels that a law of three constants needs, so that one is left to tell how well it holds
REACH = 3.0  # times the largest number of labels measured: what a law says beyond is not repeated
_DRAWS = 1_000  # draws of the errors within their uncertainty
_EXPONENTS = np.geomspace(0.02, 3.0, 300)  # exponents that are tried
# Correlation of the sampling errors of two points, as all are measured on the same images: 0.5 to 0.8 was measured
# between the points of one curve, but 0.2 between building and adapting.
_CORRELATION = 0.5
_RELATIVE_SPREAD = 0.02  # of the error between seeds, where no number of labels has two: 0.15 points at 92.5 %
_QUANTILES = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class MeanError:
    """The mean error over the runs with one number of labels, as shares in [0, 1].

    Attributes:
        deviation: its standard error, without what the points of a curve have in common.
        common: the standard error that they have in common, as the same images are hard for all.
    """

    labels: int
    error: float
    deviation: float
    common: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval; an end may be infinite."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """A fitted law, and laws of errors that were drawn within their uncertainty.

    Attributes:
        best: a, b and c.
        drawn: arrays of a, b and c (draws,).
        common: the error in each draw that all points have in common, in units of `MeanError.common` (draws,).
    """

    points: tuple[MeanError, ...]
    best: tuple[float, float, float]
    drawn: tuple[Numbers, Numbers, Numbers]
    common: Numbers

    def error(self, labels: float) -> float:
        """Return the error with so many labels."""
        a, b, c = self.best
        return float(a + b * labels**-c)

    def errors(self, labels: float) -> Numbers:
        """Return the error of each drawn law (draws,)."""
        a, b, c = self.drawn
        return np.asarray(a + b * labels**-c)

    def interval(self, labels: float) -> Interval:
        """Return the interval of the error with so many labels."""
        return _interval(self.errors(labels))

    def labels_for(self, error: float) -> Interval:
        """Return the number of labels at which the error falls to `error`; infinity: none is known to be enough."""
        a, b, c = self.drawn
        room = error - a
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            labels = np.where(room > 0, (b / np.maximum(room, 1e-300)) ** (1 / c), np.inf)
        return _interval(labels)

    @property
    def constants(self) -> tuple[Interval, Interval, Interval]:
        """The intervals of a, b and c."""
        a, b, c = map(_interval, self.drawn)
        return a, b, c


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The point with the most labels, and the 95 % prediction interval of its error by a law fitted to the others."""

    point: MeanError
    predicted: Interval

    @property
    def held(self) -> bool:
        return self.predicted.low <= self.point.error <= self.predicted.high


def points_of(accuracies: Mapping[int, Sequence[float]], images: int) -> tuple[MeanError, ...]:
    """Return the points of a curve.

    The standard errors combine the spread between runs and the sampling error of the validation images, half of whose
    variance the points have in common. The spread is taken to be proportional to the error, and pooled, as a few runs
    of one number of labels say little about it.

    Args:
        accuracies: accuracies of the runs, by number of labels.
        images: number of validation images.
    """
    squares = freedom = 0.0
    for values in accuracies.values():
        if len(values) > 1:
            error = max(1 - statistics.fmean(values), 1 / images)
            squares += sum(((value - statistics.fmean(values)) / error) ** 2 for value in values)
            freedom += len(values) - 1
    spread = math.sqrt(squares / freedom) if freedom else _RELATIVE_SPREAD
    found = []
    for labels, values in sorted(accuracies.items()):
        error = 1 - statistics.fmean(values)
        share = min(max(error, 1 / images), 1 - 1 / images)
        sampling = math.sqrt(share * (1 - share) / images)
        seeds, own = spread * share / math.sqrt(len(values)), math.sqrt(1 - _CORRELATION) * sampling
        found.append(MeanError(labels, error, math.hypot(seeds, own), math.sqrt(_CORRELATION) * sampling))
    return tuple(found)


def fit(points: Sequence[MeanError], generator: np.random.Generator) -> PowerLaw | None:
    """Fit a law by weighted least squares; None with fewer than four points, or where the error does not fall.

    The uncertainty is that of the errors. Where they lie further from the law than their own deviations explain, these
    are widened by as much as they do (Birge's ratio); what all have in common moves no point off the law.

    Args:
        generator: generator that errors are drawn from. Pass the same one for laws that are compared, so that their
            draws are independent.
    """
    if len(points) < LEAST_POINTS:
        return None
    labels, errors, deviations, commons = (
        np.array([getattr(point, name) for point in points], dtype=float)
        for name in ("labels", "error", "deviation", "common")
    )
    best, misfit = _least_squares(labels, errors[None], deviations)
    if not best[1][0] > 0:
        return None
    widened = deviations * max(1.0, math.sqrt(misfit[0] / (len(points) - 3)))
    noise, common = generator.standard_normal((_DRAWS, len(points))), generator.standard_normal(_DRAWS)
    drawn, _ = _least_squares(labels, errors + widened * noise + commons * common[:, None], deviations)
    a, b, c = (float(values[0]) for values in best)
    return PowerLaw(tuple(points), (a, b, c), drawn, common)


def held_out(points: Sequence[MeanError], generator: np.random.Generator) -> HeldOut | None:
    """Predict the error with the most labels from the others; None where these are too few, or errors do not fall."""
    law = fit(points[:-1], generator)
    if law is None:
        return None
    point = points[-1]
    own = point.deviation * generator.standard_normal(_DRAWS)
    # Minus: what all points have in common moved the law and this point alike, so that their distance lacks it.
    return HeldOut(point, _interval(law.errors(point.labels) - point.common * law.common + own))


def crossing(one: PowerLaw, other: PowerLaw, low: float, high: float) -> tuple[Interval, float]:
    """Return the number of labels in [low, high] from which `one` has the smaller error, and how sure that is.

    The second is the share of drawn pairs of laws that change places there; without any, the interval is empty (NaN).
    """
    grid = np.geomspace(low, high, 200)
    gap = np.stack([one.errors(labels) - other.errors(labels) for labels in grid], axis=1)
    changes = (gap[:, :-1] > 0) & (gap[:, 1:] <= 0)
    crossed = changes.any(axis=1) & (gap[:, -1] <= 0)
    if not crossed.any():
        return Interval(math.nan, math.nan), 0.0
    last = changes.shape[1] - 1 - np.argmax(changes[:, ::-1], axis=1)
    return _interval(np.sqrt(grid[last] * grid[last + 1])[crossed]), float(crossed.mean())


def _least_squares(
    labels: Numbers, errors: Numbers, deviations: Numbers
) -> tuple[tuple[Numbers, Numbers, Numbers], Numbers]:
    """Fit many laws at once: the best of the exponents, for each of which a >= 0 and b >= 0 have a closed form.

    Args:
        labels, deviations: shape (points,).
        errors: shape (laws, points).

    Returns:
        a, b and c (laws,), and the weighted sums of squared residuals (laws,).
    """
    scale = float(np.exp(np.log(labels).mean()))  # keeps powers near 1
    x = (labels / scale) ** -_EXPONENTS[:, None]  # (exponents, points)
    weights = deviations**-2.0
    sw, sx, sxx = weights.sum(), x @ weights, (x * x) @ weights
    sy, sxy = errors @ weights, (errors * weights) @ x.T  # (laws,), (laws, exponents)
    b = (sw * sxy - sx * sy[:, None]) / np.maximum(sw * sxx - sx**2, 1e-300)
    a = (sy[:, None] - b * sx) / sw
    alone, flat = np.maximum(sxy / sxx, 0.0), np.maximum(sy[:, None] / sw, 0.0)  # b without a, and a without b
    a, b = np.where(a < 0, 0.0, np.where(b < 0, flat, a)), np.where(a < 0, alone, np.maximum(b, 0.0))
    residuals = errors[:, None] - a[..., None] - b[..., None] * x
    squares = (residuals**2) @ weights
    chosen = squares.argmin(axis=1)
    rows = np.arange(len(errors))
    c = _EXPONENTS[chosen]
    return (a[rows, chosen], b[rows, chosen] * scale**c, c), squares[rows, chosen]


def _interval(values: Numbers) -> Interval:
    low, high = np.quantile(values, _QUANTILES, method="nearest")
    return Interval(float(low), float(high))
