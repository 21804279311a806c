"""Where runs are recorded: the Tracker protocol, MLflow behind it, and one in memory for tests."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a tool run at work does not phone home
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default blocks for minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

import mlflow
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME
from sqlalchemy.exc import SQLAlchemyError
from torch import nn

from cifar_core.data import CLASSES, DATA_SHA256
from cifar_core.download import ARCHIVE_URL
from sweeps.executors.protocol import Outcome, Point
from sweeps.store import StoreError

# MLflow and the migrations beneath it announce their own steps; a sweep has its own to announce.
for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)

_KIND = "custom_model_development"  # makes the MLflow UI open a study at its runs, not at its page for agents
_STATUS = {
    "running": "RUNNING",
    "complete": "FINISHED",
    "finished": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLabel:
    """What identifies a run: the same key is the same run, also after an interruption."""

    key: str
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)


class Tracker(Protocol):
    """Records a study and its runs. Only the coordinator writes."""

    def open_study(self, label: RunLabel) -> None:
        """Begin the study's own run, or go on with it."""

    def begin(self, label: RunLabel) -> None:
        """Begin a run, or go on with the one of the same key; what it already holds is not written again."""

    def point(self, key: str, point: Point, *, met: str = "val") -> None:
        """Add a point to the curves of a run; `met` says which images its validation met: val or test."""

    def end(
        self,
        key: str,
        state: str,
        *,
        reason: str = "",
        outcome: Outcome | None = None,
        metrics: Mapping[str, float] = {},
    ) -> None:
        """End a run as complete, pruned, failed or interrupted."""

    def tested(self, key: str, outcome: Outcome, tags: Mapping[str, str] = {}) -> str:
        """Record what a run achieved on the test set; returns the run's id."""

    def attach(self, key: str, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> None:
        """Add artifacts and figures to a run."""

    def run_id(self, key: str) -> str:
        """The store's own name of a run that was begun."""

    def keep_model(self, key: str, model: nn.Module) -> None:
        """Log `model` (on the CPU, in evaluation mode) with the run, as an exported program."""

    def state(self, key: str) -> str | None:
        """How a run ended, or that it is running; None for a run that was never begun."""

    def metric(self, key: str, name: str) -> float | None:
        """The last value of a metric of a complete run; None where there is none."""

    def study_progress(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve of the study's own run."""

    def end_study(self, state: str, metrics: Mapping[str, float], tags: Mapping[str, str] = {}) -> None:
        """End the study's own run as finished or interrupted."""


class MlflowTracker:
    """Records in an MLflow store: one experiment a study, a parent run, and a nested run a training run."""

    def __init__(
        self, tracking_uri: str, artifact_location: str | None, *, source: str = "sweeps/run_study.py"
    ) -> None:
        self._uri, self._artifact_location, self._source = tracking_uri, artifact_location, source
        with answering(tracking_uri):
            self._client = MlflowClient(tracking_uri)
        self._experiment = self._parent = ""
        self._runs: dict[str, str] = {}
        self._last_step: dict[str, int] = {}

    def open_study(self, label: RunLabel) -> None:
        with answering(self._uri):
            found = self._client.get_experiment_by_name(label.name)
        self._experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(
                label.name, artifact_location=self._artifact_location, tags={"mlflow.experimentKind": _KIND}
            )
        )
        for run in self._stored_runs():
            if "key" in run.data.tags:
                self._runs[run.data.tags["key"]] = run.info.run_id
        self._parent = self._start(label, {})

    def begin(self, label: RunLabel) -> None:
        known = label.key in self._runs
        run_id = self._start(label, {MLFLOW_PARENT_RUN_ID: self._parent})
        self._last_step[label.key] = self._stored_step(run_id) if known else 0

    def point(self, key: str, point: Point, *, met: str = "val") -> None:
        if point.step <= self._last_step[key]:
            return  # a repeated run gives the same points again
        now = _now()
        metrics = [Metric(name, value, now, point.step) for name, value in _of_point(point, met).items()]
        self._client.log_batch(self._runs[key], metrics)
        self._last_step[key] = point.step

    def end(
        self,
        key: str,
        state: str,
        *,
        reason: str = "",
        outcome: Outcome | None = None,
        metrics: Mapping[str, float] = {},
    ) -> None:
        values = dict(metrics)
        if outcome is not None:
            values |= _by_class("val", outcome)
            self._log_files(self._runs[key], outcome.files)
        tags = {"state": state} | ({"reason": reason} if reason else {})
        self._log(self._runs[key], values, tags)
        self._client.set_terminated(self._runs[key], _STATUS[state])

    def tested(self, key: str, outcome: Outcome, tags: Mapping[str, str] = {}) -> str:
        run_id = self._runs[key]
        self._log_files(run_id, outcome.files)
        self._log(run_id, _of_test(outcome), tags, step=self._last_step.get(key, 0))
        return run_id

    def attach(self, key: str, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> None:
        self._log_files(self._runs[key], files)
        self._log(self._runs[key], metrics, {})

    def run_id(self, key: str) -> str:
        return self._runs[key]

    def keep_model(self, key: str, model: nn.Module) -> None:
        example = np.zeros((2, 3, 32, 32), dtype=np.float32)
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 3, 32, 32))]),
            outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(CLASSES)))]),
        )
        mlflow.set_tracking_uri(self._uri)
        with mlflow.start_run(run_id=self._runs[key]):
            mlflow.pytorch.log_model(
                model,
                name="model",
                signature=signature,
                input_example=example,
                serialization_format="pt2",
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
                metadata={"input": "images normalised with the training set's mean and standard deviation"},
            )

    def state(self, key: str) -> str | None:
        return self._client.get_run(self._runs[key]).data.tags.get("state") if key in self._runs else None

    def metric(self, key: str, name: str) -> float | None:
        if self.state(key) != "complete":
            return None
        return self._client.get_run(self._runs[key]).data.metrics.get(name)

    def study_progress(self, name: str, value: float, step: int) -> None:
        self._client.log_metric(self._parent, name, value, step=step)

    def end_study(self, state: str, metrics: Mapping[str, float], tags: Mapping[str, str] = {}) -> None:
        self._log(self._parent, metrics, {"state": state, **tags})
        self._client.set_terminated(self._parent, _STATUS[state])

    def _start(self, label: RunLabel, tags: Mapping[str, str]) -> str:
        """Create the run of this label, or open it again."""
        tags = {"state": "running", "key": label.key, **tags, **label.tags}
        if label.key in self._runs:
            run_id = self._runs[label.key]
            self._client.update_run(run_id, status="RUNNING")
            if "reason" in self._client.get_run(run_id).data.tags:
                self._client.delete_tag(run_id, "reason")  # of an end that was none
            self._log(run_id, {}, tags)
            return run_id
        run_id = self._create(label.name, tags)
        params = [Param(name, str(value)) for name, value in label.params.items()]
        self._client.log_batch(run_id, params=params)
        self._log_files(run_id, label.files)
        self._runs[label.key] = run_id
        return run_id

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        source = {MLFLOW_SOURCE_NAME: self._source, MLFLOW_GIT_COMMIT: tags.get("git_commit", "unknown")}
        run: Run = self._client.create_run(self._experiment, tags={**source, **tags}, run_name=name)
        dataset = Dataset("CIFAR-10", DATA_SHA256[:32], "http", json.dumps({"url": ARCHIVE_URL}))
        self._client.log_inputs(run.info.run_id, [DatasetInput(dataset)])
        return str(run.info.run_id)

    def _stored_runs(self) -> list[Run]:
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([self._experiment], page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def _stored_step(self, run_id: str) -> int:
        history = self._client.get_metric_history(run_id, "train/loss")
        return max((metric.step for metric in history), default=0)

    def _log(self, run_id: str, values: Mapping[str, float], tags: Mapping[str, str], step: int = 0) -> None:
        now = _now()
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, step) for name, value in values.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )

    def _log_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        if not files:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._client.log_artifacts(run_id, folder)


@dataclass(slots=True)
class MemoryRun:
    label: RunLabel
    state: str = "running"
    reason: str = ""
    points: list[Point] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    model: nn.Module | None = None


class MemoryTracker:
    """Records in memory, for tests."""

    def __init__(self) -> None:
        self.study: MemoryRun | None = None
        self.runs: dict[str, MemoryRun] = {}

    def open_study(self, label: RunLabel) -> None:
        self.study = self.study or MemoryRun(label)
        self.study.state = "running"

    def begin(self, label: RunLabel) -> None:
        run = self.runs.setdefault(label.key, MemoryRun(label))
        run.label, run.state, run.reason = label, "running", ""

    def point(self, key: str, point: Point, *, met: str = "val") -> None:
        run = self.runs[key]
        if not run.points or point.step > run.points[-1].step:
            run.points.append(point)
            run.metrics |= _of_point(point, met)

    def end(
        self,
        key: str,
        state: str,
        *,
        reason: str = "",
        outcome: Outcome | None = None,
        metrics: Mapping[str, float] = {},
    ) -> None:
        run = self.runs[key]
        run.state, run.reason = state, reason
        run.metrics |= metrics
        if outcome is not None:
            run.metrics |= _by_class("val", outcome)
            run.files |= outcome.files

    def tested(self, key: str, outcome: Outcome, tags: Mapping[str, str] = {}) -> str:
        self.runs[key].metrics |= _of_test(outcome)
        self.runs[key].files |= outcome.files
        return key

    def attach(self, key: str, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> None:
        self.runs[key].files |= files
        self.runs[key].metrics |= metrics

    def run_id(self, key: str) -> str:
        return key

    def keep_model(self, key: str, model: nn.Module) -> None:
        self.runs[key].model = model

    def state(self, key: str) -> str | None:
        return self.runs[key].state if key in self.runs else None

    def metric(self, key: str, name: str) -> float | None:
        run = self.runs.get(key)
        return run.metrics.get(name) if run and run.state == "complete" else None

    def study_progress(self, name: str, value: float, step: int) -> None:
        assert self.study is not None
        self.study.metrics[name] = value

    def end_study(self, state: str, metrics: Mapping[str, float], tags: Mapping[str, str] = {}) -> None:
        assert self.study is not None
        self.study.state = state
        self.study.metrics |= metrics


@contextlib.contextmanager
def answering(uri: str) -> Iterator[None]:
    """
    Raises:
        StoreError: MLflow does not know such a store, or cannot reach it.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        cause = str(error).strip().splitlines()[0]
        raise StoreError(f"the MLflow store must answer, but {uri} gave: {cause}") from error


def _of_point(point: Point, met: str) -> dict[str, float]:
    values = {
        "train/loss": point.train_loss,
        "train/accuracy": point.train_accuracy,
        "lr": point.learning_rate,
        f"{met}/loss": point.val_loss,
        f"{met}/accuracy": point.val_accuracy,
    }
    return {name: value for name, value in values.items() if value is not None}


def _of_test(outcome: Outcome) -> dict[str, float]:
    return {"test/accuracy": outcome.accuracy, "test/loss": outcome.loss} | _by_class("test", outcome)


def _by_class(met: str, outcome: Outcome) -> dict[str, float]:
    """Accuracies of classes and of groups of them; those without images are left out."""
    accuracies = {f"{met}_class/{name}": value for name, value in zip(CLASSES, outcome.class_accuracy, strict=True)} | {
        f"{met}_group/{name}": value for name, value in outcome.group_accuracy.items()
    }
    return {name: value for name, value in accuracies.items() if value == value}


def _now() -> int:
    return time.time_ns() // 1_000_000
