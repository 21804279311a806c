"""One job, carried out where the worker is: train, validate, draw, and say what happened."""

from __future__ import annotations

import csv
import io
import json
import math
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from cifar_core import pictures
from cifar_core.augment import augment
from cifar_core.checkpoint import load_weights, save_weights
from cifar_core.data import CLASSES, MEAN, Split, Splits, load_test
from cifar_core.hardware import Hardware
from cifar_core.metrics import Predictions
from cifar_core.training import Progress, TrainState, predict, train
from sweeps.executors.protocol import Diverged, Event, Failed, Finished, Job, Outcome, Point, Progressed

_SHOWN = 32  # images in the picture of augmented training images


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
    state = TrainState.create(job.recipe, data, hardware)
    last: Predictions | None = None
    for progress in train(state, data, job.watch):
        if not math.isfinite(progress.train_loss):
            send(Diverged(job.key, f"training loss was {progress.train_loss} at step {progress.step}"))
            return None
        send(Progressed(job.key, _point(progress)))
        last = progress.validation
        if last is not None and state.step < state.total_steps and not go_on():
            return None
    if last is None:
        raise RuntimeError("a watch must validate at the end of training")
    if job.weights is not None:
        save_weights(state.model, job.weights)
    files = _files(data.val.head(len(last)), last)
    files["pictures/augmented.png"] = _augmented(job, data)
    return _outcome(last, files)


def _test(job: Job, test: Split, hardware: Hardware) -> Outcome:
    if job.weights is None:
        raise RuntimeError("a test needs weights")
    model = hardware.place(load_weights(job.recipe, job.weights))
    predictions = predict(model, test, hardware)
    files = _files(test, predictions)
    files["pictures/prediction.png"] = pictures.one_prediction(test, predictions, 0)
    files["prediction.json"] = json.dumps(_describe(predictions, 0)).encode()
    files["predictions.csv"] = _table(predictions)
    return _outcome(predictions, {f"test/{Path(name).name}": content for name, content in files.items()})


def _outcome(predictions: Predictions, files: dict[str, bytes]) -> Outcome:
    return Outcome(
        loss=predictions.loss,
        accuracy=predictions.accuracy,
        class_accuracy=tuple(predictions.class_accuracy()),
        images=len(predictions),
        files=files,
    )


def _point(progress: Progress) -> Point:
    validation = progress.validation
    return Point(
        step=progress.step,
        fraction=progress.fraction,
        epoch=progress.epoch,
        train_loss=progress.train_loss,
        train_accuracy=progress.train_accuracy,
        learning_rate=progress.learning_rate,
        train_seconds=progress.train_seconds,
        validation_seconds=progress.validation_seconds,
        val_loss=validation.loss if validation else None,
        val_accuracy=validation.accuracy if validation else None,
    )


def _files(split: Split, predictions: Predictions) -> dict[str, bytes]:
    matrix = predictions.confusion()
    return {
        "confusion.json": json.dumps({"classes": CLASSES, "matrix": matrix.tolist()}).encode(),
        "pictures/confusion.png": pictures.confusion(matrix),
        "pictures/mistakes.png": pictures.confident_mistakes(split, predictions),
    }


def _augmented(job: Job, data: Splits) -> bytes:
    """A picture of the first training images as the network meets them; drawn apart from the run's randomness."""
    images = data.train.images[:_SHOWN].float() / 255
    generator = torch.Generator().manual_seed(job.recipe.seed)
    return pictures.unlabelled(augment(images, job.recipe, torch.tensor(MEAN), generator))


def _describe(predictions: Predictions, index: int) -> dict[str, object]:
    predicted = int(predictions.classes[index])
    return {
        "index": index,
        "true": CLASSES[int(predictions.labels[index])],
        "predicted": CLASSES[predicted],
        "probability": round(predictions.probabilities[index, predicted].item(), 4),
    }


def _table(predictions: Predictions) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["index", "true", "predicted", "probability"])
    writer.writeheader()
    writer.writerows(_describe(predictions, index) for index in range(len(predictions)))
    return buffer.getvalue().encode()
