"""The registered champion of a store; those of an earlier version, which registered none, are registered now."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from statistics import fmean

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from cifar_core.checkpoint import read_data_set
from cifar_core.errors import UserError
from experiments.reading.studies import HTTP_SPEED, StudyReader
from experiments.reading.study import HttpSpeed
from experiments.reading.weights import recipe_of
from sweeps.lock import acquire
from sweeps.store import Store, StoreError
from sweeps.tracking.locations import uri_for_mlflow
from sweeps.tracking.mlflow_client import answering, every_run
from sweeps.tracking.registry import champions, registered_runs, version_tags
from sweeps.tracking.tracker import MlflowTracker
from sweeps.words import counted


def registered(store: Store, name: str | None = None) -> ModelVersion:
    """Return the version with the alias `champion`, and record in MLflow where it is, if the store was moved.

    A champion that cannot be registered is named in a line, where there is another one to serve.

    Args:
        name: of the registered model; None takes the only one.

    Raises:
        StoreError: the store cannot be read or written, has no champion yet, or several; or the only one has no
            confirmation runs in MLflow.
        CheckpointError: the weights of the only champion, which has to be registered, are missing or damaged.
        LockError: the study of the only champion, which has to be registered, is running.
    """
    reader = StudyReader(store)  # which says that there is no store, where MLflow would create one
    uri_for_mlflow(store)
    with answering(store.tracking_uri):
        finals = every_run(reader.client, list(reader.experiments), "tags.stage = 'final'")
        known, failed = registered_runs(reader.client), list[UserError]()
        for study, run in _tested(finals).items():
            if run.info.run_id not in known:
                try:
                    _register(store, study, run, reader)
                except UserError as error:
                    failed.append(error)
        found = champions(reader.client)
    if failed and not found:
        raise failed[0]
    for refusal in failed:
        print(f"a champion is not registered: {refusal}", file=sys.stderr)
    if not found:
        raise StoreError(f"a store must hold a finished study to have a champion, but {store.root} holds none")
    chosen = [version for version in found if name in (None, version.name)]
    if len(chosen) != 1:
        raise StoreError(f"--model must be one of {', '.join(version.name for version in found)}, but got {name!r}")
    return chosen[0]


def record_speed(store: Store, version: ModelVersion, measure: Callable[[], HttpSpeed]) -> HttpSpeed:
    """Measure the speed of a champion's server, and add it to its run, for the report.

    Raises:
        LockError: its study is running.
        StoreError: MLflow does not answer.
    """
    run = StudyReader(store).client.get_run(str(version.run_id))
    with _recording(store, version.tags["study"]) as tracker:
        speed = measure()
        tracker.attach(run.data.tags["key"], {HTTP_SPEED: json.dumps(asdict(speed)).encode()}, {})
    return speed


@contextlib.contextmanager
def _recording(store: Store, study: str) -> Iterator[MlflowTracker]:
    """Context with a tracker of a study that no process runs.

    Raises:
        LockError: the study is running.
        StoreError: MLflow has not received everything at the end.
    """
    with acquire(store.lock(study), study):
        tracker = MlflowTracker(store, study, say=print)
        tracker.open()
        yield tracker
        if lacking := tracker.close():
            raise StoreError(f"MLflow must have received all of {study}, but lacks {counted(lacking, 'entry')}")


def _tested(finals: Iterable[Run]) -> dict[str, Run]:
    """Return the run whose network a study registers, of each study: the first tested one of its newest champion."""
    tested = [run for run in finals if "test/accuracy" in run.data.metrics]
    tested.sort(key=lambda run: run.info.start_time)
    newest = {run.data.tags["study"]: run.data.tags["source_trial"] for run in tested}
    tested = [run for run in tested if run.data.tags["source_trial"] == newest[run.data.tags["study"]]]
    tested.sort(key=lambda run: -int(run.data.tags.get("seed", 0)))
    return {run.data.tags["study"]: run for run in tested}


def _register(store: Store, study: str, final: Run, reader: StudyReader) -> None:
    tags, metrics = final.data.tags, final.data.metrics
    where = f"tags.stage = 'confirm' AND tags.source_trial = '{tags['source_trial']}' AND tags.state = 'complete'"
    confirmed = every_run(reader.client, [final.info.experiment_id], where)
    accuracies = [run.data.metrics["val/accuracy"] for run in confirmed if "val/accuracy" in run.data.metrics]
    if not accuracies:
        raise StoreError(
            f"a champion must have confirmation runs in MLflow, but trial {tags['source_trial']} of {study!r} has none"
        )
    recipe, weights = recipe_of(final.info.run_id, reader), store.weights(study, tags["key"])
    of_version = read_data_set(weights), study, tags["source_trial"], recipe.model
    numbers = version_tags(*of_version, val=fmean(accuracies), test=metrics["test/accuracy"])
    with _recording(store, study) as tracker:
        tracker.register(tags["key"], recipe.to_dict(), weights, numbers)
