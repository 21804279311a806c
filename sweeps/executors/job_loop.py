"""One job after another, as they come through the pipe to the coordinator."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from cifar_core.data import Splits, load_train_val
from cifar_core.hardware import Hardware, set_up_cpu
from sweeps.executors.protocol import Job
from sweeps.executors.worker import Contact, carry_out


class Order(enum.Enum):
    """What a worker hears of while it carries out a job. The first two answer a run that waits at a validation."""

    GO_ON = enum.auto()
    END = enum.auto()
    PAUSE = enum.auto()  # may come at any time, also when the run has just ended


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a worker has for all its jobs; the first thing that comes through its pipe."""

    data_dir: Path
    hardware: Hardware
    threads: int


def work(pipe: Connection) -> None:
    """Get ready, then carry out jobs until the other end of `pipe` is closed."""
    try:
        equipment: Equipment = pipe.recv()
    except EOFError:
        return
    set_up_cpu(equipment.threads)
    serve(pipe, load_train_val(equipment.data_dir), equipment.data_dir, equipment.hardware)


def serve(pipe: Connection, data: Splits, data_dir: Path, hardware: Hardware) -> None:
    """Carry out one job after another; returns once the other end of `pipe` is closed."""
    try:
        while True:
            job = pipe.recv()
            if isinstance(job, Job):  # or an order for a run that had just ended
                orders = _Orders(pipe)
                carry_out(job, data, data_dir, hardware, Contact(pipe.send, orders.go_on, orders.pause))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class _Orders:
    """Orders for one job. All that was sent before the job has been read by then, so that none is another's."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._pausing = False

    def go_on(self) -> bool:
        """Waits for the answer to a validation; a pause that comes in its place is told at the next `pause`."""
        order = self._pipe.recv()
        self._pausing = order is Order.PAUSE
        return order is not Order.END

    def pause(self) -> bool:
        """Whether to pause. Nothing else can come between steps, as answers come to questions only."""
        if not self._pausing and self._pipe.poll():
            self._pausing = self._pipe.recv() is Order.PAUSE
        return self._pausing
