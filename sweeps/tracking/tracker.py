"""Recording a study and its runs in MLflow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from cifar_core.budget import step_flops
from cifar_core.data.data_set import DataSet
from cifar_core.models import parameter_count
from cifar_core.recipe import Recipe
from cifar_core.training import Progress
from sweeps.executors.protocol import Outcome
from sweeps.store import Store, StoreError
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.figures import figures_of, metrics_of, split_figures
from sweeps.tracking.locations import follow_store
from sweeps.tracking.mlflow_client import answering
from sweeps.tracking.mlflow_experiment import MlflowExperiment
from sweeps.tracking.mlflow_queue import Entry
from sweeps.tracking.mlflow_sender import MlflowSender
from sweeps.tracking.views import TRIALS
from sweeps.words import counted

FLUSH_SECONDS = 10.0  # for a server to answer
MODEL_SECONDS = 90.0  # for a network, which has to be exported first
BEST_ACCURACY = "study/best_val_accuracy"  # the curve of the study's own run
_STOP_SECONDS = 2.0  # for a server to answer after a stop


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLabel:
    """Identity of a run: the same key is the same run, even after an interruption."""

    key: str
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of_training(
        cls, key: str, name: str, tags: Mapping[str, str], recipe: Recipe, data_set: DataSet, **params: object
    ) -> RunLabel:
        """Return the label of a run that trains `recipe` from nothing; `params` are those beside the recipe's."""
        of_network = {
            "parameters": parameter_count(recipe.model, recipe.width, data_set),
            "flops_per_image": step_flops(recipe, data_set) / recipe.batch_size,
        }
        files = {"recipe.toml": recipe.to_toml().encode()}
        return cls(key=key, name=name, tags=tags, params={**recipe.to_dict(), **of_network, **params}, files=files)


@dataclass(slots=True)
class _Known:
    """State, threads and metrics of a run, whether or not MLflow has received them yet."""

    state: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    threads: str | None = None


class MlflowTracker:
    """Records a study as an MLflow experiment: a parent run for the study, and a nested run for each training run.

    Everything goes through a queue on disk, so nothing waits for a server, and an outage loses nothing. Only the
    coordinator writes.

    Args:
        source: script that MLflow shows as the source of the runs.
        say: receives a line when MLflow stops answering, answers again, or refuses something.
    """

    def __init__(
        self,
        store: Store,
        study: str,
        *,
        source: str = "sweeps/run_study.py",
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._store, self._study, self._source, self._say = store, study, source, say
        self._sender: MlflowSender | None = None
        self._known: dict[str, _Known] = {}
        self._step: dict[str, int] = {}

    def open_study(self, label: RunLabel) -> None:
        """Open the experiment, and start or resume the study's own run.

        Raises:
            StoreError: as for `open`.
        """
        self.open()
        self.begin(label)

    def open(self) -> None:
        """Open the experiment, send what an earlier process left, and read the runs that are not search trials.

        Raises:
            StoreError: MLflow does not know such a store, or does not answer; the experiment was deleted; or a queue
                of an earlier process is damaged.
            LockError: the store was moved, and another process still runs a study of it.
        """
        for folder in follow_store(self._store, self._study):
            self._say(f"the store was in {folder} before; MLflow now looks for its artifacts in {self._store.root}")
        with answering(self._store.tracking_uri):
            self._experiment = MlflowExperiment(self._store, self._study, source=self._source)
            self._sender = MlflowSender(self._store.queues(self._study), self._experiment.write, self._say)
            for run in self._experiment.stored("tags.stage != 'search'"):
                if "key" in run.data.tags:
                    tags = run.data.tags
                    self._known[tags["key"]] = _Known(tags.get("state"), metrics_of(run), tags.get("threads"))

    def begin(self, label: RunLabel) -> None:
        """Start a run, or resume the one with the same key; points that it has already are not written again."""
        self._put(
            label.key,
            name=label.name,
            tags={"state": "running", "key": label.key, **label.tags},
            params={name: str(value) for name, value in label.params.items()},
            files=label.files,
        )

    def tag(self, key: str, **tags: str) -> None:
        """Set tags of a run. A crash may lose them."""
        self._put(key, tags=tags, sync=False)

    def point(self, key: str, point: Progress, *, met: str = "val", system: Mapping[str, float] = {}) -> None:
        """Add a point to the curves of a run.

        Args:
            met: split of its validation: val or test.
            system: as `SystemMetrics.read` returns it.
        """
        self._step[key] = max(point.step, self._step.get(key, 0))
        values = {
            "train/loss": point.train_loss,
            "train/accuracy": point.train_accuracy,
            "lr": point.learning_rate,
            f"{met}/loss": point.val_loss,
            f"{met}/accuracy": point.val_accuracy,
        }
        metrics = {name: value for name, value in values.items() if value is not None} | dict(system)
        # The next attempt repeats a point without validation, but not one that the coordinator has answered.
        self._put(key, metrics=metrics, step=point.step, sync=point.val_accuracy is not None)

    def end(
        self,
        key: str,
        state: str,
        *,
        reason: str = "",
        outcome: Outcome | None = None,
        metrics: Mapping[str, float] = {},
        name: str = "",
        note: str = "",
    ) -> None:
        """End a run as complete, pruned, failed or interrupted; `name` and `note` replace its name and description."""
        tags = {"state": state} | ({"reason": reason} if reason else {}) | _texts(name, note)
        if outcome is not None:
            metrics = {**metrics, **_more_accuracies("val", outcome)}
        files = outcome.files if outcome is not None else {}
        self._put_figures(key, metrics, tags=tags, files=files, state=state)

    def tested(
        self, key: str, outcome: Outcome, tags: Mapping[str, str] = {}, *, name: str = "", note: str = ""
    ) -> None:
        """Add a result on the test set to a run; `name` and `note` replace its name and description."""
        metrics = {"test/accuracy": outcome.accuracy, "test/loss": outcome.loss, **_more_accuracies("test", outcome)}
        if outcome.tta_accuracy is not None:
            metrics["test/tta_accuracy"] = outcome.tta_accuracy
        step, tags = self._step.get(key, 0), {**tags, **_texts(name, note)}
        self._put_figures(key, metrics, step=step, tags=tags, files=outcome.files)

    def describe(self, key: str, *, name: str = "", note: str = "") -> None:
        """Replace the name and the description of a run, unless they are empty."""
        self._put(key, tags=_texts(name, note), sync=False)

    def attach(self, key: str, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> None:
        """Add artifacts and metrics to a run."""
        self._put_figures(key, metrics, files=files)

    def attach_error(self, key: str, details: str) -> None:
        """Add the traceback of a failure to a run, as the artifact `error.txt`; nothing if there is none."""
        if details:
            self._put(key, files={"error.txt": details.encode(errors="replace")})

    def log_model(self, key: str, weights: Path) -> None:
        """Log the network with the weights in that file of the store to the run, as a model that MLflow can serve."""
        self._put(key, weights=str(weights))

    def register(self, key: str, weights: Path, tags: Mapping[str, str]) -> None:
        """Register the network as a champion in the model registry, with `tags`; log it first if need be."""
        self._put(key, weights=str(weights), registered=dict(tags))

    def study_progress(self, best_accuracy: float, step: int) -> None:
        """Add a point to the curve of the study's own run."""
        self._put(STUDY_KEY, metrics={BEST_ACCURACY: best_accuracy}, step=step)

    def end_study(self, state: str, metrics: Mapping[str, float]) -> None:
        """End the study's own run as finished or interrupted; figures of earlier commands that are not given stay."""
        known = self._known[STUDY_KEY].metrics if STUDY_KEY in self._known else {}
        earlier = {name: value for name, value in known.items() if name.startswith("study/") and name != BEST_ACCURACY}
        self._put_figures(STUDY_KEY, {**earlier, **metrics}, tags={"state": state}, state=state)

    def recorded(self, key: str) -> int:
        """Return the step of the last point of a run, 0 if there is none.

        Raises:
            StoreError: MLflow does not answer.
        """
        if key not in self._step:  # `open` has sent what an earlier process left
            with answering(self._store.tracking_uri):
                self._step[key] = self._experiment.recorded(key, "train/loss")
        return self._step[key]

    def run_id(self, key: str) -> str:
        """Return the MLflow id of a run that has begun.

        Raises:
            StoreError: MLflow does not answer.
        """
        if not self._opened().flush(FLUSH_SECONDS, MODEL_SECONDS):
            raise StoreError(f"the MLflow store must answer, but {self._store.tracking_uri} did not")
        return self._experiment.id_of(key)

    def address(self) -> str:
        """Return the address of the study's trials on its tracking server."""
        return f"{self._store.tracking_uri.rstrip('/')}/{self._experiment.route(TRIALS)}"

    def state(self, key: str) -> str | None:
        """Return the state of a run, None if it has never begun.

        Search trials of earlier processes are not known here: Optuna knows them.
        """
        return self._known[key].state if key in self._known else None

    def threads(self, key: str) -> int | None:
        """Return the number of threads that a run began with; None if that is not known, as for `state`."""
        threads = self._known[key].threads if key in self._known else None
        return int(threads) if threads is not None and threads.isdecimal() else None

    def metric(self, key: str, name: str) -> float | None:
        """Return the last value of a metric of a complete run, None if there is none."""
        return self._known[key].metrics.get(name) if self.state(key) == "complete" else None

    def costs(self, key: str) -> dict[str, float]:
        """Return the costs of a run as metrics, as far as they are known."""
        return {name: value for name, value in self._known[key].metrics.items() if name.startswith("cost/")}

    def total(self, stage: str, name: str) -> float:
        """Return the sum of a metric over the complete runs whose keys begin with `stage`: confirm or final."""
        return sum(self.metric(key, name) or 0.0 for key in self._known if key.startswith(f"{stage}-"))

    def artifact(self, key: str, path: str) -> bytes | None:
        """Return an artifact at the top of a run; None if MLflow has not received it.

        Raises:
            StoreError: MLflow does not answer.
        """
        with answering(self._store.tracking_uri):
            return self._experiment.artifact(key, path)

    def close(self, seconds: float = FLUSH_SECONDS, *, at_once: bool = False) -> int:
        """Wait until MLflow has everything, or received nothing for `seconds`; return the number of entries it lacks.

        Args:
            at_once: after a stop by the user, who waits: MLflow has some seconds in all.
        """
        if self._sender is None:
            return 0
        if at_once:
            return self._sender.close(_STOP_SECONDS, _STOP_SECONDS, most=2 * _STOP_SECONDS)
        return self._sender.close(seconds, MODEL_SECONDS)

    def finish(self, *, at_once: bool, way: str = "the same command sends them") -> int:
        """Close, and say how many entries MLflow lacks and the `way` to send them; otherwise as `close`."""
        lacking = self.close(at_once=at_once)
        if lacking:
            kept = f"kept in {self._store.queues(self._study)}"
            self._say(f"MLflow lacks {counted(lacking, 'entry')}, {kept}; once it answers, {way}")
        return lacking

    def _opened(self) -> MlflowSender:
        if self._sender is None:
            raise RuntimeError("a study must be opened before its runs")
        return self._sender

    def _put_figures(
        self, key: str, metrics: Mapping[str, float], *, tags: Mapping[str, str] = {}, **fields: Any
    ) -> None:
        """Put metrics; those that need no curve become tags."""
        curves, figures = split_figures(metrics)
        self._put(key, metrics=curves, tags={**tags, **figures}, **fields)

    def _put(self, key: str, *, sync: bool = True, **fields: Any) -> None:
        entry = Entry(key=key, at=time.time_ns() // 1_000_000, **fields)
        known = self._known.setdefault(key, _Known())
        known.state = entry.tags.get("state", known.state)
        known.threads = entry.tags.get("threads", known.threads)
        known.metrics |= {**entry.metrics, **figures_of(entry.tags)}
        self._opened().put(entry, sync=sync)


def _texts(name: str, note: str) -> dict[str, str]:
    return {tag: text for tag, text in ((MLFLOW_RUN_NAME, name), (MLFLOW_RUN_NOTE, note)) if text}


def _more_accuracies(split: str, outcome: Outcome) -> dict[str, float]:
    """Accuracies of classes and groups that have images, and the balanced one where it differs from the plain one."""
    found = {f"{split}_{name}": value for name, value in outcome.accuracies.items() if not math.isnan(value)}
    if outcome.balanced_accuracy is not None:
        found[f"{split}/balanced_accuracy"] = outcome.balanced_accuracy
    return found
