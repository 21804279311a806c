"""Where runs are recorded: the Tracker protocol, MLflow behind it, and one in memory for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cifar_core.data import CLASSES
from cifar_core.recipe import Recipe
from sweeps.executors.protocol import Outcome, Point
from sweeps.store import Store, StoreError
from sweeps.tracking.mlflow_client import STUDY_KEY, MlflowRuns, answering, now
from sweeps.tracking.mlflow_queue import Entry
from sweeps.tracking.mlflow_sender import Outbox

FLUSH_SECONDS = 10.0  # for a server to take what it was sent
MODEL_SECONDS = 90.0  # for a network, which is exported first


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

    def tested(self, key: str, outcome: Outcome, tags: Mapping[str, str] = {}) -> None:
        """Record what a run achieved on the test set."""

    def attach(self, key: str, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> None:
        """Add artifacts and figures to a run."""

    def recorded(self, key: str) -> int:
        """Step of the last point of a run, 0 for none.

        Raises:
            StoreError: the store does not answer.
        """

    def run_id(self, key: str) -> str:
        """The store's own name of a run that was begun.

        Raises:
            StoreError: the store does not answer.
        """

    def keep_model(self, key: str, recipe: Recipe, weights: Path) -> None:
        """Log the network with the weights in that file with the run, as an exported program."""

    def state(self, key: str) -> str | None:
        """How a run ended, or that it is running; None for one that was never begun.

        Trials of a search that ended with an earlier process are not known: Optuna knows them.
        """

    def metric(self, key: str, name: str) -> float | None:
        """The last value of a metric of a complete run; None where there is none."""

    def study_progress(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve of the study's own run."""

    def end_study(self, state: str, metrics: Mapping[str, float], tags: Mapping[str, str] = {}) -> None:
        """End the study's own run as finished or interrupted."""


@dataclass(slots=True)
class _Known:
    """What a run was told so far, whether or not MLflow has got it."""

    state: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class MlflowTracker:
    """Records in an MLflow store: one experiment a study, a parent run, and a nested run a training run.

    Everything goes through a journal on disk, so that nothing waits for a server, and an outage loses nothing.

    Args:
        say: gets a line when MLflow stops answering, or answers again.
    """

    def __init__(
        self,
        store: Store,
        study: str,
        *,
        source: str = "sweeps/run_study.py",
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._store, self._study, self._say = store, study, say
        self._runs = MlflowRuns(store.tracking_uri, source=source)
        self._outbox: Outbox | None = None
        self._known: dict[str, _Known] = {}
        self._step: dict[str, int] = {}

    def open_study(self, label: RunLabel) -> None:
        self.open()
        self.begin(label)

    def open(self) -> None:
        """Send what an earlier process left, and learn what MLflow knows of runs that are no trials of a search.

        Raises:
            StoreError: MLflow does not know such a store, or cannot reach it; or a journal that was left is damaged.
        """
        with answering(self._store.tracking_uri):
            self._runs.open(self._study, self._store.artifacts(self._study))
            self._outbox = Outbox(self._store.journals(self._study), self._runs.tell, self._say)
            for run in self._runs.stored("tags.stage != 'search'"):
                if "key" in run.data.tags:
                    known = _Known(run.data.tags.get("state"), dict(run.data.metrics))
                    self._known[run.data.tags["key"]] = known

    def begin(self, label: RunLabel) -> None:
        self._put(
            label.key,
            name=label.name,
            tags={"state": "running", "key": label.key, **label.tags},
            params={name: str(value) for name, value in label.params.items()},
            files=label.files,
        )

    def point(self, key: str, point: Point, *, met: str = "val") -> None:
        self._step[key] = max(point.step, self._step.get(key, 0))
        # A point without a validation comes again with the next attempt; one that has been answered does not.
        self._put(key, metrics=_of_point(point, met), step=point.step, sync=point.val_accuracy is not None)

    def end(
        self,
        key: str,
        state: str,
        *,
        reason: str = "",
        outcome: Outcome | None = None,
        metrics: Mapping[str, float] = {},
    ) -> None:
        values, files = dict(metrics), {}
        if outcome is not None:
            values |= _by_class("val", outcome)
            files = outcome.files
        tags = {"state": state} | ({"reason": reason} if reason else {})
        self._put(key, metrics=values, tags=tags, files=files, state=state)

    def tested(self, key: str, outcome: Outcome, tags: Mapping[str, str] = {}) -> None:
        self._put(key, metrics=_of_test(outcome), step=self._step.get(key, 0), tags=tags, files=outcome.files)

    def attach(self, key: str, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> None:
        self._put(key, metrics=metrics, files=files)

    def recorded(self, key: str) -> int:
        if key not in self._step:  # what an earlier process left has been sent by now
            with answering(self._store.tracking_uri):
                self._step[key] = self._runs.recorded(key, "train/loss")
        return self._step[key]

    def run_id(self, key: str) -> str:
        if not self._opened().flush(FLUSH_SECONDS, MODEL_SECONDS):
            raise StoreError(f"the MLflow store must answer, but {self._store.tracking_uri} did not")
        return self._runs.id_of(key)

    def keep_model(self, key: str, recipe: Recipe, weights: Path) -> None:
        self._put(key, recipe=recipe.to_dict(), weights=str(weights))

    def state(self, key: str) -> str | None:
        return self._known[key].state if key in self._known else None

    def metric(self, key: str, name: str) -> float | None:
        return self._known[key].metrics.get(name) if self.state(key) == "complete" else None

    def study_progress(self, name: str, value: float, step: int) -> None:
        self._put(STUDY_KEY, metrics={name: value}, step=step)

    def end_study(self, state: str, metrics: Mapping[str, float], tags: Mapping[str, str] = {}) -> None:
        self._put(STUDY_KEY, metrics=metrics, tags={"state": state, **tags}, state=state)

    def close(self, seconds: float = FLUSH_SECONDS, model_seconds: float = MODEL_SECONDS) -> int:
        """Wait until MLflow has got everything, or has taken nothing for so long; returns how many entries it lacks."""
        return self._outbox.close(seconds, model_seconds) if self._outbox is not None else 0

    def _opened(self) -> Outbox:
        if self._outbox is None:
            raise RuntimeError("a study must be opened before its runs")
        return self._outbox

    def _put(self, key: str, *, sync: bool = True, **told: Any) -> None:
        entry = Entry(key=key, at=now(), **told)
        known = self._known.setdefault(key, _Known())
        known.state = entry.tags.get("state", known.state)
        known.metrics |= entry.metrics
        self._opened().put(entry, sync=sync)


@dataclass(slots=True)
class MemoryRun:
    label: RunLabel
    state: str = "running"
    reason: str = ""
    points: list[Point] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    model: Path | None = None


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

    def tested(self, key: str, outcome: Outcome, tags: Mapping[str, str] = {}) -> None:
        self.runs[key].metrics |= _of_test(outcome)
        self.runs[key].files |= outcome.files

    def attach(self, key: str, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> None:
        self.runs[key].files |= files
        self.runs[key].metrics |= metrics

    def recorded(self, key: str) -> int:
        return self.runs[key].points[-1].step if self.runs[key].points else 0

    def run_id(self, key: str) -> str:
        return key

    def keep_model(self, key: str, recipe: Recipe, weights: Path) -> None:
        self.runs[key].model = weights

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
