"""A worker's side of the pipe: no answer, pause or job is mistaken for another, in whatever order they come."""

from __future__ import annotations

import functools
import multiprocessing
import threading
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cifar_core.data import DataError, load_train_val
from cifar_core.data.source import DataSource
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, evenly
from sweeps.executors import job_loop
from sweeps.executors.job_loop import Command, WorkerConfig, serve
from sweeps.executors.protocol import Ending, EvaluateJob, Event, Failed, Finished, Paused, Progressed, TrainJob
from tests.sweeps.small_data import CPU, small_splits, small_test

RECIPE = Recipe(model="fast_resnet", width=0.125, epochs=1.0, batch_size=25)
# Eight steps; the answers are awaited at the second and the fourth.
FIRST = TrainJob(key="first", recipe=RECIPE, schedule=EvalSchedule(evenly(8), {0.25: 20, 0.5: 20, 1.0: 20}))
SECOND = replace(FIRST, key="second")
ENDLESS = replace(FIRST, recipe=replace(RECIPE, epochs=10_000.0), schedule=EvalSchedule(evenly(80_000), {1.0: 20}))


@pytest.fixture
def pipe() -> Iterator[Connection]:
    """To a worker that serves in a thread of this process."""
    ours, theirs = multiprocessing.Pipe()
    thread = threading.Thread(target=serve, args=(theirs,))
    thread.start()
    ours.send(WorkerConfig(DataSource(functools.partial(small_splits, val=20), small_test), CPU, threads=1))
    yield ours
    ours.close()
    thread.join(30)
    assert not thread.is_alive(), "a worker must end with its coordinator"


def hear(pipe: Connection, *, until: int | type[Event]) -> list[Event]:
    """Events up to the point of a step, or to one of a kind."""
    events: list[Event] = []
    while True:
        assert pipe.poll(30), f"nothing more after {events}"
        event: Event = pipe.recv()
        events.append(event)
        if isinstance(event, Progressed) and event.point.step == until:
            return events
        if isinstance(until, type) and isinstance(event, until):
            return events
        assert not isinstance(event, Ending), event


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "step", "commands", "most"),
    [
        (ENDLESS, 3, [Command.PAUSE], 1_000),  # between steps
        (ENDLESS, 0, [Command.PAUSE], 1),  # with the job: it has not begun, or is at its first step
        (FIRST, 2, [Command.GO_ON, Command.PAUSE], 1),  # right after an answer
    ],
)
def test_pause(pipe: Connection, job: TrainJob, step: int, commands: list[Command], most: int) -> None:
    pipe.send(job)
    if step:
        hear(pipe, until=step)
    for command in commands:
        pipe.send(command)
    *points, last = hear(pipe, until=Paused)
    assert last == Paused("first")
    assert len(points) <= most
    assert not pipe.poll(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("late", [Command.GO_ON, Command.END, Command.PAUSE])
def test_a_command_that_comes_too_late_is_not_taken_for_one_to_the_next_run(pipe: Connection, late: Command) -> None:
    pipe.send(FIRST)
    hear(pipe, until=2)
    pipe.send(Command.PAUSE)
    pipe.send(late)
    pipe.send(SECOND)
    assert hear(pipe, until=Paused) == [Paused("first")]
    assert {event.key for event in hear(pipe, until=2)} == {"second"}
    assert not pipe.poll(0.5), "the second run must wait for an answer of its own"
    pipe.send(Command.GO_ON)
    hear(pipe, until=4)
    pipe.send(Command.GO_ON)
    assert isinstance(hear(pipe, until=Finished)[-1], Finished)


@pytest.mark.slow
def test_a_pause_that_comes_when_the_run_has_just_ended(pipe: Connection) -> None:
    for job in (replace(FIRST, recipe=replace(RECIPE, model="nonsense")), FIRST, FIRST):
        pipe.send(job)
        if job is FIRST:
            for step in (2, 4):
                hear(pipe, until=step)
                pipe.send(Command.GO_ON)
        assert hear(pipe, until=Finished if job is FIRST else Failed)
        pipe.send(Command.PAUSE)
        pipe.send(Command.PAUSE)


def test_a_run_may_have_a_number_of_threads_of_its_own(pipe: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    monkeypatch.setattr(job_loop, "set_up_cpu", asked.append)
    for job in (replace(FIRST, threads=2), FIRST):
        pipe.send(job)
        hear(pipe, until=1)
        pipe.send(Command.PAUSE)
        hear(pipe, until=Paused)
    assert asked[-2:] == [2, 1]


def test_a_coordinator_that_is_gone_ends_a_run_between_two_steps(pipe: Connection) -> None:
    pipe.send(ENDLESS)
    hear(pipe, until=1)
    # The fixture closes the pipe now, and waits for the worker's end.


def test_a_test_of_the_champion_without_weights(pipe: Connection, tmp_path: Path) -> None:
    pipe.send(EvaluateJob(key="test", recipe=RECIPE, weights=tmp_path / "none"))
    [failed] = hear(pipe, until=Failed)
    assert isinstance(failed, Failed)
    assert failed.reason.startswith("CheckpointError: ")


def test_data_that_are_not_there_end_the_worker(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    ours.send(WorkerConfig(DataSource(functools.partial(load_train_val, tmp_path), small_test), CPU, threads=1))
    with pytest.raises(DataError, match="No such file"):
        serve(theirs)


def test_a_coordinator_that_is_gone_before_the_first_message_ends_the_worker() -> None:
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    serve(theirs)
