"""The searches of the comparison: our study, and Optuna alone on the same trainer and the same space.

Our study is that of `run_study.py --preset quick`: pruned short trials, a confirmation, and a long last run of the
chosen recipe. That run trains on the 45,000 training images in place of all 50,000, so that the test set stays sealed.

Optuna alone spends the compute of that plan on trials of one length, and its answer is the network of its best trial.
It picks that by the validation images that judge it, which is to its advantage: the last run of ours is judged once.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from pydantic.dataclasses import dataclass as validated

from cifar_core.budget import Budget, from_reference, step_flops
from cifar_core.data import Splits
from cifar_core.data.data_set import CIFAR10
from cifar_core.data.source import DataSource
from cifar_core.evaluation.pictures import samples
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, TrainState, evaluate, total_steps, train
from experiments.accuracy.training_runs import WantedRun, measure
from experiments.benchmarks import real_data
from experiments.benchmarks.quiet_sweep import run_quietly
from experiments.reading.load_study import read_tables
from experiments.reading.study_reader import StudyReader
from sweeps.executors.local import LocalExecutor
from sweeps.planning.plan import SEARCH_SHARE, Plan, eight_validations, eval_schedule
from sweeps.planning.presets import EIGHTHS, PRESETS, Preset
from sweeps.planning.search_space import TTA, reference_epochs
from sweeps.planning.space_file import SPACES
from sweeps.stages.confirmation import DECISION
from sweeps.store import Store
from sweeps.studies.study import derive_seed
from sweeps.validation import STRICT

SPACE = SPACES["full"]
_STUDY = "benchmark"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchBudget:
    """Limits of a search: the compute that a study of `trials` trials of `preset` plans; of a usual sweep `seconds`."""

    preset: Preset = PRESETS["quick"]
    trials: int = 50
    seconds: float = 1500

    @property
    def flops(self) -> float:
        """Training FLOPs that the plan of such a study expects."""
        preset = self.preset
        trial, confirm, final = (budget.flops or 0.0 for budget in (preset.trial, preset.confirm, preset.final))
        return SEARCH_SHARE * self.trials * trial + preset.confirmations * confirm + final


@validated(config=STRICT, frozen=True, kw_only=True, slots=True)
class BestSoFar:
    """The best network of a search at one time. `flops` and `seconds` count from the start of the search."""

    flops: float
    seconds: float
    accuracy: float  # on the validation images of the trial or run that trained it


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """Result of a search: its number of trials, its curve, and the parameters of its best network."""

    hardware: Hardware  # hardware of the trainings
    trials: int
    points: Sequence[BestSoFar]
    tta_accuracy: float | None
    recipe: Mapping[str, Any]


def our_study(seed: int, budget: SearchBudget, hardware: Hardware, *, starts: bool) -> SearchResult:
    """Run a study up to the choice of its champion, then train the champion's recipe for the length of a final."""
    began, clock = datetime.now(UTC), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        store = Store.locate(Path(folder))
        recipe = _champion(seed, budget, hardware, store, starts=starts)
        study = read_tables(StudyReader(store), _STUDY)
    runs = pd.concat([study.search, study.confirm]).dropna(subset="metrics.cost/training_flops").sort_values("end")
    runs["spent"] = runs["metrics.cost/training_flops"].cumsum()
    points: list[BestSoFar] = []
    for _, run in runs[runs["state"] == "complete"].iterrows():
        if not points or run["metrics.val/accuracy"] > points[-1].accuracy:
            elapsed = (run["end"] - began).total_seconds()
            points.append(BestSoFar(flops=run["spent"], seconds=elapsed, accuracy=run["metrics.val/accuracy"]))
    images = len(real_data().train)
    final = budget.preset.final.extend(recipe, images, CIFAR10)
    trained = measure(WantedRun("final", final), hardware)
    spent = runs["metrics.cost/training_flops"].sum() + step_flops(final, CIFAR10) * total_steps(final, images)
    points.append(BestSoFar(flops=spent, seconds=time.perf_counter() - clock, accuracy=trained.accuracy))
    return SearchResult(
        hardware=hardware,
        trials=len(study.search),
        points=points,
        tta_accuracy=trained.tta_accuracy,
        recipe=final.to_dict(),
    )


def _champion(seed: int, budget: SearchBudget, hardware: Hardware, store: Store, *, starts: bool) -> Recipe:
    """Run a study until it has chosen its champion; return the champion's recipe in the search."""
    data = real_data()
    plan = Plan(
        study=_STUDY,
        trials=budget.trials,
        space=SPACE,
        preset=budget.preset,
        seed=seed,
        sampler="tpe",
        pruner="halving",
        confirm=True,
        starts=starts,
        data_set=replace(CIFAR10, train_images=len(data.train), val_images=len(data.val)),
        hardware=hardware,
        workers=1,
        threads=torch.get_num_threads(),
        cores=torch.get_num_threads(),
        flops_per_second=1e12,  # for an estimate of the time, which nobody sees
    )
    store.create()
    loaders = DataSource.cifar10(None, lambda *_: None)
    executor = LocalExecutor(workers=plan.workers, threads=plan.threads, hardware=hardware, data=loaders)
    study = run_quietly(
        plan, store, executor, samples=lambda: samples(data.train), stop=lambda study: DECISION in study.user_attrs
    )
    champion = study.trials[study.user_attrs[DECISION]["champion"]]
    recipe = Recipe.from_dict(champion.user_attrs["recipe"])
    return replace(recipe, seed=derive_seed(seed, champion.number, budget.preset.seeds + 1))


def optuna_alone(
    seed: int,
    budget: SearchBudget,
    hardware: Hardware,
    *,
    trials: int,
    sampler: Callable[..., BaseSampler],
    pruner: Callable[[], BasePruner] = NopPruner,
) -> SearchResult:
    """Run trials, each on 1/`trials` of the compute, until it is spent; what pruning saves pays for more."""
    clock, data = time.perf_counter(), real_data()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Hyperband assigns the trials to its brackets by the name of the study.
    study = optuna.create_study(study_name=str(seed), sampler=sampler(seed=seed), pruner=pruner(), direction="maximize")
    trial_budget = Budget(flops=budget.flops / trials, max_epochs=budget.preset.final.max_epochs)
    schedule = eval_schedule(eight_validations(budget.preset.rung_images, len(data.val)))
    points: list[BestSoFar] = []
    spent, chosen, tta_accuracy = 0.0, Recipe(), None
    while spent + budget.flops / trials <= budget.flops:
        trial = study.ask()
        base = Recipe(seed=derive_seed(seed, trial.number), tta=TTA, epochs=reference_epochs(len(data.train)))
        recipe = trial_budget.narrow(SPACE.suggest(trial, base), CIFAR10)
        recipe = from_reference(recipe, trial_budget.apply(recipe, len(data.train), CIFAR10).epochs)
        state = TrainState.create(recipe, data, hardware)
        accuracy = _train(trial, state, data, schedule)
        done = state.step / total_steps(recipe, len(data.train))
        spent += step_flops(recipe, CIFAR10, until=done) * state.step
        study.tell(trial, accuracy, TrialState.PRUNED if accuracy is None else TrialState.COMPLETE)
        if accuracy is not None and (not points or accuracy > points[-1].accuracy):
            points.append(BestSoFar(flops=spent, seconds=time.perf_counter() - clock, accuracy=accuracy))
            chosen, (_, tta_accuracy) = recipe, evaluate(state.model, data.val, hardware, recipe)
    points.append(replace(points[-1], flops=spent, seconds=time.perf_counter() - clock))
    return SearchResult(
        hardware=hardware,
        trials=len(study.trials),
        points=points,
        tta_accuracy=tta_accuracy,
        recipe=chosen.to_dict(),
    )


def _train(trial: optuna.Trial, state: TrainState, data: Splits, schedule: EvalSchedule) -> float | None:
    """Train a trial and report to Optuna in eighths; return its accuracy, None if it is pruned or diverges."""
    accuracy = None
    for progress in train(state, data, schedule):
        if not math.isfinite(progress.train_loss):
            return None
        if (accuracy := progress.val_accuracy) is not None:
            trial.report(accuracy, round(progress.fraction * EIGHTHS))
            if progress.fraction < 1 and trial.should_prune():
                return None
    return accuracy
