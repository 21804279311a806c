"""The registered champion of a store; that of an earlier version, which registered none, is registered now."""

from __future__ import annotations

from statistics import fmean

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from cifar_core.checkpoint import read_data_set
from experiments.reading.studies import StudyReader
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
    with acquire(store.lock(study), study):
        tracker = MlflowTracker(store, study, say=print)
        tracker.open()
        tracker.register(tags["key"], recipe, weights, numbers)
        if lacking := tracker.close(model_seconds=MODEL_SECONDS):
            raise StoreError(f"MLflow must have received the champion of {study}, but lacks {lacking} entries")
