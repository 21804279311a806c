"""Worker processes: they live on from job to job, are replaced when they die, and die with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_core.checkpoint import Checkpoints
from cifar_core.data.download import default_data_dir, ensure_cifar10
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, evenly
from sweeps.executors import local
from sweeps.executors.job_loop import DataSource
from sweeps.executors.local import LocalExecutor
from sweeps.executors.protocol import Event, Failed, Finished, Paused, Progressed, TrainJob
from tests.sweeps.small_data import CPU, SYNTHETIC

pytestmark = pytest.mark.slow  # every worker takes seconds to start

RECIPE = Recipe(model="fast_resnet", width=0.125, epochs=2.25, batch_size=50)  # nine steps
JOB = TrainJob(key="trial-0", recipe=RECIPE, schedule=EvalSchedule(evenly(3), (0.5, 1.0), (100, 100)))

# A run that goes on for minutes, with a point every few steps.
LONG = replace(JOB, recipe=replace(RECIPE, epochs=10_000.0), schedule=EvalSchedule(evenly(10_000), (1.0,), (100,)))

# The coordinator of two workers: the first loads and the second trains when it dies without a word.
PARENT = """
import functools, time
from sweeps.executors.job_loop import DataSource
from tests.sweeps.executors.test_local import LONG, start
from tests.sweeps.small_data import SYNTHETIC

loading, training = start(data=DataSource(functools.partial(time.sleep, 60), SYNTHETIC.test)), start()
print(*(executor._workers[0].process.pid for executor in (loading, training)), flush=True)
training.start(LONG)
while not training.events(0.2):
    pass
print("ready", flush=True)
time.sleep(60)
"""


def start(workers: int = 1, data: DataSource = SYNTHETIC) -> LocalExecutor:
    return LocalExecutor(workers=workers, threads=1, hardware=CPU, data=data)


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalExecutor]:
    """One worker for several tests, as it takes seconds to start; each leaves it free."""
    executor = start()
    yield executor
    executor.close()


def test_workers_that_do_not_start_are_not_replaced_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))
    executor = start()
    try:
        with pytest.raises(RuntimeError, match=r"^workers must start, but 6 in a row died: exit code 1$"):
            events_until(executor, lambda event: False)
    finally:
        executor.close()


def events_until(executor: LocalExecutor, ended: Callable[[Event], bool], seconds: float = 60) -> list[Event]:
    """Events up to one for which `ended` holds."""
    happened: list[Event] = []
    deadline = time.monotonic() + seconds
    while not (happened and ended(happened[-1])):
        assert time.monotonic() < deadline, f"nothing of the kind within {seconds} s, but {happened}"
        happened += executor.events(0.2)
    return happened


def waits(event: Event) -> bool:
    return isinstance(event, Progressed) and event.point.val_accuracy is not None


def workers() -> list[int]:
    """Child processes that run a worker."""
    command = ["ps", "-ww", "--ppid", str(os.getpid()), "-o", "pid=,args="]
    lines = subprocess.check_output(command, text=True).splitlines()
    return [int(line.split()[0]) for line in lines if "worker_process" in line]


def is_gone(pid: int) -> bool:
    """True for a process that has ended, also if its parent has not collected it yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


@pytest.mark.timeout(300)
def test_one_worker_takes_one_job_after_another(shared: LocalExecutor) -> None:
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


@pytest.mark.timeout(300)
def test_a_worker_that_is_stopped_for_a_while_resumes(shared: LocalExecutor) -> None:
    shared.start(LONG)
    events_until(shared, lambda event: True)
    [worker] = workers()
    os.kill(worker, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while shared.events(1.0):
        assert time.monotonic() < deadline, "it was not stopped"
    os.kill(worker, signal.SIGCONT)
    assert isinstance(events_until(shared, lambda event: True)[-1], Progressed)
    shared.pause()
    assert events_until(shared, lambda event: isinstance(event, Paused))[-1] == Paused("trial-0")


@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_is_reported_and_replaced(shared: LocalExecutor) -> None:
    shared.start(replace(LONG, key="trial-3"))
    [worker] = workers()
    os.kill(worker, signal.SIGKILL)
    died = events_until(shared, lambda event: isinstance(event, Failed))[-1]
    assert died == Failed("trial-3", "worker died: killed by SIGKILL", "", worker_died=True)
    assert shared.free == 1
    shared.start(replace(JOB, key="trial-4"))
    events_until(shared, waits)
    [fresh] = workers()
    assert fresh != worker

    # One that is killed while it waits for a "no" has no more to report.
    os.kill(fresh, signal.SIGKILL)
    while not is_gone(fresh):
        time.sleep(0.01)
    shared.reply("trial-4", go_on=False)
    assert shared.free == 1
    assert shared.events(0.5) == []
    shared.start(replace(JOB, key="trial-5"))
    assert {event.key for event in events_until(shared, waits)} == {"trial-5"}

    began = time.monotonic()
    shared.close()
    assert time.monotonic() - began < 5
    assert workers() == []


@pytest.mark.real_data
@pytest.mark.timeout(300)
def test_ctrl_c_and_a_lost_terminal_are_for_the_coordinator(capfd: pytest.CaptureFixture[str]) -> None:
    """A terminal sends both to every process of the group, at any moment: here while the worker still starts."""
    ensure_cifar10(default_data_dir(), lambda what, done, total: None)
    executor = start(data=DataSource.cifar10(default_data_dir()))
    try:
        [worker] = workers()
        for _ in range(20):
            for number in (signal.SIGINT, signal.SIGHUP):
                os.kill(worker, number)
            time.sleep(0.1)
        executor.start(replace(JOB, recipe=replace(RECIPE, epochs=0.01)))
        assert not any(isinstance(event, Failed) for event in events_until(executor, lambda event: True))
        events_until(executor, waits)
        os.kill(worker, signal.SIGINT)
        executor.reply("trial-0", go_on=True)
        events_until(executor, lambda event: isinstance(event, Finished))
        assert workers() == [worker]
        assert "Traceback" not in capfd.readouterr().err
    finally:
        executor.close()


@pytest.mark.timeout(300)
def test_workers_end_with_their_parent() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as parent:
        try:
            assert parent.stdout is not None
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(pids) == 2
            assert parent.stdout.readline() == "ready\n"
            assert not any(is_gone(pid) for pid in pids)
        finally:
            parent.kill()
    deadline = time.monotonic() + 5
    while not all(is_gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


@pytest.mark.timeout(300)
def test_pause(tmp_path: Path) -> None:
    """Two workers pause, and resume from there."""
    executor = start(workers=2)
    try:
        # One trains, the other waits for an answer that comes once it has been asked to pause.
        executor.start(replace(LONG, key="trains", checkpoints=tmp_path / "trains"))
        executor.start(replace(JOB, key="waits", checkpoints=tmp_path / "waits"))
        seen = events_until(executor, waits)
        while not any(event.key == "trains" for event in seen):
            seen += events_until(executor, lambda event: True)
        began = time.monotonic()
        executor.pause()
        executor.pause()
        executor.reply("waits", go_on=True)
        seen += events_until(executor, lambda event: executor.free == 2)
        assert time.monotonic() - began < 5
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

        # A run that is given up while it pauses has written its last by then, and says no more.
        executor.start(replace(JOB, key="given up", checkpoints=tmp_path / "given up"))
        events_until(executor, lambda event: waits(event) and event.key == "given up")
        executor.pause()
        executor.reply("given up", go_on=False)
        assert executor.free >= 1
        Checkpoints(tmp_path / "given up").clear()
        time.sleep(0.5)
        assert not (tmp_path / "given up").exists()
        executor.start(replace(JOB, key="next"))
        events = events_until(executor, lambda event: waits(event) and event.key == "next")
        assert "given up" not in {event.key for event in events}
    finally:
        executor.close()
