"""Artifacts of a run: tables, texts and pictures, as bytes by artifact path."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from mlflow.entities import Run

from cifar_core.data import Split
from cifar_core.data.augment import augment
from cifar_core.data.data_set import CIFAR10
from cifar_core.evaluation import pictures
from cifar_core.evaluation.metrics import Predictions
from cifar_core.evaluation.serving import Timing
from cifar_core.models import build_shapes
from cifar_core.models.summary import model_summary
from cifar_core.recipe import Recipe
from sweeps.store import Store
from sweeps.tracking.locations import artifact_folder
from sweeps.tracking.weakness import weakness_report

PREDICTIONS = "predictions.csv"
DATA_SET = "data.json"  # artifact of a study's own run; reproductions, all of CIFAR-10, have none
# Artifacts that must be there: of a run that trained, of a complete one that was validated, of a test.
_TRAINED, _VALIDATED, _TESTED = ("recipe.toml",), ("confusion.json",), ("test/confusion.json", "test/predictions.csv")
_SHOWN = 18  # images in the picture of augmented training images


def of_training(recipe: Recipe, train: Split) -> dict[str, bytes]:
    """Return the network layer by layer, and a picture of augmented training images."""
    network = build_shapes(recipe.model, recipe.width, train.data_set)
    return {
        "summary.txt": model_summary(network, train.data_set.side).encode(),
        "pictures/augmented.png": _augmented(recipe, train),
    }


def of_predictions(split: Split, predictions: Predictions) -> dict[str, bytes]:
    """Return each of the `predictions` on `split`, and their mistakes: confusion matrix, weakness report, pictures."""
    matrix = predictions.confusion()
    accuracies = dict(zip(predictions.data_set.classes, predictions.class_accuracy(), strict=True))
    mistakes = {}
    if predictions.accuracy < 1:
        mistakes["pictures/mistakes.png"] = pictures.confident_mistakes(split, predictions)
    return {
        "confusion.json": json.dumps({"classes": split.data_set.classes, "matrix": matrix.tolist()}).encode(),
        "pictures/classes.png": pictures.class_accuracies(accuracies),
        "weakness.md": weakness_report(predictions).encode(),
        "pictures/confusion.png": pictures.confusion(matrix, split.data_set.classes),
        **mistakes,
        "pictures/predictions.png": pictures.predictions_grid(split, predictions),
        PREDICTIONS: _table(_rows(predictions)),
    }


def of_test(test: Split, predictions: Predictions) -> dict[str, bytes]:
    """Return the same for the test set, and the first prediction by itself."""
    files = of_predictions(test, predictions)
    files["pictures/prediction.png"] = pictures.first_prediction(test, predictions)
    files["prediction.json"] = json.dumps(_rows(predictions)[0]).encode()
    return {f"test/{name.rpartition('/')[2]}": content for name, content in files.items()}


def of_serving(timings: Sequence[Timing]) -> dict[str, bytes]:
    """Return the time to label images, by batch size."""
    return {"test/serving.json": json.dumps([asdict(timing) for timing in timings]).encode()}


def right_answers(predictions: bytes) -> list[bool]:
    """Return for each image of the file `PREDICTIONS`, in the order of the split, whether it was labelled correctly.

    A damaged file has fewer images than its split.
    """
    rows = csv.DictReader(io.StringIO(predictions.decode(errors="replace").replace("\0", "")))
    return [row["true"] == row["predicted"] for row in rows if row.get("true") and row.get("predicted")]


def missing_artifacts(store: Store, run: Run) -> tuple[Path, list[str]] | None:
    """Return the folder of a run's artifacts and the names of those that it lacks; None if it lacks none."""
    folder, tags, metrics = artifact_folder(store, run.info.artifact_uri), run.data.tags, run.data.metrics
    if folder is None:
        return None
    expected: tuple[str, ...] = ()
    if tags.get("stage") == "study":
        expected = (DATA_SET,) * (tags.get("data_sha256", CIFAR10.sha256) != CIFAR10.sha256)
    elif run.data.params:
        validated = tags.get("state") == "complete" and "val/accuracy" in metrics
        expected = (*_TRAINED, *_VALIDATED * validated, *_TESTED * ("test/accuracy" in metrics))
    lost = [name for name in expected if not (folder / name).is_file()]
    return (folder, lost) if lost else None


def _augmented(recipe: Recipe, train: Split) -> bytes:
    """Picture of the first training images, augmented with a generator of its own, so that the run is unchanged."""
    images = train.images[:_SHOWN].float() / 255
    generator = torch.Generator().manual_seed(recipe.seed)
    return pictures.unlabelled(augment(images, recipe, torch.tensor(train.data_set.mean), generator))


def _rows(predictions: Predictions) -> list[dict[str, object]]:
    best = predictions.probabilities.max(1)
    names = predictions.data_set.classes
    answers = zip(predictions.labels.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        {"index": index, "true": names[true], "predicted": names[predicted], "probability": round(probability, 4)}
        for index, (true, predicted, probability) in enumerate(answers)
    ]


def _table(rows: Sequence[dict[str, object]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()
