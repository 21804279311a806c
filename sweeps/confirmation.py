"""The confirmation: train the best recipes again at a larger budget, and test the champion among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from optuna.trial import FrozenTrial, TrialState

from cifar_core.recipe import Recipe
from sweeps.executors.protocol import EvaluateJob, Failed, Outcome
from sweeps.planning.plan import CONFIRM_VALIDATIONS
from sweeps.progress import StageProgress, SweepRun
from sweeps.stage import Stage, Sweep
from sweeps.study import derive_seed


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A recipe that was trained again, with the validation accuracies of its confirmation runs."""

    recipe: Recipe
    source: int  # number of the search trial
    accuracies: Mapping[str, float]  # by key of the run

    @property
    def accuracy(self) -> float:
        return fmean(self.accuracies.values())


class Confirmation(Stage):
    """Runs of the best recipes with fresh seeds, each with the key `confirm-TRIAL-SEED`."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        self._todo = list(self._unfinished())
        flops_each = fmean(run.flops for run in self._todo) if self._todo else 0.0
        sweep.progress.stage = StageProgress("confirm", len(self._todo), flops_each)

    def runs(self) -> Iterator[SweepRun]:
        """Yield the runs that are still to do, first seeds of all candidates first."""
        yield from self._todo

    def champion(self) -> Confirmed | None:
        """Return the recipe with the best mean validation accuracy; None if no run is complete."""
        confirmed = [result for trial in self._candidates() if (result := self._confirmed(trial)) is not None]
        return max(confirmed, key=lambda result: result.accuracy, default=None)

    def total(self, metric: str) -> float:
        """Return the sum of a metric over all complete runs."""
        keys = [_key(trial, seed) for trial in self._candidates() for seed in range(self.sweep.plan.preset.seeds)]
        return sum(self.sweep.tracker.metric(key, metric) or 0.0 for key in keys)

    def _unfinished(self) -> Iterator[SweepRun]:
        sweep = self.sweep
        for seed in range(sweep.plan.preset.seeds):
            for trial in self._candidates():
                key = _key(trial, seed)
                state = sweep.tracker.state(key)
                kept = sweep.store.weights(sweep.plan.study, key).exists()
                if state in ("pruned", "failed") or (state == "complete" and kept):
                    continue
                tags = {"stage": "confirm", "trial": key, "source_trial": str(trial.number), "seed": str(seed)}
                title, recipe = f"confirm {trial.number}/{seed}", self._recipe(trial, seed)
                yield sweep.train_run(key, title, recipe, CONFIRM_VALIDATIONS, tags, keep_weights=True)

    def _candidates(self) -> list[FrozenTrial]:
        complete = self.sweep.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        ranked = sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))
        return ranked[: self.sweep.plan.preset.recipes]

    def _recipe(self, trial: FrozenTrial, seed: int) -> Recipe:
        plan = self.sweep.plan
        recipe = Recipe.from_dict(trial.user_attrs["recipe"])
        fresh = replace(recipe, seed=derive_seed(plan.seed, trial.number, seed + 1))
        return plan.preset.confirm.extend(fresh, self.sweep.train_images)

    def _confirmed(self, trial: FrozenTrial) -> Confirmed | None:
        keys = [_key(trial, seed) for seed in range(self.sweep.plan.preset.seeds)]
        found = {key: value for key in keys if (value := self.sweep.tracker.metric(key, "val/accuracy")) is not None}
        return Confirmed(self._recipe(trial, 0), trial.number, found) if found else None


class ChampionTest(Stage):
    """Evaluation of each of the champion's runs on the sealed test set, once."""

    def __init__(self, sweep: Sweep, champion: Confirmed) -> None:
        super().__init__(sweep)
        self._champion = champion
        sweep.progress.stage = StageProgress("test", len(champion.accuracies))

    def runs(self) -> Iterator[SweepRun]:
        """Yield the champion's runs that have no test accuracy yet."""
        for key in self._champion.accuracies:
            if self.sweep.tracker.metric(key, "test/accuracy") is None:
                weights = self.sweep.store.weights(self.sweep.plan.study, key)
                yield SweepRun(f"test of {key}", EvaluateJob(key=key, recipe=self._champion.recipe, weights=weights))

    def mean(self, metric: str) -> float | None:
        """Return the mean of a metric over the champion's runs, or None if none has it."""
        values = [self.sweep.tracker.metric(key, metric) for key in self._champion.accuracies]
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    def start(self, run: SweepRun) -> None:
        """Log the network, and record the evaluation before it happens."""
        weights = self.sweep.store.weights(self.sweep.plan.study, run.key)
        self.sweep.tracker.log_model(run.key, run.job.recipe, weights)
        self.sweep.store.record_test_set_evaluation(study=self.sweep.plan.study, key=run.key)

    def finish(self, run: SweepRun, outcome: Outcome) -> None:
        """Record the test accuracy."""
        self.sweep.tracker.tested(run.key, outcome, {"champion": "true"})
        self.sweep.progress.stage.counts["complete"] += 1

    def fail(self, run: SweepRun, event: Failed) -> None:
        """Raise: a network that trained must also evaluate."""
        raise RuntimeError(f"the {run.title} failed: {event.reason}\n{event.details}")

    def interrupt(self, run: SweepRun) -> None:
        """The next sweep evaluates again; the run itself is complete."""


def _key(trial: FrozenTrial, seed: int) -> str:
    return f"confirm-{trial.number}-{seed}"
