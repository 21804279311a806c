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
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from cifar_core import pictures
from cifar_core.budget import affordable_watch, step_flops
from cifar_core.checkpoint import Checkpoints, load_weights
from cifar_core.data import Splits
from cifar_core.models import build_model, count_parameters
from cifar_core.recipe import Recipe
from cifar_core.training import Watch, total_steps
from sweeps.console import RunningTrial, SweepConsole, SweepView, percent
from sweeps.executors.protocol import (
    Diverged,
    Event,
    Executor,
    Failed,
    Finished,
    Job,
    Noted,
    Outcome,
    Paused,
    Point,
    Progressed,
    Unkept,
)
from sweeps.plan import CONFIRM_VALIDATIONS, EIGHTHS, LOSS_POINTS, SEARCH_SHARE, SEARCH_VALIDATIONS, Plan, narrowed
from sweeps.store import Store
from sweeps.study import begun, derive_seed
from sweeps.tracking import RunLabel, Tracker

_ATTEMPTS = 3  # of a run whose worker dies
_POLL_SECONDS = 0.25
_SPEED_SECONDS = 15.0  # after which the speed so far says something about the time left


class Interrupted(Exception):
    """The user asked to stop; everything so far is recorded."""


@dataclass(slots=True)
class _Stage:
    """A stage of the sweep: how many of its runs have ended, and what is still to come."""

    name: str
    total: int
    flops_each: float  # training FLOPs that a run takes on average, pruned ones included
    flops_after: float = 0.0  # of the stages after it
    complete: int = 0
    pruned: int = 0
    failed: int = 0

    @property
    def ended(self) -> int:
        return self.complete + self.pruned + self.failed

    def count(self, state: str) -> None:
        setattr(self, state, getattr(self, state) + 1)


@dataclass(slots=True)
class _Run:
    """A training run on its way: what it is, and how far it has come."""

    title: str
    label: RunLabel
    recipe: Recipe
    job: Job
    flops: float  # training FLOPs of the whole run
    trial: Trial | None = None
    reported: set[int] = field(default_factory=set)  # steps that Optuna heard of, also from an earlier attempt
    attempt: int = 1
    point: Point | None = None
    accuracy: float | None = None  # last validation
    started: float = 0.0

    @property
    def spent(self) -> float:
        return self.flops * self.point.fraction if self.point else 0.0

    def costs(self) -> dict[str, float]:
        if self.point is None:
            return {}
        seconds = self.point.train_seconds + self.point.validation_seconds
        images = self.point.step * self.recipe.batch_size
        return {
            "cost/seconds": seconds,
            "cost/training_flops": self.spent,
            "cost/epochs": self.point.epoch,
            "cost/images_per_second": images / self.point.train_seconds,
            "cost/validation_share": self.point.validation_seconds / seconds,
        }


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


@dataclass(slots=True)
class Summary:
    """What a sweep came to."""

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    search_flops: float = 0.0
    full_flops: float = 0.0
    champion: Confirmed | None = None
    test_accuracy: float | None = None
    nothing_left: bool = False

    @property
    def saved(self) -> float:
        """Fraction of the compute of unpruned trials that was not spent."""
        return 1 - self.search_flops / self.full_flops if self.full_flops else 0.0


@dataclass
class Coordinator:
    """Runs a planned sweep to its end, from wherever it stands.

    Args:
        tags: what every run is tagged with: commit, data, machine.
        stop: asked between events; once true, `Interrupted` is raised.
    """

    plan: Plan
    study: optuna.Study
    data: Splits
    executor: Executor
    tracker: Tracker
    store: Store
    console: SweepConsole
    tags: Mapping[str, str]
    stop: Callable[[], bool] = lambda: False
    _running: dict[str, _Run] = field(default_factory=dict)
    _again: list[_Run] = field(default_factory=list)  # runs whose worker died, to be started anew
    _stage: _Stage = field(init=False)
    _best: str | None = None
    _began: float = field(default_factory=time.monotonic)
    _spent: float = 0.0  # training FLOPs since this process began
    _told: int = 0  # trials that ended since this process began
    _started: int = 0  # runs since this process began

    def run(self) -> Summary:
        """Carry the sweep to its end.

        Raises:
            Interrupted: `stop` became true; running trials will go on from their last checkpoints.
        """
        plan = self.plan
        samples = {"pictures/samples.png": pictures.samples(self.data.train)}
        self.tracker.open_study(
            RunLabel(key="study", name=plan.study, tags=self._tags("study"), params=plan.params(), files=samples)
        )
        try:
            self._search()
            summary = self._summarise()
            if plan.confirm:
                summary.champion = self._confirm()
                if summary.champion is not None:
                    summary.test_accuracy = self._test(summary.champion)
        except Interrupted:
            for run in [*self._running.values(), *self._again]:
                if not run.job.open_test_set:
                    reason = "the sweep was stopped"
                    self.tracker.end(run.label.key, "interrupted", reason=reason, metrics=run.costs())
            self.study.set_user_attr("seconds", self._seconds())
            self.tracker.end_study("interrupted", {})
            raise
        summary.nothing_left = self._started == 0
        self.tracker.end_study("finished", self._study_metrics(summary))
        self.study.set_user_attr("seconds", self._seconds())
        return summary

    # The loop

    def _drive(self, runs: Iterator[_Run]) -> None:
        """Start `runs` as workers become free, until all have ended."""
        while True:
            while self.executor.free and (run := self._again.pop() if self._again else next(runs, None)) is not None:
                self._start(run)
            if not self._running:
                return
            for event in self.executor.events(_POLL_SECONDS):
                retried = self._handle(event)
                if retried is not None:
                    self._again.append(retried)
            self.console.update(self._view())
            if self.stop():
                raise Interrupted

    def _start(self, run: _Run) -> None:
        run.started = time.monotonic()
        self._started += 1
        if not run.job.open_test_set:
            self.tracker.begin(run.label)
        self._running[run.label.key] = run
        self.executor.start(run.job)

    def _handle(self, event: Event) -> _Run | None:
        """Record what happened; returns a run that has to be started again."""
        run = self._running[event.key]
        if isinstance(event, Progressed):
            self._progress(run, event.point)
            return None
        if isinstance(event, Noted):
            self.console.say(f"{run.title}: {event.line}")
            return None
        if isinstance(event, Unkept):
            self.console.say(f"{run.title}: {event.reason}")
        if isinstance(event, Paused | Unkept):
            raise Interrupted
        del self._running[event.key]
        self._spent += run.spent
        if isinstance(event, Finished):
            self._finish(run, event.outcome)
        elif isinstance(event, Diverged):
            self._end(run, "pruned", event.reason)
        elif event.worker_died and run.attempt < _ATTEMPTS:
            self.console.say(f"{run.title}: {event.reason}; it goes on from its last checkpoint")
            run.attempt += 1
            run.label = replace(run.label, tags={**run.label.tags, "attempt": str(run.attempt)})
            run.point = None
            return run
        else:
            self._fail(run, event)
        return None

    def _progress(self, run: _Run, point: Point) -> None:
        run.point = point
        self.tracker.point(run.label.key, point)
        if point.val_accuracy is None:
            return
        run.accuracy = point.val_accuracy
        pruned = run.trial is not None and self._report(run, point)
        if point.fraction < 1:
            self.executor.reply(run.label.key, go_on=not pruned)
            if pruned:
                del self._running[run.label.key]
                self._spent += run.spent
                at = (
                    f"{percent(point.fraction, 0)} of its budget with {percent(point.val_accuracy)} validation accuracy"
                )
                self._end(run, "pruned", f"pruned by {self.plan.pruner} at {at}")

    def _report(self, run: _Run, point: Point) -> bool:
        """Tell Optuna the accuracy so far; true if the trial should be pruned."""
        assert run.trial is not None
        assert point.val_accuracy is not None
        eighth = round(point.fraction * EIGHTHS)
        if eighth not in run.reported:
            run.trial.report(point.val_accuracy, eighth)
            run.reported.add(eighth)
        return point.fraction < 1 and run.trial.should_prune()

    def _finish(self, run: _Run, outcome: Outcome) -> None:
        if run.job.open_test_set:
            run_id = self.tracker.tested(run.label.key, outcome, {"champion": "true"})
            self.store.record_test_look(
                study=self.plan.study, run_id=run_id, accuracy=outcome.accuracy, images=outcome.images
            )
            self._stage.count("complete")
            return
        self.tracker.end(run.label.key, "complete", outcome=outcome, metrics=run.costs())
        self._stage.count("complete")
        self.console.say(f"{run.title}: {percent(outcome.accuracy)} validation accuracy, {run.recipe.model}")
        if run.trial is not None:
            self._tell(run, TrialState.COMPLETE, outcome.accuracy)
            self._show_best()
        self._clear_checkpoints(run.label.key)

    def _end(self, run: _Run, state: str, reason: str) -> None:
        self.tracker.end(run.label.key, state, reason=reason, metrics=run.costs())
        self._stage.count(state)
        if run.trial is not None:
            run.trial.set_user_attr("reason", reason)
            self._tell(run, TrialState.PRUNED if state == "pruned" else TrialState.FAIL)
        self._clear_checkpoints(run.label.key)

    def _clear_checkpoints(self, key: str) -> None:
        """Once a run has ended everywhere: a crash before that leaves what it can go on from."""
        Checkpoints(self.store.checkpoints(self.plan.study, key)).clear()

    def _fail(self, run: _Run, event: Failed) -> None:
        if run.job.open_test_set:
            raise RuntimeError(f"the {run.title} failed: {event.reason}\n{event.details}")
        self.console.say(f"{run.title} failed: {event.reason}")
        self._end(run, "failed", event.reason)

    def _tell(self, run: _Run, state: TrialState, value: float | None = None) -> None:
        assert run.trial is not None
        run.trial.set_user_attr("spent_flops", run.spent)
        self.study.tell(run.trial, value, state)
        self._told += 1
        self._stage.flops_each = self._spent / self._told

    # The search

    def _search(self) -> None:
        counts = self._counts()
        self._stage = _Stage(
            "search",
            total=self.plan.trials,
            flops_each=SEARCH_SHARE * self.plan.trial_flops(),
            flops_after=self.plan.confirm_flops(),
            complete=counts[TrialState.COMPLETE],
            pruned=counts[TrialState.PRUNED],
            failed=counts[TrialState.FAIL],
        )
        self._drive(self._trials())

    def _counts(self) -> Mapping[TrialState, int]:
        return Counter(trial.state for trial in self.study.get_trials(deepcopy=False))

    def _trials(self) -> Iterator[_Run]:
        """Trials that an earlier process left unfinished, then new ones up to the plan's total."""
        for unfinished in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            run = self._trial_run(Trial(self.study, unfinished._trial_id))
            run.reported = set(unfinished.intermediate_values)
            yield run
        deadline = None if self.plan.timeout is None else self._began + self.plan.timeout
        for _ in range(begun(self.study), self.plan.trials):
            if deadline is not None and time.monotonic() > deadline:
                self.console.say(f"no further trials after {self.plan.timeout:g} s")
                return
            yield self._trial_run(self.study.ask())

    def _trial_run(self, trial: Trial) -> _Run:
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
        recipe = self.plan.preset.trial.apply(narrow, len(self.data.train))
        key = f"trial-{trial.number}"
        run = self._run_of(
            key,
            f"trial {trial.number}",
            recipe,
            SEARCH_VALIDATIONS,
            {"stage": "search", "trial": str(trial.number)},
        )
        run.trial = trial
        if self.plan.keep_weights:
            run.job = replace(run.job, weights=self.store.weights(self.plan.study, key))
        trial.set_user_attr("recipe", recipe.to_dict())
        trial.set_user_attr("flops", run.flops)
        return run

    def _show_best(self) -> None:
        best = self.study.best_trial
        model = best.user_attrs["recipe"]["model"]
        self._best = f"{percent(self.study.best_value)} validation accuracy, trial {best.number}, {model}"
        self.tracker.study_progress("study/best_val_accuracy", self.study.best_value, self._stage.ended)

    # The confirmation and the test

    def _confirm(self) -> Confirmed | None:
        """Train the best recipes again at the larger budget; the champion is the best on average."""
        candidates = self._candidates()
        if not candidates:
            self.console.say("no trial was completed, so there is nothing to confirm")
            return None
        runs = list(self._confirmations(candidates))
        self._stage = _Stage("confirm", total=len(runs), flops_each=fmean(run.flops for run in runs) if runs else 0.0)
        self._drive(iter(runs))
        confirmed = [result for trial in candidates if (result := self._confirmed(trial)) is not None]
        if not confirmed:
            self.console.say("no confirmation run was completed, so there is no champion")
            return None
        champion = max(confirmed, key=lambda result: result.accuracy)
        self.console.say(
            f"champion: trial {champion.source}, {champion.recipe.model}, "
            f"{percent(champion.accuracy, 2)} validation accuracy"
        )
        return champion

    def _candidates(self) -> list[FrozenTrial]:
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        ranked = sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))
        return ranked[: self.plan.preset.recipes]

    def _confirmations(self, candidates: list[FrozenTrial]) -> Iterator[_Run]:
        """The runs that are still to be done, first seeds of all candidates first."""
        for seed in range(self.plan.preset.seeds):
            for trial in candidates:
                key = _confirm_key(trial, seed)
                weights = self.store.weights(self.plan.study, key)
                state = self.tracker.state(key)
                if state in ("pruned", "failed") or (state == "complete" and weights.exists()):
                    continue
                tags = {
                    "stage": "confirm",
                    "trial": key,
                    "source_trial": str(trial.number),
                    "seed": str(seed),
                }
                title = f"confirm {trial.number}/{seed}"
                run = self._run_of(key, title, self._confirm_recipe(trial, seed), CONFIRM_VALIDATIONS, tags)
                run.job = replace(run.job, weights=weights)
                yield run

    def _confirm_recipe(self, trial: FrozenTrial, seed: int) -> Recipe:
        recipe = Recipe.from_dict(trial.user_attrs["recipe"])
        fresh = replace(recipe, seed=derive_seed(self.plan.seed, trial.number, seed + 1))
        return self.plan.preset.confirm.prolong(fresh, len(self.data.train))

    def _confirmed(self, trial: FrozenTrial) -> Confirmed | None:
        keys = [_confirm_key(trial, seed) for seed in range(self.plan.preset.seeds)]
        found = {key: value for key in keys if (value := self.tracker.metric(key, "val/accuracy")) is not None}
        if not found:
            return None
        return Confirmed(
            recipe=self._confirm_recipe(trial, 0),
            source=trial.number,
            search_accuracy=trial.value or 0.0,
            keys=tuple(found),
            accuracies=tuple(found.values()),
        )

    def _test(self, champion: Confirmed) -> float:
        """Mean test accuracy of the champion's runs; each of them meets the test set once, ever."""
        self._stage = _Stage("test", total=len(champion.keys), flops_each=0.0)
        self._drive(self._tests(champion))
        values = [self.tracker.metric(key, "test/accuracy") for key in champion.keys]
        return fmean(value for value in values if value is not None)

    def _tests(self, champion: Confirmed) -> Iterator[_Run]:
        for key in champion.keys:
            if self.tracker.metric(key, "test/accuracy") is not None:
                continue
            weights = self.store.weights(self.plan.study, key)
            # A network is the same for every seed of a recipe: the weights make the difference.
            model = load_weights(champion.recipe, weights).eval()
            self.tracker.keep_model(key, model)
            label = RunLabel(key=key, name=f"test of {key}", tags={}, params={})
            job = Job(key=key, recipe=champion.recipe, watch=Watch((), (), ()), weights=weights, open_test_set=True)
            yield _Run(label.name, label, champion.recipe, job, flops=0.0)

    # What a run is made of

    def _run_of(
        self, key: str, title: str, recipe: Recipe, validations: tuple[float, ...], tags: Mapping[str, str]
    ) -> _Run:
        flops_per_step = step_flops(recipe)
        flops = float(flops_per_step * total_steps(recipe, len(self.data.train)))
        params: dict[str, Any] = {
            **recipe.to_dict(),
            "parameters": count_parameters(build_model(recipe)),
            "trial_flops": flops,
            "flops_per_image": flops_per_step / recipe.batch_size,
        }
        label = RunLabel(
            key=key,
            name=f"{title} {recipe.model}",
            tags={**self._tags(tags["stage"]), "attempt": "1", **tags},
            params=params,
            files={"recipe.toml": recipe.to_toml().encode()},
        )
        watch = affordable_watch(
            recipe, len(self.data.train), len(self.data.val), losses=LOSS_POINTS, validations=validations
        )
        job = Job(key=key, recipe=recipe, watch=watch, checkpoints=self.store.checkpoints(self.plan.study, key))
        return _Run(title, label, recipe, job, flops)

    def _tags(self, stage: str) -> dict[str, str]:
        return {"stage": stage, "study": self.plan.study, **self.tags}

    # What is shown and summed up

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

    def _study_metrics(self, summary: Summary) -> dict[str, float]:
        confirmed = [
            (
                self.tracker.metric(key, "cost/training_flops") or 0.0,
                self.tracker.metric(key, "cost/seconds") or 0.0,
            )
            for trial in (self._candidates() if self.plan.confirm else [])
            for key in (_confirm_key(trial, seed) for seed in range(self.plan.preset.seeds))
        ]
        return {
            "study/seconds": self._seconds(),
            "study/search_flops": summary.search_flops,
            "study/full_flops": summary.full_flops,
            "study/saved_fraction": summary.saved,
            "study/confirm_flops": sum(flops for flops, _ in confirmed),
            "study/confirm_seconds": sum(seconds for _, seconds in confirmed),
        }

    def _seconds(self) -> float:
        """Wall time of this sweep, earlier processes included."""
        return float(self.study.user_attrs.get("seconds", 0.0)) + time.monotonic() - self._began

    def _view(self) -> SweepView:
        now = time.monotonic()
        stage = self._stage
        return SweepView(
            study=self.plan.study,
            stage=stage.name,
            total=stage.total,
            complete=stage.complete,
            pruned=stage.pruned,
            failed=stage.failed,
            running=tuple(
                RunningTrial(
                    label=run.title,
                    model=run.recipe.model,
                    epoch=run.point.epoch if run.point else 0.0,
                    epochs=run.recipe.epochs,
                    accuracy=run.accuracy,
                    seconds=now - run.started,
                )
                for run in self._running.values()
            ),
            best=self._best,
            seconds_left=self._seconds_left(),
            seconds=now - self._began,
        )

    def _seconds_left(self) -> float | None:
        """From the compute that is left and the speed so far, once there is one."""
        stage, running = self._stage, self._running.values()
        spent = self._spent + sum(run.spent for run in running)
        elapsed = time.monotonic() - self._began
        if not spent or elapsed < _SPEED_SECONDS:
            return None
        waiting = max(0, stage.total - stage.ended - len(running))
        left = waiting * stage.flops_each + sum(max(0.0, stage.flops_each - run.spent) for run in running)
        return (left + stage.flops_after) / (spent / elapsed)


def _confirm_key(trial: FrozenTrial, seed: int) -> str:
    return f"confirm-{trial.number}-{seed}"
