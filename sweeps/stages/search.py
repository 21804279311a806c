"""The search: Optuna trials of equal compute, of which the pruner ends the worse ones early."""

from __future__ import annotations

import math
from collections.abc import Iterator

from optuna.trial import Trial

from cifar_core.budget import at_length, from_reference
from cifar_core.recipe import Recipe
from cifar_core.training import Progress
from sweeps.executors.protocol import Outcome, TrainJob
from sweeps.planning.presets import EIGHTHS
from sweeps.planning.search_space import TTA, reference_epochs
from sweeps.progress import StageProgress, SweepRun
from sweeps.stages.stage import Stage, Sweep
from sweeps.states import TRIAL_OF_STATE
from sweeps.studies.keys import trial_key
from sweeps.studies.pruners import Halving, MedianOfModel
from sweeps.studies.study import (
    SEARCH_SECONDS,
    ask,
    derive_seed,
    ended_trials,
    started_trials,
    trials_since_best,
    unfinished_trials,
)
from sweeps.words import best_trial, counted, narrowed, percent

_THREADS = "threads"  # attribute of a trial


class Search(Stage):
    """Trials up to the planned total, each a run with the key `trial-NUMBER`."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        self._trials: dict[str, Trial] = {}  # by key
        self._before = float(sweep.study.user_attrs.get(SEARCH_SECONDS, 0.0))
        plan = sweep.plan
        self.progress = StageProgress(
            "search",
            total=plan.trials,
            flops_each=plan.search_share * plan.trial_flops(),
            flops_after=plan.work_after_search(),
            most_seconds=math.inf if plan.timeout is None else plan.timeout - self._before,
            counts=ended_trials(sweep.study),
        )
        if self.progress.counts["complete"]:
            best = sweep.study.best_trial
            self._note_best(best.number, sweep.study.best_value, best.user_attrs["recipe"]["model"])

    def runs(self) -> Iterator[SweepRun]:
        """Yield the trials that an earlier process left unfinished, then new ones up to the planned total."""
        plan = self.sweep.plan
        for trial in unfinished_trials(self.sweep.study, self.sweep.storage):
            yield self._within_limits(trial)
        for _ in range(started_trials(self.sweep.study), plan.trials):
            if reason := self._why_end():
                left = plan.trials - started_trials(self.sweep.study)
                self.sweep.console.say(f"no further trials: {reason}; {left} of {plan.trials} are left out")
                return
            yield self._within_limits(ask(self.sweep.study, plan))

    def _why_end(self) -> str | None:
        """Return the reason to start no further trial, if there is one."""
        plan = self.sweep.plan
        if plan.timeout is not None and self._seconds() > plan.timeout:
            return f"the time of --timeout ({plan.timeout:g} s) is over"
        if plan.patience is not None and (waited := trials_since_best(self.sweep.study)) >= plan.patience:
            return f"{counted(waited, 'trial')} in a row did not beat the best"
        return None

    def why_prune(self, run: SweepRun, point: Progress) -> str | None:
        """Report the validation accuracy to Optuna; return the reason to end the trial, if its pruner asks for that."""
        assert point.val_accuracy is not None
        assert isinstance(run.job, TrainJob)
        trial, eighth = self._trials[run.key], round(run.job.schedule.planned(point) * EIGHTHS)
        if "reason" in trial.user_attrs:  # an earlier process was to end the trial
            return str(trial.user_attrs["reason"])
        reported = self.sweep.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        if eighth not in reported:
            trial.report(point.val_accuracy, eighth)
        elif eighth < max(reported):  # it has passed, and trains this part again
            return None
        if point.fraction == 1 or not trial.should_prune():
            return None
        reason = self._why(trial, point, eighth)
        trial.set_user_attr("reason", reason)
        return reason

    def _why(self, trial: Trial, point: Progress, eighth: int) -> str:
        """Return what the pruner asked of a trial, and what it reached."""
        study, pruner, asked = self.sweep.study, self.sweep.study.pruner, None
        if isinstance(pruner, Halving | MedianOfModel):  # others have no such rule
            asked = pruner.bar(study, study.get_trials(deepcopy=False)[trial.number], eighth)
        assert point.val_accuracy is not None
        reached, at = percent(point.val_accuracy), f"pruned at {percent(point.fraction, 0)} of its steps"
        if asked is None:
            return f"{reached}: {at}"
        return f"{reached}, needed {percent(asked.accuracy)}: {at}, below {asked.place}"

    def _seconds(self) -> float:
        """Wall time of the search, earlier processes included."""
        return self._before + self.sweep.progress.seconds

    def interrupt(self, run: SweepRun) -> None:
        """Record a trial that the user interrupted."""
        super().interrupt(run)
        self.sweep.study.set_user_attr(SEARCH_SECONDS, self._seconds())

    def record_end(self, run: SweepRun, state: str, reason: str, outcome: Outcome | None) -> None:
        """Record the end of a trial in MLflow, then in Optuna."""
        super().record_end(run, state, reason, outcome)
        trial, progress = self._trials[run.key], self.sweep.progress
        if reason:
            trial.set_user_attr("reason", reason)
        trial.set_user_attr("spent_flops", run.spent)
        if run.diverged:  # it would have taken no more, so that pruning has saved nothing
            trial.set_user_attr("flops", run.spent)
        self.sweep.study.set_user_attr(SEARCH_SECONDS, self._seconds())
        self.sweep.study.tell(trial, outcome.accuracy if outcome is not None else None, TRIAL_OF_STATE[state])
        progress.count_trial(self.sweep.plan.search_share * self.sweep.plan.trial_flops())
        if outcome is not None:
            self._note_best(trial.number, outcome.accuracy, run.job.recipe.model)
            self.sweep.tracker.study_progress(progress.best_accuracy, self.progress.ended)

    def _run(self, trial: Trial) -> SweepRun:
        sweep, key = self.sweep, trial_key(trial.number)
        recipe, threads = self._recipe(trial), self._threads(trial)
        tags, validations = {"stage": "search", "trial": str(trial.number)}, sweep.plan.preset.trial_validations()
        title, keeps = f"trial {trial.number}", sweep.plan.keep_weights
        run = sweep.train_run(key, title, recipe, validations, tags, keep_weights=keeps, threads=threads)
        self._trials[key] = trial
        trial.set_user_attr("recipe", recipe.to_dict())
        trial.set_user_attr("flops", run.flops)
        return run

    def _threads(self, trial: Trial) -> int | None:
        """Return the threads that a trial began with, which decide its last bits; None: as many as the workers have."""
        plan = self.sweep.plan
        if not plan.shares_cores:
            return None
        if _THREADS not in trial.user_attrs:
            trial.set_user_attr(_THREADS, plan.threads)
        return int(trial.user_attrs[_THREADS])

    def _within_limits(self, trial: Trial) -> SweepRun:
        """Return the run of a trial. It is refused if its network breaks a limit; Optuna gets the excess either way."""
        run, plan = self._run(trial), self.sweep.plan
        told = trial.constraints  # by an earlier process
        excesses = {**plan.limits.excesses(run.job.recipe, plan.hardware, plan.data_set), **told}
        for name in excesses.keys() - told.keys():
            trial.set_constraint(name, excesses[name])
        if reason := plan.limits.broken(excesses):
            run.refusal = f"not trained, {run.job.recipe.model} has {reason}"
        return run

    def _recipe(self, trial: Trial) -> Recipe:
        plan, images = self.sweep.plan, self.sweep.plan.data_set.train_images
        base = Recipe(seed=derive_seed(plan.seed, trial.number), tta=TTA, epochs=reference_epochs(images))
        recipe, scaled = plan.space.suggest(trial, base), from_reference
        if "enqueued_recipe" in trial.user_attrs:
            recipe, scaled = Recipe.from_dict(trial.user_attrs["enqueued_recipe"]), at_length
        narrow = plan.preset.trial.narrow(recipe, plan.data_set)
        if narrow is not recipe:
            self.sweep.console.say(
                f"trial {trial.number}: {recipe.model} at {narrowed(narrow, recipe)}, as a trial takes at least two "
                "steps, and a batch has at most the training images"
            )
        return scaled(narrow, plan.preset.trial.apply(narrow, images, plan.data_set).epochs)

    def _note_best(self, trial: int, accuracy: float, model: str) -> None:
        progress = self.sweep.progress
        if accuracy > progress.best_accuracy:
            progress.best_accuracy, progress.best = accuracy, best_trial(accuracy, trial, model)
