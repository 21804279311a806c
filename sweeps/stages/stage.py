"""Base of the stages of a sweep: the search, the confirmation, the final, and the test of the champion."""

from __future__ import annotations

import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import optuna
from optuna.storages import BaseStorage

from cifar_core.budget import step_flops
from cifar_core.checkpoint import Checkpoints
from cifar_core.recipe import Recipe
from cifar_core.training import Progress, total_steps
from sweeps.console import SweepConsole
from sweeps.executors.protocol import Failed, Outcome, TrainJob
from sweeps.planning.plan import Plan, eval_schedule
from sweeps.progress import StageProgress, SweepProgress, SweepRun
from sweeps.store import Store
from sweeps.tracking.notes import run_name, run_note
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from sweeps.words import percent


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A planned sweep: everything that its stages share.

    Args:
        tags: tags of every run: commit, data, machine.
        command: the command line, for the description of the sweep in MLflow.
        keeps_checkpoints: runs leave checkpoints. On a cluster without a shared folder they do not.
    """

    plan: Plan
    study: optuna.Study
    storage: BaseStorage
    tracker: MlflowTracker
    store: Store
    console: SweepConsole
    tags: Mapping[str, str]
    command: str = ""
    keeps_checkpoints: bool = True
    progress: SweepProgress = field(default_factory=SweepProgress)

    def train_run(
        self,
        key: str,
        title: str,
        recipe: Recipe,
        validations: Mapping[float, int],
        tags: Mapping[str, str],
        *,
        keep_weights: bool,
        threads: int | None = None,
    ) -> SweepRun:
        """Return a training run, which resumes from its newest checkpoint if it has one.

        Args:
            validations: number of validation images by fraction of the run.
            threads: on a CPU, in place of the workers' own number. A run that began with others, which decide its last
                bits, resumes with those.
        """
        data_set = self.plan.data_set
        if threads is not None:
            threads = min(self.tracker.threads(key) or threads, self.plan.cores)
        job = TrainJob(
            key=key,
            recipe=recipe,
            schedule=eval_schedule(validations),
            weights=self.store.weights(self.plan.study, key) if keep_weights else None,
            checkpoints=self.store.checkpoints(self.plan.study, key) if self.keeps_checkpoints else None,
            threads=threads,
        )
        images = data_set.train_images + (data_set.val_images if recipe.val_fraction == 0 else 0)
        tags = {**tags, **({"threads": str(threads)} if threads else {})}
        flops = float(step_flops(recipe, data_set) * total_steps(recipe, images))
        return SweepRun(title, job, flops, tags, data_set)

    def side_by_side(self, runs: int) -> tuple[int, int | None]:
        """Return how many of `runs` long runs train at the same time, and the threads of each; None: the worker's own.

        Where runs share cores, the number at the same time divides `runs`, so that none trains alone at the end. Cores
        that cannot be shared out equally are idle: 3 runs on 4 cores have one thread each.
        """
        if not self.plan.shares_cores:
            return sys.maxsize, None
        at_once = max(count for count in range(1, self.plan.at_once + 1) if runs % count == 0)
        return at_once, self.plan.cores // at_once

    def stage_of(self, name: str, runs: Sequence[SweepRun], flops_after: float = 0.0) -> StageProgress:
        """Return the progress of a stage of long runs, none of which has ended."""
        flops_each = fmean(run.flops for run in runs) if runs else 0.0
        return StageProgress(name, len(runs), flops_each, flops_after, self.plan.stretch(len(runs)))

    def label(self, run: SweepRun) -> RunLabel:
        """Return the label of the next attempt of a training run."""
        recipe = run.job.recipe
        command = ["python", "experiments/reproduce.py", f"run:{self.plan.study}/{run.key}", *self.store.as_option()]
        of_attempt = {"attempt": str(run.attempt), "rerun": shlex.join(command)}
        tags = {"study": self.plan.study, **self.tags, **of_attempt, **run.tags}
        name, data_set = run_name(run.tags, recipe), self.plan.data_set
        return RunLabel.of_training(run.key, name, tags, recipe, data_set, trial_flops=run.flops)

    def clear_checkpoints(self, key: str) -> None:
        """Delete the checkpoints of a run that has ended."""
        Checkpoints(self.store.checkpoints(self.plan.study, key)).clear()


class Stage(ABC):
    """A stage of the sweep: its runs, and how they are recorded.

    The methods here are for runs that train; `ChampionTest` overrides them.
    """

    progress: StageProgress

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.at_once = sys.maxsize  # runs side by side, at most; the executor's workers are another limit

    @abstractmethod
    def runs(self) -> Iterator[SweepRun]:
        """Yield the runs that are still to do."""

    def start(self, run: SweepRun) -> None:
        """Record that a run starts or resumes."""
        self.sweep.tracker.begin(self.sweep.label(run))
        if isinstance(run.job, TrainJob) and run.job.checkpoints is not None and run.job.checkpoints.exists():
            run.job = replace(run.job, recorded=self.sweep.tracker.recorded(run.key))

    def why_prune(self, run: SweepRun, point: Progress) -> str | None:
        """Return the reason to end a run after this validation; None if it continues."""
        return None

    def finish(self, run: SweepRun, outcome: Outcome | None) -> None:
        """Record a run that has reached its end."""
        reached = f"{percent(outcome.accuracy)} validation accuracy" if outcome else "trained on all images"
        self.sweep.console.say(f"{run.title}: {reached}, {run.job.recipe.model}")
        self.end(run, "complete", outcome=outcome)

    def fail(self, run: SweepRun, event: Failed) -> None:
        """Record a run that has ended with an error."""
        self.sweep.console.say(f"{run.title} failed: {event.reason}")
        self.sweep.tracker.attach_error(run.key, event.details)
        self.end(run, "failed", reason=event.reason)

    def interrupt(self, run: SweepRun) -> None:
        """Record a run that the user interrupted."""
        self.sweep.tracker.end(run.key, "interrupted", reason="the sweep was stopped", metrics=run.costs())

    def end(self, run: SweepRun, state: str, *, reason: str = "", outcome: Outcome | None = None) -> None:
        """Record the end of a run, and then delete its checkpoints: a crash before that loses nothing."""
        self.record_end(run, state, reason, outcome)
        self.sweep.clear_checkpoints(run.key)

    def record_end(self, run: SweepRun, state: str, reason: str, outcome: Outcome | None) -> None:
        """Record the end of a run in MLflow."""
        accuracy = outcome.accuracy if outcome is not None else run.accuracy
        result = f"{percent(outcome.accuracy)} validation accuracy" if outcome is not None else state
        costs, files = run.costs(), outcome.files if outcome is not None else {}
        self.sweep.tracker.end(
            run.key,
            state,
            reason=reason,
            outcome=outcome,
            metrics=costs,
            name=run_name(run.tags, run.job.recipe, accuracy),
            note=run_note(reason or result, costs, files),
        )
        self.progress.counts[state] += 1
