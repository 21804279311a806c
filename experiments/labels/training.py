"""Training from nothing the runs of a label curve, one after the other; each resumes after a stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn, TypeVar

from cifar_core.checkpoint import Checkpoints
from cifar_core.data import Splits, nested_places
from cifar_core.hardware import Hardware
from cifar_core.training import Progress
from experiments.labels.plan import BuildRun, LabelRun
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
from sweeps.progress import SweepRun
from sweeps.store import Store, StoreError
from sweeps.tracking.notes import run_note
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from sweeps.words import about, percent

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
    total = left = sum(run.flops for run in todo)
    states = list[str]()
    for run in todo:
        states.append(_Training(run, context, total, left).train())
        left -= run.flops
    return states.count("failed")


@dataclass(slots=True)
class _Training:
    """One run, and what is known of it so far."""

    run: BuildRun
    context: CurveContext
    total: float  # training FLOPs of all runs
    left: float  # of this run and those after it
    shown: SweepRun = field(init=False)
    state: str = "running"

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
        self.shown = SweepRun(
            f"{run.labels:,} labels/{run.seed}", job, run.flops, run.tags, context.data.train.data_set
        )

    def train(self) -> str:
        """Train to the end; return the state that it ended in.

        Raises:
            Interrupted, StoreError: as for `train_all`.
        """
        context, shown = self.context, self.shown
        recipe, data_set = self.run.recipe, context.data.train.data_set
        name, tags = self.run.name(recipe.model), {**context.tags, **shown.tags}
        numbers = {"labels": self.run.labels, "trial_flops": self.run.flops}
        context.tracker.begin(RunLabel.of_training(shown.key, name, tags, recipe, data_set, **numbers))
        places = nested_places(context.data.train.labels, self.run.labels, self.run.seed)
        data = replace(context.data, train=context.data.train.part(places))
        channel = Channel(self._receive, go_on=lambda: True, pause=context.stop)
        run_job(shown.job, data, _no_test_set, context.hardware, channel)
        if self.state == "interrupted":
            raise Interrupted
        # A crash before this loses nothing.
        Checkpoints(context.store.checkpoints(context.experiment, shown.key)).clear()
        return self.state

    def _receive(self, event: Event) -> None:
        shown, context = self.shown, self.context
        match event:
            case Progressed(point=point):
                shown.point = point
                context.tracker.point(shown.key, point)
                self._show_progress(point)
            case Log(line=line):
                context.console.say(f"{shown.title}: {line}")
            case Finished(outcome=outcome):
                assert outcome is not None
                reached = f"{percent(outcome.accuracy, 2)} validation accuracy"
                context.console.say(f"{shown.title}: {reached}")
                note = run_note(f"{reached} with {self.run.labels:,} labels", shown.costs(), outcome.files)
                name, costs = self.run.name(self.run.recipe.model, outcome.accuracy), shown.costs()
                self.state = "complete"
                context.tracker.end(shown.key, self.state, outcome=outcome, metrics=costs, name=name, note=note)
            case Diverged(reason=reason):
                self._end("pruned", reason)
            case Failed(reason=reason, details=details):
                context.tracker.attach_error(shown.key, details)
                self._end("failed", reason)
            case Paused():
                self._end("interrupted", "stopped by the user")
            case CheckpointWriteFailed(reason=reason):
                self._end("interrupted", reason)
                raise StoreError(reason)

    def _end(self, state: str, reason: str) -> None:
        self.state = state
        self.context.console.say(f"{self.shown.title}: {reason}")
        self.context.tracker.end(self.shown.key, state, reason=reason, metrics=self.shown.costs())

    def _show_progress(self, point: Progress) -> None:
        """Show the compute so far of all runs, and the time left at the speed of this run."""
        left = self.left - self.shown.spent
        seconds = (point.train_seconds + point.validation_seconds) * left / self.shown.spent
        digits = 1 if self.total < 1e13 else None
        done, total = (round(flops / 1e12, digits) for flops in (self.total - left, self.total))
        unit = f"TFLOP, {about(seconds)} left" if done < total else "TFLOP"
        self.context.console.progress("training", done, total, unit)


def _no_test_set() -> NoReturn:
    raise AssertionError("a label curve never meets the test set")
