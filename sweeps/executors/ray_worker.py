"""A worker on a node of a Ray cluster: the job loop in a thread, and an actor that carries its messages."""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from cifar_core.checkpoint import read_state_file, write_state_file
from cifar_core.errors import cause
from cifar_core.hardware import Hardware
from sweeps.executors.job_loop import Command, WorkerConfig, serve
from sweeps.executors.protocol import CheckpointWriteFailed, Ending, EvaluateJob, Event, Finished, Job, TrainJob
from sweeps.executors.ray_cluster import NodeFacts, StoredData


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message from or to a worker, and the file of a network that travels with it.

    A node need not see the store, so networks come and go by message: those that a run leaves, with `Finished`, and
    those to evaluate, with `EvaluateJob`.
    """

    number: int  # from 1 on, in the order of sending
    message: Event | Job | Command
    weights: bytes | None = None


class RayWorker:
    """The actor. Ray may make a call late or twice when a network fails, so messages have numbers.

    Whatever ends the job loop ends the process, as on this machine.
    """

    def __init__(self, data: StoredData, hardware: Hardware, threads: int) -> None:
        self._data, self._hardware, self._threads = data, hardware, threads
        # For the network of a job, until that ends. Ray kills workers at any time, so a rest lies among its own files.
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        self._scratch = session / f"cifar-sweeps-{ray.get_runtime_context().get_actor_id()}"
        self._inbox: queue.SimpleQueue[WorkerConfig | Job | Command] = queue.SimpleQueue()
        self._early: dict[int, Parcel] = {}  # that came before their turn
        self._taken = 0  # number of the last message that went to the job loop
        self._job: Job | None = None
        self._sent: list[Parcel] = []  # that the coordinator may lack
        self._count = 0
        self._changed = asyncio.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def hello(self) -> NodeFacts:
        """Start the job loop, and return the facts about this worker."""
        facts = NodeFacts.here(self._hardware.device.type)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._inbox.put(WorkerConfig(self._data.source(self._fetch), self._hardware, self._threads))
            pipe = _Pipe(self._inbox, self._post)
            threading.Thread(target=_serve, args=(pipe,), daemon=True).start()
        return facts

    async def deliver(self, parcel: Parcel) -> None:
        """Take a message. Each is taken once, in the order of their numbers."""
        self._early[parcel.number] = parcel
        while (due := self._early.pop(self._taken + 1, None)) is not None:
            self._taken += 1
            try:
                self._inbox.put(self._unpacked(due))
            except OSError as error:  # without an event the coordinator would wait forever
                assert isinstance(due.message, TrainJob | EvaluateJob)
                reason = f"a node must have room for the network that it tests, but: {cause(error)}"
                await self._add(CheckpointWriteFailed(due.message.key, reason), None)

    async def events(self, seen: int) -> Sequence[Parcel]:
        """Wait for events after the one with the number `seen`, and return the first alone: it may need an answer."""
        async with self._changed:
            self._sent = [parcel for parcel in self._sent if parcel.number > seen]
            await self._changed.wait_for(lambda: self._sent)
            return self._sent[:1]

    def _fetch(self, reference: Any) -> Any:
        """Return an object from the store, for the job loop: an actor with an event loop must not call `ray.get`."""

        async def fetched() -> Any:
            return await reference

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(fetched(), self._loop).result()

    def _unpacked(self, parcel: Parcel) -> Job | Command:
        """Return the message of `parcel`, with the network of a job in a file on this node."""
        message = parcel.message
        assert isinstance(message, TrainJob | EvaluateJob | Command)
        if isinstance(message, Command):
            return message
        self._job = message
        if message.weights is None:
            return message
        path = self._file(message)
        if parcel.weights is not None:
            write_state_file(path, parcel.weights)
        return replace(message, weights=path)

    def _post(self, event: Event) -> None:
        """Send an event; called by the job loop."""
        weights, job = None, self._job
        if isinstance(event, Finished) and isinstance(job, TrainJob) and job.weights is not None:
            weights = read_state_file(self._file(job))
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._add(event, weights), self._loop).result()

    async def _add(self, event: Event, weights: bytes | None) -> None:
        if isinstance(event, Ending):
            shutil.rmtree(self._scratch, ignore_errors=True)
        async with self._changed:
            self._count += 1
            self._sent.append(Parcel(self._count, event, weights))
            self._changed.notify_all()

    def _file(self, job: Job) -> Path:
        return self._scratch / f"{job.key}.safetensors"


class _Pipe:
    """The job loop's end of a pipe within this process."""

    def __init__(self, inbox: queue.SimpleQueue[Any], post: Callable[[Event], None]) -> None:
        self._inbox, self.send = inbox, post

    def recv(self) -> Any:
        return self._inbox.get()

    def poll(self) -> bool:
        return not self._inbox.empty()


def _serve(pipe: _Pipe) -> None:
    try:
        serve(pipe)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
