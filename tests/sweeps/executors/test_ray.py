"""Ray clusters: what fits on them, nodes that come and go, and clusters that cannot be used."""

from __future__ import annotations

import importlib
import re
import signal
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from cifar_core.hardware import Hardware
from cifar_core.training import EvalSchedule, evenly

pytest.importorskip("ray", reason="Ray is not installed: make test-cluster")

from ray.exceptions import OutOfMemoryError, RayTaskError

from sweeps.executors import ray_cluster, ray_executor
from sweeps.executors.protocol import EvaluateJob, Failed, Finished, Progressed, RunsFailError
from sweeps.executors.ray_cluster import Demand, RayCluster
from sweeps.executors.ray_executor import RayExecutor
from sweeps.executors.ray_worker import RayWorker
from tests.cifar_core.support import refusal
from tests.cluster import Nodes, add_node
from tests.sweeps.executors.support import JOB, LONG, RECIPE, events_until, waits
from tests.sweeps.small_data import CPU, SYNTHETIC

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def cluster(nodes: Nodes) -> Iterator[RayCluster]:
    """The connection, with whatever demand a test gives it."""
    yield nodes.cluster
    nodes.cluster.demand = Demand(1.0, 0.0)


@pytest.mark.parametrize(
    ("cpus", "gpus", "places"),
    [(1, 0, 8), (3, 0, 2), (0.5, 0, 16), (1, 0.25, 8), (1, 0.4, 4), (1, 1, 2), (1, 2, 1), (4, 0.25, 2), (9, 0, 0)],
)
def test_trials_that_a_node_of_eight_cpus_and_two_gpus_holds(cpus: float, gpus: float, places: int) -> None:
    assert Demand(cpus, gpus).places({"CPU": 8.0, "GPU": 2.0, "memory": 1e9}) == places


@pytest.mark.parametrize(
    ("demand", "message"),
    [
        (Demand(2, 0), "--cpus-per-trial must be at most 1, the most that a node of the cluster has, but got 2"),
        (Demand(1, 0.25), "--gpus-per-trial must be at most 0, the most that a node of the cluster has, but got 0.25"),
    ],
)
def test_more_than_any_node_has(cluster: RayCluster, demand: Demand, message: str) -> None:
    cluster.demand = demand
    assert refusal(cluster.check) == message


def test_a_node_with_other_versions(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.check()
    monkeypatch.setattr(ray_cluster, "_code_hash", lambda: "mine")
    assert refusal(cluster.check).startswith("every node must have what this machine has, but node-0 has project ")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OutOfMemoryError("killed"), "ran out of memory"),
        (RayTaskError("events", "traceback", OSError("no room")), "its process on node"),
    ],
)
def test_an_error_in_the_place_of_events_ends_the_worker_and_not_the_sweep(
    cluster: RayCluster, monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str
) -> None:
    executor = RayExecutor(cluster, most=1, hardware=CPU, data=SYNTHETIC, say=lambda line: None)
    try:
        events_until(executor, lambda event: False, until=lambda: executor.free == 1)
        executor.start(LONG)
        with monkeypatch.context() as patched:
            patched.setattr("ray.get", Mock(side_effect=error))
            failed = events_until(executor, lambda event: isinstance(event, Failed))[-1]
        assert isinstance(failed, Failed)
        assert failed.worker_died
        assert cause in failed.reason
        events_until(executor, lambda event: False, until=lambda: executor.free == 1)
    finally:
        executor.close()


def test_no_network_stays_on_a_node(nodes: Nodes, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    executor = RayExecutor(nodes.cluster, most=1, hardware=CPU, data=SYNTHETIC)
    try:
        events_until(executor, lambda event: False, until=lambda: executor.free == 1)
        executor.start(replace(JOB, weights=weights, schedule=EvalSchedule(evenly(3), {1.0: 100})))
        events_until(executor, lambda event: isinstance(event, Finished))
        other = replace(RECIPE, model="five_conv")
        executor.start(EvaluateJob(key="final", recipe=other, weights=weights))  # its error names the file on the node
        [failed] = events_until(executor, lambda event: True)
        assert isinstance(failed, Failed)
        file = Path(failed.reason.split(": ")[1])
        assert file.name == "final.safetensors"
        assert file.parents[1] == Path(nodes.started.head_node.get_session_dir_path())
        assert not list(file.parents[1].glob("cifar-sweeps-*"))
    finally:
        executor.close()


def test_the_handler_of_sigterm_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray_cluster, "_check_that_something_answers", lambda address: None)
    monkeypatch.setattr("ray.init", lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN))  # as Ray does
    RayCluster("127.0.0.1:1", Demand(1.0, 0.0))
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_an_address_at_which_nothing_answers(address: str) -> None:
    said = refusal(lambda: RayCluster(address, Demand(1.0, 0.0)))
    rule = "--address must be that of a running Ray cluster (and with its token, if it asks for one)"
    assert said.startswith(f"{rule}, but {address} gave: ")


def test_a_folder_that_nodes_share_and_one_that_they_do_not(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.without_checkpoints(tmp_path) == []
    monkeypatch.setattr(ray_cluster, "_shares", lambda mark: False)
    assert cluster.without_checkpoints(tmp_path) == ["node-0", "node-1"]
    assert list(tmp_path.iterdir()) == []


def test_nodes_that_come_and_go(nodes: Nodes, tmp_path: Path) -> None:
    """A node that joins is used; one that goes without a word loses its run, which resumes from its checkpoint."""
    schedule = EvalSchedule(evenly(1_000), {0.001: 100, 0.002: 100, 1.0: 100})  # steps 40 and 80 of 40,000
    jobs = {key: replace(LONG, key=key, schedule=schedule, checkpoints=tmp_path / key) for key in ("a", "b", "c")}
    executor = RayExecutor(nodes.cluster, most=10, hardware=CPU, data=SYNTHETIC)
    try:
        events_until(executor, lambda event: False, until=lambda: executor.free == 2)
        joined = add_node(nodes.started, "node-2")
        events_until(executor, lambda event: False, until=lambda: executor.free == 3)
        for job in jobs.values():
            executor.start(job)
        for go_on in (True, False):
            waiting: list[str] = []
            while len(waiting) < 3:
                waiting += [event.key for event in events_until(executor, waits) if waits(event)]
            for key in waiting if go_on else ():
                executor.reply(key, go_on=True)
        nodes.started.remove_node(joined, allow_graceful=False)
        died = events_until(executor, lambda event: isinstance(event, Failed))[-1]
        assert isinstance(died, Failed)
        assert (died.reason, died.worker_died) == ("worker died: node node-2 is gone", True)
        for key in jobs.keys() - {died.key}:
            executor.reply(key, go_on=False)
        assert executor.free == 2
        executor.start(jobs[died.key])
        again = events_until(executor, waits)
        assert [event.point.step for event in again if isinstance(event, Progressed)] == [80]
    finally:
        executor.close()


def test_the_place_of_a_run_names_its_gpu(nodes: Nodes, cluster: RayCluster) -> None:
    """Two trials share a GPU; Ray only counts it, and they train on the CPU."""
    joined = add_node(nodes.started, "node-gpu", cpus=2, gpus=1)
    cluster.demand = Demand(1.0, 0.5)
    executor = RayExecutor(cluster, most=2, hardware=CPU, data=SYNTHETIC)
    try:
        assert executor.pending_workers == 2
        events_until(executor, lambda event: False, until=lambda: executor.free == 2)
        assert [executor.start(replace(LONG, key=key)) for key in "ab"] == ["node-gpu GPU 0"] * 2
        assert executor.pending_workers == 0
    finally:
        executor.close()
        nodes.started.remove_node(joined)


def test_the_code_of_a_node_is_all_that_the_packages_ship() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    shipped = project["tool"]["setuptools"]["package-data"]
    patterns = [pattern for package in ray_cluster._PACKAGES for pattern in shipped[package]]
    assert {f"*{Path(pattern).suffix}" for pattern in patterns} <= {*ray_cluster._SOURCES}


def test_a_node_with_other_versions_that_joins_later_is_not_used(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(ray_cluster, "_code_hash", lambda: "mine")
    executor = RayExecutor(nodes.cluster, most=1, hardware=CPU, data=SYNTHETIC, say=said.append)
    try:
        events_until(executor, lambda event: False, until=lambda: bool(said))
        assert executor.free == 0
        assert re.fullmatch(r"node node-\d is not used: it has project [0-9a-f]{12} \(here mine\)", said[0])
    finally:
        executor.close()


@pytest.mark.parametrize(
    ("crashes", "fault"),
    [
        (False, "ModuleNotFoundError: No module named 'nothing'"),
        (True, "3 workers in a row died there without a job"),
    ],
)
def test_a_node_that_cannot_build_a_worker_is_named_once_and_others_are_used(
    nodes: Nodes, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch, crashes: bool, fault: str
) -> None:
    [bad] = [node for node, name in cluster.nodes().items() if name == "node-1"]

    class Half(RayWorker):
        def __init__(self, *arguments: Any) -> None:
            import os

            import ray

            if ray.get_runtime_context().get_node_id() == bad:
                if crashes:
                    os._exit(1)
                raise ModuleNotFoundError("No module named 'nothing'")
            super().__init__(*arguments)

    monkeypatch.setattr(ray_executor, "RayWorker", Half)
    said: list[str] = []
    cluster.demand = Demand(0.5, 0.0)
    executor = RayExecutor(cluster, most=10, hardware=CPU, data=SYNTHETIC, say=said.append)
    try:
        events_until(executor, lambda event: False, until=lambda: executor.free == 2 and bool(said))
        assert executor.events(2.0) == []
        assert said == [f"node node-1 is not used: {fault}"]
        assert {executor.start(replace(LONG, key=key)) for key in "ab"} == {"node-0"}
    finally:
        executor.close()


def test_nodes_without_the_package_or_the_device(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is named once, however many places it has, and the last one in the error."""
    cluster.demand = Demand(0.5, 0.0)
    mps = Hardware(torch.device("mps"), bf16=False)
    module = tmp_path / "elsewhere.py"
    module.write_text("from sweeps.executors.ray_worker import RayWorker\nclass Elsewhere(RayWorker): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    elsewhere = importlib.import_module("elsewhere").Elsewhere
    module.unlink()  # so that the nodes do not find it
    for worker, hardware, fault in (
        (elsewhere, CPU, "ModuleNotFoundError: No module named 'elsewhere'"),
        (RayWorker, mps, "device 'mps' is not on this machine; it has .*cpu"),
    ):
        monkeypatch.setattr(ray_executor, "RayWorker", worker)
        said: list[str] = []
        executor = RayExecutor(cluster, most=10, hardware=hardware, data=SYNTHETIC, say=said.append)
        try:
            with pytest.raises(RunsFailError) as refused:
                events_until(executor, lambda event: False)
        finally:
            executor.close()
        [first], line = said, rf"node node-\d is not used: {fault}"
        assert re.fullmatch(line, first)
        assert re.fullmatch(f"a node must be left for trials, but {line}", str(refused.value))
        assert first not in str(refused.value)
    said_at_once = refusal(lambda: cluster.run(ray_cluster.find_hardware, "mps"))
    assert re.match(r"node node-\d of the cluster gave: device 'mps' is not on this machine", said_at_once)


def test_workers_that_die_without_a_job(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead(RayWorker):
        def __init__(self, *_: Any) -> None:
            import os

            os._exit(1)

    monkeypatch.setattr(ray_executor, "RayWorker", Dead)
    said: list[str] = []
    executor = RayExecutor(nodes.cluster, most=10, hardware=CPU, data=SYNTHETIC, say=said.append)
    try:
        line = r"node node-\d is not used: 3 workers in a row died there without a job"
        with pytest.raises(RunsFailError, match=f"^a node must be left for trials, but {line}$"):
            events_until(executor, lambda event: False)
    finally:
        executor.close()
    [first] = said
    assert re.fullmatch(line, first)
