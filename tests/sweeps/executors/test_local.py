"""Worker processes on this machine: signals of the terminal, workers that do not start, and the end of the parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_core.data.source import DataSource
from sweeps.executors import local
from sweeps.executors.engine import LocalEngine
from sweeps.executors.local import LocalExecutor
from sweeps.executors.protocol import Failed, Finished, RunsFailError
from tests.sweeps.executors.support import JOB, RECIPE, events_until, is_gone, waits, workers
from tests.sweeps.small_data import CPU, SYNTHETIC

pytestmark = pytest.mark.slow  # every worker takes seconds to start

# The coordinator of two workers: the first loads and the second trains when it dies without a word.
PARENT = """
import functools, time
from cifar_core.data.source import DataSource
from tests.sweeps.executors.support import LONG
from tests.sweeps.executors.test_local import start
from tests.sweeps.small_data import SYNTHETIC

loading, training = start(data=DataSource(functools.partial(time.sleep, 60), SYNTHETIC.test)), start()
print(*(executor._workers[0].process.pid for executor in (loading, training)), flush=True)
training.start(LONG)
while not training.events(0.2):
    pass
print("ready", flush=True)
time.sleep(60)
"""

# A coordinator that stops its run when it is asked to.
STOPPED = """
import contextlib, signal
from sweeps.command_line import Stopper
from sweeps.executors.protocol import Ending
from tests.sweeps.executors.support import LONG, events_until
from tests.sweeps.executors.test_local import start

with contextlib.closing(start()) as executor:
    stopper = Stopper()
    stopper.listen()
    executor.start(LONG)
    events_until(executor, lambda event: True)
    print("ready", flush=True)
    events_until(executor, lambda event: False, until=stopper.asked)
    signal.raise_signal(signal.SIGTERM)
    executor.pause()
    print(type(events_until(executor, lambda event: isinstance(event, Ending))[-1]).__name__)
"""


def start(workers: int = 1, data: DataSource = SYNTHETIC) -> LocalExecutor:
    return LocalExecutor(workers=workers, threads=1, hardware=CPU, data=data)


def test_workers_that_do_not_start_are_not_replaced_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))
    executor = start()
    try:
        with pytest.raises(RunsFailError, match=r"^workers must start, but 6 in a row died: exit code 1$"):
            events_until(executor, lambda event: False)
    finally:
        executor.close()


def test_workers_that_die_now_and_then_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    says = "import sys; from multiprocessing.connection import Connection as C; C(int(sys.argv[2])).send('started')"
    monkeypatch.setattr(local, "_COMMAND", (sys.executable, "-c", says))
    with contextlib.closing(start()) as executor:
        started = 0
        while started < 8:  # each says so and dies
            started += len(executor.events(10))


def test_no_more_workers_start_than_runs_side_by_side() -> None:
    engine = LocalEngine("cpu", 4, 32, 2)
    assert engine.workers == 2
    with contextlib.closing(engine.executor(SYNTHETIC, print)) as executor:
        assert executor.free == 2


@pytest.mark.real_data
@pytest.mark.timeout(300)
def test_signals_to_the_group_are_for_the_coordinator(capfd: pytest.CaptureFixture[str]) -> None:
    """A terminal or `timeout` sends them to the whole group, at any moment: here while the worker still starts."""
    executor = start(data=DataSource.cifar10(None, lambda what, done, total: None))
    try:
        [worker] = workers()
        for _ in range(20):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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
def test_sigterm_to_the_group_is_for_the_coordinator() -> None:
    """`timeout`, systemd and SLURM send it so; `timeout` sends it to the coordinator twice."""
    command = [sys.executable, "-c", STOPPED]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3], start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        os.killpg(parent.pid, signal.SIGTERM)
        assert parent.stdout.read() == "Paused\n"
    assert parent.returncode == 0


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
    deadline = time.monotonic() + 60
    while not all(is_gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 6, "signal 40")])
def test_a_worker_that_dies_within_a_message_is_one_that_died(
    monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    """A pipe raises OSError if the worker is killed while it writes a message that is larger than the buffer."""
    executor = start()
    try:
        executor.start(JOB)
        [worker] = executor._workers
        events_until(executor, waits)
        os.kill(worker.process.pid, number)
        worker.process.wait()

        def cut() -> object:
            raise OSError("got end of file during message")

        monkeypatch.setattr(worker.pipe, "recv", cut)
        [event] = events_until(executor, lambda event: isinstance(event, Failed))
        assert isinstance(event, Failed)
        assert (event.reason, event.worker_died) == (f"worker died: killed by {name}", True)
    finally:
        executor.close()
