"""Consistency check of a store: both databases, their agreement on each trial, and the hashes of all weights."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from cifar_core.checkpoint import CheckpointError, read_state_file
from sweeps.planning.presets import EIGHTHS
from sweeps.states import STATE_OF_TRIAL
from sweeps.store import Store
from sweeps.study import load_study
from sweeps.tracking.mlflow_client import connect, runs_of
from sweeps.tracking.mlflow_queue import waiting


def findings(store: Store, study: str) -> Iterator[str]:
    """Yield the faults of a study, one line each. The study must not be running.

    Raises:
        StoreError: the store has no such study, or MLflow does not answer.
        StudyError: the Optuna storage is too damaged to be opened.
    """
    yield from _databases(store)
    trials = load_study(store, study).get_trials(deepcopy=False)
    client = connect(store.tracking_uri)
    runs = runs_of(client, study)
    yield from _agreement(client, trials, runs)
    yield from _files(store, study, runs)
    yield from _test_set_evaluations(store, study, runs)
    yield from _queues(store, study)


def _databases(store: Store) -> Iterator[str]:
    for path in store.databases():
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                said = connection.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.Error as error:
            said = str(error)
        if said != "ok":
            yield f"{path.name}: the integrity check must say ok, but said: {said}"


def _agreement(client: MlflowClient, trials: Sequence[FrozenTrial], runs: Sequence[Run]) -> Iterator[str]:
    """Optuna and MLflow must agree on each trial, and have no point twice."""
    keys = Counter(run.data.tags.get("key", "without a key") for run in runs)
    yield from (
        f"MLflow: there must be one run {key}, but there are {count}" for key, count in keys.items() if count > 1
    )
    by_key = {run.data.tags.get("key", ""): run for run in runs}
    started = [trial for trial in trials if trial.state != TrialState.WAITING]
    strange = {key for key in by_key if key.startswith("trial-")} - {f"trial-{trial.number}" for trial in started}
    yield from (f"MLflow has a run {key}, but Optuna has no such trial" for key in sorted(strange))
    for trial in started:
        run = by_key.get(f"trial-{trial.number}")
        if run is not None:
            yield from _trial(client, trial, run)
        elif trial.state in STATE_OF_TRIAL:
            yield f"trial {trial.number}: Optuna says {trial.state.name}, but MLflow has no run of it"


def _trial(client: MlflowClient, trial: FrozenTrial, run: Run) -> Iterator[str]:
    name, state = f"trial {trial.number}", run.data.tags.get("state")
    if trial.state in STATE_OF_TRIAL and state != STATE_OF_TRIAL[trial.state]:
        yield f"{name}: MLflow must say {STATE_OF_TRIAL[trial.state]}, as Optuna does, but says {state}"
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in ("train/loss", "val/accuracy")}
    for key, history in histories.items():
        steps = [metric.step for metric in history]
        if len(set(steps)) < len(steps):
            yield f"{name}: each point of {key} must be there once, but {len(steps) - len(set(steps))} are there again"
    seen = {metric.value for metric in histories["val/accuracy"]}
    lost = [eighth for eighth, value in trial.intermediate_values.items() if value not in seen]
    if lost:
        at = ", ".join(f"{eighth}/{EIGHTHS}" for eighth in sorted(lost))
        yield f"{name}: MLflow must hold every accuracy that Optuna holds, but lacks those at {at} of the budget"
    last = run.data.metrics.get("val/accuracy")
    if trial.state == TrialState.COMPLETE and trial.value != last:
        yield f"{name}: MLflow must end at {trial.value}, as Optuna does, but ends at {last}"


def _files(store: Store, study: str, runs: Sequence[Run]) -> Iterator[str]:
    """Only unfinished runs may have checkpoints, and every file must match its hash."""
    ended = {run.data.tags.get("key") for run in runs if run.data.tags.get("state") in STATE_OF_TRIAL.values()}
    folders = sorted(store.checkpoints(study, "x").parent.glob("*"))
    for folder in folders:
        if folder.name in ended:
            yield f"{folder}: a run that has ended must have no checkpoints"
    states = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    for path in [*states, *sorted(store.weights(study, "x").parent.glob("*.safetensors"))]:
        try:
            read_state_file(path)
        except CheckpointError as error:
            yield str(error)


def _test_set_evaluations(store: Store, study: str, runs: Sequence[Run]) -> Iterator[str]:
    """Every evaluation on the test set must be on record."""
    path = store.test_set_evaluations
    recorded: set[tuple[str, str]] = set()
    for number, line in enumerate(_lines(path), start=1):
        try:
            fields = json.loads(line)
            recorded.add((fields["study"], fields["key"]))
        except (ValueError, KeyError, TypeError):
            yield f"{path}: line {number} must record a test set evaluation, but is {line[:40]!r}"
    for run in runs:
        key = run.data.tags.get("key", "")
        if "test/accuracy" in run.data.metrics and (study, key) not in recorded:
            yield f"{key}: its test set evaluation must be on record, but {path} lacks it"


def _queues(store: Store, study: str) -> Iterator[str]:
    """MLflow must have received everything."""
    folder = store.queues(study)
    if entries := waiting(folder):
        yield f"{folder}: MLflow lacks {entries} of the entries here; --replay sends them"
    for path in sorted(folder.glob("*.refused")):
        yield f"{path}: MLflow has refused this"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.exists() else []
