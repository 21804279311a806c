"""The one process that asks, tells, reports, prunes, resumes and records.

A sweep has three stages: the search (Optuna trials of equal compute, pruned by successive halving), the
confirmation (the best recipes trained again at a larger budget) and the test (the champion, and nobody else,
meets the sealed test set). Run keys say which run is which, so every stage goes on where it was left.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState

from cifar_core.checkpoint import Checkpoints
from cifar_core.errors import first_line
from cifar_core.recipe import Recipe
from sweeps.confirmation import Confirmation, Confirmed
from sweeps.console import SweepConsole, percent
from sweeps.executors.protocol import (
    Diverged,
    Event,
    Executor,
    Failed,
    Finished,
    Noted,
    Outcome,
    Paused,
    Point,
    Progressed,
    Unkept,
)
from sweeps.plan import EIGHTHS, SEARCH_SHARE, SEARCH_VALIDATIONS, Plan, narrowed
from sweeps.progress import Progress, Stage
from sweeps.runs import RunMaker, SweepRun
from sweeps.store import Store, StoreError
from sweeps.study import begun, derive_seed
from sweeps.tracking.mlflow_client import STUDY_KEY
from sweeps.tracking.tracker import RunLabel, Tracker

_ATTEMPTS = 3  # of a run whose worker dies, without getting any further
_POLL_SECONDS = 0.25
_PAUSE_SECONDS = 6.0  # for workers to save their states once a stop was asked for


class Interrupted(Exception):
    """The user asked to stop; everything so far is recorded."""


class StoreLostError(Exception):
    """The store takes no more; what it took is whole, and running trials will go on. The message is one line."""


@dataclass(slots=True)
class Summary:
    """What a sweep came to."""

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    search_flops: float = 0.0
    full_flops: float = 0.0
    confirm_flops: float = 0.0
    confirm_seconds: float = 0.0
    champion: Confirmed | None = None
    test_accuracy: float | None = None
    nothing_left: bool = False

    @property
    def saved(self) -> float:
        """Fraction of the compute of unpruned trials that was not spent."""
        return 1 - self.search_flops / self.full_flops if self.full_flops else 0.0

    def metrics(self, seconds: float) -> dict[str, float]:
        """What the study's own run states at its end, after `seconds` of wall time in all."""
        return {
            "study/seconds": seconds,
            "study/search_flops": self.search_flops,
            "study/full_flops": self.full_flops,
            "study/saved_fraction": self.saved,
            "study/confirm_flops": self.confirm_flops,
            "study/confirm_seconds": self.confirm_seconds,
        }


@dataclass
class Coordinator:
    """Runs a planned sweep to its end, from wherever it stands.

    Args:
        train_images, val_images: in the data set's splits.
        samples: a picture of training images, as PNG.
        tags: what every run is tagged with: commit, data, machine.
        stop: asked between events; once true, `Interrupted` is raised.
    """

    plan: Plan
    study: optuna.Study
    train_images: int
    val_images: int
    samples: bytes
    executor: Executor
    tracker: Tracker
    store: Store
    console: SweepConsole
    tags: Mapping[str, str]
    stop: Callable[[], bool] = lambda: False
    _maker: RunMaker = field(init=False)
    _running: dict[str, SweepRun] = field(default_factory=dict)
    _again: list[SweepRun] = field(default_factory=list)  # runs whose worker died, to be started anew
    _progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self._maker = RunMaker(self.plan, self.train_images, self.val_images, self.store, self.tags)

    def run(self) -> Summary:
        """Carry the sweep to its end.

        Raises:
            Interrupted: `stop` became true; running trials will go on from their last checkpoints.
            StoreLostError: the disk is full, say.
        """
        self._open()
        try:
            self._search()
            summary = self._summarise()
            if self.plan.confirm:
                self._confirm(summary)
            return self._close(summary)
        except Interrupted:
            for run in [*self._running.values(), *self._again]:
                if not run.job.open_test_set:
                    reason = "the sweep was stopped"
                    self.tracker.end(run.label.key, "interrupted", reason=reason, metrics=run.costs())
            self.study.set_user_attr("seconds", self._seconds())
            self.tracker.end_study("interrupted", {})
            raise
        except (StoreError, StorageInternalError) as error:
            raise StoreLostError(first_line(error.__cause__ or error)) from error

    def _close(self, summary: Summary) -> Summary:
        summary.nothing_left = self._progress.started == 0
        self.tracker.end_study("finished", summary.metrics(self._seconds()))
        self.study.set_user_attr("seconds", self._seconds())
        return summary

    def _open(self) -> None:
        plan = self.plan
        samples = {"pictures/samples.png": self.samples}
        tags = {"stage": "study", "study": plan.study, **self.tags}
        self.tracker.open_study(
            RunLabel(key=STUDY_KEY, name=plan.study, tags=tags, params=plan.params(), files=samples)
        )
        for key in self._ended():
            self._clear_checkpoints(key)

    def _ended(self) -> Iterator[str]:
        """Keys of runs with checkpoints that an earlier process did not come to clear."""
        ended = {f"trial-{t.number}" for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()}
        for folder in self.store.checkpoints(self.plan.study, STUDY_KEY).parent.glob("*"):
            if folder.name in ended or self.tracker.state(folder.name) in ("complete", "pruned", "failed"):
                yield folder.name

    # The loop

    def _drive(self, runs: Iterator[SweepRun]) -> None:
        """Start `runs` as workers become free, until all have ended."""
        while True:
            while self.executor.free and (run := self._again.pop() if self._again else next(runs, None)) is not None:
                self._start(run)
            if not self._running:
                return
            self._handle_events()
            self.console.update(self._progress.view(self.plan.study, self._running.values()))
            if self.stop():
                self._pause()
                raise Interrupted

    def _pause(self) -> None:
        """Have the states of all runs saved; one that takes too long goes on from its last checkpoint instead."""
        self.executor.pause()
        deadline = time.monotonic() + _PAUSE_SECONDS
        while self._running and time.monotonic() < deadline:
            self._handle_events()

    def _start(self, run: SweepRun) -> None:
        run.started = time.monotonic()
        self._progress.started += 1
        if run.job.weights is not None and run.job.open_test_set:
            self.tracker.keep_model(run.label.key, run.recipe, run.job.weights)
            self.store.record_test_look(study=self.plan.study, key=run.label.key)
        else:
            self.tracker.begin(run.label)
            if run.job.checkpoints is not None and run.job.checkpoints.exists():
                run.job = replace(run.job, recorded=self.tracker.recorded(run.label.key))
        self._running[run.label.key] = run
        self.executor.start(run.job)

    def _handle_events(self) -> None:
        for event in self.executor.events(_POLL_SECONDS):
            if (again := self._handle(event)) is not None:
                self._again.append(again)

    def _handle(self, event: Event) -> SweepRun | None:
        """Record what happened; returns a run that has to be started again."""
        run = self._running[event.key]
        if isinstance(event, Progressed):
            self._go_on_or_prune(run, event.point)
            return None
        if isinstance(event, Noted):
            self.console.say(f"{run.title}: {event.line}")
            return None
        if isinstance(event, Unkept):
            raise StoreLostError(event.reason)
        del self._running[event.key]
        self._progress.spent += run.spent
        if isinstance(event, Finished):
            self._finish(run, event.outcome)
        elif isinstance(event, Diverged):
            self._end(run, "pruned", event.reason)
        elif isinstance(event, Paused):
            return run
        elif event.worker_died and run.deaths < _ATTEMPTS - 1:
            self.console.say(f"{run.title}: {event.reason}; it goes on from its last checkpoint")
            run.attempt += 1
            run.deaths += 1
            run.label = replace(run.label, tags={**run.label.tags, "attempt": str(run.attempt)})
            run.point = None
            return run
        else:
            self._fail(run, event)
        return None

    def _go_on_or_prune(self, run: SweepRun, point: Point) -> None:
        run.point = point
        self.tracker.point(run.label.key, point)
        if point.val_accuracy is None:
            return
        run.accuracy = point.val_accuracy
        if point.step > run.furthest:
            run.furthest, run.deaths = point.step, 0
        pruned = run.trial is not None and self._report(run, point)
        if point.fraction < 1:
            self.executor.reply(run.label.key, go_on=not pruned)
            if pruned:
                del self._running[run.label.key]
                self._progress.spent += run.spent
                at = (
                    f"{percent(point.fraction, 0)} of its budget with {percent(point.val_accuracy)} validation accuracy"
                )
                self._end(run, "pruned", f"pruned by {self.plan.pruner} at {at}")

    def _report(self, run: SweepRun, point: Point) -> bool:
        """Tell Optuna the accuracy so far; true if the trial should be pruned."""
        assert run.trial is not None
        assert point.val_accuracy is not None
        eighth = round(point.fraction * EIGHTHS)
        if eighth not in run.reported:
            run.trial.report(point.val_accuracy, eighth)
            run.reported.add(eighth)
        return point.fraction < 1 and run.trial.should_prune()

    def _finish(self, run: SweepRun, outcome: Outcome) -> None:
        if run.job.open_test_set:
            self.tracker.tested(run.label.key, outcome, {"champion": "true"})
            self._progress.stage.count("complete")
            return
        self.tracker.end(run.label.key, "complete", outcome=outcome, metrics=run.costs())
        self._progress.stage.count("complete")
        self.console.say(f"{run.title}: {percent(outcome.accuracy)} validation accuracy, {run.recipe.model}")
        if run.trial is not None:
            self._tell(run, TrialState.COMPLETE, outcome.accuracy)
            self._progress.completed(run.trial.number, outcome.accuracy, run.recipe.model)
            ended = self._progress.stage.ended
            self.tracker.study_progress("study/best_val_accuracy", self._progress.best_accuracy, ended)
        self._clear_checkpoints(run.label.key)

    def _end(self, run: SweepRun, state: str, reason: str) -> None:
        self.tracker.end(run.label.key, state, reason=reason, metrics=run.costs())
        self._progress.stage.count(state)
        if run.trial is not None:
            run.trial.set_user_attr("reason", reason)
            self._tell(run, TrialState.PRUNED if state == "pruned" else TrialState.FAIL)
        self._clear_checkpoints(run.label.key)

    def _clear_checkpoints(self, key: str) -> None:
        """Once a run has ended everywhere: a crash before that leaves what it can go on from."""
        Checkpoints(self.store.checkpoints(self.plan.study, key)).clear()

    def _fail(self, run: SweepRun, event: Failed) -> None:
        if run.job.open_test_set:
            raise RuntimeError(f"the {run.title} failed: {event.reason}\n{event.details}")
        self.console.say(f"{run.title} failed: {event.reason}")
        self._end(run, "failed", event.reason)

    def _tell(self, run: SweepRun, state: TrialState, value: float | None = None) -> None:
        assert run.trial is not None
        run.trial.set_user_attr("spent_flops", run.spent)
        self.study.tell(run.trial, value, state)
        self._progress.told_one()

    # The search

    def _search(self) -> None:
        counts = self._counts()
        self._progress.stage = Stage(
            "search",
            total=self.plan.trials,
            flops_each=SEARCH_SHARE * self.plan.trial_flops(),
            flops_after=self.plan.confirm_flops(),
            complete=counts[TrialState.COMPLETE],
            pruned=counts[TrialState.PRUNED],
            failed=counts[TrialState.FAIL],
        )
        if counts[TrialState.COMPLETE]:
            best = self.study.best_trial
            self._progress.completed(best.number, self.study.best_value, best.user_attrs["recipe"]["model"])
        self._drive(self._trials())

    def _counts(self) -> Mapping[TrialState, int]:
        return Counter(trial.state for trial in self.study.get_trials(deepcopy=False))

    def _trials(self) -> Iterator[SweepRun]:
        """Trials that an earlier process left unfinished, then new ones up to the plan's total."""
        for unfinished in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            run = self._trial_run(Trial(self.study, unfinished._trial_id))
            run.reported = set(unfinished.intermediate_values)
            yield run
        for _ in range(begun(self.study), self.plan.trials):
            if self.plan.timeout is not None and self._progress.seconds > self.plan.timeout:
                self.console.say(f"no further trials after {self.plan.timeout:g} s")
                return
            yield self._trial_run(self.study.ask())

    def _trial_run(self, trial: Trial) -> SweepRun:
        base = replace(self.plan.base, seed=derive_seed(self.plan.seed, trial.number))
        recipe = self.plan.space.suggest(trial, base)
        if "enqueued_recipe" in trial.user_attrs:
            recipe = Recipe.from_dict(trial.user_attrs["enqueued_recipe"])
        narrow = narrowed(recipe, self.plan.preset.trial)
        if narrow is not recipe:
            self.console.say(
                f"trial {trial.number}: {recipe.model} at width {narrow.width:g}, as a trial pays for no two training "
                f"steps of it at {recipe.width:g}"
            )
        recipe = self.plan.preset.trial.apply(narrow, self.train_images)
        key = f"trial-{trial.number}"
        tags = {"stage": "search", "trial": str(trial.number)}
        run = self._maker.make(key, f"trial {trial.number}", recipe, SEARCH_VALIDATIONS, tags)
        run.trial = trial
        if self.plan.keep_weights:
            run.job = replace(run.job, weights=self.store.weights(self.plan.study, key))
        trial.set_user_attr("recipe", recipe.to_dict())
        trial.set_user_attr("flops", run.flops)
        return run

    # The confirmation and the test

    def _confirm(self, summary: Summary) -> None:
        """Train the best recipes again at the larger budget; the best of them on average meets the test set."""
        confirmation = Confirmation(self.study, self._maker, self.tracker)
        if not summary.complete:
            self.console.say("no trial was completed, so there is nothing to confirm")
            return
        runs = list(confirmation.runs())
        self._progress.stage = Stage("confirm", len(runs), fmean(run.flops for run in runs) if runs else 0.0)
        self._drive(iter(runs))
        summary.confirm_flops = confirmation.total("cost/training_flops")
        summary.confirm_seconds = confirmation.total("cost/seconds")
        champion = summary.champion = confirmation.champion()
        if champion is None:
            self.console.say("no confirmation run was completed, so there is no champion")
            return
        self.console.say(
            f"champion: trial {champion.source}, {champion.recipe.model}, "
            f"{percent(champion.accuracy, 2)} validation accuracy"
        )
        self._progress.stage = Stage("test", len(champion.keys), flops_each=0.0)
        self._drive(confirmation.tests(champion))
        summary.test_accuracy = confirmation.test_accuracy(champion)

    # What it comes to

    def _summarise(self) -> Summary:
        trials = self.study.get_trials(deepcopy=False)
        counts = self._counts()
        ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        return Summary(
            complete=counts[TrialState.COMPLETE],
            pruned=counts[TrialState.PRUNED],
            failed=counts[TrialState.FAIL],
            search_flops=sum(trial.user_attrs["spent_flops"] for trial in ended),
            full_flops=sum(trial.user_attrs["flops"] for trial in ended),
        )

    def _seconds(self) -> float:
        """Wall time of this sweep, earlier processes included."""
        return float(self.study.user_attrs.get("seconds", 0.0)) + self._progress.seconds
