"""A worker on a Ray cluster that writes down what was acknowledged."""

from __future__ import annotations

from pathlib import Path

from cifar_core.hardware import Hardware
from sweeps.executors.ray_cluster import StoredData
from sweeps.executors.ray_worker import RayWorker
from tests.torture.witness_worker import witness


def witnessed(truth: Path) -> type[RayWorker]:
    """Return the class of workers that write to the file `truth`."""

    class Witness(RayWorker):
        def __init__(self, data: StoredData, hardware: Hardware, threads: int) -> None:
            witness(truth)
            super().__init__(data, hardware, threads)

    return Witness
