"""Statistics: means with 95 % intervals, and tests of differences at the 5 % level."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy import stats
from scipy.special import stdtrit

VAL_IMAGES = 5000
TEST_IMAGES = 10_000

_Z = 1.96


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean accuracy over runs with its 95 % interval, all as shares in [0, 1]."""

    mean: float
    low: float
    high: float
    run_ids: tuple[str, ...]
    images: int


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
        t = float(stdtrit(len(values) - 1, 0.975))  # quantile of Student's t
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


def apart(one: Estimate, other: Estimate) -> tuple[float, float]:
    """The 95 % interval of one accuracy less another on other images, as shares."""
    gap = one.mean - other.mean
    return (
        gap - math.hypot(one.mean - one.low, other.high - other.mean),
        gap + math.hypot(one.high - one.mean, other.mean - other.low),
    )


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


LEVEL = 0.05
FEW = 25  # discordant images: below it, the exact test


@dataclass(frozen=True, slots=True)
class McNemar:
    """Two networks on the same images: how many each was right about, and the two-sided p of that happening by chance.

    Only images that one alone is right about (discordant ones) bear on the difference.
    """

    both: int
    first: int  # the first alone is right
    second: int
    neither: int
    p: float
    exact: bool  # the binomial test; else chi-squared with continuity correction

    @property
    def images(self) -> int:
        return self.both + self.first + self.second + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the second less that of the first."""
        return (self.second - self.first) / self.images


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """McNemar's test (1947) on whether two networks were right, image by image; at least one image.

    With fewer than 25 discordant images it is the exact binomial test, else chi-squared with one degree of freedom and
    Edwards' continuity correction (1948).

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"both must judge the same images, at least one, but got {len(first)} and {len(second)}")
    pairs = list(zip(first, second, strict=True))
    a, b = pairs.count((True, False)), pairs.count((False, True))
    exact = a + b < FEW
    if a + b == 0:
        p = 1.0
    elif exact:
        p = float(stats.binomtest(a, a + b, 0.5).pvalue)
    else:
        p = float(stats.chi2.sf(max(abs(a - b) - 1, 0) ** 2 / (a + b), df=1))
    both = pairs.count((True, True))
    return McNemar(both=both, first=a, second=b, neither=len(pairs) - both - a - b, p=p, exact=exact)


def holm(values: Sequence[float]) -> tuple[float, ...]:
    """The p of each of several tests, raised so that one false alarm among all of them stays at 5 % (Holm, 1979)."""
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def gap_interval(ours: Estimate, theirs: Estimate) -> tuple[float, float]:
    """The 95 % interval of ours less theirs, as shares: both intervals joined in squares (Zou & Donner, 2008).

    It takes the two for independent, so where both met the same images it is wider than it need be.
    """
    gap = ours.mean - theirs.mean
    return (
        gap - math.hypot(ours.mean - ours.low, theirs.high - theirs.mean),
        gap + math.hypot(ours.high - ours.mean, theirs.mean - theirs.low),
    )


def welch(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The two-sided p of Welch's t-test (1947); None where a side has one value, or no side any spread."""
    if min(len(first), len(second)) < 2 or not (statistics.stdev(first) or statistics.stdev(second)):
        return None
    return float(stats.ttest_ind(first, second, equal_var=False).pvalue)
