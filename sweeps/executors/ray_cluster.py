"""Connection to a Ray cluster: its nodes, how many trials they hold, and checks before a sweep uses them."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
import platform
import secrets
import signal
import socket
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import sweeps
from cifar_core.data import DataError, Split, Splits
from cifar_core.data.data_set import DataSet
from cifar_core.data.source import DataSource
from cifar_core.errors import UserError
from cifar_core.hardware import Hardware
from sweeps.words import counted

_PACKAGES = ("cifar_core", "sweeps")
_SOURCES = ("*.py", "*.c", "*.h", "*.toml")
_CONNECT_SECONDS = 5.0
_PATIENCE_SECONDS = 30.0  # for a task to start and end
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Demand:
    """Resources that a trial takes: CPUs, and GPUs or a fraction of one."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        return max(1, math.floor(self.cpus))

    def places(self, resources: Mapping[str, float]) -> int:
        """Return the number of trials that a node with these resources holds."""
        places = math.floor(resources.get("CPU", 0.0) / self.cpus)
        gpus = math.floor(resources.get("GPU", 0.0))
        if self.gpus:  # a trial that takes a fraction is on one GPU
            places = min(places, gpus * math.floor(1 / self.gpus) if self.gpus < 1 else math.floor(gpus / self.gpus))
        return places


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Facts about the node of a worker. The versions must be the same on all nodes."""

    node: str  # id
    versions: Mapping[str, str]
    bf16: bool  # of its device
    gpus: tuple[str, ...]  # numbers of the GPUs that Ray gave the worker

    @classmethod
    def here(cls, device: str) -> NodeFacts:
        """Return the facts of this worker.

        Raises:
            UserError: it has no such device.
        """
        context = ray.get_runtime_context()
        gpus = tuple(context.get_accelerator_ids()["GPU"])
        return cls(context.get_node_id(), versions(), Hardware.detect(device).bf16, gpus)


class RayCluster:
    """A cluster that runs, and the resources that each trial takes of it.

    Raises:
        UserError: nothing answers at `address` ("auto": the cluster that this machine belongs to), or its versions
            of Ray or Python are others.
    """

    def __init__(self, address: str, demand: Demand) -> None:
        self.demand = demand
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray prints its log of dead workers to standard output, with no public switch.
        ray._private.worker._worker_logs_enabled = False
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _check_that_something_answers(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            said = " ".join(str(error).split())
            raise UserError(
                "--address must be that of a running Ray cluster (and with its token, if it asks for one), "
                f"but {address} gave: {said}"
            ) from error
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray's would exit with 15

    def close(self) -> None:
        """Leave the cluster; whatever still runs there for this process ends."""
        ray.shutdown()

    def nodes(self) -> dict[str, str]:
        """Return the names of the nodes by their ids."""
        return {node["NodeID"]: node["NodeName"] for node in self._nodes()}

    def node_of(self, actor: Any) -> str:
        """Return the id of the node of an actor, which may have ended there; Ray has that under a private name only."""
        node: str = ray._private.state.actors(actor._actor_id.hex())["Address"]["NodeID"]
        return node

    def places(self, without: Collection[str] = ()) -> int:
        """Return the number of trials that the nodes hold, but those `without`, whether or not others use them."""
        nodes = [node for node in self._nodes() if node["NodeID"] not in without]
        return sum(self.demand.places(node["Resources"]) for node in nodes)

    def describe(self) -> str:
        """Return `2 nodes that hold 8 trials of 1 CPU and 0.25 GPU`."""
        count = len(self._for_trials())
        nodes = "1 node that holds" if count == 1 else f"{count} nodes that hold"
        return f"{nodes} {counted(self.places(), 'trial')} of {self.demand} each"

    def check(self) -> None:
        """Check that a node has the resources of a trial, and that those which do have this process's versions.

        Raises:
            UserError: no node has them, or one has other versions of Python, torch or the project.
        """
        for option, name, wanted in (("cpus", "CPU", self.demand.cpus), ("gpus", "GPU", self.demand.gpus)):
            most = max((node["Resources"].get(name, 0.0) for node in self._nodes()), default=0.0)
            if wanted > most:
                raise UserError(
                    f"--{option}-per-trial must be at most {most:g}, the most that a node of the cluster has, "
                    f"but got {wanted:g}"
                )
        if not self._for_trials():
            raise UserError(f"a node of the cluster must have {self.demand} for a trial, but none has both")
        for node, found in self._on_each_node(versions).items():
            if different := differences(found):
                raise UserError(f"every node must have what this machine has, but {node} has {different}")

    def without_checkpoints(self, folder: Path) -> list[str]:
        """Return the names of the nodes that do not share `folder`, which exists here."""
        mark = folder / f".shared-{secrets.token_hex(8)}"
        mark.touch()
        try:
            return [node for node, shares in self._on_each_node(_shares, mark).items() if not shares]
        finally:
            mark.unlink()

    def run(
        self, function: Callable[..., _Answer], *arguments: object, say: Callable[[str], None] = lambda line: None
    ) -> _Answer:
        """Return `function(*arguments)` of a node with the resources of a trial; wait until they are free.

        Args:
            say: receives a line if that takes a while.

        Raises:
            UserError: the function raised a `UserError`.
        """
        options = {"num_cpus": self.demand.cpus, "num_gpus": self.demand.gpus}
        task = ray.remote(_naming_the_node).options(**options).remote(function, *arguments)
        if not ray.wait([task], timeout=_PATIENCE_SECONDS)[0]:
            say(f"waiting until a node of the cluster has {self.demand} free")
        try:
            answer: _Answer = ray.get(task)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from error
            raise
        return answer

    def _nodes(self) -> list[dict[str, Any]]:
        return sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeName"]))

    def _for_trials(self) -> list[dict[str, Any]]:
        return [node for node in self._nodes() if self.demand.places(node["Resources"])]

    def _on_each_node(self, function: Callable[..., _Answer], *arguments: object) -> dict[str, _Answer]:
        """Answers of the nodes that hold trials, by name."""
        nodes = self._for_trials()
        tasks = [
            ray.remote(function)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(*arguments)
            for node in nodes
        ]
        answers: dict[str, _Answer] = {}
        for node, task in zip(nodes, tasks, strict=True):
            try:
                answers[node["NodeName"]] = ray.get(task)
            except RayTaskError as error:
                said = last_line(error)
                raise UserError(f"every node must have this project, but {node['NodeName']} gave: {said}") from error
            except RayError as error:
                raise UserError(f"every node must answer, but {node['NodeName']} is gone") from error
        return answers


def versions() -> dict[str, str]:
    """Return what must be the same on all nodes: versions of Python and torch, and the hash of the project's code."""
    return {"Python": platform.python_version(), "torch": torch.__version__, "project": _code_hash()}


@functools.cache
def _code_hash() -> str:
    sha256 = hashlib.sha256()
    root = Path(sweeps.__file__).parents[1]
    for path in sorted(path for package in _PACKAGES for kind in _SOURCES for path in (root / package).rglob(kind)):
        sha256.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return sha256.hexdigest()[:12]


def differences(found: Mapping[str, str]) -> str:
    """Return `torch 2.12.0 (here 2.13.0)` for each of another node's `versions` that differs from here."""
    here = versions()
    return ", ".join(f"{name} {found[name]} (here {here[name]})" for name in here if found[name] != here[name])


def last_line(error: RayError) -> str:
    """Return the last line of an error of another process, which has the cause; a traceback comes before."""
    return str(error).strip().splitlines()[-1]


def find_hardware(device: str) -> Hardware:
    """Return this node's device of that kind, with its name.

    Raises:
        UserError: it has none.
    """
    found = Hardware.detect(device)
    return replace(found, name=found.describe())


@dataclass(frozen=True, slots=True)
class StoredData:
    """A data set in the cluster's object store, of which each node takes one copy into shared memory."""

    train: _Stored
    val: _Stored
    test: _Stored

    @classmethod
    def put(cls, data: DataSource) -> StoredData:
        """Put a data set into the store; it stays while this process lives."""
        splits = data.train_val()
        return cls(_Stored.put(splits.train), _Stored.put(splits.val), _Stored.put(data.test()))

    def source(self, fetch: Callable[[Any], Any]) -> DataSource:
        """Return loaders; `fetch` gets the object of a reference.

        They raise a `DataError` if what arrives has another SHA-256.
        """
        return DataSource(
            lambda: Splits(self.train.load(fetch), self.val.load(fetch)),
            lambda: self.test.load(fetch),
        )


@dataclass(frozen=True, slots=True)
class _Stored:
    """A split in the object store."""

    arrays: Any  # reference of images and labels; Ray's own type has no annotations
    sha256: str
    data_set: DataSet

    @classmethod
    def put(cls, split: Split) -> _Stored:
        arrays = split.images.contiguous().numpy(), split.labels.contiguous().numpy()
        return cls(ray.put(arrays), _sha256(*arrays), split.data_set)

    def load(self, fetch: Callable[[Any], Any]) -> Split:
        images, labels = fetch(self.arrays)
        if (found := _sha256(images, labels)) != self.sha256:
            raise DataError(f"SHA-256 of the data set must be {self.sha256}, but {found} came through the object store")
        with warnings.catch_warnings():  # torch warns of memory that is only to be read, and so it is
            warnings.simplefilter("ignore", UserWarning)
            return Split(torch.from_numpy(images), torch.from_numpy(labels), self.data_set)


def _sha256(*arrays: np.ndarray[Any, Any]) -> str:
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(array.data)
    return sha256.hexdigest()


def _naming_the_node(function: Callable[..., _Answer], *arguments: object) -> _Answer:
    try:
        return function(*arguments)
    except UserError as error:
        here = ray.get_runtime_context().get_node_id()
        name = next(node["NodeName"] for node in ray.nodes() if node["NodeID"] == here)
        raise UserError(f"node {name} of the cluster gave: {error}") from error


def _shares(mark: Path) -> bool:
    return mark.exists() and os.access(mark.parent, os.W_OK)


def _check_that_something_answers(address: str) -> None:
    """Raise an OSError if nothing listens there; Ray itself would try for five minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
