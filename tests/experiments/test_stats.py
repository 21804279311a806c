from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.stats import (
    EXACT_BELOW,
    Estimate,
    against_published,
    clopper_pearson,
    difference_interval,
    estimate,
    holm,
    mcnemar,
    mean_accuracy,
    mean_interval,
    published_estimate,
    welch,
    wilson,
)
from tests.experiments.support import known

SHARES = st.floats(0, 1)
IMAGES = st.integers(1, 10_000)
ESTIMATES = st.builds(mean_accuracy, st.lists(SHARES, min_size=1, max_size=5), st.just(("r",)), IMAGES)
RIGHT = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


def runs(values: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"accuracy": pd.Series(values, dtype=float), "run_id": [f"r{i}" for i in range(len(values))]})


def pairs(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    table = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    return [a for a, _ in table], [b for _, b in table]


# ------------------------------------------------------------------ intervals


@pytest.mark.parametrize("values", [[0.5, 0.25], [-1.0, 0.5, 2.0, 0.125]])
def test_interval_of_a_mean_is_that_of_scipy(values: list[float]) -> None:
    assert mean_interval(values) == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))


def test_interval_of_a_single_value_is_endless_and_of_equal_ones_a_point() -> None:
    assert mean_interval([0.5]) == (-math.inf, math.inf)
    assert mean_interval([0.25, 0.25]) == (0.25, 0.25)


def test_clopper_and_pearson_agree_with_published_values() -> None:
    assert clopper_pearson(0.1, 20, 1) == pytest.approx((0.0123, 0.3170), abs=1e-4)
    assert clopper_pearson(0.0, 20, 1) == pytest.approx((0.0, 0.1684), abs=1e-4)
    assert clopper_pearson(1.0, 20, 1) == pytest.approx((0.8316, 1.0), abs=1e-4)
    assert clopper_pearson(0.1, 20, 5) == pytest.approx((0.0053, 0.3871), abs=1e-4), "at 99 %"


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81 of 263, and 0 of 20.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_one_run_has_the_interval_of_its_test_set_and_none_has_no_estimate() -> None:
    assert estimate(runs([]), "accuracy", 10_000) is None
    assert estimate(runs([float("nan")]), "accuracy", 10_000) is None
    one = known(estimate(runs([0.92, float("nan")]), "accuracy", 10_000))
    assert one.run_ids == ("r0",)
    assert (one.low, one.high) == pytest.approx(wilson(0.92, 10_000))
    published = published_estimate(0.92)
    assert (one.low, one.high) == pytest.approx((published.low, published.high))


def test_seed_variance_is_added_in_squares() -> None:
    spread = known(estimate(runs([0.90, 0.94]), "accuracy", 10_000))
    # Two runs: t with one degree of freedom, 12.7062 standard errors of 0.02.
    below = math.hypot(12.7062 * 0.02, 0.92 - wilson(0.92, 10_000)[0])
    assert spread.mean - spread.low == pytest.approx(below, rel=1e-5)
    assert spread.high == 1.0


@given(ESTIMATES)
def test_more_runs_never_shrink_the_interval_of_the_images(one: Estimate) -> None:
    low, high = wilson(one.mean, one.images)
    assert 0 <= one.low <= low + 1e-12
    assert high - 1e-12 <= one.high <= 1
    same = mean_accuracy([one.mean] * 3, (), one.images)
    assert (same.low, same.high) == pytest.approx((low, high))


# ------------------------------------------------------------------ differences


@pytest.mark.parametrize(
    ("published", "word"),
    [(0.88, "higher"), (0.919, "not_significant"), (0.921, "not_significant"), (0.96, "lower")],
)
def test_a_difference_from_a_published_accuracy_must_be_significant(published: float, word: str) -> None:
    assert against_published(published_estimate(0.92), published) == word


def test_the_interval_of_a_difference_adds_both_in_squares() -> None:
    ours, theirs = Estimate(0.9, 0.87, 0.92, ("a",), 100), Estimate(0.8, 0.77, 0.84, ("b",), 100)
    assert difference_interval(ours, theirs) == pytest.approx((0.1 - 0.05, 0.1 + (0.02**2 + 0.03**2) ** 0.5))


@given(ESTIMATES, ESTIMATES)
def test_the_interval_of_a_difference_turns_with_its_sign(one: Estimate, other: Estimate) -> None:
    low, high = difference_interval(one, other)
    assert low <= one.mean - other.mean <= high
    assert difference_interval(other, one) == pytest.approx((-high, -low))


def test_few_discordant_images_get_the_exact_test() -> None:
    test = mcnemar(*pairs(50, 8, 2, 40))
    assert (test.both, test.first, test.second, test.neither, test.exact) == (50, 8, 2, 40, True)
    assert test.p == pytest.approx(2 * (1 + 10 + 45) / 2**10)  # both tails of ten tosses
    assert test.difference == pytest.approx(-0.06)


def test_many_get_chi_squared_with_continuity_correction() -> None:
    # Agresti, Categorical Data Analysis: 150 and 86 discordant of 1,600; (64 - 1)^2 / 236 = 16.82.
    test = mcnemar(*pairs(794, 150, 86, 570))
    assert not test.exact
    assert test.images == 1600
    assert test.p == pytest.approx(stats.chi2.sf(16.818, df=1), rel=1e-3)
    assert test.p == pytest.approx(4.11e-5, rel=0.01)


@pytest.mark.parametrize(("first", "second"), [(EXACT_BELOW // 2, EXACT_BELOW // 2), (30, 30), (0, 0)])
def test_as_many_on_each_side_are_no_difference(first: int, second: int) -> None:
    assert mcnemar(*pairs(5, first, second, 5)).p == pytest.approx(1)


@given(RIGHT)
def test_the_order_of_the_two_does_not_matter(table: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in table], [b for _, b in table]
    one, other = mcnemar(first, second), mcnemar(second, first)
    assert one.p == other.p
    assert one.difference == pytest.approx(-other.difference)
    assert 0 <= one.p <= 1
    assert one.difference == pytest.approx((sum(second) - sum(first)) / len(table))


def test_images_must_be_the_same() -> None:
    with pytest.raises(ValueError, match=r"the same images, at least one, but got 2 and 1"):
        mcnemar([True, False], [True])
    with pytest.raises(ValueError, match=r"but got 0 and 0"):
        mcnemar([], [])


def test_holm_raises_each_p_by_those_that_are_left() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([]) == ()


@given(st.lists(SHARES, min_size=1, max_size=10))
def test_holm_never_lowers_a_p_and_keeps_their_order(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))
    ranked = sorted(range(len(values)), key=values.__getitem__)
    assert [adjusted[k] for k in ranked] == sorted(adjusted)


def test_welch_needs_two_values_a_side_and_some_spread() -> None:
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([1.0, 1.0], [2.0, 2.0]) is None
    assert known(welch([1.0, 1.1, 0.9], [2.0, 2.1, 1.9])) < 0.001
