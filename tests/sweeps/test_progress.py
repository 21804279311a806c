"""SweepProgress: the time left, and the costs of a run."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest

from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule
from sweeps.executors.protocol import TrainJob
from sweeps.progress import StageProgress, SweepProgress, SweepRun
from tests.sweeps.support import point

JOB = TrainJob(key="trial-0", recipe=Recipe(batch_size=50), schedule=EvalSchedule())


def test_costs_so_far() -> None:
    run = SweepRun("trial 0", JOB, flops=8e12)
    assert (run.spent, run.costs()) == (0.0, {})
    run.point = point(2)
    assert run.costs() == pytest.approx(
        {
            "cost/seconds": 0.2,
            "cost/training_flops": 2e12,
            "cost/epochs": 0.5,
            "cost/images_per_second": 100 / 0.18,
            "cost/validation_share": 0.1,
        }
    )


def test_a_trial_that_is_pruned_at_low_resolution_cost_less() -> None:
    job = replace(JOB, recipe=replace(JOB.recipe, low_resolution=0.5))
    early, late = (SweepRun("trial 0", job, flops=8e12, point=point(step)) for step in (2, 4))
    assert (early.spent, late.spent) == pytest.approx((1.33e12, 2.66e12), rel=0.01)
    assert replace(late, resumed_at=0.25).spent_here == pytest.approx(early.spent)


@pytest.mark.parametrize(("stage", "in_it"), [("search", 1.0), ("confirm", 0.9)])
def test_time_left_is_the_remaining_compute_at_the_speed_so_far(stage: str, in_it: float) -> None:
    counts = Counter(complete=2, pruned=1)
    of_stage = StageProgress(stage, total=10, flops_each=4e12, flops_after=10e12, counts=counts)
    progress = SweepProgress(of_stage)
    progress.start_time -= 100
    ended, run = (SweepRun("trial 3", JOB, flops=flops, point=point(2)) for flops in (32e12, 8e12))
    progress.add(ended)
    in_stage = 6 * 4e12 + 2e12  # the one that runs has done 2 of 4 TFLOP that a run takes on average
    left = in_stage * in_it + 10e12 * 0.9  # a tenth of the time was validation, which trials of a search have more of
    assert progress.view("s", [run]).seconds_left == pytest.approx(left / (10e12 / 100), rel=0.01)


def test_what_a_run_resumed_from_was_not_computed_here_and_idle_workers_stretch_the_time() -> None:
    progress = SweepProgress(StageProgress("final", total=1, flops_each=8e12, stretch=4.0))
    progress.start_time -= 100
    run = SweepRun("final 0/0", JOB, flops=8e12, point=point(6), resumed_at=0.5)
    assert (run.spent, run.spent_here) == (6e12, 2e12)
    assert progress.view("s", [run]).seconds_left == pytest.approx(2e12 * 0.9 * 4 / (2e12 / 100), rel=0.01)
    progress.add(run)
    assert progress.spent == 2e12


def test_a_search_starts_no_trial_after_its_time() -> None:
    search = StageProgress("search", total=1000, flops_each=4e12, flops_after=1e12, most_seconds=130)
    progress = SweepProgress(search, spent=8e12)
    progress.start_time -= 100
    run = SweepRun("trial 3", JOB, flops=8e12, point=point(2))
    share, speed = 0.9, 10e12 / 100
    assert progress.view("s", [run]).seconds_left == pytest.approx(30 + (2e12 + share * 1e12) / speed, abs=1.5)
    progress.start_time -= 100
    assert progress.view("s", [run]).seconds_left == pytest.approx(2 * (2e12 + share * 1e12) / speed, abs=1.5)


def test_no_estimate_at_first() -> None:
    assert SweepProgress(spent=1e12).view("s", []).seconds_left is None
    assert SweepProgress(start_time=time.monotonic() - 100).view("s", []).seconds_left is None


def test_ended_trials_predict_the_next_ones() -> None:
    progress = SweepProgress(StageProgress("search", total=10, flops_each=9e12), spent=6e12)
    progress.count_trial(9e12)
    assert progress.stage.flops_each == pytest.approx((10 * 9e12 + 6e12) / 11), "what was expected weighs as ten trials"
    progress.trials, progress.spent = 9_989, 9_990 * 3e12
    progress.count_trial(9e12)
    assert progress.stage.flops_each == pytest.approx(3e12, rel=0.01)


def test_a_view_does_not_change_with_the_sweep() -> None:
    progress = SweepProgress(StageProgress("search", total=10))
    view = progress.view("s", [])
    progress.stage.counts["failed"] += 1
    assert (view.stage.ended, progress.stage.ended) == (0, 1)
