"""Clients of MLflow stores, and what is read through them."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from sqlalchemy.exc import SQLAlchemyError

from cifar_core.errors import first_line
from sweeps.store import Store, StoreError, opening
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.views import view_tags

# Silence what MLflow and its migrations log about their own steps; `answering` reports a store that does not answer.
# Of many classes, MLflow shortens the param `classes` that it makes for a champion: `validation` warns of that.
for _name, _level in (
    ("mlflow", logging.WARNING),
    ("mlflow.store.db.utils", logging.CRITICAL),
    ("mlflow.utils.validation", logging.ERROR),
    ("alembic", logging.WARNING),
    ("urllib3", logging.ERROR),
):
    logging.getLogger(_name).setLevel(_level)

os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of each run that ends on a server

_LOCK_SECONDS = 20
_Item = TypeVar("_Item")


def every_page(search: Callable[[str | None], PagedList[_Item]]) -> list[_Item]:
    """Return the results of a search on all its pages; `search` returns the one of a token, None for the first."""
    found = list[_Item]()
    token: str | None = None
    while True:
        page = search(token)
        found += page
        token = page.token
        if not token:
            return found


def every_run(
    client: MlflowClient, experiments: Sequence[str], filter_string: str = "", *, view: int = ViewType.ACTIVE_ONLY
) -> list[Run]:
    """Return all matching runs of these experiments, given by id."""
    ids = list(experiments)
    return every_page(lambda token: client.search_runs(ids, filter_string, view, page_token=token)) if ids else []


def every_experiment(client: MlflowClient, view: int = ViewType.ACTIVE_ONLY) -> list[Experiment]:
    """Return all experiments."""
    return every_page(lambda token: client.search_experiments(view, page_token=token))


def renamed(client: MlflowClient, study: str) -> Experiment | None:
    """Return the experiment of a study that was renamed; None unless there is exactly one."""
    experiments = {experiment.experiment_id: experiment for experiment in every_experiment(client)}
    parents = every_run(client, list(experiments), f"tags.key = '{STUDY_KEY}'")
    found = {run.info.experiment_id for run in parents if run.data.tags.get("study") == study}
    return experiments[found.pop()] if len(found) == 1 else None


def save_views(client: MlflowClient, experiment: Experiment, stage: str) -> None:
    """Give the experiment of a study the views that it lacks; views that the user has changed stay.

    Args:
        stage: tag of the study's own run.
    """
    for tag, value in view_tags(stage, time.time_ns() // 1_000_000).items():
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
        try:
            return MlflowClient(uri)
        except ImportError as error:  # the driver of a database is missing
            raise MlflowException(first_line(error)) from error


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
