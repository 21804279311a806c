"""What is kept of a run: of one in MLflow with its artifacts, and of one in the result file of a reproduction."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from experiments.comparison.differences import ImageAnswers, TrainedRun
from experiments.reading.results import Result
from experiments.reading.studies import Reader

_CURVES = tuple(f"{split}/{what}" for split in ("train", "val", "test") for what in ("loss", "accuracy"))
_CONDITIONS = ("git_commit", "data_sha256", "device", "cpu", "precision", "threads", "torch")
_FOLDERS = (("val", ""), ("test", "test/"))  # of artifacts, by split
_STATES = {"FINISHED": "complete", "KILLED": "pruned", "FAILED": "failed"}  # of runs without the tag


def of_mlflow(run: Run, study: str, client: MlflowClient, reader: Reader) -> TrainedRun:
    """A run of MLflow, with its curves and, where they are stored, its answers to the test images."""
    tags, metrics, run_id = run.data.tags, run.data.metrics, run.info.run_id
    curves = {key: points for key in _CURVES if (points := _curve(client, run_id, key))}
    steps, epochs = max((points[-1][0] for points in curves.values()), default=0), metrics.get("cost/epochs")
    return TrainedRun(
        run_id=run_id,
        what=_what(tags, run.data.params, study) or run.info.run_name or "a run",
        state=tags.get("state", _STATES.get(run.info.status, "running")),
        date=datetime.fromtimestamp(run.info.start_time / 1000, UTC).date(),
        params=dict(run.data.params),
        conditions={name: tags[name] for name in _CONDITIONS if name in tags},
        metrics={key: value for key, value in metrics.items() if abs(value) < 1e300},
        curves=curves,
        steps_an_epoch=steps / epochs if steps and epochs else None,
        images=_images(reader, run_id),
        answers=_answers(reader, run_id),
    )


def of_result(result: Result, reader: Reader | None) -> TrainedRun:
    """A run of `reproduce.py`; its answers to single images are in the store, where there is one that has the run."""
    test, watched = result.test, {"validation": "val", "test": "test"}[result.watched]
    series = {
        "train/loss": [(p.step, p.train_loss) for p in result.curve],
        "train/accuracy": [(p.step, p.train_accuracy) for p in result.curve],
        f"{watched}/loss": [(p.step, p.watched_loss) for p in result.curve if p.watched_loss is not None],
        f"{watched}/accuracy": [(p.step, p.watched_accuracy) for p in result.curve if p.watched_accuracy is not None],
    }
    metrics = {key: points[-1][1] for key, points in series.items() if points}
    if test is not None:
        metrics |= {"test/accuracy": test.accuracy, "test/loss": test.loss}
        metrics |= {f"test_class/{name}": value for name, value in test.class_accuracy.items()}
    steps = result.curve[-1].step if result.curve else 0
    metrics |= {
        "cost/seconds": result.wall_seconds,
        "cost/training_flops": result.training_flops,
        "cost/epochs": result.epochs_run,
        "cost/images_per_second": steps * float(result.recipe["batch_size"]) / result.train_seconds,
    }
    conditions = {
        "git_commit": result.commit,
        "data_sha256": result.data_sha256,
        "device": result.device,
        "cpu": result.processor,
        "precision": result.precision,
        "threads": str(result.threads),
        "torch": result.torch,
    }
    images = _images(reader, result.run_id) if reader is not None else {}
    return TrainedRun(
        run_id=result.run_id,
        what=f"reproduction of {result.name}, seed {result.seed}",
        state="complete" if test is not None else "interrupted",
        date=result.date,
        params={name: str(value) for name, value in result.recipe.items()},
        conditions=conditions,
        metrics=metrics,
        curves={key: tuple(points) for key, points in series.items() if points},
        steps_an_epoch=steps / result.epochs_run if steps else None,
        images=images | ({} if test is None else {"test": test.images}),
        answers=_answers(reader, result.run_id) if reader is not None else None,
    )


def _curve(client: MlflowClient, run_id: str, key: str) -> tuple[tuple[int, float], ...]:
    """A resumed run may have told a step twice, where the later word counts; infinity is kept as 1.8e308."""
    history = client.get_metric_history(run_id, key)
    return tuple(sorted({p.step: p.value for p in history if abs(p.value) < 1e300}.items()))


def _images(reader: Reader, run_id: str) -> dict[str, int]:
    found = {split: _json(reader, run_id, f"{folder}confusion.json") for split, folder in _FOLDERS}
    return {split: sum(map(sum, known["matrix"])) for split, known in found.items() if "matrix" in known}


def _json(reader: Reader, run_id: str, path: str) -> Mapping[str, Any]:
    try:
        content = json.loads(reader.artifact(run_id, path) or b"null")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _answers(reader: Reader, run_id: str) -> ImageAnswers | None:
    content = reader.artifact(run_id, "test/predictions.csv") or b""
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        rows.sort(key=lambda row: int(row["index"]))
        return ImageAnswers(tuple(r["true"] for r in rows), tuple(r["predicted"] for r in rows)) if rows else None
    except (KeyError, TypeError, ValueError):
        return None  # damaged: as good as not stored


def _what(tags: Mapping[str, str], params: Mapping[str, str], study: str) -> str:
    match tags.get("stage"):
        case "search":
            return f"trial {tags.get('trial')} of {study}"
        case "confirm":
            return f"confirmation of trial {tags.get('source_trial')} of {study}, seed {tags.get('seed')}"
        case "reproduction":
            return f"reproduction of {tags.get('system')}, seed {params.get('seed')}"
    return ""
