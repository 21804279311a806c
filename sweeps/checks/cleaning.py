"""Remove what is no longer needed: what was deleted in MLflow's UI, and leftovers of runs that ended or were cut short.

A run whose network is in the model registry is never removed, and nothing is while a process runs a study of the store.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, LoggedModelStatus, Run, ViewType

from sweeps.lock import LockError, acquire
from sweeps.planning.plan import STORAGE
from sweeps.states import ENDED
from sweeps.store import SYSTEMS_EXPERIMENT, Store, StoreError, has_room
from sweeps.studies.keys import STUDY_KEY
from sweeps.studies.storage import open_storage
from sweeps.studies.study import REMOVED
from sweeps.tracking.locations import artifact_folder, follow_store
from sweeps.tracking.mlflow_client import answering, connect, every_experiment, every_page, every_run
from sweeps.tracking.mlflow_queue import refused_of
from sweeps.tracking.registry import registered_runs


@dataclass(frozen=True, slots=True)
class Waste:
    """Something in a study that is no longer needed, with its files and folders."""

    study: str
    what: str
    paths: tuple[Path, ...]
    key: str | None = None  # of a run that was deleted in MLflow
    model: str | None = None  # id of a network that MLflow logged
    whole_study: bool = False

    @property
    def size(self) -> int:
        """Its size in bytes."""
        files = (file for path in self.paths for file in ([path] if path.is_file() else path.rglob("*")))
        return sum(file.stat().st_size for file in files if file.is_file())


def find_waste(store: Store) -> list[Waste]:
    """Return what can be removed.

    Raises:
        StoreError: the store has no database of its own, a study has its trials elsewhere, the disk is full, or MLflow
            does not answer.
        LockError: a process runs a study of the store.
    """
    if not store.holds_mlflow:
        raise StoreError(f"a store must hold its own MLflow database to be cleaned, but {store.root} has another")
    store.check()
    if not has_room(store.root):
        raise StoreError(f"the disk of a store must have 1 MB free to clean it, but that of {store.root} is full")
    if who := store.runner():
        raise LockError(f"no study of the store may run while it is cleaned, but {who} runs one; wait for it")
    follow_store(store)  # else the files of the store that this is a copy of would be removed
    client = connect(store.tracking_uri)
    with answering(store.tracking_uri):
        return _found(store, client)


def remove(store: Store, wastes: Sequence[Waste]) -> None:
    """Remove `wastes`. Runs that were deleted in MLflow although their networks are in the registry are restored.

    MLflow forgets a run last: a removal that was cut short can be repeated.

    Raises:
        StoreError: the store holds other waste by now, and nothing is removed; or MLflow or Optuna refuses.
        LockError: a study has been started meanwhile; nothing is removed.
    """
    client = connect(store.tracking_uri)
    with contextlib.ExitStack() as stack, answering(store.tracking_uri):
        names = {lock: lock.stem for lock in store.locks()}  # a study that begins has no experiment yet
        names |= {store.lock(each.name): each.name for each in every_experiment(client, ViewType.ALL)}
        for lock, name in sorted(names.items()):
            stack.enter_context(acquire(lock, name))
        if set(_found(store, client)) != set(wastes):
            raise StoreError("a store must not change before it is cleaned, but it has; nothing was removed, try again")
        _restore(client)
        storage = open_storage(store.storage_url)
        for waste in wastes:
            for path in waste.paths:
                _delete(path)
            with contextlib.suppress(KeyError):  # MLflow alone knows it, as a reproduction
                if waste.whole_study:
                    optuna.delete_study(study_name=waste.study, storage=storage)
                elif waste.key is not None:  # so that --verify does not miss it
                    study = optuna.load_study(study_name=waste.study, storage=storage)
                    study.set_user_attr(REMOVED, sorted({*study.user_attrs.get(REMOVED, []), waste.key}))
            if waste.model is not None:
                client.delete_logged_model(waste.model)
        _collect(store)


def _delete(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"files of a store must be removable to clean it, but: {error}") from error


def _found(store: Store, client: MlflowClient) -> list[Waste]:
    found: list[Waste] = []
    kept = registered_runs(client)
    runs_of = {
        experiment: every_run(client, [experiment.experiment_id], view=ViewType.ALL)
        for experiment in every_experiment(client, ViewType.ALL)
    }
    for experiment, runs in runs_of.items():
        if any(STORAGE in run.data.tags.get("places", "") for run in runs):
            rule = "a store must hold the trials of its studies to be cleaned"
            raise StoreError(f"{rule}, but those of {experiment.name!r} are in another database (--storage)")
    staying = [
        experiment
        for experiment, runs in runs_of.items()
        if experiment.lifecycle_stage != LifecycleStage.DELETED or any(run.info.run_id in kept for run in runs)
    ]
    names, folders = {_study(each, runs_of[each]) for each in staying}, {each.artifact_location for each in staying}
    for experiment, runs in runs_of.items():
        if experiment.lifecycle_stage != LifecycleStage.DELETED:
            found += _of_study(store, client, experiment, runs, kept)
        elif experiment in staying:
            continue
        elif _study(experiment, runs) in names or experiment.artifact_location in folders:
            found.append(_deleted_namesake(store, experiment, runs))
        else:
            found.append(_deleted_study(store, experiment, runs))
    return found


def _of_study(
    store: Store, client: MlflowClient, experiment: Experiment, runs: Sequence[Run], kept: frozenset[str]
) -> Iterator[Waste]:
    study = _study(experiment, runs)
    active = {run.data.tags.get("key"): run for run in runs if run.info.lifecycle_stage != LifecycleStage.DELETED}
    deleted = {run.info.run_id: run for run in runs if run.info.lifecycle_stage == LifecycleStage.DELETED}
    for run_id in deleted.keys() - kept:
        key = deleted[run_id].data.tags.get("key", STUDY_KEY)
        weights = store.weights(study, key)
        own = [weights, weights.with_name(f"{weights.name}.sha256"), store.checkpoints(study, key)]
        own += refused_of(store.queues(study), key)  # else every later command would send them
        named = key not in active and key not in ("", ".", "..") and "/" not in key  # anybody may write a tag
        paths = _inside(store, _folder(store, deleted[run_id].info.artifact_uri), *(own if named else ()))
        yield Waste(study, f"{key}, deleted in MLflow", paths, key=None if key in active else key)
    # A reproduction of some of its epochs is complete in MLflow, and resumes from its checkpoints.
    resumable = study == SYSTEMS_EXPERIMENT
    for folder in () if resumable else sorted(store.checkpoint_folder(study).glob("*")):
        if folder.name in active and active[folder.name].data.tags.get("state") in ENDED:
            yield Waste(study, f"checkpoints of {folder.name}, which has ended", (folder,))
    for path in sorted(store.weights_folder(study).glob(".*.safetensors*")):
        yield Waste(study, "weights whose writing was cut short", (path,))
    networks = every_page(lambda token: client.search_logged_models([experiment.experiment_id], page_token=token))
    for model in networks:
        if model.source_run_id in deleted.keys() - kept:
            what = "network of a deleted run"
        elif model.status != LoggedModelStatus.READY:
            what = "network whose logging was cut short"
        else:
            continue
        yield Waste(study, what, _inside(store, _folder(store, model.artifact_location)), model=model.model_id)


def _deleted_study(store: Store, experiment: Experiment, runs: Sequence[Run]) -> Waste:
    study = _study(experiment, runs)
    folders = [store.weights_folder(study), store.checkpoint_folder(study), store.queues(study), store.report(study)]
    paths = _inside(store, *folders, artifact_folder(store, str(experiment.artifact_location)))
    return Waste(study, "the whole study, deleted in MLflow", paths, whole_study=True)


def _deleted_namesake(store: Store, experiment: Experiment, runs: Sequence[Run]) -> Waste:
    """Return the files of a deleted experiment's runs.

    Its name or folder now belongs to another experiment, and stays.
    """
    paths = _inside(store, *(_folder(store, run.info.artifact_uri) for run in runs))
    return Waste(_study(experiment, runs), f"experiment {experiment.name!r}, deleted in MLflow", paths)


def _study(experiment: Experiment, runs: Sequence[Run]) -> str:
    """Return the name of a study, which it keeps when its experiment gets another one."""
    return next((study for run in runs if (study := run.data.tags.get("study"))), experiment.name)


def _folder(store: Store, artifacts: str) -> Path | None:
    """Return the folder of a run or a network: the parent of its artifact folder."""
    folder = artifact_folder(store, artifacts)
    return None if folder is None else folder.parent


def _inside(store: Store, *paths: Path | None) -> tuple[Path, ...]:
    """Return those that exist below a folder of the store, with ".." resolved; that folder may be a link."""
    root = Path(os.path.abspath(store.root))
    whole = (Path(os.path.abspath(path)) for path in paths if path is not None)
    return tuple(path for path in whole if path.exists() and root in path.parents[1:])


def _restore(client: MlflowClient) -> None:
    """Restore deleted runs whose networks are in the registry: `mlflow gc` removes everything that was deleted."""
    kept = registered_runs(client)
    for experiment in every_experiment(client, ViewType.ALL):
        runs = every_run(client, [experiment.experiment_id], view=ViewType.ALL)
        deleted = [run.info.run_id for run in runs if run.info.lifecycle_stage == LifecycleStage.DELETED]
        spared = [run_id for run_id in deleted if run_id in kept]
        if spared and experiment.lifecycle_stage == LifecycleStage.DELETED:
            client.restore_experiment(experiment.experiment_id)
        else:
            for run_id in spared:
                client.restore_run(run_id)


def _collect(store: Store) -> None:
    """Run `mlflow gc`, which alone removes for good what was deleted.

    Raises:
        StoreError: it failed.
    """
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", store.tracking_uri]
    # In the workspace of a server it would find nothing to remove.
    environment = os.environ | {"MLFLOW_TRACKING_URI": store.tracking_uri, "MLFLOW_WORKSPACE": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise StoreError(f"mlflow gc must succeed, but said: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}")
