"""Edits of a store by hand between two sweeps, each with what the next sweep must say."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mlflow import MlflowClient

from tests.sweeps.support import contents


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit of the store in a folder, between two sweeps of the study `torture`."""

    do: Callable[[Path, random.Random], Path]  # returns the folder of the store that is used from then on
    said: str  # pattern of what the next sweep says
    mend: Callable[[Path], None] | None = None  # where that sweep is refused and --repair cannot help
    refused: bool = False


def _client(store: Path) -> tuple[MlflowClient, str]:
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("torture")
    assert experiment is not None
    return client, experiment.experiment_id


def _delete_run(store: Path, draw: random.Random) -> Path:
    client, experiment = _client(store)
    runs = client.search_runs([experiment], "tags.stage = 'search'")
    client.delete_run(draw.choice(runs).info.run_id)
    return store


def _delete_parent(store: Path, draw: random.Random) -> Path:
    client, experiment = _client(store)
    [parent] = client.search_runs([experiment], "tags.key = 'study'")
    client.delete_run(parent.info.run_id)
    return store


def _lose_parent(store: Path, draw: random.Random) -> Path:
    client, experiment = _client(store)
    [parent] = client.search_runs([experiment], "tags.key = 'study'")
    client.delete_run(parent.info.run_id)
    uri = f"sqlite:///{store}/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri]
    subprocess.run([*command, "--run-ids", parent.info.run_id], check=True, capture_output=True)
    return store


def _delete_experiment(store: Path, draw: random.Random) -> Path:
    client, experiment = _client(store)
    client.delete_experiment(experiment)
    return store


def _rename_experiment(store: Path, draw: random.Random) -> Path:
    client, experiment = _client(store)
    client.rename_experiment(experiment, f"renamed-{draw.random()}")
    return store


def _move(store: Path, draw: random.Random) -> Path:
    return store.rename(store.with_name(f"moved-{draw.getrandbits(30)}"))


def _copy(store: Path, draw: random.Random) -> Path:
    return Path(shutil.copytree(store, store.with_name(f"copy-{draw.getrandbits(30)}")))


def _lose_optuna(store: Path, draw: random.Random) -> Path:
    with closing(sqlite3.connect(store / "optuna.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (store / "optuna.db").rename(store / "kept.db")
    return store


def _bring_optuna_back(store: Path) -> None:
    for path in store.glob("optuna.db*"):  # an empty one, which the refused sweep opened
        path.unlink()
    (store / "kept.db").rename(store / "optuna.db")


EDITS: Mapping[str, Edit] = MappingProxyType(
    {
        "a run deleted": Edit(_delete_run, r"the run trial-\d+ was deleted in MLflow; mended: restore"),
        "the study's run deleted": Edit(_delete_parent, "the run study was deleted in MLflow; mended: restore"),
        "the study's run lost": Edit(_lose_parent, "MLflow has no run of the study itself"),
        "the experiment deleted": Edit(_delete_experiment, "experiment 'torture' was deleted", refused=True),
        "the experiment renamed": Edit(_rename_experiment, "'torture' is now called 'renamed", refused=True),
        "the store moved": Edit(_move, "where the store was before; mended: record in MLflow"),
        "the store copied": Edit(_copy, "where the store was before; mended: record in MLflow"),
        "optuna.db lost": Edit(
            _lose_optuna, "Optuna has no study 'torture', but MLflow has", mend=_bring_optuna_back, refused=True
        ),
    }
)


def fingerprint(store: Path) -> dict[Path, int]:
    """Return what differs once anything writes into a store; opening a database for reading does not count."""
    return {path: hash(content) for path, content in contents(store).items() if not path.name.endswith("-shm")}
