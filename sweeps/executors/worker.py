"""One job, carried out where the worker is: train, validate, draw, and say what happened."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from pathlib import Path

from cifar_core.checkpoint import Checkpoints, load_weights, save_state
from cifar_core.data import Split, Splits, load_test
from cifar_core.hardware import Hardware
from cifar_core.metrics import Predictions
from cifar_core.serving import time_serving
from cifar_core.training import TrainState, predict, train
from sweeps import artifacts
from sweeps.executors.protocol import Diverged, Event, Failed, Finished, Job, Outcome, Point, Progressed


def carry_out(
    job: Job,
    data: Splits,
    data_dir: Path,
    hardware: Hardware,
    send: Callable[[Event], None],
    go_on: Callable[[], bool],
) -> None:
    """Carry out `job`, sending events. `go_on` is asked after each validation but the last and waits for the answer.

    Every error becomes a `Failed` event, so the worker lives on.
    """
    try:
        if job.open_test_set:
            send(Finished(job.key, _test(job, load_test(data_dir), hardware)))
            return
        outcome = _train(job, data, hardware, send, go_on)
        if outcome is not None:
            send(Finished(job.key, outcome))
    except (BrokenPipeError, EOFError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        send(Failed(job.key, reason, traceback.format_exc()))


def _train(
    job: Job, data: Splits, hardware: Hardware, send: Callable[[Event], None], go_on: Callable[[], bool]
) -> Outcome | None:
    """The outcome of the whole run, or None if it ended before that."""
    checkpoints = Checkpoints(job.checkpoints) if job.checkpoints is not None else None
    state = checkpoints.load(job.recipe, data, hardware) if checkpoints is not None else None
    if state is None:
        state = TrainState.create(job.recipe, data, hardware)
    last: Predictions | None = None
    for progress in train(state, data, job.watch):
        if not math.isfinite(progress.train_loss):
            send(Diverged(job.key, f"training loss was {progress.train_loss} at step {progress.step}"))
            return None
        send(Progressed(job.key, Point.of(progress)))
        last = progress.validation
        if last is None or state.step == state.total_steps:
            continue
        if not go_on():
            return None
        if checkpoints is not None:  # not before the answer: by then the points so far are on record
            checkpoints.save(state)
    if last is None:
        raise RuntimeError("a watch must validate at the end of training")
    if job.weights is not None:
        save_state(state, job.weights)
    files = artifacts.of_training(job.recipe, state.model, data.train)
    return Outcome.of(last, files | artifacts.of_predictions(data.val.head(len(last)), last))


def _test(job: Job, test: Split, hardware: Hardware) -> Outcome:
    if job.weights is None:
        raise RuntimeError("a test needs weights")
    model = hardware.place(load_weights(job.recipe, job.weights))
    predictions = predict(model, test, hardware, job.recipe.normalisation)
    timings = time_serving(model, test, hardware, job.recipe.normalisation)
    return Outcome.of(predictions, artifacts.of_test(test, predictions) | artifacts.of_serving(timings))
