"""How far a sweep has come: what has ended in which way, and when the rest will have."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from sweeps.console import SweepView, best_trial
from sweeps.runs import SweepRun

_SPEED_SECONDS = 15.0  # after which the speed so far says something about the time left


@dataclass(slots=True)
class Stage:
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
class Progress:
    """The sweep since this process began."""

    stage: Stage = field(default_factory=lambda: Stage("search", total=0, flops_each=0.0))
    best: str | None = None  # trial, in words
    best_accuracy: float = -math.inf
    began: float = field(default_factory=time.monotonic)
    started: int = 0  # runs
    told: int = 0  # trials that ended
    spent: float = 0.0  # training FLOPs of runs that ended

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def completed(self, trial: int, accuracy: float, model: str) -> None:
        """A trial has come to its end with this validation accuracy."""
        if accuracy > self.best_accuracy:
            self.best_accuracy = accuracy
            self.best = best_trial(accuracy, trial, model)

    def told_one(self) -> None:
        """A trial has ended; what trials took so far says what the next ones will."""
        self.told += 1
        self.stage.flops_each = self.spent / self.told

    def view(self, study: str, running: Collection[SweepRun]) -> SweepView:
        return SweepView(
            study=study,
            stage=self.stage.name,
            total=self.stage.total,
            complete=self.stage.complete,
            pruned=self.stage.pruned,
            failed=self.stage.failed,
            running=tuple(run.view() for run in running),
            best=self.best,
            seconds_left=self._seconds_left(running),
            seconds=self.seconds,
        )

    def _seconds_left(self, running: Collection[SweepRun]) -> float | None:
        """From the compute that is left and the speed so far, once there is one."""
        stage, seconds = self.stage, self.seconds
        spent = self.spent + sum(run.spent for run in running)
        if not spent or seconds < _SPEED_SECONDS:
            return None
        waiting = max(0, stage.total - stage.ended - len(running))
        left = waiting * stage.flops_each + sum(max(0.0, stage.flops_each - run.spent) for run in running)
        return (left + stage.flops_after) / (spent / seconds)
