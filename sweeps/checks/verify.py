"""Check of a store: both databases, their agreement on each trial, artifacts and networks, and all hashes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence, Set
from contextlib import closing
from functools import partial

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from optuna.trial import FrozenTrial, TrialState

from cifar_core.checkpoint import CheckpointError, read_state_file
from cifar_core.errors import UserError, printable
from sweeps.checks.consistency import Finding, Repair, disagreements
from sweeps.planning.presets import EIGHTHS
from sweeps.states import ENDED, STATE_OF_TRIAL, STATUS_OF_STATE
from sweeps.store import Store, StoreError, lines_of, parse_evaluation
from sweeps.studies.keys import trial_key
from sweeps.studies.study import REMOVED, find_study, load_study
from sweeps.tracking.artifacts import missing_artifacts
from sweeps.tracking.locations import artifact_folder
from sweeps.tracking.mlflow_client import connect, model_location, models_of, runs_of
from sweeps.tracking.mlflow_queue import REFUSED, queued
from sweeps.tracking.registry import champions
from sweeps.tracking.tracker import MlflowTracker
from sweeps.words import counted, shortened


def findings(store: Store, study: str) -> Iterator[Finding]:
    """Yield the faults of a study, one line each. The study must not be running.

    Raises:
        StoreError: the store has no such study, the disk fails, or MLflow does not answer.
        StudyError: the Optuna storage cannot be opened.
    """
    faults = list(_databases(store))
    yield from faults
    try:
        yield from _contents(store, study)
    except UserError as error:
        if not faults:
            raise
        yield Finding(f"nothing else can be checked: {printable(error)}")


def _contents(store: Store, study: str) -> Iterator[Finding]:
    stored = find_study(store, study)
    trials = stored.get_trials(deepcopy=False) if stored is not None else None
    client = connect(store.tracking_uri)
    known = runs_of(client, study, view=ViewType.ALL)
    runs = [run for run in known if run.info.lifecycle_stage == LifecycleStage.ACTIVE]
    if stored is None and not known:
        load_study(store, study)  # names the studies that there are
    yield from disagreements(store, study, trials, known)
    if stored is not None and trials is not None and known:
        removed = stored.user_attrs.get(REMOVED, [])
        yield from _agreement(client, trials, runs, {*removed, *(run.data.tags.get("key", "") for run in known)})
        yield from _networks(store, study, client, runs)
    yield from _artifacts(store, runs)
    yield from _files(store, study, runs)
    yield from _test_set_evaluations(store, study, runs)
    yield from _queues(store, study)


def _databases(store: Store) -> Iterator[Finding]:
    for path in store.databases():
        if not path.is_file():
            yield Finding(f"{path.name} must be in the store, but is missing: bring it back from a copy")
            continue
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                said = connection.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR:  # of the disk: a full one, for example
                raise StoreError(f"the database {path} must be readable, but: {error}") from error
            said = str(error)
        if said != "ok":
            yield Finding(f"{path.name}: the integrity check must say ok, but said: {said}")


def _agreement(
    client: MlflowClient, trials: Sequence[FrozenTrial], runs: Sequence[Run], known: Set[str]
) -> Iterator[Finding]:
    """Optuna and MLflow must agree on each trial, and have no point twice; `known` has the keys of deleted runs."""
    # Of several runs with one key, that with content: `--repair` deletes the others.
    by_content = sorted(runs, key=lambda run: bool(run.data.params or run.data.metrics))
    by_key = {run.data.tags.get("key", ""): run for run in by_content}
    for trial in trials:
        run = by_key.get(trial_key(trial.number))
        if run is not None and trial.state != TrialState.WAITING:
            yield from _trial(client, trial, run)
        elif trial_key(trial.number) not in known and trial.state in STATE_OF_TRIAL:
            yield Finding(f"trial {trial.number}: Optuna says {trial.state.name}, but MLflow has no run of it")


def _trial(client: MlflowClient, trial: FrozenTrial, run: Run) -> Iterator[Finding]:
    name, state = f"trial {trial.number}", run.data.tags.get("state")
    if trial.state in STATE_OF_TRIAL and state != (right := STATE_OF_TRIAL[trial.state]):
        yield Finding(
            f"{name}: MLflow must say {right}, as Optuna does, but says {state}",
            Repair(f"record in MLflow that trial {trial.number} is {right}", partial(_set_state, client, run, right)),
        )
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in ("train/loss", "val/accuracy")}
    for key, history in histories.items():
        steps = [metric.step for metric in history]
        if len(set(steps)) < len(steps):
            again = len(steps) - len(set(steps))
            yield Finding(f"{name}: each point of {key} must be there once, but {again} are there again")
    seen = {metric.value for metric in histories["val/accuracy"]}
    lost = [eighth for eighth, value in trial.intermediate_values.items() if value not in seen]
    if lost:
        at = ", ".join(f"{eighth}/{EIGHTHS}" for eighth in sorted(lost))
        yield Finding(
            f"{name}: MLflow must hold every accuracy that Optuna holds, but lacks those at {at} of the steps"
        )
    last = run.data.metrics.get("val/accuracy")
    if trial.state == TrialState.COMPLETE and trial.value != last:
        yield Finding(f"{name}: MLflow must end at {trial.value}, as Optuna does, but ends at {last}")


def _set_state(client: MlflowClient, run: Run, state: str) -> None:
    client.set_tag(run.info.run_id, "state", state)
    client.set_terminated(run.info.run_id, STATUS_OF_STATE[state], end_time=run.info.end_time)


def _networks(store: Store, study: str, client: MlflowClient, runs: Sequence[Run]) -> Iterator[Finding]:
    """A network that was logged with a run must still have its files; of a champion, the one that is served."""
    served = {each.run_id: each for each in champions(client) if str(each.source).startswith("models:/")}
    for run in runs:
        version = served.get(run.info.run_id)
        models = [str(version.source).removeprefix("models:/")] if version is not None else models_of(run)
        if not models:
            continue
        known = {model: uri for model in models if (uri := model_location(client, model)) is not None}
        folders = [artifact_folder(store, uri) for uri in known.values()]
        if any(folder is None or folder.is_dir() for folder in folders):
            continue
        key, repair = run.data.tags.get("key", ""), None
        if store.weights(study, key).exists():
            log = partial(_log_network, store, study, key, [*known], version)
            repair = Repair(f"log the network of {key} again", log)
        lost = f"{folders[0]} is missing" if folders else "it was deleted"
        yield Finding(f"{key}: MLflow must hold its network {models[0]}, but {lost}", repair)


def _log_network(store: Store, study: str, key: str, empty: Sequence[str], version: ModelVersion | None) -> None:
    """Log the network of a run again, in place of those whose files are missing, and serve it if `version` was."""
    client = connect(store.tracking_uri)
    for model in empty:
        client.delete_logged_model(model)
    tracker, weights = MlflowTracker(store, study), store.weights(study, key)
    tracker.open()
    if version is None:
        tracker.log_model(key, weights)
    else:
        tracker.register(key, weights, version.tags)
    if lacking := tracker.close():
        raise StoreError(f"MLflow must have received the network of {key}, but lacks {counted(lacking, 'entry')}")


def _artifacts(store: Store, runs: Sequence[Run]) -> Iterator[Finding]:
    """Every run must have the artifacts that its kind of run logs."""
    for run in runs:
        if missing := missing_artifacts(store, run):
            folder, names = missing
            key = run.data.tags.get("key", run.info.run_id)
            yield Finding(f"{key}: it must have the artifacts {shortened(names)}, but {folder} lacks them")


def _files(store: Store, study: str, runs: Sequence[Run]) -> Iterator[Finding]:
    """Only unfinished runs may have checkpoints, and every file must match its hash."""
    ended = {run.data.tags.get("key") for run in runs if run.data.tags.get("state") in ENDED}
    folders = sorted(store.checkpoint_folder(study).glob("*"))
    for folder in folders:
        if folder.name in ended:
            yield Finding(f"{folder}: a run that has ended must have no checkpoints")
    states = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    for path in [*states, *sorted(store.weights_folder(study).glob("*.safetensors"))]:
        try:
            read_state_file(path)
        except CheckpointError as error:
            yield Finding(str(error))


def _test_set_evaluations(store: Store, study: str, runs: Sequence[Run]) -> Iterator[Finding]:
    """Every evaluation on the test set must be on record."""
    path = store.test_set_evaluations
    recorded = set(store.evaluations())
    for number, line in enumerate(lines_of(path), start=1):
        if parse_evaluation(line) is None:
            yield Finding(f"{path}: line {number} must record a test set evaluation, but is {line[:40]!r}")
    for run in runs:
        key = run.data.tags.get("key", "")
        if "test/accuracy" in run.data.metrics and (study, key) not in recorded:
            yield Finding(f"{key}: its test set evaluation must be on record, but {path} lacks it")


def _queues(store: Store, study: str) -> Iterator[Finding]:
    """MLflow must have received everything."""
    folder = store.queues(study)
    if entries := queued(folder):
        yield Finding(f"{folder}: MLflow lacks {counted(entries, 'entry')}; --replay sends them")
    for path in sorted(folder.glob(f"*{REFUSED}")):
        yield Finding(f"{path}: MLflow has refused this")
