"""The coordinator: one process that drives the stages of a sweep and records all results.

A sweep has four stages. Search: Optuna trials of equal compute, pruned by successive halving. Confirmation: the best
recipes and the first one, trained again at a larger budget. Final: the best of these, the champion, is trained on
all training images. Test: only the final networks are evaluated on the sealed test set. Every run has a key, by which
an interrupted stage resumes where it was.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from optuna.exceptions import StorageInternalError

from cifar_core.errors import UserError, first_line
from sweeps.command_line import Interrupted
from sweeps.executors.protocol import (
    CheckpointWriteFailed,
    Diverged,
    Event,
    Executor,
    Finished,
    Log,
    Paused,
    Progressed,
    RunsFailError,
    TrainJob,
)
from sweeps.planning.plan import LOSS_POINTS
from sweeps.progress import SweepRun
from sweeps.stages.confirmation import DECISION, Confirmation, Confirmed, Gain
from sweeps.stages.description import StudyDescription
from sweeps.stages.final import ChampionTest, Final
from sweeps.stages.search import Search
from sweeps.stages.stage import Stage, Sweep
from sweeps.states import ENDED
from sweeps.store import StoreError
from sweeps.studies.keys import STUDY_KEY, trial_key
from sweeps.studies.study import ended_trials, started_trials, trained_trials
from sweeps.tracking.artifacts import DATA_SET
from sweeps.tracking.tracker import RunLabel
from sweeps.words import best_trial, percent

_ATTEMPTS = 3  # of a run whose worker dies, without any progress in between
_MOST_FAILURES = 5  # of runs in a row, before their first point: then a GPU, a driver or a disk is broken
_POLL_SECONDS = 0.25
_START_SECONDS = 0.25  # for starting runs in a row: what others report must not wait until a thousand have started
_PAUSE_SECONDS = 6.0  # for workers to save their states after a stop


class StoreLostError(UserError):
    """The store accepts no more writes; what it has is intact, and running trials can resume."""

    @classmethod
    def of(cls, error: Exception) -> StoreLostError:
        """Return the error with the message of `error` or, if that is Optuna's, of its cause, which says more."""
        return cls(first_line(error.__cause__ or error) if isinstance(error, StorageInternalError) else str(error))


@dataclass(slots=True)
class Summary:
    """Result of a sweep."""

    trials: Counter[str]  # that have ended: complete, pruned or failed
    metrics: dict[str, float]  # of the study's own run in MLflow, without its seconds
    champion: Confirmed | None = None
    gain: Gain | None = None
    test_accuracy: float | None = None
    tta_accuracy: float | None = None  # the same with test-time augmentation
    nothing_left: bool = False  # all trials and later runs had ended before


@dataclass
class Coordinator:
    """Runs a planned sweep, whose tracker is open, to its end, from wherever it stands.

    Args:
        samples: draws a picture of training images, as PNG.
        stop: called between events; once it returns true, the sweep is interrupted.
    """

    sweep: Sweep
    executor: Executor
    samples: Callable[[], bytes]
    stop: Callable[[], bool] = lambda: False
    _running: dict[str, SweepRun] = field(default_factory=dict)
    _again: list[SweepRun] = field(default_factory=list)  # runs to start again, because their workers died
    _pending_workers: int = 0  # that wait for resources, as last recorded
    _has_samples: bool = False
    _pausing: bool = False
    _prune_reasons: dict[str, str] = field(default_factory=dict)  # by key, of runs to prune once they have paused
    _trains: bool = False  # this process has trained something
    _failures: int = 0  # of runs before their first point, since one had a point
    _last_failure: str = ""
    _before: float = field(init=False)  # seconds of earlier processes
    _description: StudyDescription = field(init=False)

    def __post_init__(self) -> None:
        self._before = float(self.sweep.study.user_attrs.get("seconds", 0.0))
        self._description = StudyDescription(self.sweep)

    def run(self) -> Summary:
        """Run the sweep to its end.

        Raises:
            Interrupted: `stop` returned true; running trials can resume from their last checkpoints.
            RunsFailError: several runs in a row failed before they trained, the test of a network failed, or no worker
                starts.
            StoreLostError: the disk is full, for example, and `stop` returns false.
        """
        self._open()
        try:
            try:
                summary = self._run()
            except (Interrupted, RunsFailError):
                self._close("interrupted", {})
                raise
            self._close("finished", summary.metrics)
        except (StoreError, StorageInternalError) as error:
            lost = StoreLostError.of(error)
            if not self.stop():
                raise lost from error
            self.sweep.console.say(str(lost))
            raise Interrupted from error
        return summary

    def _run(self) -> Summary:
        self._drive(Search(self.sweep))
        summary = self._summarise_search()
        if self.sweep.plan.confirm:
            self._confirm(summary)
        else:
            self._recall(summary)
        for stage in ("confirm", "final"):
            for name, metric in (("flops", "cost/training_flops"), ("seconds", "cost/seconds")):
                if total := self.sweep.tracker.total(stage, metric):
                    summary.metrics[f"study/{stage}_{name}"] = total
        complete = started_trials(self.sweep.study) >= self.sweep.plan.trials
        summary.nothing_left = complete and self.sweep.progress.runs_started == 0
        return summary

    def _open(self) -> None:
        sweep, plan = self.sweep, self.sweep.plan
        tags = {"stage": "study", "study": plan.study, "waiting": "0"}
        if sweep.tracker.state(STUDY_KEY) is None:
            tags |= self._conditions()
        files = {"space.toml": plan.space.text.encode(), DATA_SET: plan.data_set.to_json()}
        sweep.tracker.begin(RunLabel(key=STUDY_KEY, name=plan.study, tags=tags, params=plan.params(), files=files))
        for key in list(self._ended_runs()):
            sweep.clear_checkpoints(key)

    def _conditions(self) -> dict[str, str]:
        """Tags of the study's run that may differ between commands: the last one that trained anything decides."""
        return {**self.sweep.plan.latest(), **self.sweep.tags}

    def _ended_runs(self) -> Iterator[str]:
        """Yield the keys of ended runs whose checkpoints an earlier process has not deleted."""
        sweep = self.sweep
        trials = sweep.study.get_trials(deepcopy=False)
        ended = {trial_key(trial.number) for trial in trials if trial.state.is_finished()}
        for folder in sweep.store.checkpoint_folder(sweep.plan.study).glob("*"):
            if folder.name in ended or sweep.tracker.state(folder.name) in ENDED:
                yield folder.name

    def _confirm(self, summary: Summary) -> None:
        """Confirm the best recipes, train the best of them on all images, and evaluate it on the test set."""
        say = self.sweep.console.say
        if not summary.trials["complete"]:
            say("no trial was completed, so there is nothing to confirm")
            return
        confirmation = Confirmation(self.sweep)
        self._drive(confirmation)
        self._description.finalists = list(confirmation.results())
        champion = summary.champion = confirmation.champion()
        gain = summary.gain = confirmation.gain
        if gain is not None:
            summary.metrics |= gain.metrics()
        if champion is None:
            say("no confirmation run was completed, so there is no champion")
            return
        accuracy = f"{percent(champion.accuracy, 2)} validation accuracy"
        self._description.crown(champion)
        self.sweep.tracker.tag(STUDY_KEY, champion=str(champion.source))
        say(f"champion: trial {champion.source}, {champion.recipe.model}, {accuracy}")
        self.sweep.progress.best = best_trial(champion.accuracy, champion.source, champion.recipe.model)
        final = Final(self.sweep, champion)
        self._drive(final)
        if not final.trained:
            say("no final run was completed, so there is nothing to test")
            return
        test = ChampionTest(self.sweep, champion, final.trained)
        self._drive(test)
        test.register()
        summary.test_accuracy = test.mean("test/accuracy")
        summary.tta_accuracy = test.mean("test/tta_accuracy")
        self._description.test = test

    def _recall(self, summary: Summary) -> None:
        """Load the champion that an earlier command tested, as --no-confirm chooses no other."""
        sweep = self.sweep
        decided = sweep.study.user_attrs.get(DECISION, {}).get("champion")
        finalists = list(Confirmation(sweep).results())
        champion = next((finalist for finalist in finalists if finalist.source == decided), None)
        if champion is not None:
            test = ChampionTest(sweep, champion, Final(sweep, champion).trained)
            if (accuracy := test.mean("test/accuracy")) is not None:
                summary.champion = champion
                summary.test_accuracy, summary.tta_accuracy = accuracy, test.mean("test/tta_accuracy")
                self._description.finalists = finalists
                self._description.crown(champion)
                self._description.test = test

    def _summarise_search(self) -> Summary:
        study = self.sweep.study
        ended = trained_trials(study)
        spent = sum(trial.user_attrs["spent_flops"] for trial in ended)
        full = sum(trial.user_attrs["flops"] for trial in ended)  # if none had been pruned
        metrics = {
            "study/search_flops": spent,
            "study/full_flops": full,
            "study/saved_fraction": 1 - spent / full if full else 0.0,
        }
        return Summary(ended_trials(study), metrics)

    def _close(self, state: str, metrics: dict[str, float]) -> None:
        self._description.write(state)
        seconds = self._store_seconds()
        self.sweep.tracker.end_study(state, {"study/seconds": seconds, **metrics} if state == "finished" else metrics)

    def _store_seconds(self) -> float:
        """Store the wall time so far, at the end of each run too: a process that is killed stores no end.

        It includes earlier processes, but not those that started no run.
        """
        progress = self.sweep.progress
        seconds = self._before + (progress.seconds if progress.runs_started else 0.0)
        self.sweep.study.set_user_attr("seconds", seconds)
        return seconds

    # The loop

    def _drive(self, stage: Stage) -> None:
        """Start the runs of `stage` as workers become free, and record their events, until all have ended.

        A cluster may have no worker for a while, at the start for instance; then the loop waits for one.

        Raises:
            Interrupted: `stop` returned true.
            RunsFailError: as for `run`.
        """
        self.sweep.progress.stage, runs = stage.progress, stage.runs()
        while True:
            if self.stop():
                self._pause(stage)
                raise Interrupted
            if self._failures >= _MOST_FAILURES:  # a broken worker would use up the search within minutes
                said = f"{self._failures} in a row failed before their first step, the last with: {self._last_failure}"
                self._pause(stage)
                raise RunsFailError(f"runs must train, but {said}; mend that, and the same command resumes the sweep")
            more, began = True, time.monotonic()  # `more`: there may be further runs to start
            while more and (room := self._has_room(stage)) and time.monotonic() < began + _START_SECONDS:
                run = self._again.pop() if self._again else next(runs, None)
                more = run is not None
                if run is not None:
                    self._start(stage, run)
            if not more and not self._running:
                return
            if self._running and not self._has_samples:  # now, as it takes a second, in which the runs train
                self._has_samples = True
                self.sweep.tracker.attach(STUDY_KEY, {"pictures/samples.png": self.samples()}, {})
            self._description.write("running")
            try:
                self._handle_events(stage, 0.0 if more and room else _POLL_SECONDS)
            except RunsFailError:  # no worker starts, so none can save a state
                for run in (*self._running.values(), *self._again):
                    stage.interrupt(run)
                raise
            self._show()

    def _show(self) -> None:
        """Show the sweep in the terminal, and tell `--status` how many workers wait."""
        sweep, pending = self.sweep, self.executor.pending_workers
        if pending != self._pending_workers:
            self._pending_workers = pending
            sweep.tracker.tag(STUDY_KEY, waiting=str(pending))
        sweep.console.update(sweep.progress.view(sweep.plan.study, self._running.values(), pending))

    def _has_room(self, stage: Stage) -> bool:
        return bool(self.executor.free) and len(self._running) < stage.at_once

    def _start(self, stage: Stage, run: SweepRun) -> None:
        run.start_time = time.monotonic()
        if isinstance(run.job, TrainJob) and not run.refusal and not self._trains:
            self._trains = True
            self.sweep.tracker.tag(STUDY_KEY, **self._conditions())
        self.sweep.progress.runs_started += 1
        stage.start(run)
        if run.refusal:
            self._prune(stage, run, run.refusal)
            return
        self._running[run.key] = run
        run.node = self.executor.start(run.job)
        if run.node is not None and isinstance(run.job, TrainJob):
            self.sweep.tracker.tag(run.key, node=run.node)

    def _pause(self, stage: Stage) -> None:
        """Let the workers save the states of all runs; a run that takes too long resumes from an older checkpoint."""
        self._pausing = True
        self.executor.pause()
        deadline = time.monotonic() + _PAUSE_SECONDS
        while self._running and time.monotonic() < deadline:
            self._handle_events(stage)
        for run in [*self._running.values(), *self._again]:
            if run.key in self._prune_reasons:
                self._prune_paused(stage, run)
            else:
                stage.interrupt(run)

    def _handle_events(self, stage: Stage, timeout: float = _POLL_SECONDS) -> None:
        for event in self.executor.events(timeout):
            self._handle(stage, self._running[event.key], event)

    def _handle(self, stage: Stage, run: SweepRun, event: Event) -> None:
        """Record an event, and continue, prune or restart its run."""
        if isinstance(event, Progressed):
            self._continue_or_prune(stage, run, event)
            return
        if isinstance(event, Log):
            self.sweep.console.say(f"{run.title}: {event.line}")
            return
        if run.key in self._prune_reasons:
            self._prune_paused(stage, run)
            return
        if isinstance(event, CheckpointWriteFailed):
            raise StoreLostError(event.reason)
        self._remove(run)
        if isinstance(event, Finished):
            stage.finish(run, event.outcome)
        elif isinstance(event, Diverged):
            run.diverged = True
            self._prune(stage, run, event.reason)
        elif isinstance(event, Paused):
            self._again.append(run)
        elif event.worker_died and run.deaths < _ATTEMPTS - 1:
            resumes = self.sweep.keeps_checkpoints and isinstance(run.job, TrainJob)
            after = "resumes from its last checkpoint" if resumes else "starts again"
            self.sweep.console.say(f"{run.title}: {event.reason}; it {after}")
            run.attempt += 1
            run.deaths += 1
            run.point = None
            self._again.append(run)
        else:
            stage.fail(run, event)
            if run.point is None and not event.out_of_memory:  # which is the fault of its recipe
                self._failures, self._last_failure = self._failures + 1, event.reason
        if not isinstance(event, Paused):
            self._store_seconds()

    def _continue_or_prune(self, stage: Stage, run: SweepRun, event: Progressed) -> None:
        point = event.point
        if run.point is None:  # it may have resumed from a checkpoint
            run.resumed_at = max(0.0, point.fraction - 1 / LOSS_POINTS)
            self._failures = 0
        run.point = point
        self.sweep.tracker.point(run.key, point, system=event.system)
        new = point.step > run.furthest  # else an earlier attempt came as far
        if new and (point.val_accuracy is not None or not run.validates):
            run.furthest, run.deaths = point.step, 0
        if point.val_accuracy is None:
            return
        if new:
            run.accuracies = (*run.accuracies, point.val_accuracy)
        reason = stage.why_prune(run, point)
        if point.fraction == 1:
            return
        if self._pausing:  # it gets no answer, and may still write its state
            if reason is not None:
                self._prune_reasons[run.key] = reason
            return
        self.executor.reply(run.key, go_on=reason is None)
        if reason is not None:
            self._remove(run)
            self._prune(stage, run, reason)
            self._store_seconds()

    def _prune_paused(self, stage: Stage, run: SweepRun) -> None:
        """Prune a run that was asked to pause: it needs no state, so it does not matter how it ended."""
        self._remove(run)
        self._prune(stage, run, self._prune_reasons[run.key])

    def _prune(self, stage: Stage, run: SweepRun, reason: str) -> None:
        self.sweep.console.say(f"{run.title}: {reason}")
        stage.end(run, "pruned", reason=reason)

    def _remove(self, run: SweepRun) -> None:
        del self._running[run.key]
        self.sweep.progress.add(run)
