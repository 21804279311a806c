"""Accuracy by rate after many passes: the recipes, and the committed runs."""

from __future__ import annotations

import pytest

from experiments.accuracy.passes import MULTIPLES, RESULTS, SETTINGS, Setting, recipe_of, table
from experiments.accuracy.run_file import load
from experiments.accuracy.training_runs import TrainingRun, WantedRun


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_run_has_the_passes_and_the_rate_of_a_sweep_or_a_multiple(setting: Setting) -> None:
    as_in_a_sweep, half = recipe_of(setting, 1.0), recipe_of(setting, 0.5)
    assert (as_in_a_sweep.epochs, as_in_a_sweep.width) == (setting.passes, setting.width)
    assert half.peak_rate == pytest.approx(as_in_a_sweep.peak_rate / 2)
    product = as_in_a_sweep.peak_rate * as_in_a_sweep.weight_decay
    assert half.peak_rate * half.weight_decay == pytest.approx(product)
    assert as_in_a_sweep.batch_size <= setting.images


def test_the_rate_of_a_sweep_is_near_the_best_of_the_committed_runs() -> None:
    runs = load(RESULTS, TrainingRun)
    wanted = {f"{s}, rate x {m:g}": recipe_of(s, m) for s in SETTINGS for m in MULTIPLES}
    assert {run.name for run in runs} == wanted.keys()
    assert all(WantedRun(run.name, wanted[run.name]).is_measured_by(run) for run in runs)
    head, _, *rows = table(runs)
    assert head == "| images | passes | width | rate x 0.5 | rate x 0.7 | rate x 1 | rate x 1.4 |"
    assert "| 400 | 350 | 1 | 61.1 % | 62.5 % | **63.0 %** | 62.9 % |" in rows
