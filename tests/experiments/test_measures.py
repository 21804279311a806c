from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from experiments.measures import Confusion, Estimate, against, best_so_far, estimate, measure, wilson
from experiments.published import load_published
from experiments.results import Reader

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake


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
    # Two runs: t with one degree of freedom, 12.706 standard errors of 0.02.
    assert spread.mean - spread.low == pytest.approx(math.hypot(12.706 * 0.02, 0.92 - wilson(0.92, 10_000)[0]))
    assert spread.high == 1.0


def test_no_runs_have_no_estimate() -> None:
    assert estimate(_runs([]), "accuracy", 10_000) is None
    assert estimate(_runs([float("nan")]), "accuracy", 10_000) is None


@pytest.mark.parametrize(("published", "word"), [(0.88, "higher"), (0.919, "level"), (0.921, "level"), (0.96, "lower")])
def test_better_than_is_said_only_beyond_chance(published: float, word: str) -> None:
    ours = Estimate(0.92, *wilson(0.92, 10_000), ("r",), 10_000)
    assert against(ours, published) == word


def test_only_complete_trials_can_be_the_best() -> None:
    trials = pd.DataFrame(
        {
            "trial": [3.0, 0.0, 1.0, 2.0],
            "metrics.val/accuracy": [0.7, 0.9, 0.5, math.nan],
            "state": ["complete", "pruned", "complete", "failed"],
            "params.model": ["a", "b", None, "a"],
            "run_id": ["r3", "r0", "r1", "r2"],
        }
    )
    frame = best_so_far(trials)
    assert frame["trial"].tolist() == [0, 1, 3]
    assert math.isnan(frame["best"].iloc[0])
    assert frame["best"].tolist()[1:] == [0.5, 0.7]
    assert frame["model"].tolist() == ["b", "unknown", "a"]


def test_the_worst_pair_is_off_the_diagonal() -> None:
    shares = ((0.8, 0.2, 0.0), (0.3, 0.7, 0.0), (0.0, 0.0, 1.0))
    assert Confusion(("a", "b", "c"), shares, ("r",), 30, "test").worst_pair() == ("b", "a", 0.3)
    perfect = ((1.0, 0.0), (0.0, 1.0))
    assert Confusion(("a", "b"), perfect, ("r",), 20, "test").worst_pair() is None


def test_the_numbers_of_a_whole_study(store: Fake) -> None:
    m = store.measures("demo")
    assert m.test is not None
    assert m.test.mean == pytest.approx(0.923)
    assert len(m.test.run_ids) == 2
    assert (m.search.complete, m.search.pruned, m.search.failed, m.search.total) == (2, 3, 1, 6)
    assert [a.name for a in m.search.architectures] == ["fast_resnet", "five_conv"]
    assert m.search.best_trial == 3
    assert m.classes[0].name == "cat"
    assert m.confusion is not None
    assert m.confusion.images == 10_000
    assert all(sum(row) == pytest.approx(1) for row in m.confusion.shares)
    assert m.looks.study == 2


def test_compute_is_priced_by_measured_wall_time(store: Fake) -> None:
    cost = store.measures("demo").cost
    assert cost.machine is not None
    assert (cost.machine.key, cost.machines, cost.estimated) == ("aws-m7g", 1, False)
    assert cost.study_usd == pytest.approx(0.0816 * 1290 / 3600)
    assert cost.retrain_usd == pytest.approx(0.0816 * 240.5 / 3600)
    assert cost.per_1000_usd == pytest.approx(0.0816 / 3600 * 1000 / 780)


def test_more_threads_than_a_machine_has_need_more_machines(store: Fake) -> None:
    study = Reader(store.place).read("demo")
    wide = measure(replace(study, tags={**study.tags, "workers": "5"}), load_published())
    assert wide.cost.machines == 3


def test_without_a_recorded_wall_time_the_runs_are_added_up(store: Fake) -> None:
    cost = store.measures("interrupted").cost
    assert cost.estimated
    assert cost.seconds == pytest.approx(95 / 2)  # one complete trial; two workers


def test_without_any_run_nothing_is_measured(fresh_store: Fake) -> None:
    fresh_store.add(trials=(), champion=(), state="interrupted")
    m = fresh_store.measures("demo")
    assert (m.test, m.validation, m.confusion, m.model, m.cost.seconds) == (None, None, None, None, None)
    assert (m.classes, m.subject_runs, m.search.architectures, m.search.total) == ((), (), (), 0)


def _runs(values: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"accuracy": values, "run_id": [f"r{i}" for i in range(len(values))]}, columns=["accuracy", "run_id"]
    )
