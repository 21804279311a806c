"""Executor with worker processes on this machine, which live on from job to job."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

import sweeps
from cifar_core.data.source import DataSource
from cifar_core.hardware import Hardware
from sweeps.command_line import stop_signals_blocked
from sweeps.executors.job_loop import Command, WorkerConfig
from sweeps.executors.protocol import Ending, Event, Failed, Job, RunsFailError

# A separate program: forked torch threads deadlock, CUDA cannot fork, and `multiprocessing` would first import the
# coordinator's main module, which takes seconds in which a worker would not notice that the coordinator is gone.
_COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "sweeps.executors.worker_process")
_PACKAGES = str(Path(sweeps.__file__).parents[1])  # where `sweeps` and `cifar_core` are imported from
_CLOSE_SECONDS = 5.0
_IDLE_DEATHS = 5


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    job: Job | None = None


class LocalExecutor:
    """Executor over `workers` processes, which share the GPUs in turn, or the cores of a CPU."""

    def __init__(self, *, workers: int, threads: int, hardware: Hardware, data: DataSource) -> None:
        self._configs = [WorkerConfig(data, _share(hardware, number), threads) for number in range(workers)]
        self._workers = [self._spawn(number) for number in range(workers)]
        self._events: deque[Event] = deque()
        self._idle_deaths = 0  # of workers without a job, since the last event of any worker

    @property
    def free(self) -> int:
        return sum(worker.job is None for worker in self._workers)

    @property
    def pending_workers(self) -> int:
        return 0

    def start(self, job: Job) -> None:
        worker = next(worker for worker in self._workers if worker.job is None)
        worker.job = job
        try:
            worker.pipe.send(job)
        except (BrokenPipeError, ConnectionResetError):
            self._replace_dead(worker)

    def events(self, timeout: float) -> list[Event]:
        if not self._events:
            self._listen(timeout)
        happened = list(self._events)
        self._events.clear()
        return happened

    def reply(self, key: str, *, go_on: bool) -> None:
        worker = next(worker for worker in self._workers if worker.job is not None and worker.job.key == key)
        _send(worker, Command.GO_ON if go_on else Command.END)
        if not go_on:
            worker.job = None

    def pause(self) -> None:
        for worker in self._workers:
            if worker.job is not None:
                _send(worker, Command.PAUSE)

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            _wait_for(worker.process)
            worker.pipe.close()

    def _spawn(self, number: int) -> _Worker:
        ours, theirs = Pipe()
        path = os.pathsep.join(filter(None, (_PACKAGES, os.environ.get("PYTHONPATH"))))
        with theirs, stop_signals_blocked():  # closed here, so that the death of the worker ends the pipe
            process = subprocess.Popen(
                [*_COMMAND, str(os.getpid()), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )
        worker = _Worker(process, ours)
        _send(worker, self._configs[number])
        return worker

    def _listen(self, timeout: float) -> None:
        pipes = {worker.pipe: worker for worker in self._workers}
        for ready in wait(list(pipes), timeout):
            worker = pipes[ready]  # type: ignore[index]
            try:
                event: Event = worker.pipe.recv()
            except (EOFError, OSError):  # OSError: it died within a message
                self._replace_dead(worker)
                continue
            self._idle_deaths = 0
            if isinstance(event, Ending):
                worker.job = None
            self._events.append(event)

    def _replace_dead(self, worker: _Worker) -> None:
        """Replace a worker that died, and report the job that died with it, if any.

        Raises:
            RunsFailError: several workers in a row died without a job.
        """
        _wait_for(worker.process)
        worker.process.kill()  # if it lives on without its pipe
        _wait_for(worker.process)
        worker.pipe.close()
        cause = _cause(worker.process.returncode)
        if worker.job is not None:
            self._events.append(Failed(worker.job.key, f"worker died: {cause}", "", worker_died=True))
        else:
            self._idle_deaths += 1
        if self._idle_deaths > _IDLE_DEATHS:
            raise RunsFailError(f"workers must start, but {self._idle_deaths} in a row died: {cause}")
        number = self._workers.index(worker)
        self._workers[number] = self._spawn(number)


def _send(worker: _Worker, message: WorkerConfig | Command) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its death is a separate event
        worker.pipe.send(message)


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_CLOSE_SECONDS)


def _share(hardware: Hardware, number: int) -> Hardware:
    if hardware.device.type != "cuda":
        return hardware
    return Hardware(torch.device("cuda", number % torch.cuda.device_count()), hardware.bf16)


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        names = {each.value: each.name for each in signal.Signals}
        return f"killed by {names.get(-exitcode, f'signal {-exitcode}')}"  # real-time signals have no name
    return f"exit code {exitcode}"
