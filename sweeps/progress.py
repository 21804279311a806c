"""Progress of a sweep and of its runs, with an estimate of the time left."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from cifar_core.budget import spent_share
from cifar_core.data.data_set import CIFAR10, DataSet
from cifar_core.training import Progress
from sweeps.executors.protocol import Job, TrainJob

_WEIGHT = 10  # the expected cost counts as much as this many measured trials
_SPEED_SECONDS = 15.0  # after which the speed so far predicts the time left


@dataclass(slots=True)
class SweepRun:
    """A run that the coordinator carries out, over all its attempts."""

    title: str  # "trial 7" or "confirm 1/2"
    job: Job
    flops: float = 0.0  # training FLOPs of the whole run
    tags: Mapping[str, str] = field(default_factory=dict)
    data_set: DataSet = CIFAR10  # of its images
    attempt: int = 1
    furthest: int = 0  # step of the last validation of any attempt
    deaths: int = 0  # of workers since then
    point: Progress | None = None
    resumed_at: float = 0.0  # fraction at which this attempt began
    accuracies: tuple[float, ...] = ()  # of the validations of all attempts, each once
    start_time: float = 0.0  # time.monotonic()
    node: str | None = None  # of a cluster, with its GPU if it has one
    refusal: str = ""  # why it is not trained: its network breaks a limit
    diverged: bool = False  # it ended because its training loss was no longer finite

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the last validation."""
        return self.accuracies[-1] if self.accuracies else None

    @property
    def key(self) -> str:
        return self.job.key

    @property
    def validates(self) -> bool:
        return isinstance(self.job, TrainJob) and len(self.job.schedule.validations) > 0

    @property
    def spent(self) -> float:
        """Training FLOPs so far."""
        return self._flops(self.point.fraction) if self.point else 0.0

    @property
    def spent_here(self) -> float:
        """Training FLOPs of this attempt, without those of the checkpoint that it resumed from."""
        return self.spent - self._flops(self.resumed_at) if self.point else 0.0

    def _flops(self, fraction: float) -> float:
        return self.flops * spent_share(self.job.recipe, self.data_set, fraction)

    def costs(self) -> dict[str, float]:
        """Return the costs so far as MLflow metrics."""
        if self.point is None:
            return {}
        seconds = self.point.train_seconds + self.point.validation_seconds
        images = self.point.step * self.job.recipe.batch_size
        return {
            "cost/seconds": seconds,
            "cost/training_flops": self.spent,
            "cost/epochs": self.point.epoch,
            "cost/images_per_second": images / self.point.train_seconds,
            "cost/validation_share": self.point.validation_seconds / seconds,
        }


@dataclass(slots=True)
class StageProgress:
    """Runs of a stage that have ended, and those still to come."""

    name: str  # search, confirm, final or test
    total: int = 0  # runs of this stage
    flops_each: float = 0.0  # mean training FLOPs of a run, pruned ones included
    flops_after: float = 0.0  # FLOPs of the later stages, idle workers counted as if they trained
    most_seconds: float = math.inf  # of this process, after which no further run of this stage starts
    stretch: float = 1.0  # factor on the time of this stage, because workers are idle while the last runs train
    counts: Counter[str] = field(default_factory=Counter)  # of runs that have ended: complete, pruned or failed

    @property
    def ended(self) -> int:
        return self.counts.total()


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepView:
    """Snapshot of a sweep, for the terminal."""

    study: str
    stage: StageProgress
    running: tuple[SweepRun, ...]
    best: str | None  # the best trial so far, as `words.best_trial` says it
    start_time: float  # time.monotonic()
    at: float  # likewise, the time of this snapshot
    seconds_left: float | None  # of the whole sweep; None until there is a basis for an estimate
    pending_workers: int = 0  # that wait for resources


@dataclass(slots=True)
class SweepProgress:
    """Progress of the sweep since this process started."""

    stage: StageProgress = field(default_factory=lambda: StageProgress("search"))
    best: str | None = None  # the best trial, as `words.best_trial` says it
    best_accuracy: float = -math.inf
    start_time: float = field(default_factory=time.monotonic)
    runs_started: int = 0
    trials: int = 0  # that have ended
    spent: float = 0.0  # training FLOPs of runs that have ended
    trained: float = 0.0  # seconds of training in these runs
    validated: float = 0.0  # seconds of validation in them

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start_time

    def add(self, run: SweepRun) -> None:
        """Add what a run has cost when it leaves its worker."""
        self.spent += run.spent_here
        if run.point is not None:
            self.trained += run.point.train_seconds
            self.validated += run.point.validation_seconds

    def count_trial(self, expected: float) -> None:
        """Count a search trial that has ended, to predict the cost of the next ones.

        The first trials of each network train to the end, so `expected` training FLOPs weigh as much as ten of them.
        """
        self.trials += 1
        self.stage.flops_each = (_WEIGHT * expected + self.spent) / (_WEIGHT + self.trials)

    def view(self, study: str, running: Collection[SweepRun], pending_workers: int = 0) -> SweepView:
        """Return a snapshot."""
        return SweepView(
            study=study,
            stage=replace(self.stage, counts=self.stage.counts.copy()),
            running=tuple(running),
            best=self.best,
            start_time=self.start_time,
            at=time.monotonic(),
            seconds_left=self._seconds_left(running),
            pending_workers=pending_workers,
        )

    def _seconds_left(self, running: Collection[SweepRun]) -> float | None:
        """Divide the remaining compute by the speed so far; after the search by the speed of training alone.

        Trials of the search spend a larger share on validation than the longer runs after it.
        """
        stage, seconds = self.stage, self.seconds
        spent = self.spent + sum(run.spent_here for run in running)
        if not spent or seconds < _SPEED_SECONDS:
            return None
        not_started = max(0, stage.total - stage.ended - len(running))
        left = sum(max(0.0, stage.flops_each - run.spent) for run in running)
        points = [run.point for run in running if run.point is not None]
        trained = self.trained + sum(point.train_seconds for point in points)
        validated = self.validated + sum(point.validation_seconds for point in points)
        share = trained / (trained + validated)
        speed = spent / seconds
        factor = stage.stretch * (1.0 if stage.name == "search" else share) / speed
        waiting = min(not_started * stage.flops_each * factor, max(0.0, stage.most_seconds - seconds))
        return waiting + left * factor + stage.flops_after * share / speed
