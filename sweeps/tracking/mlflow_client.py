"""Reading and writing MLflow runs. Writing the same entry again changes nothing."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import shlex
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
)
from sqlalchemy.exc import SQLAlchemyError

from cifar_core.data.data_set import CIFAR10
from cifar_core.data.download import ARCHIVE_URL
from cifar_core.errors import first_line
from sweeps.states import STATUS_OF_STATE
from sweeps.store import Store, StoreError, opening
from sweeps.tracking.mlflow_queue import Entry
from sweeps.tracking.notes import link
from sweeps.tracking.registry import log_classifier, register
from sweeps.tracking.views import view_route, view_tags

# Silence what MLflow and its migrations log about their own steps; `answering` reports a store that does not answer.
for _name, _level in (
    ("mlflow", logging.WARNING),
    ("mlflow.store.db.utils", logging.CRITICAL),
    ("alembic", logging.WARNING),
    ("urllib3", logging.ERROR),
):
    logging.getLogger(_name).setLevel(_level)

STUDY_KEY = "study"  # key of the parent run

_METRICS = 800  # per call: MLflow accepts 1,000 metrics, params and tags
_NOTE_LETTERS = 5000  # of an experiment's tag
_LOCK_SECONDS = 20
_PARTS = 3  # of the path of weights: weights/STUDY/KEY.safetensors
_KIND = "custom_model_development"  # makes the MLflow UI open a study at its runs, not at its page for agents


class MlflowExperiment:
    """An experiment with a parent run, and a nested run for every other key; it is created if there is none.

    Args:
        artifact_location: of a new experiment; None leaves it to the server.
        source: script that MLflow shows as the source of the runs.
        root: folder of the store, for the files of weights.

    Raises:
        StoreError: the experiment was deleted.
        MlflowException, SQLAlchemyError, OSError: the store does not answer; as in every method.
    """

    def __init__(
        self, tracking_uri: str, name: str, artifact_location: str | None, *, source: str, root: Path = Path()
    ) -> None:
        self._uri, self._source, self._root = tracking_uri, source, root
        self._client = open_client(tracking_uri)
        found = self._client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == LifecycleStage.DELETED:
            restore = f"mlflow experiments restore --experiment-id {found.experiment_id}"
            raise StoreError(
                f"the MLflow experiment {name!r} must not be deleted; this restores it: "
                f"MLFLOW_TRACKING_URI={shlex.quote(tracking_uri)} {restore}"
            )
        if found is None and (other := renamed(self._client, name)) is not None:
            raise StoreError(
                f"the MLflow experiment {name!r} must have this name, but is now called {other.name!r}; rename it back "
                "in MLflow"
            )
        self._experiment: str = (
            found.experiment_id
            if found
            else self._client.create_experiment(name, artifact_location, tags={"mlflow.experimentKind": _KIND})
        )
        self._ids: dict[str, str] = {}
        self._created: set[str] = set()  # keys of runs that this process created
        self._last: dict[tuple[str, str], int] = {}  # step of the last point, by run and metric

    def write(self, entries: Sequence[Entry]) -> Iterator[None]:
        """Write `entries`, grouped by run, in few calls; yield after each run.

        Raises:
            MlflowException, SQLAlchemyError, OSError: the store does not answer, or refuses.
            CheckpointError: the weights of a network are missing or damaged.
        """
        for attempt in _attempts(entries):
            self._write_run(attempt)
            yield

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
        """Log everything but the points that the run already has: an attempt repeats points of the one before it.

        Points that MLflow refused can come after later ones.
        """
        last: dict[tuple[str, str], int] = {}
        metrics: list[Metric] = []
        told: set[tuple[str, int]] = set()
        known = functools.cache(functools.partial(self._steps, run_id))
        for entry in entries:
            for name, value in entry.metrics.items():
                newest = last.get((entry.key, name), self._last_step(entry.key, run_id, name))
                point = name, entry.step
                early = 0 < entry.step <= newest
                if early and (entry.key in self._created or point in told or entry.step in known(name)):
                    continue
                told.add(point)
                last[entry.key, name] = max(newest, entry.step)
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
        self._last |= {where: step for where, step in last.items() if step}

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
        return self._last_step(key, run_id, metric) if run_id is not None else 0

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
        if entry.tags.get("stage") == "study":
            save_views(self._client, self._client.get_experiment(self._experiment))
        if not run.inputs or not run.inputs.dataset_inputs:
            self._client.log_inputs(run_id, [DatasetInput(_dataset(entry.tags), _splits(entry.params))])
        # A crash between two calls may have left some out.
        return run_id, {name: value for name, value in entry.params.items() if name not in run.data.params}

    def _adopt(self, parent: str) -> None:
        """Nest the runs of the experiment in a new parent: the one before it is no longer there."""
        for run in self.stored(f"tags.key != '{STUDY_KEY}'"):
            self._client.set_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID, parent)

    def _last_step(self, key: str, run_id: str, metric: str) -> int:
        if (key, metric) not in self._last:
            known = () if key in self._created else self._steps(run_id, metric)
            self._last[key, metric] = max(known, default=0)
        return self._last[key, metric]

    def _steps(self, run_id: str, metric: str) -> set[int]:
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


def every_run(
    client: MlflowClient, experiments: Sequence[str], filter_string: str = "", *, view: int = ViewType.ACTIVE_ONLY
) -> list[Run]:
    """Return all matching runs of these experiments, given by id."""
    runs: list[Run] = []
    token: str | None = None
    while experiments:
        page = client.search_runs(list(experiments), filter_string, view, page_token=token)
        runs += page
        token = page.token
        if not token:
            break
    return runs


def renamed(client: MlflowClient, study: str) -> Experiment | None:
    """Return the experiment of a study that has another name; None if there is none, or several."""
    experiments = {experiment.experiment_id: experiment for experiment in client.search_experiments()}
    parents = every_run(client, list(experiments), f"tags.key = '{STUDY_KEY}'")
    found = {run.info.experiment_id for run in parents if run.data.tags.get("study") == study}
    return experiments[found.pop()] if len(found) == 1 else None


def save_views(client: MlflowClient, experiment: Experiment) -> None:
    """Give the experiment of a study the views that it lacks; views that the user has changed stay."""
    for tag, value in view_tags(time.time_ns() // 1_000_000).items():
        if tag not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, tag, value)


def models_of(run: Run) -> list[str]:
    """Return the ids of the networks that were logged with a run."""
    return [model.model_id for model in run.outputs.model_outputs] if run.outputs is not None else []


def model_location(client: MlflowClient, model_id: str) -> str | None:
    """Return the artifact URI of a logged network; None if it was deleted."""
    try:
        return str(client.get_logged_model(model_id).artifact_location)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


@contextlib.contextmanager
def answering(uri: str) -> Iterator[None]:
    """Context for calls of MLflow.

    Raises:
        StoreError: MLflow does not know such a store, or cannot reach it.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:  # requests' own are OSErrors
        raise StoreError(f"the MLflow store must answer, but {uri} gave: {first_line(error)}") from error


def open_client(uri: str) -> MlflowClient:
    """Return a client of the MLflow store at `uri`; the tables of a database are created by one process at a time.

    Raises:
        MlflowException, SQLAlchemyError, OSError: MLflow does not know such a store, or cannot open it.
        LockError: as for `opening`.
    """
    path = Store.local(uri)
    with opening(uri):
        if path is not None and path.parent.is_dir():
            _create_tables(path)
        return MlflowClient(uri)


def _create_tables(path: Path) -> None:
    """Create MLflow's tables in one transaction, if the SQLite file holds no entries.

    MLflow itself takes seconds and many transactions; a database that is killed meanwhile can never be opened again.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, _LOCK_SECONDS)) as database:
            if _has_entries(database):
                return
            with tempfile.TemporaryDirectory() as folder:
                whole = Store.locate(Path(folder))
                MlflowClient(whole.tracking_uri)
                with contextlib.closing(sqlite3.connect(Path(folder, "mlflow.db"))) as source:
                    source.backup(database)
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error


def _has_entries(database: sqlite3.Connection) -> bool:
    """Return true if a table has rows, apart from those that are there before MLflow's first experiment."""
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return any(
        database.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()
        for (name,) in tables
        if name not in ("alembic_version", "workspaces")
    )


def connect(uri: str) -> MlflowClient:
    """Return a client of the MLflow store at `uri`, once it has answered.

    Raises:
        StoreError: MLflow does not know such a store, or cannot reach it.
    """
    with answering(uri):
        client = open_client(uri)
        client.search_experiments(max_results=1)
        return client


def runs_of(client: MlflowClient, study: str, *, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """Return every run of a study, its own included; an empty list if MLflow does not know it.

    Raises:
        StoreError: MLflow does not answer.
    """
    with answering(client.tracking_uri):
        experiment = client.get_experiment_by_name(study)
        return every_run(client, [experiment.experiment_id], view=view) if experiment is not None else []
