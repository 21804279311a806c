"""Overheads of a trial: validation, logging, pictures and checkpoints."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from optuna.trial import FixedTrial

from cifar_core.budget import affordable_eval_schedule
from cifar_core.checkpoint import Checkpoints
from cifar_core.data import Splits
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, TrainState, train
from experiments.benchmarks import real_data
from sweeps.executors.protocol import Event, Finished, Outcome, Point, Progressed, TrainJob
from sweeps.executors.worker import Channel, run_job
from sweeps.planning.plan import LOSS_POINTS, SEARCH_VALIDATIONS
from sweeps.planning.presets import PRESETS
from sweeps.planning.search_space import SPACES
from sweeps.store import Store
from sweeps.tracking.tracker import MlflowTracker, RunLabel


def bench_trial(hardware: Hardware) -> Iterator[str]:
    """Shares of a trial of the preset `quick` that are not training."""
    data = real_data()
    yield (
        "trial: shares of an unpruned trial's time (rules: validation <= 10 %, logging <= 1 %, pictures <= 3 %, "
        "checkpoints <= 1 %)"
    )
    space, preset = SPACES["full"], PRESETS["quick"]
    for model in SPACES["full"].models:
        recipe = space.suggest(FixedTrial({**space.starts[0], "model": model}), Recipe())
        recipe = preset.trial.apply(recipe, len(data.train))
        with tempfile.TemporaryDirectory() as folder:
            store = Store.locate(Path(folder))
            store.create()
            tracker = MlflowTracker(store, "bench")
            tracker.open_study(RunLabel(key="study", name="bench", tags={}, params={}))
            saving = _saving_seconds(recipe, data, hardware, store.checkpoints("bench", "trial"))
            yield _Trial(recipe, tracker, saving * (len(SEARCH_VALIDATIONS) - 1)).shares(data, hardware)
            tracker.close()


def _saving_seconds(recipe: Recipe, data: Splits, hardware: Hardware, folder: Path) -> float:
    """Median time to save a checkpoint, synced to the disk."""
    state = TrainState.create(recipe, data, hardware)
    next(train(state, data, EvalSchedule((1 / state.total_steps,), (), ())))  # the optimiser has a state after one step
    times = []
    for _ in range(3):
        started = time.perf_counter()
        Checkpoints(folder).save(state)
        times.append(time.perf_counter() - started)
    return median(times)


@dataclass(slots=True)
class _Trial:
    """A trial in this process that times everything but training."""

    recipe: Recipe
    tracker: MlflowTracker
    saving: float  # seconds for all its checkpoints
    logging: float = 0.0  # seconds
    drawing: float = 0.0
    point: Point | None = None
    point_at: float = 0.0
    outcome: Outcome | None = None

    def shares(self, data: Splits, hardware: Hardware) -> str:
        schedule = affordable_eval_schedule(
            self.recipe, len(data.train), len(data.val), losses=LOSS_POINTS, validations=SEARCH_VALIDATIONS
        )
        label = RunLabel(key="trial", name="trial", tags={}, params=self.recipe.to_dict())
        with self._clock("logging"):
            self.tracker.begin(label)
        job = TrainJob(key="trial", recipe=self.recipe, schedule=schedule)
        run_job(job, data, lambda: data.val, hardware, Channel(self._receive, lambda: True))
        assert self.point is not None
        assert self.outcome is not None
        with self._clock("logging"):
            self.tracker.end("trial", "complete", outcome=replace(self.outcome, files={}))
        with self._clock("drawing"):
            self.tracker.end("trial", "complete", outcome=self.outcome)
        seconds = self.point.train_seconds + self.point.validation_seconds
        kilobytes = sum(map(len, self.outcome.files.values())) / 1000
        return (
            f"  {self.recipe.model:20} {seconds:6.1f} s: validation {self.point.validation_seconds / seconds:.1%}, "
            f"logging {self.logging / seconds:.2%}, pictures {self.drawing / seconds:.2%} ({kilobytes:.0f} kB), "
            f"checkpoints {self.saving / seconds:.2%}"
        )

    def _receive(self, event: Event) -> None:
        if isinstance(event, Progressed):
            with self._clock("logging"):
                self.tracker.point(event.key, event.point)
            self.point, self.point_at = event.point, time.perf_counter()
        elif isinstance(event, Finished):
            self.drawing += time.perf_counter() - self.point_at
            self.outcome = event.outcome
        else:
            raise RuntimeError(f"the trial ended with {event}")

    @contextlib.contextmanager
    def _clock(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        setattr(self, what, getattr(self, what) + time.perf_counter() - started)
