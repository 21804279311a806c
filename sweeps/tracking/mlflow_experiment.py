"""The experiment of a study in MLflow. Writing the same entry again changes nothing."""

from __future__ import annotations

import functools
import json
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
)

from cifar_core.data.data_set import CIFAR10
from cifar_core.data.download import ARCHIVE_URL
from sweeps.states import STATUS_OF_STATE
from sweeps.store import Store, StoreError
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.mlflow_client import every_run, open_client, renamed, save_views
from sweeps.tracking.mlflow_queue import Entry
from sweeps.tracking.notes import link
from sweeps.tracking.registry import log_classifier, register
from sweeps.tracking.views import VIEWS, view_route

_METRICS = 800  # per call: MLflow accepts 1,000 metrics, params and tags
_NOTE_LETTERS = 5000  # of an experiment's tag
_PARTS = 3  # of the path of weights: weights/STUDY/KEY.safetensors
_KIND = "custom_model_development"  # makes the MLflow UI open a study at its runs, not at its page for agents


class MlflowExperiment:
    """An experiment of one parent run, with a nested run for each other key. It is created if it does not exist.

    Args:
        source: script that MLflow shows as the source of the runs.

    Raises:
        StoreError: the experiment was deleted.
        MlflowException, SQLAlchemyError, OSError: the store does not answer; as in every method.
    """

    def __init__(self, store: Store, name: str, *, source: str) -> None:
        self._uri, self._source, self._root = store.tracking_uri, source, store.root
        self._client = open_client(store.tracking_uri)
        found = self._client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == LifecycleStage.DELETED:
            restore = f"mlflow experiments restore --experiment-id {found.experiment_id}"
            raise StoreError(
                f"the MLflow experiment {name!r} must not be deleted; this restores it: "
                f"MLFLOW_TRACKING_URI={shlex.quote(store.tracking_uri)} {restore}"
            )
        if found is None and (other := renamed(self._client, name)) is not None:
            raise StoreError(
                f"the MLflow experiment {name!r} must have this name, but is now called {other.name!r}; rename it back "
                "in MLflow"
            )
        self._experiment: str = (
            found.experiment_id
            if found
            else self._client.create_experiment(name, store.artifacts(name), tags={"mlflow.experimentKind": _KIND})
        )
        self._ids: dict[str, str] = {}
        self._created: set[str] = set()  # keys of runs that this process created
        self._steps: dict[str, dict[str, set[int]]] = {}  # that are written, by run and metric, until the run ends

    def write(self, entries: Sequence[Entry]) -> Iterator[None]:
        """Write `entries`, grouped by run, in few calls; yield after each run.

        Raises:
            MlflowException, SQLAlchemyError, OSError: the store does not answer, or refuses.
            CheckpointError: the weights of a network are missing or damaged.
        """
        for attempt in _attempts(entries):
            self._write_run(attempt)
            yield
        for key in {entry.key for entry in entries if entry.state is not None}:  # not earlier: they may be sent again
            self._steps.pop(key, None)
            self._created.discard(key)

    def _write_run(self, entries: Sequence[Entry]) -> None:
        """Write entries of one attempt of one run; its first entry starts it, if it is among them."""
        first, tags, params = entries[0], dict[str, str](), dict[str, str]()
        if first.name is not None:
            run_id, params = self._start(first)
        else:
            run_id = self.id_of(first.key)
        for entry in entries if first.name is None else entries[1:]:
            tags |= entry.tags
        if MLFLOW_RUN_NOTE in tags:
            tags[MLFLOW_RUN_NOTE] = link(tags[MLFLOW_RUN_NOTE], functools.partial(self._address, run_id))
            if first.key == STUDY_KEY:
                self._client.set_experiment_tag(
                    self._experiment, MLFLOW_RUN_NOTE, tags[MLFLOW_RUN_NOTE][:_NOTE_LETTERS]
                )
        self._log(run_id, entries, params, tags)
        self._log_files(run_id, {path: content for entry in entries for path, content in entry.files.items()})
        for entry in entries:
            if entry.weights is not None:
                # Its beginning is wrong once the store was moved.
                weights = self._root.joinpath(*Path(entry.weights).parts[-_PARTS:])
                model = log_classifier(self._uri, run_id, weights)
                if entry.registered is not None:
                    register(self._uri, run_id, model, entry.registered)
        if ends := [entry for entry in entries if entry.state is not None]:
            self._client.set_terminated(run_id, STATUS_OF_STATE[str(ends[-1].state)], end_time=ends[-1].at)

    def _log(self, run_id: str, entries: Sequence[Entry], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Log everything but the points that the run already has: an attempt repeats points of the one before it."""
        key, told, metrics = entries[0].key, set[tuple[str, int]](), list[Metric]()
        for entry in entries:
            for name, value in entry.metrics.items():
                point = name, entry.step
                if entry.step and (point in told or entry.step in self._written(key, run_id, name)):
                    continue
                told.add(point)
                metrics.append(Metric(name, value, entry.at, entry.step))
        if metrics or params or tags:
            self._client.log_batch(
                run_id,
                metrics[:_METRICS],
                [Param(name, value) for name, value in params.items()],
                [RunTag(name, value) for name, value in tags.items()],
            )
        for start in range(_METRICS, len(metrics), _METRICS):
            self._client.log_batch(run_id, metrics[start : start + _METRICS])
        for name, step in told:
            if step:
                self._written(key, run_id, name).add(step)

    def id_of(self, key: str) -> str:
        """Return the id of the run with this key.

        Raises:
            MlflowException: there is no run with this key.
        """
        if (run_id := self._find(key)) is None:
            raise MlflowException.invalid_parameter_value(f"there is no run with key {key!r}")
        return run_id

    def recorded(self, key: str, metric: str) -> int:
        """Return the last step of a metric of the run with this key, 0 if there is none."""
        run_id = self._find(key)
        return max(self._history(run_id, metric), default=0) if run_id is not None else 0

    def artifact(self, key: str, path: str) -> bytes | None:
        """Return an artifact at the top of the run with this key; None if there is no such run or artifact."""
        run_id = self._find(key)
        if run_id is None or path not in (file.path for file in self._client.list_artifacts(run_id)):
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(self._client.download_artifacts(run_id, path, folder)).read_bytes()

    def stored(self, filter_string: str) -> list[Run]:
        """Return the runs of the experiment that match."""
        return every_run(self._client, [self._experiment], filter_string)

    def route(self, view: str) -> str:
        """Return the address of a view of the study within the UI."""
        return view_route(self._experiment, view)

    def _address(self, own: str, kind: str, name: str) -> str | None:
        """Return the address in the UI of a view, of the run with the key `name`, or of a file of the run `own`.

        None means that there is no such run.
        """
        if kind == "file":
            return f"get-artifact?run_uuid={own}&path={name}"
        if kind == "view":
            return self.route(name)
        run_id = self._find(name)
        return f"#/experiments/{self._experiment}/runs/{run_id}" if run_id is not None else None

    def _find(self, key: str) -> str | None:
        if key not in self._ids:
            found = self.stored(f"tags.key = '{key}'")
            if not found:
                return None
            self._ids[key] = found[0].info.run_id
        return self._ids[key]

    def _start(self, entry: Entry) -> tuple[str, dict[str, str]]:
        """Create or reopen the run; return its id and the params that it lacks."""
        parent = {MLFLOW_PARENT_RUN_ID: self.id_of(STUDY_KEY)} if entry.key != STUDY_KEY else {}
        if (run_id := self._find(entry.key)) is None:
            source = {MLFLOW_SOURCE_NAME: self._source, MLFLOW_GIT_COMMIT: entry.tags.get("git_commit", "unknown")}
            tags = {**source, **entry.tags, **parent, "key": entry.key}
            run = self._client.create_run(self._experiment, start_time=entry.at, tags=tags, run_name=entry.name)
            run_id = self._ids[entry.key] = str(run.info.run_id)
            self._created.add(entry.key)
            if entry.key == STUDY_KEY:
                self._adopt(run_id)
        else:
            run = self._client.get_run(run_id)
            self._client.update_run(run_id, status="RUNNING", name=entry.name)
            for name in ("reason", "node") & run.data.tags.keys():  # the run has not ended, and may move
                self._client.delete_tag(run_id, name)
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in entry.tags.items()])
        if (stage := entry.tags.get("stage", "")) in VIEWS:
            save_views(self._client, self._client.get_experiment(self._experiment), stage)
        if not run.inputs or not run.inputs.dataset_inputs:
            self._client.log_inputs(run_id, [DatasetInput(_dataset(entry.tags), _splits(entry.params))])
        # A crash between two calls may have left some out.
        return run_id, {name: value for name, value in entry.params.items() if name not in run.data.params}

    def _adopt(self, parent: str) -> None:
        """Nest the runs of the experiment in a new parent: the one before it is no longer there."""
        for run in self.stored(f"tags.key != '{STUDY_KEY}'"):
            self._client.set_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID, parent)

    def _written(self, key: str, run_id: str, metric: str) -> set[int]:
        """Return the steps of a metric that the run has; MLflow is asked once."""
        steps = self._steps.setdefault(key, {})
        if metric not in steps:
            steps[metric] = set() if key in self._created else self._history(run_id, metric)
        return steps[metric]

    def _history(self, run_id: str, metric: str) -> set[int]:
        return {point.step for point in self._client.get_metric_history(run_id, metric)}

    def _log_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        if not files:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder, name)
                if not path.is_relative_to(folder) or ".." in path.parts:
                    raise MlflowException.invalid_parameter_value(f"an artifact must stay in its run, but got {name!r}")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._client.log_artifacts(run_id, folder)


def _dataset(tags: Mapping[str, str]) -> Dataset:
    """Return the data set of a run for MLflow, from the tags of its provenance."""
    name, sha256 = tags.get("data", CIFAR10.name), tags.get("data_sha256", CIFAR10.sha256)
    if sha256 == CIFAR10.sha256:
        return Dataset(name, sha256[:32], "http", json.dumps({"url": ARCHIVE_URL}))
    return Dataset(name, sha256[:32], "code", json.dumps({"tags": {}}))


def _splits(params: Mapping[str, str]) -> list[InputTag]:
    """Return the splits that a run uses, for MLflow; none for the run of a study."""
    if "val_fraction" not in params:
        return []
    used = "training" if float(params["val_fraction"]) == 0 else "training and validation"
    return [InputTag(MLFLOW_DATASET_CONTEXT, used)]


def _attempts(entries: Iterable[Entry]) -> Iterator[Sequence[Entry]]:
    """Group `entries` by attempts of runs; the study ends after the last of its runs.

    Of its descriptions only the last is written, after all runs that it may link to.
    """
    attempts: dict[str, list[Entry]] = {}  # by key of the run
    description: Entry | None = None
    for entry in entries:
        if entry.key == STUDY_KEY and entry.tags.keys() == {MLFLOW_RUN_NOTE}:
            description = entry
            continue
        ends_study = entry.key == STUDY_KEY and entry.state is not None
        if ends_study or (entry.name is not None and entry.key in attempts):
            yield from attempts.values()
            attempts = {}
        attempts.setdefault(entry.key, []).append(entry)
    yield from attempts.values()
    if description is not None:
        yield [description]
