"""The plan: what is announced before the first trial, and how the time is estimated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cifar_core.budget import Budget, step_flops
from cifar_core.recipe import Recipe
from sweeps.planning.plan import CONFIRM_VALIDATIONS, EIGHTHS, SEARCH_SHARE, SEARCH_VALIDATIONS, Plan, measure_speed
from sweeps.planning.presets import Preset, fixed_epochs
from sweeps.planning.search_space import SPACES
from tests.sweeps import support
from tests.sweeps.small_data import CPU

PRESET = Preset(
    "for tests",
    trial=Budget(flops=16e12, max_epochs=10),
    confirm=Budget(flops=160e12, max_epochs=50),
    recipes=2,
    seeds=1,
)


@pytest.fixture
def plan() -> Plan:
    return support.plan(
        study="first",
        trials=50,
        space_name="full",
        space=SPACES["full"],
        preset_name="tiny",
        preset=PRESET,
        seed=3,
        sampler="tpe",
        pruner="halving",
    )


class TestRows:
    def test_everything_that_a_user_settled_is_announced(self, plan: Plan) -> None:
        rows = plan.rows(50)
        assert rows["study"] == "first"
        assert rows["device"].endswith(", fp32, 2 workers x 1 thread")
        assert rows["trials"] == "50"
        assert rows["space"] == "full: every architecture and optimiser"
        assert rows["each trial"] == "16 TFLOP, at most 10 epochs"
        assert rows["pruning"] == "halving"
        assert rows["confirmation"] == "best 2 recipes x 1 seed, 160 TFLOP, at most 50 epochs each"
        assert rows["estimate"].startswith("about ")
        assert not any("\n" in text for text in rows.values())

    def test_a_resumed_study_says_what_is_left(self, plan: Plan) -> None:
        assert plan.rows(7)["trials"] == "50, 7 of them to do"

    def test_without_confirmation_there_is_no_row_for_it(self, plan: Plan) -> None:
        assert "confirmation" not in replace(plan, confirm=False).rows(50)

    def test_fixed_epochs(self, plan: Plan) -> None:
        rows = replace(plan, preset=fixed_epochs(2.5)).rows(50)
        assert rows["each trial"] == "2.5 epochs"
        assert rows["confirmation"] == "best 3 recipes x 1 seed, 2.5 epochs each"

    def test_one_worker_with_all_threads(self, plan: Plan) -> None:
        assert replace(plan, workers=1, threads=8).rows(50)["device"].endswith(", 1 worker x 8 threads")


class TestEstimate:
    def test_compute_over_speed_and_some_more(self, plan: Plan) -> None:
        seconds = (50 * SEARCH_SHARE * 16e12 + 2 * 160e12) / (2 * 1e12)
        assert seconds < plan.estimate(50) < 1.3 * seconds + 30

    def test_without_pruning_every_trial_costs_the_whole(self, plan: Plan) -> None:
        alone = replace(plan, confirm=False)
        pruned, whole = alone.estimate(1000), replace(alone, pruner="none").estimate(1000)
        assert whole / pruned == pytest.approx(1 / SEARCH_SHARE, rel=0.01)

    def test_what_is_done_is_not_counted(self, plan: Plan) -> None:
        assert plan.estimate(10) < plan.estimate(50)
        assert plan.estimate(0) > replace(plan, confirm=False).estimate(0)
        assert replace(plan, confirm=False).confirm_flops() == 0

    def test_more_workers_take_less_time(self, plan: Plan) -> None:
        assert replace(plan, workers=8).estimate(50) < plan.estimate(50) / 3

    def test_fixed_epochs_are_costed_by_the_base_recipe(self, plan: Plan) -> None:
        by_epochs = replace(plan, preset=fixed_epochs(2.0))
        an_epoch = 45_000 / plan.base.batch_size * step_flops(plan.base)
        assert by_epochs.trial_flops() == pytest.approx(2 * an_epoch)
        assert by_epochs.confirm_flops() == pytest.approx(3 * 2 * an_epoch)


def test_params_for_mlflow(plan: Plan) -> None:
    assert plan.params() == {
        "trials": 50,
        "space": "full",
        "preset": "tiny",
        "seed": 3,
        "sampler": "tpe",
        "pruner": "halving",
        "trial_flops": 16e12,
        "trial_max_epochs": 10,
        "confirm_flops": 160e12,
        "confirm_recipes": 2,
        "confirm_seeds": 1,
    }


def test_runs_are_judged_at_rising_points_up_to_the_end() -> None:
    for validations in (SEARCH_VALIDATIONS, CONFIRM_VALIDATIONS):
        assert list(validations) == sorted(set(validations))
        assert validations[0] > 0
        assert validations[-1] == 1
    assert all(fraction * EIGHTHS == int(fraction * EIGHTHS) for fraction in SEARCH_VALIDATIONS)


def test_speed_is_measured_in_flops_a_second() -> None:
    speed = measure_speed(Recipe(width=0.125, batch_size=16), CPU)
    assert 1e7 < speed < 1e14
