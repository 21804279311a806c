from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.stats import FEW, Estimate, gap_interval, holm, mcnemar, welch

RIGHT = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


def pairs(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    table = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    return [a for a, _ in table], [b for _, b in table]


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


@pytest.mark.parametrize(("first", "second"), [(FEW // 2, FEW // 2), (30, 30), (0, 0)])
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


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_never_lowers_a_p_and_keeps_their_order(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))
    ranked = sorted(range(len(values)), key=values.__getitem__)
    assert [adjusted[k] for k in ranked] == sorted(adjusted)


def test_the_interval_of_a_difference_joins_both_in_squares() -> None:
    ours, theirs = Estimate(0.9, 0.87, 0.92, ("a",), 100), Estimate(0.8, 0.77, 0.84, ("b",), 100)
    assert gap_interval(ours, theirs) == pytest.approx((0.1 - 0.05, 0.1 + (0.02**2 + 0.03**2) ** 0.5))


def test_welch_needs_two_values_a_side_and_some_spread() -> None:
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([1.0, 1.0], [2.0, 2.0]) is None
    p = welch([1.0, 1.1, 0.9], [2.0, 2.1, 1.9])
    assert p is not None
    assert p < 0.001
