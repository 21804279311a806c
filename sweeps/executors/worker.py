"""One job on a worker: train, validate, draw pictures, and send events."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cifar_core.checkpoint import Checkpoints, load_weights, save_state
from cifar_core.data import Split, Splits
from cifar_core.errors import OutOfMemory, cause, first_line
from cifar_core.evaluation.metrics import Predictions
from cifar_core.evaluation.serving import time_serving
from cifar_core.hardware import Hardware
from cifar_core.memory import is_out_of_memory, release_memory
from cifar_core.training import TrainState, evaluate, total_steps, train
from sweeps.executors.protocol import (
    CheckpointWriteFailed,
    Diverged,
    Ending,
    EvaluateJob,
    Event,
    Failed,
    Finished,
    Job,
    Log,
    Outcome,
    Paused,
    Progressed,
    TrainJob,
)
from sweeps.executors.system_metrics import SystemMetrics
from sweeps.tracking import artifacts


class _WriteFailed(Exception):
    """The run's state could not be written; the message is one line."""


@dataclass(frozen=True, slots=True)
class Channel:
    """Connection of a job to the coordinator.

    Args:
        send: receives events.
        go_on: asked after each validation but the last; waits for the answer.
        pause: asked between steps; answers at once.
    """

    send: Callable[[Event], None]
    go_on: Callable[[], bool]
    pause: Callable[[], bool] = lambda: False


def run_job(job: Job, data: Splits, load_test: Callable[[], Split], hardware: Hardware, channel: Channel) -> None:
    """Run `job` to its end and send its events.

    Every error becomes an event, so that the worker lives on; only the end of the coordinator raises.
    """
    ending: Ending | None
    try:
        if hardware.device.index is not None:  # CUDA graphs are captured on the current GPU
            torch.cuda.set_device(hardware.device)
        if isinstance(job, EvaluateJob):
            ending = Finished(job.key, _evaluate(job, load_test(), hardware))
        else:
            ending = _train(job, data, hardware, channel)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        raise
    except _WriteFailed as error:
        ending = CheckpointWriteFailed(job.key, str(error))
    except Exception as error:
        details = traceback.format_exc()
        ending = Failed(job.key, _reason(error), details, out_of_memory=is_out_of_memory(error))
    if isinstance(ending, Failed) or hardware.device.type != "cpu":  # workers share a GPU's memory
        release_memory()
    if ending is not None:
        channel.send(ending)


def _train(job: TrainJob, data: Splits, hardware: Hardware, channel: Channel) -> Ending | None:
    """Train from the newest usable checkpoint; return None if the coordinator ended the run."""
    if channel.pause():
        return Paused(job.key)
    if job.recipe.val_fraction == 0:
        data = Splits(train=data.everything(), val=data.val.head(0))
    checkpoints = Checkpoints(job.checkpoints) if job.checkpoints is not None else None
    state = _resume(job, checkpoints, data, hardware, channel) if checkpoints is not None else None
    if state is None:
        state = TrainState.create(job.recipe, data, hardware)
    last: Predictions | None = None
    system = SystemMetrics(hardware.device)
    for progress in train(state, data, job.schedule, channel.pause):
        if not math.isfinite(progress.train_loss):
            return Diverged(job.key, f"training loss was {progress.train_loss} at step {progress.step}")
        channel.send(Progressed(job.key, replace(progress, validation=None), system.read()))
        last = progress.validation
        if state.step == state.total_steps or (last is None and job.schedule.validations):
            continue
        if last is not None and not channel.go_on():
            return None
        if checkpoints is not None and not channel.pause():
            _save(checkpoints, state)  # after the answer, because then the points so far are on record
    if state.step < state.total_steps:
        if checkpoints is not None:
            _save(checkpoints, state)
        return Paused(job.key)
    if job.weights is not None:
        with _writing("the weights", job.weights):
            save_state(state, job.weights)
    if last is None:
        return Finished(job.key, None)
    files = artifacts.of_training(job.recipe, data.train)
    return Finished(job.key, Outcome.of(last, files | artifacts.of_predictions(data.val.head(len(last)), last)))


def _resume(
    job: TrainJob, checkpoints: Checkpoints, data: Splits, hardware: Hardware, channel: Channel
) -> TrainState | None:
    """Load the newest valid checkpoint from before the first unrecorded point, if there is one."""
    beyond = None
    if job.recorded is not None:
        steps = job.schedule.steps(total_steps(job.recipe, len(data.train)))
        beyond = next((step for step in steps if step > job.recorded), None)
    return checkpoints.load(job.recipe, data, hardware, lambda line: channel.send(Log(job.key, line)), before=beyond)


def _evaluate(job: EvaluateJob, test: Split, hardware: Hardware) -> Outcome:
    model = hardware.place(load_weights(job.recipe, job.weights))
    predictions, augmented = evaluate(model, test, hardware, job.recipe)
    timings = time_serving(model, test, hardware, job.recipe.normalisation)
    return Outcome.of(predictions, artifacts.of_test(test, predictions) | artifacts.of_serving(timings), augmented)


def _save(checkpoints: Checkpoints, state: TrainState) -> None:
    with _writing("a checkpoint", checkpoints.path(state.step)):
        checkpoints.save(state)


@contextlib.contextmanager
def _writing(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _WriteFailed(f"{path}: {what} must be writable, but got: {cause(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OutOfMemory):
        return str(error)
    if is_out_of_memory(error):
        return f"out of memory: {first_line(error)}"
    return f"{type(error).__name__}: {error}".splitlines()[0]
