"""Statistics: means with 95 % intervals, and tests of differences at the 5 % level."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy import stats
from scipy.special import betaincinv, stdtrit

TEST_IMAGES = 10_000  # of CIFAR-10
SIGNIFICANCE_LEVEL = 0.05
FEW_TRIALS = 10  # complete ones, below which nothing is concluded from a search
EXACT_BELOW = 25  # discordant images: with fewer, McNemar's test is exact

_Z = 1.96


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean accuracy over runs with its 95 % interval, as shares in [0, 1]."""

    mean: float
    low: float
    high: float
    run_ids: tuple[str, ...]
    images: int


def estimate(runs: pd.DataFrame, column: str, images: int, *, family: int = 1) -> Estimate | None:
    """Estimate an accuracy from a column of runs; None if no run has it. See `mean_accuracy`."""
    known = runs[runs[column].notna()]
    if not len(known):
        return None
    return mean_accuracy([float(v) for v in known[column]], tuple(known["run_id"]), images, family=family)


def mean_accuracy(values: Sequence[float], run_ids: tuple[str, ...], images: int, *, family: int = 1) -> Estimate:
    """Estimate an accuracy from one value or more.

    The interval combines seed variance (Student's t over the runs; none for a single run) and sampling error of the
    images (Wilson, 1927; the runs share their images, so more runs do not reduce it). The half-widths of each side
    are added in squares (Zou & Donner, 2008).

    Args:
        family: number of intervals that shall all be right together with 95 %. For more than one the sampling error is
            exact (Clopper & Pearson, 1934; Bonferroni), as Wilson's interval is too short that far out.
    """
    mean = statistics.fmean(values)
    low, high = wilson(mean, images) if family == 1 else clopper_pearson(mean, images, family)
    seeds = _half_width(values, family) if len(values) > 1 else 0.0
    return Estimate(
        mean,
        max(0.0, mean - math.hypot(mean - low, seeds)),
        min(1.0, mean + math.hypot(high - mean, seeds)),
        run_ids,
        images,
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean, by Student's t; of a single value, everything."""
    if len(values) < 2:
        return -math.inf, math.inf
    mean, half = statistics.fmean(values), _half_width(values)
    return mean - half, mean + half


def _half_width(values: Sequence[float], family: int = 1) -> float:
    t = float(stdtrit(len(values) - 1, 1 - 0.025 / family))  # quantile of Student's t
    return t * statistics.stdev(values) / math.sqrt(len(values))


def published_estimate(accuracy: float) -> Estimate:
    """Estimate of a published accuracy. Its interval lacks seed variance, which is not published."""
    return Estimate(accuracy, *wilson(accuracy, TEST_IMAGES), (), TEST_IMAGES)


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share of `count` independent cases (Wilson, 1927)."""
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def clopper_pearson(share: float, count: int, family: int) -> tuple[float, float]:
    """The exact interval of a share of `count` independent cases, one of `family` that are right together with 95 %."""
    right, wrong, outside = share * count, (1 - share) * count, 0.025 / family
    low = float(betaincinv(right, wrong + 1, outside)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, wrong, 1 - outside)) if wrong > 0 else 1.0
    return low, high


def difference_interval(one: Estimate, other: Estimate) -> tuple[float, float]:
    """The 95 % interval of `one` minus `other`, as shares (Zou & Donner, 2008).

    Assumes that the two are independent, so it is too wide for two networks on the same images.
    """
    gap = one.mean - other.mean
    return (
        gap - math.hypot(one.mean - one.low, other.high - other.mean),
        gap + math.hypot(one.high - one.mean, other.mean - other.low),
    )


def against_published(ours: Estimate, published: float) -> str:
    """Compare an accuracy with a published one: "higher", "lower" or "not_significant" (at 5 %)."""
    low, high = difference_interval(ours, published_estimate(published))
    return "higher" if low > 0 else "lower" if high < 0 else "not_significant"


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's test of two networks on the same images: numbers of images, and the two-sided p.

    Only discordant images, on which a single network is right, bear on the difference.
    """

    both: int
    first: int  # only the first is right
    second: int
    neither: int
    p: float
    exact: bool  # the binomial test; else chi-squared with continuity correction

    @property
    def images(self) -> int:
        return self.both + self.first + self.second + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the second minus that of the first."""
        return (self.second - self.first) / self.images


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """McNemar's test (1947) of whether two networks are right, image by image.

    With fewer than 25 discordant images it is the exact binomial test, else chi-squared with one degree of freedom and
    Edwards' continuity correction (1948).

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"both must judge the same images, at least one, but got {len(first)} and {len(second)}")
    pairs = Counter(zip(first, second, strict=True))
    a, b = pairs[True, False], pairs[False, True]
    exact = a + b < EXACT_BELOW
    if a + b == 0:
        p = 1.0
    elif exact:
        p = float(stats.binomtest(a, a + b, 0.5).pvalue)
    else:
        p = float(stats.chi2.sf(max(abs(a - b) - 1, 0) ** 2 / (a + b), df=1))
    return McNemar(both=pairs[True, True], first=a, second=b, neither=pairs[False, False], p=p, exact=exact)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust the p of several tests, so that the chance of any false alarm stays at 5 % (Holm, 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def welch(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The two-sided p of Welch's t-test (1947); None if a group has one value or neither has any spread."""
    if min(len(first), len(second)) < 2 or not (statistics.stdev(first) or statistics.stdev(second)):
        return None
    return float(stats.ttest_ind(first, second, equal_var=False).pvalue)
