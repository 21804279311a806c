"""The plan: what is announced before the first trial, and how the time is estimated."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
import torch

from cifar_core.budget import Budget, step_flops
from cifar_core.data.data_set import CIFAR10
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from sweeps.planning.plan import SEARCH_SHARE, Plan, eval_schedule
from sweeps.planning.presets import Preset, fixed_epochs
from sweeps.planning.search_space import SearchSpace
from sweeps.planning.space_file import SPACES
from tests.sweeps import support
from tests.sweeps.small_data import CPU

TRIAL, CONFIRM = Budget(flops=16e12, max_epochs=10), Budget(flops=160e12, max_epochs=50)
FINAL = Budget(flops=320e12, max_epochs=100)
PRESET = Preset(
    "tiny",
    "for tests",
    trial=TRIAL,
    rung_images=1000,
    trial_images=3000,
    confirm=CONFIRM,
    recipes=2,
    seeds=1,
    final=FINAL,
    finals=1,
)

FINAL_RUNS = "the champion 3 times on all training images, 320 TFLOP, at most 100 epochs"


@pytest.fixture
def plan() -> Plan:
    return support.plan(
        study="first",
        trials=50,
        seed=3,
        sampler="tpe",
        pruner="halving",
        space=SPACES["full"],
        preset=PRESET,
    )


class TestRows:
    def test_everything_that_a_user_settled_is_announced(self, plan: Plan) -> None:
        minutes = round(plan.estimate(50) / 60)
        assert "enqueue" not in plan.latest(), "what an earlier command gave stays on record"
        given = replace(plan, earlier="first", enqueue=("five_conv", "my recipe.toml"), patience=20)
        assert {name: given.latest()[name] for name in ("timeout", "patience", "from", "enqueue")} == {
            "timeout": "None",
            "patience": "20",
            "from": "first",
            "enqueue": "five_conv 'my recipe.toml'",
        }
        assert "estimate" not in plan.rows(0), "how much of confirmation and final is left is not known yet"
        assert plan.rows(50) == {
            "study": "first",
            "device": f"{CPU.describe()}, fp32, 2 workers x 1 thread",
            "trials": "50",
            "space": f"full: {SPACES['full'].description}",
            "each trial": "16 TFLOP, at most 10 epochs",
            "pruning": "halving, judged on 1,000 images, at the end on 3,000",
            "confirmation": "best 2 recipes and the starting one x 1 seed, 160 TFLOP, at most 50 epochs each",
            "final": "the champion once on all training images, 320 TFLOP, at most 100 epochs",
            "estimate": f"about {minutes} min at the speed just measured",
        }

    @pytest.mark.parametrize(
        ("change", "row", "text"),
        [
            ({"preset": fixed_epochs(2.5)}, "each trial", "2.5 epochs"),
            (
                {"preset": fixed_epochs(2.5)},
                "confirmation",
                "best 3 recipes and the starting one x 1 seed, 2.5 epochs each",
            ),
            (
                {"starts": False},
                "confirmation",
                "best 2 recipes and the first one x 1 seed, 160 TFLOP, at most 50 epochs each",
            ),
            ({"preset": replace(PRESET, finals=3)}, "final", FINAL_RUNS),
            ({"confirm": False}, "final", None),
            ({"confirm": False}, "confirmation", None),
            ({"workers": 1, "threads": 8}, "device", f"{CPU.describe()}, fp32, 1 worker x 8 threads"),
            ({"trials": 57}, "trials", "57, 50 of them to do"),
            ({}, "stops", None),
            (
                {"timeout": 600.0, "patience": 5},
                "stops",
                "no further trial after 600 s or 5 trials in a row without a better one",
            ),
        ],
    )
    def test_what_differs(self, plan: Plan, change: dict[str, Any], row: str, text: str | None) -> None:
        assert replace(plan, **change).rows(50).get(row) == text


class TestEstimate:
    def test_compute_over_speed_and_some_more(self, plan: Plan) -> None:
        seconds = (50 * SEARCH_SHARE * 16e12 + 3 * 160e12 + 320e12) / (2 * 1e12)
        assert 1.1 * seconds < plan.estimate(50) - 10 < 1.3 * seconds, "after ten seconds to start"

    def test_what_changes_it(self, plan: Plan) -> None:
        assert plan.estimate(10) < plan.estimate(50), "what is done is not counted"
        brief = replace(plan, timeout=60)
        assert brief.estimate(10_000) == pytest.approx(plan.estimate(0) + 60)
        assert brief.estimate(10_000, searched=45) == pytest.approx(plan.estimate(0) + 15)
        assert brief.estimate(10_000, searched=90) == brief.estimate(0) == plan.estimate(0)
        assert replace(plan, workers=8, cores=8).estimate(50) < plan.estimate(50) / 3
        assert replace(plan, workers=8).estimate(50) == plan.estimate(50), "they share two cores"
        alone = replace(plan, confirm=False)
        assert alone.estimate(0) < plan.estimate(0)
        assert alone.work_after_search() == 0
        pruned, whole = alone.estimate(1000), replace(alone, pruner="none").estimate(1000)
        assert whole / pruned == pytest.approx(1 / SEARCH_SHARE, rel=0.01)

    def test_workers_that_wait_for_the_last_runs_take_time_where_they_share_no_cores(
        self, plan: Plan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert plan.stretch(1) == 1, "one machine gives all its cores to the only run"
        cluster = replace(plan, on_cluster=True, workers=8)
        assert [cluster.stretch(runs) for runs in (0, 1, 8, 10)] == [1, 8, 1, 1.6]
        confirmed = plan.preset.confirmations
        after = plan.confirm_flops() * cluster.stretch(confirmed) + 8 * plan.final_flops()
        assert cluster.work_after_search() == after > plan.work_after_search()
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        gpus = replace(plan, hardware=Hardware(torch.device("cuda"), bf16=True), workers=8)
        assert [gpus.stretch(runs) for runs in (1, 2, 3)] == [2, 1, 4 / 3], "workers that share a GPU are one"
        assert gpus.estimate(50) == replace(gpus, workers=2).estimate(50) < replace(gpus, workers=1).estimate(50)

    @pytest.mark.parametrize("name", ["full", "fast", "none"])
    def test_fixed_epochs_are_costed_by_the_known_good_recipes_of_the_space(self, plan: Plan, name: str) -> None:
        space = SPACES.get(name, SearchSpace(name="none", description="", parameters={}))
        by_epochs = replace(plan, preset=fixed_epochs(2.0), space=space)
        recipes = [space.recipe(start, Recipe()) for start in space.starts] or [Recipe()]
        an_epoch = fmean(45_000 / recipe.batch_size * step_flops(recipe, CIFAR10) for recipe in recipes)
        assert by_epochs.trial_flops() == pytest.approx(2 * an_epoch)
        assert by_epochs.confirm_flops() == pytest.approx(4 * 2 * an_epoch)
        assert by_epochs.final_flops() == pytest.approx(2 * an_epoch)


def test_params_for_mlflow(plan: Plan) -> None:
    assert plan.params() == {
        "trials": 50,
        "space": "full",
        "space_hash": SPACES["full"].hash,
        "preset": "tiny",
        "seed": 3,
        "sampler": "tpe",
        "pruner": "halving",
        "trial_flops": 16e12,
        "trial_max_epochs": 10,
        "confirm_flops": 160e12,
        "confirm_recipes": 2,
        "confirm_seeds": 1,
        "final_flops": 320e12,
        "final_seeds": 1,
        "rung_images": 1000,
        "trial_images": 3000,
        "starts": True,
        "max_parameters": None,
        "max_latency": None,
    }


def test_runs_are_judged_at_rising_points_up_to_the_end() -> None:
    schedule = eval_schedule(PRESET.trial_validations())
    assert schedule.validations == {0.25: 1000, 0.5: 1000, 0.75: 1000, 1.0: 3000}
