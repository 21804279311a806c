from __future__ import annotations

import math

import pandas as pd
import pytest

from experiments.stats import Estimate, against, apart, estimate, wilson


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81 of 263, and 0 of 20.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_one_run_has_the_interval_of_its_test_set() -> None:
    one = estimate(_runs([0.92]), "accuracy", 10_000)
    assert one is not None
    assert (one.low, one.high) == pytest.approx(wilson(0.92, 10_000))


def test_several_runs_add_the_spread_over_seeds_and_never_shrink_the_rest() -> None:
    agreeing = estimate(_runs([0.92, 0.92, 0.92]), "accuracy", 10_000)
    spread = estimate(_runs([0.90, 0.94]), "accuracy", 10_000)
    assert agreeing is not None
    assert spread is not None
    assert (agreeing.low, agreeing.high) == pytest.approx(wilson(0.92, 10_000))
    # Two runs: t with one degree of freedom, 12.7062 standard errors of 0.02.
    assert spread.mean - spread.low == pytest.approx(
        math.hypot(12.7062 * 0.02, 0.92 - wilson(0.92, 10_000)[0]), rel=1e-5
    )
    assert spread.high == 1.0


def test_no_runs_have_no_estimate() -> None:
    assert estimate(_runs([]), "accuracy", 10_000) is None
    assert estimate(_runs([float("nan")]), "accuracy", 10_000) is None


@pytest.mark.parametrize(("published", "word"), [(0.88, "higher"), (0.919, "level"), (0.921, "level"), (0.96, "lower")])
def test_better_than_is_said_only_beyond_chance(published: float, word: str) -> None:
    ours = Estimate(0.92, *wilson(0.92, 10_000), ("r",), 10_000)
    assert against(ours, published) == word


def test_two_accuracies_are_apart_only_beyond_both_intervals() -> None:
    one, other = (Estimate(v, *wilson(v, 5000), ("r",), 5000) for v in (0.92, 0.90))
    low, high = apart(one, other)
    assert 0 < low < 0.02 < high
    near = Estimate(0.91, *wilson(0.91, 500), ("r",), 500)
    low, high = apart(one, near)
    assert low < 0 < high
    assert apart(near, one) == pytest.approx((-high, -low))


def _runs(values: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"accuracy": values, "run_id": [f"r{i}" for i in range(len(values))]}, columns=["accuracy", "run_id"]
    )
