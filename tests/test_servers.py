"""A sweep whose databases are on PostgreSQL, which crashes: an oracle finds every trial whole."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from sweeps.studies.storage import open_storage

pytest.importorskip("psycopg", reason="the driver of PostgreSQL is not installed: make test-cluster")

from tests.torture.driver import Torture
from tests.torture.oracle import Judgement
from tests.torture.postgres import Postgres, programs
from tests.torture.server import MlflowServer

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed: apt-get install postgresql"),
    # Optuna has no way to close a storage that it was given by its URL.
    pytest.mark.filterwarnings(r"ignore:<psycopg\.Connection object .* was deleted while still open:ResourceWarning"),
]
_CRASHES, _AWAY_SECONDS = 2, 3.0


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    server = Postgres()
    try:
        monkeypatch.setenv("PGPASSWORD", server.password)
        server.start()
        for database in ("mlflow", "optuna"):
            server.create(database)
        yield server
        gc.collect()
    finally:
        server.remove()


@pytest.mark.timeout(300)
def test_an_optuna_storage_waits_for_its_server(postgres: Postgres) -> None:
    study = optuna.create_study(study_name="a", storage=open_storage(postgres.url("optuna")))
    trial = study.ask()
    postgres.crash()
    comes_back = threading.Timer(_AWAY_SECONDS, postgres.start)
    comes_back.start()
    trial.set_user_attr("told", "while it was away")
    comes_back.join()
    assert study.trials[0].user_attrs == {"told": "while it was away"}


@pytest.mark.real_data
@pytest.mark.timeout(1800)
def test_a_postgresql_that_crashes_twice_leaves_no_trace(tmp_path: Path, postgres: Postgres) -> None:
    mlflow = MlflowServer(tmp_path / "mlflow", postgres.url("mlflow"))
    mlflow.start()
    try:
        torture = Torture(tmp_path, 0, tracking_uri=mlflow.uri, storage=postgres.url("optuna"))
        crashes = 0
        while crashes < _CRASHES:
            with torture.sweep() as coordinator:
                while crashes < _CRASHES and torture.wait_for_points(coordinator, 2):
                    postgres.crash()
                    crashes += 1
                    time.sleep(_AWAY_SECONDS)
                    postgres.start()
                coordinator.wait()
            # 1: a call of Optuna's was under way when the server went. That is a line, and the same command resumes.
            assert coordinator.returncode in (0, 1), torture.log
            torture.trials += 2 * (crashes < _CRASHES and coordinator.returncode == 0)
        torture.finish()
        found = torture.judge()
    finally:
        mlflow.kill()
    said = "".join(torture.log)
    assert "Traceback" not in said
    assert found == Judgement(found.trials, found.acknowledged, lost=0, doubled=0, stuck=0, unequal=0)
    assert found.trials >= 4
    assert postgres.password not in said
    kept = [path for path in torture.store.rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if postgres.password.encode() in path.read_bytes()]
