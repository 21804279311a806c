"""The registered champion of a store; that of an earlier version, which registered none, is registered now."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from statistics import fmean

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from cifar_core.checkpoint import read_data_set
from experiments.reading.studies import HTTP_SPEED, StudyReader
from experiments.reading.study import HttpSpeed
from experiments.reading.weights import recipe_of
from sweeps.lock import acquire
from sweeps.store import Store, StoreError
from sweeps.tracking.locations import uri_for_mlflow
from sweeps.tracking.mlflow_client import answering, every_run
from sweeps.tracking.registry import champions
from sweeps.tracking.tracker import MODEL_SECONDS, MlflowTracker


def registered(store: Store, name: str | None = None) -> ModelVersion:
    """Return the version with the alias `champion`, and record in MLflow where it is, if the store was moved.

    Args:
        name: of the registered model; None takes the only one.

    Raises:
        StoreError: the store cannot be read or written, has no champion yet, or several.
        CheckpointError: the weights of a champion that has to be registered are missing or damaged.
        LockError: a study whose champion has to be registered is running.
    """
    reader = StudyReader(store)  # which says that there is no store, where MLflow would create one
    uri_for_mlflow(store)
    with answering(store.tracking_uri):
        if not (found := champions(reader.client)):
            finals = every_run(reader.client, list(reader.experiments), "tags.stage = 'final'")
            tested = {run.data.tags["study"]: run for run in finals if "test/accuracy" in run.data.metrics}
            for study, run in tested.items():
                _register(store, study, run, reader)
            found = champions(reader.client)
    if not found:
        raise StoreError(f"a store must hold a finished study to have a champion, but {store.root} holds none")
    chosen = [version for version in found if name in (None, version.name)]
    if len(chosen) != 1:
        raise StoreError(f"--model must be one of {', '.join(version.name for version in found)}, but got {name!r}")
    return chosen[0]


def record_speed(store: Store, version: ModelVersion, speed: HttpSpeed) -> None:
    """Add the speed of a champion's server to its run, for the report.

    Raises:
        LockError: its study is running.
        StoreError: MLflow does not answer.
    """
    run = StudyReader(store).client.get_run(str(version.run_id))
    with _recording(store, version.tags["study"]) as tracker:
        tracker.attach(run.data.tags["key"], {HTTP_SPEED: json.dumps(asdict(speed)).encode()}, {})


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
        if lacking := tracker.close(model_seconds=MODEL_SECONDS):
            raise StoreError(f"MLflow must have received all of {study}, but lacks {lacking} entries")


def _register(store: Store, study: str, final: Run, reader: StudyReader) -> None:
    tags, metrics = final.data.tags, final.data.metrics
    where = f"tags.stage = 'confirm' AND tags.source_trial = '{tags['source_trial']}' AND tags.state = 'complete'"
    confirmed = every_run(reader.client, [final.info.experiment_id], where)
    recipe, weights = recipe_of(final.info.run_id, reader), store.weights(study, tags["key"])
    data_set = read_data_set(weights)
    numbers = {
        "data": data_set.name,
        "side": str(data_set.side),
        "study": study,
        "trial": tags["source_trial"],
        "architecture": recipe.model,
        "val_accuracy": f"{fmean(run.data.metrics['val/accuracy'] for run in confirmed):.4f}",
        "test_accuracy": f"{metrics['test/accuracy']:.4f}",
    }
    with _recording(store, study) as tracker:
        tracker.register(tags["key"], recipe, weights, numbers)
