"""`--verify` finds each fault of a store, and nothing in a good one."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState, create_trial

from cifar_core.checkpoint import save_state
from cifar_core.data.data_set import CIFAR10
from cifar_core.recipe import Recipe
from cifar_core.training import TrainState
from sweeps.checks.verify import findings
from sweeps.run_study import main
from sweeps.states import STATE_OF_TRIAL
from sweeps.store import Store, StoreError
from sweeps.tracking.locations import follow_store
from sweeps.tracking.mlflow_client import runs_of
from sweeps.tracking.mlflow_queue import Entry
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.sweeps.small_data import CPU, small_splits
from tests.sweeps.support import STUDY, flip_bit, outcome, point, record, write_queue

OUTCOME = outcome(0.5)
CURVE = [point(step, step / 16) for step in (1, 4, 8)]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a complete trial, a pruned one and one that goes on, and a tested final."""
    store = Store.locate(tmp_path_factory.mktemp("verify") / "store")
    store.create()
    study = optuna.create_study(study_name="s", storage=store.storage_url, direction="maximize")
    tracker = MlflowTracker(store, "s")
    tracker.open_study(STUDY)
    for number, ended in enumerate((TrialState.COMPLETE, TrialState.PRUNED)):
        state = STATE_OF_TRIAL[ended]
        tracker.begin(RunLabel(key=f"trial-{number}", name="t", tags={"stage": "search"}, params={}))
        record(tracker, f"trial-{number}", CURVE)
        tracker.end(f"trial-{number}", state, outcome=OUTCOME if state == "complete" else None)
        values = {step: step / 16 for step in (1, 4, 8)}
        study.add_trial(create_trial(state=ended, value=0.5, intermediate_values=values))
    study.ask()
    tracker.begin(RunLabel(key="trial-2", name="t", tags={"stage": "search"}, params={}))
    tracker.begin(RunLabel(key="final-0-0", name="f", tags={"stage": "final"}, params={}))
    tracker.end("final-0-0", "complete", outcome=OUTCOME)
    store.record_test_set_evaluation(study="s", key="final-0-0", data_sha256=CIFAR10.sha256)
    tracker.tested("final-0-0", OUTCOME)
    assert tracker.close() == 0
    state_ = TrainState.create(Recipe(width=0.125), small_splits(16, 8), CPU)
    save_state(state_, store.checkpoints("s", "trial-2") / "step-000000004.safetensors")
    save_state(state_, store.weights("s", "final-0-0"))
    return store.root


@pytest.fixture
def store(good: Path, tmp_path: Path) -> Store:
    shutil.copytree(good, tmp_path / "store")
    store = Store.locate(tmp_path / "store")
    follow_store(store)
    return store


def in_mlflow(store: Store, call: Callable[..., object], key: str, *arguments: object) -> None:
    """Call a method of MLflow's client for the run with this key."""
    client = MlflowClient(store.tracking_uri)
    [run] = [run for run in runs_of(client, "s") if run.data.tags["key"] == key]
    call(client, run.info.run_id, *arguments)


EMPTY_LOG = "PRAGMA wal_checkpoint(TRUNCATE)"  # or what it still holds stands in for a damaged database


def optuna_table(store: Store, statement: str) -> None:
    with closing(sqlite3.connect(store.root / "optuna.db")) as connection, connection:
        connection.execute(statement)


def test_nothing_is_found_in_a_good_store_whose_runs_are_read_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Mock(wraps=MlflowClient.search_runs)
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *arguments, **named: search(*arguments, **named))
    assert list(findings(store, "s")) == []
    search.assert_called_once()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (
            lambda store: in_mlflow(store, MlflowClient.set_tag, "study", "data_sha256", "ab" * 32),
            r"study: it must have the artifacts data\.json, but .* lacks them",
        ),
        (
            lambda store: in_mlflow(store, MlflowClient.log_metric, "trial-1", "train/loss", 3.0, None, 4),
            "trial 1: each point of train/loss must be there once, but 1 are there again",
        ),
        (
            lambda store: optuna_table(
                store, "UPDATE trial_intermediate_values SET intermediate_value = 0.3 WHERE trial_id = 2 AND step = 4"
            ),
            "trial 1: MLflow must hold every accuracy that Optuna holds, but lacks those at 4/8 of the steps",
        ),
        (
            lambda store: optuna_table(store, "UPDATE trial_values SET value = 0.7 WHERE trial_id = 1"),
            "trial 0: MLflow must end at 0.7, as Optuna does, but ends at 0.5",
        ),
        (
            lambda store: flip_bit(store.weights("s", "final-0-0")),
            r".*final-0-0\.safetensors: SHA-256 must be [0-9a-f]{64}, but got [0-9a-f]{64}",
        ),
        (
            lambda store: shutil.copytree(store.checkpoints("s", "trial-2"), store.checkpoints("s", "trial-1")),
            r".*checkpoints/s/trial-1: a run that has ended must have no checkpoints",
        ),
        (
            lambda store: write_queue(store.queues("s") / "1.jsonl", Entry(key="trial-0", at=0)),
            r".*journals/s: MLflow lacks 1 entry; --replay sends them",
        ),
        (
            lambda store: write_queue(store.queues("s") / "1.refused", Entry(key="trial-0", at=0)),
            r".*journals/s/1\.refused: MLflow has refused this",
        ),
        (
            lambda store: (store.root / "test_looks.jsonl").write_text("{torn"),
            r".*test_looks\.jsonl: line 1 must record a test set evaluation, but is '\{torn'",
        ),
    ],
)
def test_each_fault_is_found(store: Store, spoil: Callable[[Store], object], found: str) -> None:
    """But for those of runs and states, which test_consistency.py has."""
    spoil(store)
    lines = list(map(str, findings(store, "s")))
    assert any(re.fullmatch(found, line) for line in lines), lines
    assert all("\n" not in line for line in lines)


def test_a_damaged_database(store: Store) -> None:
    path = store.root / "optuna.db"
    optuna_table(store, EMPTY_LOG)
    content = bytearray(path.read_bytes())
    content[8192:12288] = b"\xff" * 4096
    path.write_bytes(content)
    first = next(findings(store, "s"))
    assert first.text.startswith("optuna.db: the integrity check must say ok, but said: ")


def test_an_error_of_the_disk_is_no_fault_of_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMOPEN
    monkeypatch.setattr("sweeps.checks.verify.sqlite3.connect", Mock(side_effect=error))
    with pytest.raises(StoreError, match=r"^the database .*/mlflow\.db must be readable, but: disk I/O error$"):
        next(findings(store, "s"))


def test_what_was_found_is_told_before_a_database_that_cannot_be_read(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna_table(store, EMPTY_LOG)
    (store.root / "optuna.db").write_bytes(b"no database at all, but long enough to look like one " * 100)
    assert main(["--study", "s", "--verify", "--store", str(store.root), "--device", "cpu"]) == 1
    found, end, count = capsys.readouterr().out.splitlines()
    assert found.startswith("optuna.db: the integrity check must say ok, but said: ")
    assert end.startswith("nothing else can be checked: the Optuna storage must open, but ")
    assert count == "2 findings"


def test_a_lost_database_is_found_but_no_store_is_an_error(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store.root / "mlflow.db").unlink()
    assert main(["--study", "s", "--verify", "--store", str(store.root), "--device", "cpu"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "mlflow.db must be in the store, but is missing: bring it back from a copy",
        f"nothing else can be checked: a store must hold mlflow.db, but there is no {store.root}/mlflow.db",
        "2 findings",
    ]
    assert main(["--study", "s", "--verify", "--store", str(tmp_path / "none"), "--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("run_study.py: error: a store must hold a study, but there is no ")
    assert not (tmp_path / "none").exists()


def test_no_such_study(store: Store) -> None:
    with pytest.raises(StoreError, match="must be one that the store holds"):
        list(findings(store, "t"))
    with pytest.raises(StoreError, match="the MLflow store must answer"):
        list(findings(replace(store, tracking_uri="http://127.0.0.1:1"), "s"))


def test_a_database_by_a_relative_url(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.root)
    relative = Store.locate(store.root, tracking_uri="sqlite:///mlflow.db", storage_url="sqlite:///optuna.db")
    assert relative.holds_mlflow
    assert list(findings(relative, "s")) == []
