"""Worker processes on this machine, spawned once and fed one job after another."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from cifar_core.data import load_train_val
from cifar_core.hardware import Hardware
from sweeps.executors.protocol import Diverged, Event, Failed, Finished, Job
from sweeps.executors.worker import carry_out

_SPAWN = multiprocessing.get_context("spawn")  # forked torch threads deadlock, and CUDA cannot fork
_CLOSE_SECONDS = 5.0
_IDLE_DEATHS = 5


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    job: Job | None = None


class LocalExecutor:
    """`workers` processes that share out the devices: GPUs in turn, or the cores of a CPU."""

    def __init__(self, *, workers: int, threads: int, hardware: Hardware, data_dir: Path) -> None:
        self._threads, self._data_dir = threads, data_dir
        self._hardware = [_share(hardware, number) for number in range(workers)]
        self._workers = [self._spawn(number) for number in range(workers)]
        self._ended: deque[Event] = deque()
        self._idle_deaths = 0  # of workers without a job, since one last did anything

    @property
    def free(self) -> int:
        return sum(worker.job is None for worker in self._workers)

    def start(self, job: Job) -> None:
        worker = next(worker for worker in self._workers if worker.job is None)
        worker.job = job
        try:
            worker.pipe.send(job)
        except (BrokenPipeError, ConnectionResetError):
            self._bury(worker)

    def events(self, timeout: float) -> list[Event]:
        if not self._ended:
            self._listen(timeout)
        happened = list(self._ended)
        self._ended.clear()
        return happened

    def reply(self, key: str, *, go_on: bool) -> None:
        worker = next(worker for worker in self._workers if worker.job is not None and worker.job.key == key)
        if not go_on:
            worker.job = None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its death is an event of its own
            worker.pipe.send(go_on)

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join(_CLOSE_SECONDS)
            worker.pipe.close()

    def _spawn(self, number: int) -> _Worker:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=_work,
            args=(theirs, self._data_dir, self._hardware[number], self._threads),
            name=f"worker-{number}",
            daemon=True,
        )
        with _ctrl_c_blocked():
            process.start()
        theirs.close()  # so that the worker's death ends the pipe
        return _Worker(process, ours)

    def _listen(self, timeout: float) -> None:
        pipes = {worker.pipe: worker for worker in self._workers}
        for ready in wait(list(pipes), timeout):
            worker = pipes[ready]  # type: ignore[index]
            try:
                event: Event = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                self._bury(worker)
                continue
            self._idle_deaths = 0
            if isinstance(event, (Finished, Failed, Diverged)):
                worker.job = None
            self._ended.append(event)

    def _bury(self, worker: _Worker) -> None:
        """Replace a worker that died, and report the job that died with it, if any.

        Raises:
            RuntimeError: workers die again and again without a job, so that no other would do better.
        """
        worker.process.join(_CLOSE_SECONDS)
        worker.pipe.close()
        cause = _cause(worker.process.exitcode)
        if worker.job is not None:
            self._ended.append(Failed(worker.job.key, f"worker died: {cause}", "", worker_died=True))
        else:
            self._idle_deaths += 1
        if self._idle_deaths > _IDLE_DEATHS:
            raise RuntimeError(f"a worker must get ready to train, but {self._idle_deaths} in a row died: {cause}")
        number = self._workers.index(worker)
        self._workers[number] = self._spawn(number)


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Processes started here never see Ctrl-C, which reaches the whole group; the coordinator decides.

    They inherit the blocked signal, so that it holds from their first moment on, while they still import.
    """
    resource_tracker.ensure_running()  # otherwise the first start does that, and unblocks the signal on the way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _share(hardware: Hardware, number: int) -> Hardware:
    if hardware.device.type != "cuda":
        return hardware
    return Hardware(torch.device("cuda", number % torch.cuda.device_count()), hardware.bf16)


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


def _work(pipe: Connection, data_dir: Path, hardware: Hardware, threads: int) -> None:
    """What a worker process does from its first to its last moment."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        data = load_train_val(data_dir)
        while True:
            job: Job = pipe.recv()
            carry_out(job, data, data_dir, hardware, pipe.send, pipe.recv)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
