"""One job, carried out where the worker is: train, validate, draw, and say what happened."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cifar_core.checkpoint import Checkpoints, load_weights, save_state
from cifar_core.data import Split, Splits, load_test
from cifar_core.errors import OutOfMemory, first_line
from cifar_core.evaluation.metrics import Predictions
from cifar_core.evaluation.serving import time_serving
from cifar_core.hardware import Hardware
from cifar_core.memory import ran_out, release
from cifar_core.training import TrainState, predict, total_steps, train
from sweeps.executors.protocol import (
    Diverged,
    Ending,
    Event,
    Failed,
    Finished,
    Job,
    Noted,
    Outcome,
    Paused,
    Point,
    Progressed,
    Unkept,
)
from sweeps.tracking import artifacts


class _NotWritten(Exception):
    """The run's state could not be written; the message is one line."""


@dataclass(frozen=True, slots=True)
class Contact:
    """How a job and its coordinator talk.

    Args:
        send: gets what happens.
        go_on: asked after each validation but the last; waits for the answer.
        pause: asked between steps; answers at once.
    """

    send: Callable[[Event], None]
    go_on: Callable[[], bool]
    pause: Callable[[], bool] = lambda: False


def carry_out(job: Job, data: Splits, data_dir: Path, hardware: Hardware, contact: Contact) -> None:
    """Carry out `job`, sending events.

    Every error becomes a `Failed` or `Unkept` event, so the worker lives on.
    """
    ending = _ending(job, data, data_dir, hardware, contact)
    if isinstance(ending, Failed):
        release()
    if ending is not None:
        contact.send(ending)


def _ending(job: Job, data: Splits, data_dir: Path, hardware: Hardware, contact: Contact) -> Ending | None:
    """How `job` ends: every way but the coordinator's death is an event, or None where it knows by itself."""
    try:
        if job.open_test_set:
            return Finished(job.key, _test(job, load_test(data_dir), hardware))
        return _train(job, data, hardware, contact)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        raise
    except _NotWritten as error:
        return Unkept(job.key, str(error))
    except Exception as error:
        return Failed(job.key, _reason(error), traceback.format_exc())


def _train(job: Job, data: Splits, hardware: Hardware, contact: Contact) -> Ending | None:
    """Train from where the run stands; None if the coordinator ended it."""
    if contact.pause():
        return Paused(job.key)
    checkpoints = Checkpoints(job.checkpoints) if job.checkpoints is not None else None
    state = _resume(job, checkpoints, data, hardware, contact) if checkpoints is not None else None
    if state is None:
        state = TrainState.create(job.recipe, data, hardware)
    last: Predictions | None = None
    for progress in train(state, data, job.watch, contact.pause):
        if not math.isfinite(progress.train_loss):
            return Diverged(job.key, f"training loss was {progress.train_loss} at step {progress.step}")
        contact.send(Progressed(job.key, Point.of(progress)))
        last = progress.validation
        if last is None or state.step == state.total_steps:
            continue
        if not contact.go_on():
            return None
        if checkpoints is not None and not contact.pause():
            _save(checkpoints, state)  # not before the answer: by then the points so far are on record
    if state.step < state.total_steps:
        if checkpoints is not None:
            _save(checkpoints, state)
        return Paused(job.key)
    if last is None:
        raise RuntimeError("a watch must validate at the end of training")
    if job.weights is not None:
        with _writing("the weights", job.weights):
            save_state(state, job.weights)
    files = artifacts.of_training(job.recipe, state.model, data.train)
    return Finished(job.key, Outcome.of(last, files | artifacts.of_predictions(data.val.head(len(last)), last)))


def _resume(
    job: Job, checkpoints: Checkpoints, data: Splits, hardware: Hardware, contact: Contact
) -> TrainState | None:
    """The newest state that is good and leaves out no point that is still to be put on record, if there is one."""
    beyond = None
    if job.recorded is not None:
        steps = job.watch.steps(total_steps(job.recipe, len(data.train)))
        beyond = next((step for step in steps if step > job.recorded), None)
    return checkpoints.load(job.recipe, data, hardware, lambda line: contact.send(Noted(job.key, line)), before=beyond)


def _test(job: Job, test: Split, hardware: Hardware) -> Outcome:
    if job.weights is None:
        raise RuntimeError("a test needs weights")
    model = hardware.place(load_weights(job.recipe, job.weights))
    predictions = predict(model, test, hardware, job.recipe.normalisation)
    timings = time_serving(model, test, hardware, job.recipe.normalisation)
    return Outcome.of(predictions, artifacts.of_test(test, predictions) | artifacts.of_serving(timings))


def _save(checkpoints: Checkpoints, state: TrainState) -> None:
    with _writing("a checkpoint", checkpoints.path(state.step)):
        checkpoints.save(state)


@contextlib.contextmanager
def _writing(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _NotWritten(f"{path}: {what} must be writable, but got: {error.strerror or error}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OutOfMemory):
        return str(error)
    if ran_out(error):
        return f"out of memory: {first_line(error)}"
    return f"{type(error).__name__}: {error}".splitlines()[0]
