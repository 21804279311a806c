"""Jobs on the small data set, and waiting for what comes of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, evenly
from sweeps.executors.protocol import Event, Executor, Progressed, TrainJob
from tests.processes import find_processes

RECIPE = Recipe(model="fast_resnet", width=0.125, epochs=2.25, batch_size=50)  # nine steps
JOB = TrainJob(key="trial-0", recipe=RECIPE, schedule=EvalSchedule(evenly(3), {0.5: 100, 1.0: 100}))

# A run that goes on for minutes, with a point every few steps.
LONG = replace(JOB, recipe=replace(RECIPE, epochs=10_000.0), schedule=EvalSchedule(evenly(10_000), {1.0: 100}))


class Start(Protocol):
    def __call__(self, workers: int = 1) -> Executor: ...


def events_until(
    executor: Executor,
    ended: Callable[[Event], bool],
    seconds: float = 60,
    *,
    until: Callable[[], bool] = lambda: False,
) -> list[Event]:
    """Events up to one for which `ended` holds, or until `until` does."""
    happened: list[Event] = []
    deadline = time.monotonic() + seconds
    while not (happened and ended(happened[-1])) and not until():
        assert time.monotonic() < deadline, f"nothing of the kind within {seconds} s, but {happened}"
        happened += executor.events(0.2)
    return happened


def waits(event: Event) -> bool:
    return isinstance(event, Progressed) and event.point.val_accuracy is not None


def workers() -> list[int]:
    """Processes that run a worker: children of this process, and those of Ray clusters on this machine."""
    ours = find_processes(lambda command: "worker_process" in command, os.getpid())
    return ours + find_processes(lambda command: command.startswith("ray::RayWorker"))


def is_gone(pid: int) -> bool:
    """True for a process that has ended, also if its parent has not collected it yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] == "Z"
