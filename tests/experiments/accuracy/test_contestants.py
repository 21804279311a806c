"""The searches that are compared: what they spend, and what they answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.pruners import ThresholdPruner
from optuna.samplers import RandomSampler

from cifar_core.budget import Budget, step_flops
from cifar_core.data import source
from cifar_core.data.data_set import CIFAR10
from cifar_core.hardware import Hardware
from cifar_core.recipe import FIXED_SPLIT, Recipe
from cifar_core.training import Progress, total_steps
from experiments.accuracy import contestants
from experiments.accuracy.contestants import SearchBudget, optuna_alone, our_study
from experiments.accuracy.training_runs import TrainingRun, WantedRun
from sweeps.planning.search_space import Parameter
from tests.sweeps import scripted
from tests.sweeps.scripted import PRESET, TRAIN_IMAGES, VAL_IMAGES, ScriptedExecutor, Study
from tests.sweeps.small_data import CPU, small_splits
from tests.sweeps.support import plan, point

WIDTH = Parameter(CategoricalDistribution((0.25,)))
SPACE = replace(scripted.SPACE, parameters={**scripted.SPACE.parameters, "width": WIDTH})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestants, "SPACE", SPACE)
    monkeypatch.setattr(source, "ensure_cifar10", lambda directory, progress: None)
    monkeypatch.setattr(contestants, "real_data", lambda: small_splits(TRAIN_IMAGES, VAL_IMAGES))


def test_the_compute_is_that_of_the_plan_of_the_default_study() -> None:
    whole = plan(preset=SearchBudget().preset, trials=50)
    assert SearchBudget().flops == 0.6 * 50 * whole.trial_flops() + whole.work_after_search() == 635e12


def test_optuna_spends_the_compute_on_trials_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    # By trial: training loss, accuracy at half-time and at the end. The first diverges, the third is pruned.
    script = [(math.nan, 0.3, 0.9), (1.0, 0.3, 0.5), (1.0, 0.05, 0.9), (1.0, 0.3, 0.4), (1.0, 0.3, 0.7)]
    script += [(1.0, 0.3, 0.6)] * 10
    trained: list[Any] = []
    length = Recipe(batch_size=8, epochs=0.5)

    def create(recipe: Recipe, data: object, hardware: Hardware) -> SimpleNamespace:
        trained.append(SimpleNamespace(recipe=recipe, step=0, model=len(trained)))
        return trained[-1]  # type: ignore[no-any-return]

    def train(state: Any, data: object, points: object) -> Iterator[Progress]:
        loss, *accuracies = script[state.model]
        steps = total_steps(state.recipe, TRAIN_IMAGES)
        for half, accuracy in enumerate(accuracies, start=1):
            state.step = half * steps // 2
            yield replace(point(4 * half, accuracy), train_loss=loss)

    monkeypatch.setattr(contestants, "TrainState", SimpleNamespace(create=create))
    monkeypatch.setattr(contestants, "train", train)
    monkeypatch.setattr(contestants, "evaluate", lambda model, *_: (None, model / 10))
    flops = step_flops(SPACE.recipe({"model": "fast_resnet", "optimizer": "sgd", "width": 0.25}, length), CIFAR10)
    budget = SearchBudget(
        preset=replace(PRESET, trial=Budget(flops=None, max_epochs=1), final=Budget(flops=64.0 * flops, max_epochs=9))
    )
    found = optuna_alone(0, budget, CPU, trials=4, sampler=RandomSampler, pruner=lambda: ThresholdPruner(lower=0.1))
    assert {total_steps(state.recipe, TRAIN_IMAGES) for state in trained} == {16}, "a quarter of the compute each"
    assert [state.step for state in trained] == [8, 16, 8, 16, 16], "what two of them left was enough for another"
    spent = [(p.flops / flops, p.accuracy) for p in found.points]
    assert spent == [(24, 0.5), (64, 0.7), (64, 0.7)], "the last point is the end of the search"
    assert (found.trials, found.recipe, found.tta_accuracy) == (5, trained[4].recipe.to_dict(), 0.4)
    assert len({state.recipe.seed for state in trained}) == 5


@pytest.mark.slow
def test_our_study_ends_with_the_champion_and_a_long_run_without_the_test_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Study(tmp_path / "script", small_splits(TRAIN_IMAGES, VAL_IMAGES), plan())
    accuracy = {"trial-0": 0.4, "trial-1": 0.5, "trial-2": 0.6, "trial-3": 0.5, "confirm-1-0": 0.9, "confirm-1-1": 0.8}
    script.script = lambda key: accuracy.get(key, 0.7)
    executor = ScriptedExecutor(script)
    measured: list[Recipe] = []

    def measure(wanted: WantedRun, hardware: Hardware) -> TrainingRun:
        measured.append(wanted.recipe)
        fields = {"early": 0.1, "accuracy": 0.85, "tta_accuracy": 0.86, "seconds": 1.0, "machine": "m"}
        return TrainingRun(name=wanted.name, recipe=wanted.recipe.to_dict(), **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(contestants, "LocalExecutor", lambda **_: executor)
    monkeypatch.setattr(contestants, "measure", measure)
    found = our_study(3, SearchBudget(preset=PRESET, trials=4), CPU, starts=False)
    assert [job.key for job in executor.jobs[:10]] == [
        *(f"trial-{number}" for number in range(4)),
        *(f"confirm-{trial}-{seed}" for seed in (0, 1) for trial in (0, 2, 1)),
    ]
    assert executor.tested == [], "the study stops before its test"
    [final] = measured
    trial, confirmed = executor.jobs[1].recipe, executor.jobs[6].recipe
    assert replace(final, seed=trial.seed, epochs=trial.epochs, weight_decay=trial.weight_decay) == trial
    assert (final.epochs, final.val_fraction) == (4.0, FIXED_SPLIT)
    assert len({final.seed, trial.seed, confirmed.seed}) == 3
    assert [p.accuracy for p in found.points] == [0.4, 0.5, 0.6, 0.7, 0.9, 0.85], "its own accuracy, if that is lower"
    assert sorted(p.flops for p in found.points) == [p.flops for p in found.points]
    steps = (3 * 32 + 8) + 6 * 64 + 128  # trial 3 is pruned after a quarter
    assert found.points[-1].flops == steps * step_flops(final, CIFAR10)
    assert (found.trials, found.recipe, found.tta_accuracy) == (4, final.to_dict(), 0.86)
