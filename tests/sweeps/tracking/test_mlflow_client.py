"""Clients of MLflow stores."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.event
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

import sweeps
from sweeps.store import StoreError
from sweeps.tracking.mlflow_client import connect, open_client


@pytest.mark.slow
def test_a_server_that_stalls_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may do later what it was asked, and then each further attempt to create a run would make another."""
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    importlib.reload(sweeps)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(MlflowException, match="timed out"):
            MlflowClient(f"http://127.0.0.1:{server.getsockname()[1]}").create_run("0")
        server.setblocking(False)
        server.accept()[0].close()
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_local_store_opens_although_the_environment_enables_workspaces(
    tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(blank, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    importlib.reload(sweeps)
    assert connect(f"sqlite:///{tmp_path}/mlflow.db").create_experiment("mine", str(tmp_path))


def test_a_param_that_mlflow_shortens_is_no_warning_in_the_middle_of_a_sweep(
    tmp_path: Path, blank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(blank, tmp_path / "mlflow.db")
    client = connect(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.create_run("0").info.run_id
    client.log_param(run, "classes", str([f"class {number}" for number in range(1000)]))
    assert len(client.get_run(run).data.params["classes"]) == 6000
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("create", [open_client, MlflowClient], ids=["here", "by an earlier version"])
def test_a_database_whose_creation_was_cut_short_can_be_opened(
    tmp_path: Path, create: Callable[[str], MlflowClient]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    def interrupt(*event: Any) -> None:
        if "CREATE TABLE _alembic_tmp_experiments" in event[2]:
            raise KeyboardInterrupt

    sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            create(uri)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "after_cursor_execute", interrupt)
    assert open_client(uri).create_experiment("mine")
    assert [experiment.name for experiment in open_client(uri).search_experiments()] == ["mine", "Default"]


def test_a_database_whose_driver_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(StoreError, match=r"^the MLflow store must answer, but postgresql://u@.* gave: .*psyc"):
        connect("postgresql://u@127.0.0.1/d")


def test_a_database_with_entries_is_not_replaced(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("CREATE TABLE _alembic_tmp_experiments (name TEXT)")
        database.execute("INSERT INTO _alembic_tmp_experiments VALUES ('mine')")
    with pytest.raises((MlflowException, SQLAlchemyError)):
        open_client(f"sqlite:///{tmp_path}/mlflow.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert database.execute("SELECT name FROM _alembic_tmp_experiments").fetchall() == [("mine",)]
