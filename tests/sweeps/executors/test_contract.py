"""The contract of executors, on this machine and on Ray: jobs start, report, wait for answers, pause and end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_core.checkpoint import load_weights
from sweeps.executors.local import LocalExecutor
from sweeps.executors.protocol import EvaluateJob, Executor, Failed, Finished, Paused, Progressed
from tests.sweeps.executors.support import JOB, LONG, RECIPE, Start, events_until, is_gone, waits, workers
from tests.sweeps.small_data import CPU, SYNTHETIC

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # every worker takes seconds to start


def start_local(workers: int = 1) -> LocalExecutor:
    return LocalExecutor(workers=workers, threads=1, hardware=CPU, data=SYNTHETIC)


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.cluster)])
def start(request: pytest.FixtureRequest) -> Start:
    """Starts an executor with that many workers."""
    if request.param == "local":
        return start_local
    nodes = request.getfixturevalue("nodes")
    from sweeps.executors.ray_executor import RayExecutor

    def start_on_ray(workers: int = 1) -> Executor:
        return RayExecutor(nodes.cluster, most=workers, hardware=CPU, data=SYNTHETIC)

    return start_on_ray


@pytest.fixture(scope="module")
def shared(start: Start) -> Iterator[Executor]:
    """One worker for several tests, as it takes seconds to start; each leaves it free."""
    executor = start()
    events_until(executor, lambda event: False, until=lambda: executor.free == 1)
    yield executor
    executor.close()


def test_one_worker_takes_one_job_after_another(shared: Executor) -> None:
    assert shared.free == 1
    shared.start(JOB)
    assert shared.free == 0
    first = events_until(shared, waits)
    assert [event.key for event in first] == ["trial-0"] * len(first)
    [worker] = workers()
    shared.reply("trial-0", go_on=True)
    *_, last = events_until(shared, lambda event: isinstance(event, Finished))
    assert isinstance(last, Finished)
    assert last.key == "trial-0"
    assert shared.free == 1

    # A run that is told "no" ends without another event, and its worker takes the next one.
    shared.start(replace(JOB, key="trial-1"))
    events_until(shared, waits)
    shared.reply("trial-1", go_on=False)
    assert shared.free == 1

    # An error is an event; the worker lives on.
    shared.start(replace(JOB, key="trial-2", recipe=replace(RECIPE, model="nonsense")))
    [failed] = events_until(shared, lambda event: True)
    assert isinstance(failed, Failed)
    assert (failed.key, failed.worker_died) == ("trial-2", False)
    assert failed.reason.startswith("RecipeError: unknown model 'nonsense'")
    assert workers() == [worker], "one worker did it all"


def test_a_network_is_left_in_its_file_and_tested_from_there(shared: Executor, tmp_path: Path) -> None:
    weights = tmp_path / "weights" / "final.safetensors"
    shared.start(replace(JOB, weights=weights))
    events_until(shared, waits)
    shared.reply(JOB.key, go_on=True)
    events_until(shared, lambda event: isinstance(event, Finished))
    load_weights(RECIPE, weights)
    shared.start(EvaluateJob(key="final", recipe=RECIPE, weights=weights))
    [tested] = events_until(shared, lambda event: True)
    assert isinstance(tested, Finished)
    assert tested.outcome is not None
    for harm, fault in (
        (lambda: weights.write_bytes(b"damaged"), "SHA-256 must be "),
        (weights.unlink, "this state must be readable, but got: No such file or directory"),
    ):
        harm()
        shared.start(EvaluateJob(key="final", recipe=RECIPE, weights=weights))
        [failed] = events_until(shared, lambda event: True)
        assert isinstance(failed, Failed)
        assert failed.reason.startswith(f"CheckpointError: {weights}: {fault}")
        assert shared.free == 1


def test_a_worker_that_is_stopped_for_a_while_resumes(shared: Executor) -> None:
    shared.start(LONG)
    events_until(shared, lambda event: True)
    [worker] = workers()
    os.kill(worker, signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while shared.events(1.0):
        assert time.monotonic() < deadline, "it was not stopped"
    os.kill(worker, signal.SIGCONT)
    assert isinstance(events_until(shared, lambda event: True)[-1], Progressed)
    shared.pause()
    assert events_until(shared, lambda event: isinstance(event, Paused))[-1] == Paused("trial-0")


def test_a_worker_that_is_killed_is_reported_and_replaced(shared: Executor) -> None:
    shared.start(replace(LONG, key="trial-3"))
    events_until(shared, lambda event: True)
    [worker] = workers()
    os.kill(worker, signal.SIGKILL)
    died = events_until(shared, lambda event: isinstance(event, Failed))[-1]
    assert isinstance(died, Failed)
    assert (died.key, died.details, died.worker_died) == ("trial-3", "", True)
    assert died.reason.startswith("worker died: ")
    events_until(shared, lambda event: False, until=lambda: shared.free == 1)
    shared.start(replace(JOB, key="trial-4"))
    events_until(shared, waits)
    [fresh] = workers()
    assert fresh != worker

    # One that is killed while it waits for a "no" has no more to report.
    os.kill(fresh, signal.SIGKILL)
    while not is_gone(fresh):
        time.sleep(0.01)
    shared.reply("trial-4", go_on=False)
    assert shared.events(0.5) == []
    events_until(shared, lambda event: False, until=lambda: shared.free == 1 and workers() not in ([], [fresh]))
    shared.start(replace(JOB, key="trial-5"))
    assert {event.key for event in events_until(shared, waits)} == {"trial-5"}

    shared.close()
    deadline = time.monotonic() + 60
    while workers():
        assert time.monotonic() < deadline, "workers outlive their executor"
        time.sleep(0.05)


def test_pause(start: Start, tmp_path: Path) -> None:
    """Two workers pause, and resume from there."""
    executor = start(workers=2)
    try:
        events_until(executor, lambda event: False, until=lambda: executor.free == 2)
        # One trains, the other waits for an answer, which never comes.
        executor.start(replace(LONG, key="trains", checkpoints=tmp_path / "trains"))
        executor.start(replace(JOB, key="waits", checkpoints=tmp_path / "waits"))
        seen = events_until(executor, waits)
        while not any(event.key == "trains" for event in seen):
            seen += events_until(executor, lambda event: True)
        executor.pause()
        seen += events_until(executor, lambda event: executor.free == 2)  # the end of one is minutes away
        assert sorted(event.key for event in seen if isinstance(event, Paused)) == ["trains", "waits"]
        assert executor.events(0.3) == []
        assert len(list((tmp_path / "waits").glob("*.safetensors"))) == 1

        # Both resume from there, with the points that are still to come.
        steps = [event.point.step for event in seen if isinstance(event, Progressed) and event.key == "trains"]
        executor.start(replace(LONG, key="trains", checkpoints=tmp_path / "trains"))
        executor.start(replace(JOB, key="waits", checkpoints=tmp_path / "waits"))
        rest = events_until(executor, lambda event: isinstance(event, Finished))
        again = [event.point.step for event in rest if isinstance(event, Progressed) and event.key == "trains"]
        assert steps + again == sorted({*steps, *again})
    finally:
        executor.close()
