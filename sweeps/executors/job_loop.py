"""A worker's side of the pipe to the coordinator: one job after another."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Protocol

from cifar_core.data.source import DataSource
from cifar_core.hardware import Hardware, set_up_cpu
from cifar_core.optim import import_optimizers
from sweeps.executors.protocol import EvaluateJob, Event, TrainJob
from sweeps.executors.worker import Channel, run_job


class Command(enum.Enum):
    """Messages to a worker during a job. The first two answer a run that waits at a validation."""

    GO_ON = enum.auto()
    END = enum.auto()
    PAUSE = enum.auto()  # may come at any time, even when the run has just ended


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Configuration of a worker for all its jobs; the first message through its pipe."""

    data: DataSource
    hardware: Hardware
    threads: int


class Pipe(Protocol):
    """A worker's end of the pipe to the coordinator: a `Connection`, or what stands in for one."""

    def recv(self) -> Any:
        """Wait for a message."""

    def poll(self) -> bool:
        """Return true if a message is there."""

    def send(self, event: Event) -> None:
        """Send an event."""


def serve(pipe: Pipe) -> None:
    """Receive a `WorkerConfig`, then run jobs until the other end of `pipe` is closed."""
    try:
        config: WorkerConfig = pipe.recv()
        set_up_cpu(config.threads)
        data = config.data.train_val()
        import_optimizers()
        while True:
            job = pipe.recv()
            if isinstance(job, TrainJob | EvaluateJob):  # and not a command to a run that had just ended
                set_up_cpu(job.threads or config.threads)
                commands = _Commands(pipe)
                channel = Channel(pipe.send, commands.go_on, commands.pause)
                run_job(job, data, config.data.test, config.hardware, channel)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class _Commands:
    """Commands to one job. Everything sent before the job has been read by then, so none belongs to another job."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._pausing = False

    def go_on(self) -> bool:
        """Wait for the answer to a validation; if a pause comes in its place, the next `pause` returns true."""
        command = self._pipe.recv()
        self._pausing = command is Command.PAUSE
        return command is not Command.END

    def pause(self) -> bool:
        """Return true if the run shall pause. Only a pause can arrive between steps: answers follow questions."""
        if not self._pausing and self._pipe.poll():
            self._pausing = self._pipe.recv() is Command.PAUSE
        return self._pausing
