"""Engines that train the runs of a sweep: this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from cifar_core.data.data_set import DataSet
from cifar_core.data.source import DataSource
from cifar_core.errors import UserError
from cifar_core.hardware import Hardware
from cifar_core.machine import free_memory, usable_cores
from cifar_core.recipe import Recipe
from sweeps.executors.local import LocalExecutor
from sweeps.executors.protocol import Executor
from sweeps.planning.speed import measure_speed
from sweeps.planning.workers import share_cores
from sweeps.words import shortened

ENGINES = ("local", "ray")


class Engine(Protocol):
    """A place to train in.

    Attributes:
        hardware: device and precision of each run.
        workers: number of runs side by side, now; no more than a stage has.
        threads: threads of each run on a CPU.
        on_cluster: runs train on other machines too.
    """

    hardware: Hardware
    workers: int
    threads: int
    on_cluster: bool

    def speed(self, recipe: Recipe, data_set: DataSet) -> float:
        """Measure the training FLOPs per second of a run."""

    def nodes_without(self, checkpoints: Path) -> Sequence[str]:
        """Return the names of the nodes that cannot write to this folder; if there are none, a run resumes on any."""

    def rows(self, checkpoints: Path, nodes_without: Sequence[str]) -> Mapping[str, str]:
        """Return rows for the plan."""

    def executor(self, data: DataSource, say: Callable[[str], None]) -> Executor:
        """Start the executor."""

    def close(self) -> None:
        """Leave the place; further calls change nothing."""


class LocalEngine:
    """Worker processes on this machine.

    Args:
        workers: number of workers; None for as many as the machine has room for, and the sweep has runs for.
        side: side of the images in pixels.
        most: number of runs of a stage.

    Raises:
        UserError: there is no such device, or no room for so many workers.
    """

    on_cluster = False

    def __init__(self, device: str, workers: int | None, side: int, most: int) -> None:
        self.hardware = Hardware.detect(device)
        machine = self.hardware.device, usable_cores(), free_memory()
        self.workers, self.threads = share_cores(workers, *machine, side, most)

    def speed(self, recipe: Recipe, data_set: DataSet) -> float:
        return measure_speed(recipe, self.hardware, data_set)

    def nodes_without(self, checkpoints: Path) -> Sequence[str]:
        return ()

    def rows(self, checkpoints: Path, nodes_without: Sequence[str]) -> Mapping[str, str]:
        return {}

    def executor(self, data: DataSource, say: Callable[[str], None]) -> Executor:
        return LocalExecutor(workers=self.workers, threads=self.threads, hardware=self.hardware, data=data)

    def close(self) -> None:
        pass


class RayEngine:
    """A Ray cluster, which must be running.

    Args:
        address: HOST:PORT of its head node, or "auto" for the cluster that this machine belongs to.
        cpus, gpus: resources of a trial.
        most: largest number of runs at the same time.
        checkpoints: a folder that all nodes share, which exists.
        say: receives a line if the cluster has nothing free yet.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be used.
    """

    on_cluster = True

    def __init__(
        self,
        address: str,
        *,
        cpus: float,
        gpus: float,
        most: int,
        checkpoints: Path | None,
        say: Callable[[str], None],
    ) -> None:
        try:
            from sweeps.executors import ray_cluster
        except ModuleNotFoundError as error:
            raise UserError("--engine ray needs Ray, which is not installed: pip install -e '.[cluster]'") from error
        self._cluster = ray_cluster.RayCluster(address, ray_cluster.Demand(cpus, gpus))
        try:
            self._cluster.check()
            if checkpoints is not None and (without := self._cluster.without_checkpoints(checkpoints)):
                raise UserError(
                    f"--checkpoints must be a folder that all nodes share, but {', '.join(without)} cannot write to "
                    f"{checkpoints} of this machine"
                )
            self.hardware = self._cluster.run(ray_cluster.find_hardware, self._cluster.demand.device, say=say)
        except BaseException:
            self.close()
            raise
        self._most = most
        self.workers, self.threads = min(self._cluster.places(), most), self._cluster.demand.threads

    def speed(self, recipe: Recipe, data_set: DataSet) -> float:
        return self._cluster.run(measure_speed, recipe, self.hardware, data_set)

    def nodes_without(self, checkpoints: Path) -> Sequence[str]:
        checkpoints.mkdir(parents=True, exist_ok=True)
        return self._cluster.without_checkpoints(checkpoints)

    def rows(self, checkpoints: Path, nodes_without: Sequence[str]) -> Mapping[str, str]:
        lost = f"its trial resumes from its last checkpoint in {checkpoints}, which all nodes share"
        if nodes_without:
            lost = f"its trial starts again, because {shortened(nodes_without)} cannot write to {checkpoints} of this "
            lost += "machine; --checkpoints DIR names a folder that all nodes share"
        return {"cluster": self._cluster.describe(), "lost node": lost}

    def executor(self, data: DataSource, say: Callable[[str], None]) -> Executor:
        from sweeps.executors.ray_executor import RayExecutor

        return RayExecutor(self._cluster, most=self._most, hardware=self.hardware, data=data, say=say)

    def close(self) -> None:
        self._cluster.close()
