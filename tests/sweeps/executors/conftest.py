"""A Ray cluster on this machine for all tests of executors, as it takes seconds to start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cluster import Nodes


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """Two nodes of one CPU each, and the connection of this process to them."""
    pytest.importorskip("ray", reason="Ray is not installed: make test-cluster")
    from sweeps.executors.ray_cluster import Demand, RayCluster
    from tests.cluster import Nodes, ray_nodes

    with ray_nodes(1, 1) as started, contextlib.closing(RayCluster(started.address, Demand(1.0, 0.0))) as cluster:
        yield Nodes(started, cluster)
