"""Ray clusters of several nodes on this machine."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from sweeps.executors.ray_cluster import RayCluster

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.cluster_utils import Cluster

OBJECT_STORE = 210_000_000  # bytes: CIFAR-10 and little else


@dataclass(frozen=True, slots=True)
class Nodes:
    """A cluster on this machine, and the connection of this process to it."""

    started: Cluster
    cluster: RayCluster


@contextlib.contextmanager
def ray_nodes(*cpus: int) -> Iterator[Cluster]:
    """A cluster with a node for each number of CPUs; the first is the head."""
    # At Ray's own niceness of 15 workers hardly get to run beside other programs.
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    cluster = Cluster()
    try:
        for number, count in enumerate(cpus):
            add_node(cluster, f"node-{number}", count)
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Cluster, name: str, cpus: int = 1, gpus: int = 0) -> object:
    return cluster.add_node(
        num_cpus=cpus, num_gpus=gpus, node_name=name, object_store_memory=OBJECT_STORE, include_dashboard=False
    )
