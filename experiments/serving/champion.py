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
from sweeps.validation import write_json


def registered(store: Store, name: str | None = None) -> ModelVersion:
    """Return the version with the alias `champion`, and record in MLflow where it is, if the store was moved.

    Args:
        name: name of the registered model; None takes the only one.

    Raises:
        StoreError: the store cannot be read or written, has no champion yet, or several.
    """
    reader = StudyReader(store)  # which says that there is no store, where MLflow would create one
    uri_for_mlflow(store)
    return champion_of(reader, name, has_option=True)


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
