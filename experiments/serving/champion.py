"""The registered champion of a store, and the speed of its server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities.model_registry import ModelVersion

from experiments.reading.named_runs import champion_of
from experiments.reading.study import HttpSpeed
from experiments.reading.study_reader import HTTP_SPEED, StudyReader
from sweeps.lock import acquire
from sweeps.store import Store, StoreError
from sweeps.tracking.locations import uri_for_mlflow
from sweeps.tracking.mlflow_client import answering
from sweeps.tracking.registry import all_versions, newest_of_studies
from sweeps.validation import write_json


def registered(store: Store, name: str | None = None) -> ModelVersion:
    """Return the version with the alias `champion`, and record in MLflow where it is, if the store was moved.

    Args:
        name: name of the registered model, or NAME/VERSION for a version without the alias; None takes the only model.

    Raises:
        StoreError: the store cannot be read or written, has no champion yet, or several, or not that version.
    """
    reader = StudyReader(store)  # which says that there is no store, where MLflow would create one
    uri_for_mlflow(store)
    model, slash, number = (name or "").rpartition("/")
    if not slash:
        return champion_of(reader, name, has_option=True)
    with answering(store.tracking_uri):
        versions = {str(each.version): each for each in all_versions(reader.client, model)}
    if not versions:
        return champion_of(reader, model, has_option=True)  # which says what there is
    if number not in versions:
        raise StoreError(f"--model must name a version of {model} ({', '.join(versions)}), but got {name!r}")
    return versions[number]


def better_tested(store: Store, version: ModelVersion) -> ModelVersion | None:
    """Return the version with the best test accuracy, of the newest of each study, if it is better than this one.

    The alias goes by validation accuracy. That of a final network is of a shorter run of its recipe, and that of an
    adapted network its own, so the alias may be on the adapted one although the final one is better.
    """
    reader = StudyReader(store)
    with answering(store.tracking_uri):
        newest = newest_of_studies(all_versions(reader.client, version.name))
    best = max(newest.values(), key=_test_accuracy)
    return best if _test_accuracy(best) > _test_accuracy(version) else None


def _test_accuracy(version: ModelVersion) -> float:
    return float(version.tags.get("test_accuracy", 0))


def record_speed(store: Store, version: ModelVersion, measure: Callable[[], HttpSpeed]) -> HttpSpeed:
    """Measure the speed of a champion's server, and add it to its run, for the report.

    Raises:
        LockError: its study is running.
        StoreError: MLflow does not take it.
    """
    reader, study = StudyReader(store), version.tags["study"]
    with acquire(store.lock(study), study), TemporaryDirectory() as folder:
        speed = measure()
        write_json(Path(folder) / HTTP_SPEED, speed)
        if failed := reader.log(str(version.run_id), Path(folder), [HTTP_SPEED], under=""):
            raise StoreError(f"MLflow must take the speed, but: {failed}")
    return speed
