"""Accuracy by rate and batch size at several lengths: the recipes, and the table."""

from __future__ import annotations

import re

import pytest

from cifar_core.budget import step_flops
from cifar_core.data.data_set import CIFAR10
from cifar_core.recipes import read_recipe
from cifar_core.training import total_steps
from experiments.accuracy.lengths import RESULTS, recipe_of, table
from experiments.accuracy.run_file import load
from experiments.accuracy.training_runs import TrainingRun, WantedRun


def test_the_rate_goes_with_the_root_of_the_batch_size() -> None:
    small, large = recipe_of(60, 250, 1.0), recipe_of(60, 1000, 2.0)
    assert (small.peak_rate, large.peak_rate) == pytest.approx((0.075, 0.3))
    assert read_recipe("fast94").peak_rate == pytest.approx(recipe_of(240, 1000, 1.0).peak_rate)
    assert total_steps(small, 45_000) * step_flops(small, CIFAR10) == pytest.approx(60e12, rel=0.01)


def test_the_best_rate_of_the_committed_runs_falls_with_the_length() -> None:
    runs = load(RESULTS, TrainingRun)
    assert len(runs) > 50
    for run in runs:
        budget, size, multiple = re.findall(r"[\d.]+", run.name)
        assert WantedRun(run.name, recipe_of(int(budget), int(size), float(multiple))).is_measured_by(run)
    rows = list(table(runs))
    assert "| 12 | 512 | 65.3 % | 73.7 % | **77.4 %** | 75.5 % |" in rows
    assert "| 240 | 512 | 92.9 % | **93.5 %** | 92.7 % | 91.5 % |" in rows
