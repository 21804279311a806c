"""The best recipes of a search, trained again at a larger budget; the champion among them; and its test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import fmean

import optuna
from optuna.trial import FrozenTrial, TrialState

from cifar_core.recipe import Recipe
from cifar_core.training import Watch
from sweeps.executors.protocol import Job
from sweeps.plan import CONFIRM_VALIDATIONS
from sweeps.runs import RunMaker, SweepRun
from sweeps.study import derive_seed
from sweeps.tracking.tracker import RunLabel, Tracker


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A recipe that was trained again: with which runs, and how well they did on the validation images."""

    recipe: Recipe
    source: int  # number of the search trial
    search_accuracy: float
    keys: tuple[str, ...]
    accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        return fmean(self.accuracies)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What the search's outcome leaves to be done; what the tracker knows as complete is not done again."""

    study: optuna.Study
    maker: RunMaker
    tracker: Tracker

    def runs(self) -> Iterator[SweepRun]:
        """The runs that are still to be done, first seeds of all candidates first."""
        for seed in range(self.maker.plan.preset.seeds):
            for trial in self._candidates():
                key = _key(trial, seed)
                weights = self.maker.store.weights(self.maker.plan.study, key)
                state = self.tracker.state(key)
                if state in ("pruned", "failed") or (state == "complete" and weights.exists()):
                    continue
                tags = {"stage": "confirm", "trial": key, "source_trial": str(trial.number), "seed": str(seed)}
                title = f"confirm {trial.number}/{seed}"
                run = self.maker.make(key, title, self._recipe(trial, seed), CONFIRM_VALIDATIONS, tags)
                run.job = replace(run.job, weights=weights)
                yield run

    def champion(self) -> Confirmed | None:
        """The recipe with the best mean validation accuracy; None where no run is complete."""
        confirmed = [result for trial in self._candidates() if (result := self._confirmed(trial)) is not None]
        return max(confirmed, key=lambda result: result.accuracy, default=None)

    def tests(self, champion: Confirmed) -> Iterator[SweepRun]:
        """The champion's runs that have not met the test set; each of them does once."""
        for key in champion.keys:
            if self.tracker.metric(key, "test/accuracy") is not None:
                continue
            weights = self.maker.store.weights(self.maker.plan.study, key)
            label = RunLabel(key=key, name=f"test of {key}", tags={}, params={})
            job = Job(key=key, recipe=champion.recipe, watch=Watch((), (), ()), weights=weights, open_test_set=True)
            yield SweepRun(label.name, label, champion.recipe, job, flops=0.0)

    def test_accuracy(self, champion: Confirmed) -> float:
        """Mean over the champion's runs."""
        values = [self.tracker.metric(key, "test/accuracy") for key in champion.keys]
        return fmean(value for value in values if value is not None)

    def total(self, metric: str) -> float:
        """Sum of a metric over all complete runs."""
        keys = [_key(trial, seed) for trial in self._candidates() for seed in range(self.maker.plan.preset.seeds)]
        return sum(self.tracker.metric(key, metric) or 0.0 for key in keys)

    def _candidates(self) -> list[FrozenTrial]:
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        ranked = sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))
        return ranked[: self.maker.plan.preset.recipes]

    def _recipe(self, trial: FrozenTrial, seed: int) -> Recipe:
        recipe = Recipe.from_dict(trial.user_attrs["recipe"])
        fresh = replace(recipe, seed=derive_seed(self.maker.plan.seed, trial.number, seed + 1))
        return self.maker.plan.preset.confirm.prolong(fresh, self.maker.train_images)

    def _confirmed(self, trial: FrozenTrial) -> Confirmed | None:
        keys = [_key(trial, seed) for seed in range(self.maker.plan.preset.seeds)]
        found = {key: value for key in keys if (value := self.tracker.metric(key, "val/accuracy")) is not None}
        if not found:
            return None
        return Confirmed(
            recipe=self._recipe(trial, 0),
            source=trial.number,
            search_accuracy=trial.value or 0.0,
            keys=tuple(found),
            accuracies=tuple(found.values()),
        )


def _key(trial: FrozenTrial, seed: int) -> str:
    return f"confirm-{trial.number}-{seed}"
