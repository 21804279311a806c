"""Training from nothing the runs of a label curve, one after the other; each resumes after a stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn, TypeVar

from cifar_core.checkpoint import Checkpoints
from cifar_core.data import Splits, nested_places
from cifar_core.hardware import Hardware
from experiments.labels.plan import STAGE, BuildRun, LabelRun
from sweeps.command_line import Interrupted
from sweeps.console import SweepConsole
from sweeps.executors.protocol import (
    CheckpointWriteFailed,
    Diverged,
    Event,
    Failed,
    Finished,
    Log,
    Paused,
    Progressed,
    TrainJob,
)
from sweeps.executors.worker import Channel, run_job
from sweeps.planning.plan import eight_validations, eval_schedule
from sweeps.progress import StageProgress, SweepProgress, SweepRun
from sweeps.store import Store, StoreError
from sweeps.tracking.notes import run_note
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from sweeps.words import percent

_Run = TypeVar("_Run", bound=LabelRun)

_EARLY_IMAGES = 500  # images of each validation before the last one; a checkpoint follows each


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveContext:
    """Data, hardware and outputs that all runs of a curve share.

    Attributes:
        experiment: name of the experiment in MLflow.
        tags: tags of every run: commit, data, machine.
        stop: function that is called between steps; once it returns true, the run saves its state and ends.
    """

    experiment: str
    data: Splits
    hardware: Hardware
    store: Store
    tracker: MlflowTracker
    console: SweepConsole
    tags: Mapping[str, str]
    stop: Callable[[], bool]


def to_do(runs: Sequence[_Run], tracker: MlflowTracker) -> list[_Run]:
    """Return the runs that have not ended yet; one that failed has not."""
    return [run for run in runs if tracker.state(run.key) not in ("complete", "pruned")]


def train_all(runs: Sequence[BuildRun], context: CurveContext) -> int:
    """Train the runs that have not ended yet; return the number of those that failed.

    A run that diverged has ended, one that failed is tried again by the next call.

    Raises:
        Interrupted: the user asked to stop; the next call resumes.
        StoreError: a checkpoint could not be written.
    """
    todo = to_do(runs, context.tracker)
    for run in runs:
        if run not in todo:  # an earlier process may have been killed before it deleted them
            Checkpoints(context.store.checkpoints(context.experiment, run.key)).clear()
    progress = SweepProgress(StageProgress(STAGE, len(todo), validation_varies=False))
    for place, run in enumerate(todo):
        _Training(run, context, progress, sum(later.flops for later in todo[place + 1 :])).train()
    return progress.stage.counts["failed"]


@dataclass(slots=True)
class _Training:
    """One run, and what is known of it so far."""

    run: BuildRun
    context: CurveContext
    progress: SweepProgress
    later: float  # training FLOPs of the runs after this one
    shown: SweepRun = field(init=False)
    interrupted: bool = False

    def __post_init__(self) -> None:
        run, context = self.run, self.context
        checkpoints = context.store.checkpoints(context.experiment, run.key)
        job = TrainJob(
            key=run.key,
            recipe=run.recipe,
            schedule=eval_schedule(eight_validations(_EARLY_IMAGES, len(context.data.val))),
            checkpoints=checkpoints,
            recorded=context.tracker.recorded(run.key) if checkpoints.exists() else None,
        )
        self.shown = SweepRun(f"{run.labels:,} labels/{run.seed}", job, run.flops, run.tags)

    def train(self) -> None:
        """Train to the end.

        Raises:
            Interrupted, StoreError: as for `train_all`.
        """
        context, shown, stage = self.context, self.shown, self.progress.stage
        recipe, data_set = self.run.recipe, context.data.train.data_set
        name, tags = self.run.name(recipe.model), {**context.tags, **shown.tags}
        numbers = {"labels": self.run.labels, "trial_flops": self.run.flops}
        context.tracker.begin(RunLabel.of_training(shown.key, name, tags, recipe, data_set, **numbers))
        shown.start_time = self.progress.start_time + self.progress.seconds
        waiting = stage.total - stage.ended - 1
        stage.flops_each, stage.flops_after = shown.flops, self.later - waiting * shown.flops
        self._show()
        places = nested_places(context.data.train.labels, self.run.labels, self.run.seed)
        data = replace(context.data, train=context.data.train.part(places))
        channel = Channel(self._receive, go_on=lambda: True, pause=context.stop)
        run_job(shown.job, data, _no_test_set, context.hardware, channel)
        self.progress.add(shown)
        self._show(())
        if self.interrupted:
            raise Interrupted

    def _receive(self, event: Event) -> None:
        shown, context = self.shown, self.context
        match event:
            case Progressed(point=point):
                shown.point = point
                if point.val_accuracy is not None:
                    shown.accuracies = (*shown.accuracies, point.val_accuracy)
                context.tracker.point(shown.key, point)
                self._show()
            case Log(line=line):
                context.console.say(f"{shown.title}: {line}")
            case Finished(outcome=outcome):
                assert outcome is not None
                reached = f"{percent(outcome.accuracy, 2)} validation accuracy"
                self._best(outcome.accuracy)
                context.console.say(f"{shown.title}: {reached}")
                note = run_note(f"{reached} with {self.run.labels:,} labels", shown.costs(), outcome.files)
                name, costs = self.run.name(self.run.recipe.model, outcome.accuracy), shown.costs()
                context.tracker.end(shown.key, "complete", outcome=outcome, metrics=costs, name=name, note=note)
                self._count("complete")
            case Diverged(reason=reason):
                self._end("pruned", reason)
                self._count("pruned")
            case Failed(reason=reason, details=details):
                context.tracker.attach_error(shown.key, details)
                self._end("failed", reason)
                self._count("failed")
            case Paused():
                self._end("interrupted", "stopped by the user")
                self.interrupted = True
            case CheckpointWriteFailed(reason=reason):
                self._end("interrupted", reason)
                raise StoreError(reason)

    def _end(self, state: str, reason: str) -> None:
        self.context.console.say(f"{self.shown.title}: {reason}")
        self.context.tracker.end(self.shown.key, state, reason=reason, metrics=self.shown.costs())

    def _count(self, state: str) -> None:
        """Count the run as ended, and then delete its checkpoints: a crash before that loses nothing."""
        self.progress.stage.counts[state] += 1
        Checkpoints(self.context.store.checkpoints(self.context.experiment, self.run.key)).clear()

    def _best(self, accuracy: float) -> None:
        if accuracy > self.progress.best_accuracy:
            self.progress.best_accuracy = accuracy
            self.progress.best = f"{percent(accuracy)} validation accuracy, {self.run.labels:,} labels"

    def _show(self, running: Sequence[SweepRun] | None = None) -> None:
        shown = (self.shown,) if running is None else running
        self.context.console.update(self.progress.view(self.context.experiment, shown))


def _no_test_set() -> NoReturn:
    raise AssertionError("a label curve never meets the test set")
