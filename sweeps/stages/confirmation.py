"""The confirmation: train the best recipes, and the one that the search began with, again at a larger budget."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean

import numpy as np
from optuna.trial import FrozenTrial

from cifar_core.recipe import Recipe
from sweeps.executors.protocol import Outcome
from sweeps.planning.plan import eight_validations
from sweeps.progress import SweepRun
from sweeps.stages.stage import Stage, Sweep
from sweeps.studies.keys import confirm_key, final_key
from sweeps.studies.study import Beginning, derive_seed, ranked, recipe_of, trained_trials
from sweeps.tracking.artifacts import PREDICTIONS, right_answers

_SEED_DEVIATION = 0.0015  # of the accuracy between seeds, measured on fast_resnet
_LEVEL = 0.05  # of the interval of the gain
DECISION = "decision"  # attribute of the Optuna study: the champion, and the runs that it was chosen from


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A recipe that was trained again, with the validation accuracies of its confirmation runs."""

    recipe: Recipe
    source: int  # number of the search trial
    accuracies: Mapping[str, float]  # by key of the run
    baseline: Beginning | None  # None: it is not what the search began with

    @property
    def accuracy(self) -> float:
        return fmean(self.accuracies.values())


@dataclass(frozen=True, slots=True)
class Gain:
    """Gain of the search: validation accuracy of the best recipe that it found, minus that of its first."""

    mean: float
    low: float  # 95 % interval
    high: float
    beginning: Beginning

    def metrics(self) -> dict[str, float]:
        """Return the gain as metrics of the study's run."""
        return {"study/search_gain": self.mean, "study/search_gain_low": self.low, "study/search_gain_high": self.high}

    def describe(self) -> str:
        """Return a sentence without its full stop."""
        points = f"{100 * self.mean:+.2f} points"
        interval = f"(95 % interval {100 * self.low:+.2f} to {100 * self.high:+.2f})"
        first = f"its {self.beginning.noun}"
        if self.high < 0:
            below, least, most = (f"{-100 * value:.2f}" for value in (self.mean, self.high, self.low))
            return (
                f"The search found nothing better than {first}: its own best is {below} points below it "
                f"(95 % interval {least} to {most})"
            )
        stays = f": the {self.beginning.noun} stays" if self.beginning == Beginning.KNOWN_GOOD else ""
        judged = f", within chance{stays}" if self.low <= 0 else ""
        change = f"added {points} to" if self.mean >= 0 else f"lost {points[1:]} against"
        return f"The search {change} {first} {interval}{judged}"


class Confirmation(Stage):
    """Runs of the candidates with fresh seeds, each with the key `confirm-TRIAL-SEED`."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        runs = max(1, len(self._candidates()) * sweep.plan.preset.seeds)
        self.at_once, self._threads = sweep.side_by_side(runs)
        self._predictions: dict[str, bytes] = {}  # of runs that ended in this process
        self._todo = list(self._unfinished())
        plan = sweep.plan
        self.progress = sweep.stage_of("confirm", self._todo, plan.final_flops() * plan.stretch(plan.preset.finals))
        if self._todo:  # where the budget is a number of epochs, the candidates tell more than the plan
            expected = plan.confirm_flops() / plan.preset.confirmations
            self.progress.flops_after *= self.progress.flops_each / expected

    def runs(self) -> Iterator[SweepRun]:
        """Yield the runs that are still to do, first seeds of all candidates first."""
        yield from self._todo

    def finish(self, run: SweepRun, outcome: Outcome | None) -> None:
        """Record a run that has reached its end, and keep its predictions for the comparison."""
        if outcome is not None and PREDICTIONS in outcome.files:
            self._predictions[run.key] = outcome.files[PREDICTIONS]
        super().finish(run, outcome)

    def champion(self) -> Confirmed | None:
        """Return the starting recipe, unless another is better by more than chance; None if no run is complete.

        Short runs favour recipes that lose in long ones, so a lead within chance is not followed. Without a known-good
        recipe to start from it is the one with the best mean validation accuracy. A recipe of which a run diverged is
        chosen only if there is no other. A decision stands until other runs are complete: a study that resumes keeps
        its champion.
        """
        results = {result.source: result for result in self.results()}
        runs = sorted(key for result in results.values() for key in result.accuracies)
        decided = self.sweep.study.user_attrs.get(DECISION, {})
        if decided.get("runs") == runs and decided["champion"] in results:
            return results[decided["champion"]]
        gain = self.gain
        stays = gain is not None and gain.low <= 0 and gain.beginning == Beginning.KNOWN_GOOD
        candidates = [result for result in self._steady() if result.baseline or not stays]
        champion = max(candidates, key=lambda result: result.accuracy, default=None)
        if champion is not None:
            self.sweep.study.set_user_attr(DECISION, {"champion": champion.source, "runs": runs})
        return champion

    def _has_final(self) -> bool:
        """Return true if a candidate's recipe has a complete final."""
        seeds = range(self.sweep.plan.preset.finals)
        finals = (final_key(trial.number, seed) for trial in self._candidates() for seed in seeds)
        return any(self.sweep.tracker.state(key) == "complete" for key in finals)

    @functools.cached_property
    def gain(self) -> Gain | None:
        """The gain of the search over its first recipe; None unless both can be chosen. All runs must have ended.

        The interval combines the sampling error of the images, of which each is answered by both recipes, and the
        deviation between seeds, which was measured on CIFAR-10. It holds for the best of several recipes (Bonferroni's
        correction), and for few images (Agresti & Min, "Simple improved confidence intervals for comparing matched
        proportions", 2005).
        """
        baseline = next((result for result in self._steady() if result.baseline), None)
        others = [result for result in self._steady() if not result.baseline]
        best = max(others, key=lambda result: result.accuracy, default=None)
        if baseline is None or baseline.baseline is None or best is None:
            return None
        mean, variance = self._difference(baseline, best)
        variance += sum(_SEED_DEVIATION**2 / len(result.accuracies) for result in (baseline, best))
        half = NormalDist().inv_cdf(1 - _LEVEL / 2 / len(others)) * math.sqrt(variance)
        return Gain(best.accuracy - baseline.accuracy, mean - half, mean + half, baseline.baseline)

    def results(self) -> Iterator[Confirmed]:
        """Yield each recipe with a complete run, among them earlier candidates of a study that got more trials."""
        for trial in trained_trials(self.sweep.study):
            keys = [confirm_key(trial.number, seed) for seed in range(self.sweep.plan.preset.seeds)]
            known = {k: value for k in keys if (value := self.sweep.tracker.metric(k, "val/accuracy")) is not None}
            if known:
                yield Confirmed(self._recipe(trial, 0), trial.number, known, Beginning.of(trial))

    def _steady(self) -> list[Confirmed]:
        """Return the results of recipes of which no run diverged, or all results if there are none."""
        results, seeds = list(self.results()), range(self.sweep.plan.preset.seeds)

        def diverged(result: Confirmed) -> bool:
            return any(self.sweep.tracker.state(confirm_key(result.source, seed)) == "pruned" for seed in seeds)

        return [result for result in results if not diverged(result)] or results

    def _difference(self, one: Confirmed, other: Confirmed) -> tuple[float, float]:
        """Difference of two accuracies, and its variance over samples of images.

        Without predictions, which may be lost, the two are taken as independent, which overestimates it.
        """
        ours, theirs = self._answers(one), self._answers(other)
        if ours is None or theirs is None:
            spread = sum(result.accuracy * (1 - result.accuracy) for result in (one, other))
            return other.accuracy - one.accuracy, spread / self.sweep.plan.data_set.val_images
        differences = np.mean(theirs, axis=0) - np.mean(ours, axis=0)
        count = len(differences) + 2  # with half an image on which only one is right, half on which only the other is
        mean = float(differences.sum() / count)
        return mean, (float(np.square(differences).sum() + 1) / count - mean**2) / count

    def _answers(self, result: Confirmed) -> list[list[bool]] | None:
        """Right answers by run and validation image; None if those of a run are missing or damaged."""
        known = []
        for key in result.accuracies:
            content = self._predictions.get(key) or self.sweep.tracker.artifact(key, PREDICTIONS)
            answers = right_answers(content or b"")
            if len(answers) != self.sweep.plan.data_set.val_images:
                return None
            known.append(answers)
        return known

    def _unfinished(self) -> Iterator[SweepRun]:
        sweep, preset = self.sweep, self.sweep.plan.preset
        # One that failed is tried again, until a final has made the choice.
        given_up = ("pruned", "failed") if self._has_final() else ("pruned",)
        validations = eight_validations(preset.rung_images, sweep.plan.data_set.val_images)
        for seed in range(preset.seeds):
            for trial in self._candidates():
                key = confirm_key(trial.number, seed)
                state = sweep.tracker.state(key)
                kept = sweep.store.weights(sweep.plan.study, key).exists()
                if state in given_up or (state == "complete" and kept):
                    continue
                tags = {"stage": "confirm", "trial": key, "source_trial": str(trial.number), "seed": str(seed)}
                tags |= {"baseline": beginning} if (beginning := Beginning.of(trial)) else {}
                title, recipe = f"confirm {trial.number}/{seed}", self._recipe(trial, seed)
                yield sweep.train_run(key, title, recipe, validations, tags, keep_weights=True, threads=self._threads)

    def _candidates(self) -> list[FrozenTrial]:
        """Return the first trial of the search, unless it failed or broke a limit, and then the best complete ones."""
        trials = trained_trials(self.sweep.study)
        others = ranked(trial for trial in trials if not Beginning.of(trial))
        return [trial for trial in trials if Beginning.of(trial)] + others[: self.sweep.plan.preset.recipes]

    def _recipe(self, trial: FrozenTrial, seed: int) -> Recipe:
        plan = self.sweep.plan
        fresh = replace(recipe_of(trial), seed=derive_seed(plan.seed, trial.number, seed + 1))
        return plan.preset.confirm.extend(fresh, plan.data_set.train_images, plan.data_set)
