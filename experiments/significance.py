"""Whether a difference between two sides is more than chance explains, at the 5 % level."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from experiments.intervals import Estimate

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
