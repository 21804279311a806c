"""Accuracy by rate after many passes: the recipes, and the table."""

from __future__ import annotations

import pytest

from experiments.accuracy.passes import MULTIPLES, SETTINGS, Setting, recipe_of, table
from experiments.accuracy.training_runs import TrainingRun, WantedRun
from tests.experiments.accuracy.test_training_runs import run_of


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_run_has_the_passes_and_the_rate_of_a_sweep_or_a_multiple(setting: Setting) -> None:
    as_in_a_sweep, half = recipe_of(setting, 1.0, seed=3), recipe_of(setting, 0.5, seed=3)
    assert (as_in_a_sweep.epochs, as_in_a_sweep.width, as_in_a_sweep.seed) == (setting.passes, setting.width, 3)
    assert half.peak_rate == pytest.approx(as_in_a_sweep.peak_rate / 2)
    product = as_in_a_sweep.peak_rate * as_in_a_sweep.weight_decay
    assert half.peak_rate * half.weight_decay == pytest.approx(product)
    assert as_in_a_sweep.batch_size <= setting.images


def test_a_row_has_means_over_the_seeds_that_are_measured_at_each_rate() -> None:
    setting = SETTINGS[1]

    def run(multiple: float, seed: int, accuracy: float) -> TrainingRun:
        return run_of(WantedRun(f"{setting}, rate x {multiple:g}", recipe_of(setting, multiple, seed)), accuracy)

    runs = [run(multiple, 0, 0.5 + multiple / 10) for multiple in MULTIPLES]
    runs += [run(multiple, 1, 0.6 - multiple / 5) for multiple in MULTIPLES[:2]]
    head, _, row = table(runs)
    assert head == "| images | passes | width | seeds | rate x 0.5 | rate x 0.7 | rate x 1 | rate x 1.4 |"
    assert row == "| 400 | 350 | 1 | 1 | 55.0 % | 57.0 % | 60.0 % | **64.0 %** |"
