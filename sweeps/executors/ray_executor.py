"""Executor with workers on the nodes of a Ray cluster: as many as it holds, growing and shrinking with it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from cifar_core.checkpoint import CheckpointError, read_state_file, write_state_file
from cifar_core.data.source import DataSource
from cifar_core.errors import UserError, cause, first_line
from cifar_core.hardware import Hardware
from sweeps.executors.job_loop import Command
from sweeps.executors.protocol import (
    CheckpointWriteFailed,
    Ending,
    EvaluateJob,
    Event,
    Failed,
    Finished,
    Job,
    RunsFailError,
    TrainJob,
)
from sweeps.executors.ray_cluster import NodeFacts, RayCluster, StoredData, differences, last_line
from sweeps.executors.ray_worker import Parcel, RayWorker

_IDLE_DEATHS = 3  # in a row on one node, which then gets no more workers
_IDLE_SECONDS = 60.0  # after which a worker without a job gives its resources back


@dataclass(slots=True, eq=False)
class _Worker:
    actor: Any
    node: str | None = None  # its name; None while it waits for resources
    node_id: str = ""
    gpus: tuple[str, ...] = ()
    job: Job | None = None
    sent: int = 0  # messages
    seen: int = 0  # events
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def free(self) -> bool:
        return self.node is not None and self.job is None

    @property
    def place(self) -> str | None:
        return f"{self.node} GPU {'+'.join(self.gpus)}" if self.gpus else self.node


class RayExecutor:
    """Executor over a Ray cluster.

    While all workers have jobs, it asks the cluster for one more than it holds, so that a node that joins is used, and
    a cluster that grows on demand grows.

    Args:
        most: largest number of workers at the same time.
        say: receives a line about a node that cannot be used.
    """

    def __init__(
        self,
        cluster: RayCluster,
        *,
        most: int,
        hardware: Hardware,
        data: DataSource,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._cluster, self._most, self._say = cluster, most, say
        self._hardware, self._data = hardware, StoredData.put(data)
        self._workers: list[_Worker] = []
        self._asked: dict[Any, _Worker] = {}  # by the reference of the answer that is awaited
        self._events: deque[Event] = deque()
        self._barred: set[str] = set()  # ids of nodes that get no more workers
        self._idle_deaths = Counter[str]()  # of workers without a job, since the last event from their node, by its id
        self._places = 0  # for workers, in the whole cluster
        self._fill()

    @property
    def free(self) -> int:
        return sum(worker.free for worker in self._workers)

    @property
    def pending_workers(self) -> int:
        asked = sum(worker.node is None for worker in self._workers)
        placed = len(self._workers) - asked
        return min(asked, max(0, min(self._most, self._places) - placed))

    def start(self, job: Job) -> str | None:
        worker = next(worker for worker in self._workers if worker.free)
        weights = None
        if isinstance(job, EvaluateJob):
            try:
                weights = read_state_file(job.weights)
            except CheckpointError as error:
                self._events.append(Failed(job.key, f"CheckpointError: {first_line(error)}", ""))
                return worker.place
        worker.job = job
        self._send(worker, job, weights)
        if not self.free:
            self._fill()
        return worker.place

    def events(self, timeout: float) -> list[Event]:
        if not self._events:
            self._listen(timeout)
            self._release_idle()
        happened = list(self._events)
        self._events.clear()
        return happened

    def reply(self, key: str, *, go_on: bool) -> None:
        worker = next(worker for worker in self._workers if worker.job is not None and worker.job.key == key)
        self._send(worker, Command.GO_ON if go_on else Command.END)
        if not go_on:
            _set_free(worker)

    def pause(self) -> None:
        for worker in self._workers:
            if worker.job is not None:
                self._send(worker, Command.PAUSE)

    def close(self) -> None:
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers.clear()
        self._asked.clear()

    def _fill(self) -> None:
        """Ask for as many workers as the cluster holds, and for one more."""
        placed = sum(worker.node is not None for worker in self._workers)
        self._places = self._cluster.places(self._barred)
        wanted = min(self._most, max(self._places, placed) + 1)
        demand = self._cluster.demand
        options: dict[str, Any] = {"num_cpus": demand.cpus, "num_gpus": demand.gpus}
        options |= {"max_restarts": 0, "max_task_retries": -1}
        if self._barred:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(self._barred))})"}
        while len(self._workers) < wanted:
            worker = _Worker(
                ray.remote(RayWorker).options(**options).remote(self._data, self._hardware, demand.threads)
            )
            self._workers.append(worker)
            self._asked[worker.actor.hello.remote()] = worker

    def _listen(self, timeout: float) -> None:
        """Take the answers of workers; wait for the first."""
        if not (asked := list(self._asked)):
            time.sleep(timeout)
            return
        if ready := ray.wait(asked, timeout=timeout)[0]:
            ready = ray.wait(asked, num_returns=len(asked), timeout=0)[0]
        for reference in ready:
            worker = self._asked.pop(reference)
            try:
                answer = ray.get(reference)
            except RayError as error:  # a RayActorError, or that its node ran out of memory, for example
                if (fault := _fault_of_node(error)) and worker.node is None:
                    self._refuse(worker, self._cluster.node_of(worker.actor), fault)
                else:
                    self._replace_dead(worker, error)
                continue
            if isinstance(answer, NodeFacts):
                self._welcome(worker, answer)
            else:
                for parcel in answer:
                    self._receive(worker, parcel)
            if worker in self._workers:
                self._asked[worker.actor.events.remote(worker.seen)] = worker

    def _welcome(self, worker: _Worker, facts: NodeFacts) -> None:
        if different := differences(facts.versions):
            self._refuse(worker, facts.node, f"it has {different}")
        elif self._hardware.bf16 and not facts.bf16:
            self._refuse(worker, facts.node, "it has no bf16, in which this sweep trains")
        else:
            worker.node, worker.node_id = self._cluster.nodes().get(facts.node, facts.node), facts.node
            worker.gpus = facts.gpus
            worker.idle_since = time.monotonic()

    def _refuse(self, worker: _Worker, node: str, fault: str) -> None:
        """Give up a worker, and ask for no other on its node.

        Raises:
            RunsFailError: no other node is there for trials.
        """
        self._forget(worker)
        if node not in self._barred:
            self._barred.add(node)
            line = f"node {self._cluster.nodes().get(node, node)} is not used: {fault}"
            if not self._cluster.places(self._barred) and all(other.node is None for other in self._workers):
                raise RunsFailError(f"a node must be left for trials, but {line}")
            self._say(line)
        self._fill()

    def _receive(self, worker: _Worker, parcel: Parcel) -> None:
        worker.seen = parcel.number
        del self._idle_deaths[worker.node_id]
        event, job = parcel.message, worker.job
        assert isinstance(event, Event)
        if isinstance(event, Ending):
            _set_free(worker)
        if isinstance(event, Finished) and isinstance(job, TrainJob) and job.weights and parcel.weights:
            try:
                write_state_file(job.weights, parcel.weights)
            except OSError as error:
                reason = f"{job.weights}: the weights must be writable, but got: {cause(error)}"
                event = CheckpointWriteFailed(job.key, reason)
        self._events.append(event)

    def _replace_dead(self, worker: _Worker, error: RayError) -> None:
        """Replace a worker that died, and report the job that died with it, if any.

        Raises:
            RunsFailError: several workers in a row died without a job, and no other node is there.
        """
        lost, number = "its node has died" in str(error), self._cluster.node_of(worker.actor)
        node = worker.node or self._cluster.nodes().get(number, "?")
        cause = f"node {node} is gone" if lost else f"its process on node {node} ended"
        if isinstance(error, OutOfMemoryError):
            cause = f"node {node} ran out of memory"
        if worker.job is not None:
            self._events.append(Failed(worker.job.key, f"worker died: {cause}", "", worker_died=True))
        elif not lost:
            self._idle_deaths[number] += 1
        if self._idle_deaths[number] == _IDLE_DEATHS:
            self._refuse(worker, number, f"{_IDLE_DEATHS} workers in a row died there without a job")
        else:
            self._forget(worker)
            self._fill()

    def _release_idle(self) -> None:
        """Give back the resources of workers that had no job for a while, all but one."""
        now = time.monotonic()
        idle = [worker for worker in self._workers if worker.free and now - worker.idle_since > _IDLE_SECONDS]
        for worker in idle[1:]:
            self._forget(worker)

    def _forget(self, worker: _Worker) -> None:
        ray.kill(worker.actor)
        self._workers.remove(worker)
        self._asked = {reference: other for reference, other in self._asked.items() if other is not worker}

    def _send(self, worker: _Worker, message: Job | Command, weights: bytes | None = None) -> None:
        worker.sent += 1
        worker.actor.deliver.remote(Parcel(worker.sent, message, weights))


def _fault_of_node(error: RayError) -> str | None:
    """Return why a worker could not be built, or not say hello: another on its node could not either."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, UserError):
        return str(error.cause)
    if isinstance(error, RayTaskError) or (isinstance(error, RayActorError) and error.actor_init_failed):
        return last_line(error)
    return None


def _set_free(worker: _Worker) -> None:
    worker.job, worker.idle_since = None, time.monotonic()
