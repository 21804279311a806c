"""A sweep on a Ray cluster whose node and driver are killed: an oracle finds every trial whole, to the same bits."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: make test-cluster")

from tests.cluster import add_node, ray_nodes  # it imports Ray
from tests.processes import find_processes
from tests.torture.driver import Torture
from tests.torture.oracle import Judgement

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def workers() -> list[int]:
    return find_processes(lambda command: command.startswith("ray::Witness"))


@pytest.mark.real_data
@pytest.mark.timeout(1800)
def test_a_node_and_the_driver_that_die_leave_no_trace(tmp_path: Path) -> None:
    with ray_nodes(1, 1) as cluster:
        torture = Torture(tmp_path, seed=0, trials=4, engine=("--engine", "ray", "--address", cluster.address))
        with torture.sweep() as driver:
            # A node is cut off while both train, and its trial resumes on another that joins.
            while len({line["pid"] for line in torture.acknowledged()}) < 2:
                assert torture.wait_for_points(driver, 1), torture.log
            cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)
            add_node(cluster, "node-2", cpus=1)
            while "node node-1 is gone" not in "".join(torture.log):  # Ray takes about 15 s to notice
                assert driver.poll() is None, torture.log
                time.sleep(0.2)
            # The driver dies without a word, and its workers with it.
            assert workers()
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            died = time.monotonic()
            while workers():
                assert time.monotonic() - died < 15, "workers outlive their driver"
                time.sleep(0.1)
        torture.finish()
    said = "".join(torture.log)
    assert "2 nodes that hold 2 trials of 1 CPU each\n" in said
    assert "worker died: node node-1 is gone; it resumes from its last checkpoint" in said
    found = torture.judge()
    assert found == Judgement(found.trials, found.acknowledged, lost=0, doubled=0, stuck=0, unequal=0)
    assert found.trials == 4
