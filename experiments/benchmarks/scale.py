"""Load of one coordinator by its number of workers, which are simulated: they report on time, and train nothing.

python -m experiments.benchmarks.scale            # 10, 100 and 1,000 workers, in some minutes
python -m experiments.benchmarks.scale 300

Each worker reports every ten seconds, as in a trial of some five minutes, and one report in ten waits for a decision.
The rest is a sweep's own: Optuna (TPE, halving), MLflow on SQLite, the queue on disk. How messages travel is left out.
"""

from __future__ import annotations

import argparse
import heapq
import random
import tempfile
import time
from collections import deque
from pathlib import Path

import numpy as np

from cifar_core.hardware import Hardware, set_up_cpu
from experiments.benchmarks.sweep import NoOpSweep, RecordedExecutor, recorded_events
from sweeps.command_line import OneLineParser, main_of, positive_int, start
from sweeps.executors.protocol import Event, Job, Paused, Progressed, TrainJob

_WORKERS = (10, 100, 1_000)
_INTERVAL = 10.0  # seconds between the reports of a worker
_SECONDS = 60.0  # measured, once all workers have a trial


class SimulatedExecutor(RecordedExecutor):
    """Workers that report on time; the first trial of each begins somewhere in its course, so that they end apart."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.lags: list[float] = []  # seconds from a report to its decision, once all workers have a trial
        self.points = 0  # reported since then
        self.full: float | None = None  # time.monotonic() then
        self._random = random.Random(0)
        self._due: list[tuple[float, str]] = []
        self._asked: dict[str, float] = {}  # when a run that waits for its answer has reported
        self._started = 0

    def start(self, job: Job) -> None:
        assert isinstance(job, TrainJob)
        events = deque(recorded_events(job, more=self._random.uniform(0, 0.1)))
        self._started += 1
        if self._started <= self._workers:
            for _ in range(self._random.randrange(len(events) - 1)):
                events.popleft()
        if self._started == self._workers:
            self.full = time.monotonic()
        self._left[job.key] = events
        heapq.heappush(self._due, (time.monotonic() + self._random.uniform(0, _INTERVAL), job.key))

    def events(self, timeout: float) -> list[Event]:
        if self._due and (ahead := self._due[0][0] - time.monotonic()) > 0:
            time.sleep(min(timeout, ahead))
        now, happened = time.monotonic(), []
        while self._due and self._due[0][0] <= now:
            due, key = heapq.heappop(self._due)
            event = self._left[key].popleft()
            happened.append(event)
            if not isinstance(event, Progressed):
                del self._left[key]
                continue
            self.points += self.full is not None
            last = event.point.fraction == 1
            if event.point.val_accuracy is not None and not last:
                self._asked[key] = due
            else:
                heapq.heappush(self._due, (due + (0.0 if last else _INTERVAL), key))
        return happened

    def reply(self, key: str, *, go_on: bool) -> None:
        due = self._asked.pop(key)
        if self.full is not None:
            self.lags.append(time.monotonic() - due)
        if go_on:
            heapq.heappush(self._due, (due + _INTERVAL, key))
        else:
            del self._left[key]

    def pause(self) -> None:
        self._left = {key: deque([Paused(key)]) for key in self._left}
        self._due = [(0.0, key) for key in self._left]


class Watch:
    """Measures a minute of the sweep, from the moment at which all workers have a trial, and then stops it."""

    def __init__(self, executor: SimulatedExecutor) -> None:
        self._executor = executor
        self._began = time.monotonic()
        self._cpu: float | None = None  # seconds of this process when the minute began
        self.ramp = self.share = self.ended = self.points_per_second = 0.0

    def stop(self) -> bool:
        full, now = self._executor.full, time.monotonic()
        if full is None or self.share:
            return full is not None
        if self._cpu is None:
            self._cpu, self.ramp = time.process_time(), full - self._began
        if now - full < _SECONDS:
            return False
        self.share, self.ended = (time.process_time() - self._cpu) / (now - full), now
        self.points_per_second = self._executor.points / (now - full)
        return True


def measure(workers: int, hardware: Hardware) -> str:
    """Return the row of a table for a sweep with that many workers."""
    with tempfile.TemporaryDirectory() as folder:
        sweep, executor = NoOpSweep(Path(folder), hardware), SimulatedExecutor(workers)
        watch = Watch(executor)
        sweep.run_on(executor, sweep.plan(1_000_000, pruner="halving"), watch.stop)
        behind = time.monotonic() - watch.ended
    lags = np.quantile(executor.lags, (0.5, 0.95, 1.0)) if executor.lags else (0.0, 0.0, 0.0)
    times = " | ".join(f"{lag:.2f} s" for lag in lags)
    written = executor.points / (_SECONDS + behind)
    return (
        f"| {workers:,} | {watch.ramp:.0f} s | {watch.points_per_second:.1f} | {100 * watch.share:.0f} % | {times} "
        f"| {written:.1f} | {behind:.0f} s |"
    )


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="scale", description="Measure how many workers one coordinator serves.")
    parser.add_argument(
        "workers", nargs="*", type=positive_int, metavar="N", help="numbers of workers (default: 10, 100 and 1000)"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    set_up_cpu(1)
    hardware = Hardware.detect("cpu")
    print(f"{hardware.describe()}; a report every {_INTERVAL:g} s from each worker, for {_SECONDS:g} s")
    print(
        "| workers | until all have a trial | points/s | coordinator, of a core | lag, median | 95 % | most "
        "| points/s into MLflow | MLflow behind at the end |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for workers in options.workers or _WORKERS:
        print(measure(workers, hardware), flush=True)
    return 0


main = main_of(_parser, _run, stopped="stopped")

if __name__ == "__main__":
    start(main)
