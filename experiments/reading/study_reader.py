"""Read runs from the MLflow store of a sweep, with their artifacts and curves."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from mlflow.entities import LifecycleStage, Run, ViewType
from mlflow.exceptions import MlflowException

from cifar_core.data.data_set import CIFAR10, DataSet
from cifar_core.errors import first_line
from cifar_core.evaluation.serving import Timing
from experiments.reading import run_table
from experiments.reading.run_table import state_of
from experiments.reading.study import HttpSpeed, ImageAnswers
from sweeps.store import Store, StoreError
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.artifacts import DATA_SET, missing_artifacts
from sweeps.tracking.locations import artifact_folder, follow_store
from sweeps.tracking.mlflow_client import answering, every_experiment, every_run, open_client
from sweeps.words import shortened

HTTP_SPEED = "test/http.json"  # artifact of a final run
LARGEST = 1e300  # MLflow keeps infinity as 1.8e308


class StudyReader:
    """Reads the runs of studies from the databases and files of a store.

    Attributes:
        client: MLflow client of the store.
        experiments: names of all experiments by id, deleted ones included; a renamed one has the name of its study.

    Raises:
        StoreError: there is no such store, or it does not answer; as in the methods that read runs.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._database = store.mlflow_file
        if self._database is not None:  # MLflow creates a missing database without a word
            store.check_exists()
            if not store.has_mlflow():
                raise StoreError(f"a store must hold {self._database.name}, but {self._database} is missing or empty")
        with answering(store.tracking_uri):
            self.client = open_client(store.tracking_uri)
            found = every_experiment(self.client, ViewType.ALL)
        self.experiments = {e.experiment_id: e.name for e in found}
        # What MLflow shows; without those that were deleted, whose champion may still be registered.
        self._shown = {e.experiment_id: e.name for e in found if e.lifecycle_stage == LifecycleStage.ACTIVE}
        self._loaded: dict[str, Run] = {}  # by id
        self._parents: dict[str, Run] = {}  # the most recent first
        own = self.runs(f"tags.key = '{STUDY_KEY}'")
        for run in sorted(own, key=lambda run: (run.info.start_time, run.info.run_id), reverse=True):
            number, tags = run.info.experiment_id, run.data.tags
            if tags.get("study", self._shown[number]) not in self._shown.values():
                self.experiments[number] = tags["study"]
            if tags.get("stage") == "study":
                self._parents.setdefault(self.experiments[number], run)

    def studies(self) -> list[str]:
        """Names of the studies in the store, the most recent first."""
        return list(self._parents)

    def adapted_studies(self) -> list[str]:
        """Names of the studies that adapt a pretrained network, by name."""
        runs = self.runs("tags.stage = 'adapted-study'")
        return sorted({self.experiments[run.info.experiment_id] for run in runs})

    def is_empty(self) -> bool:
        """Return true if there is no study of either kind."""
        return not self.studies() and not self.adapted_studies()

    def run(self, run_id: str) -> Run:
        """Load a run, as it was when it was first asked for."""
        if run_id not in self._loaded:
            with answering(self.store.tracking_uri):
                self._loaded[run_id] = self.client.get_run(run_id)
        return self._loaded[run_id]

    def runs(self, where: str = "", experiment: str | None = None) -> list[Run]:
        """Load the runs that match a filter of MLflow, of the experiment of that name or of all."""
        numbers = [each for each, shown in self._shown.items() if experiment in (None, shown, self.experiments[each])]
        with answering(self.store.tracking_uri):
            return every_run(self.client, numbers, where)

    def study_run(self, name: str | None = None) -> Run:
        """Return the own run of the study of that name, or of the most recent one.

        Raises:
            StoreError: there is no such study, or none at all.
        """
        if not self._parents:
            if adapted := shortened(self.adapted_studies()):
                way = f", only networks that were adapted ({adapted}): run the study without --adapt-only"
            else:
                way = ": 'make study' runs one"
            raise StoreError(f"a store must hold at least one study, but {self.store.tracking_uri} holds none{way}")
        if name is None:
            name = next(iter(self._parents))
        name = next((self.experiments[number] for number, shown in self._shown.items() if shown == name), name)
        if name not in self._parents:
            if name in self.adapted_studies():
                rule = "--study must be that of a sweep, whose report has the adapted network"
                raise StoreError(f"{rule}, but got {name!r}")
            raise StoreError(f"--study must be one of {', '.join(self._parents)}, but got {name!r}")
        return self._parents[name]

    def attempts(self, parent: Run) -> pd.DataFrame:
        """Load every run of a study as a table; see `Study` for the columns."""
        if self._database is not None:
            with suppress(sqlite3.Error):
                return run_table.from_sqlite(self._database, parent.info.run_id)
        where = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
        return run_table.from_runs(self.runs(where, self.experiments[parent.info.experiment_id]))

    def log(self, run_id: str, folder: Path, names: Sequence[str], under: str) -> str:
        """Log files of a folder to a run, replacing those of the same names.

        Returns:
            Why that failed, on one line; empty if it did not.
        """
        if self.store.original is not None:
            return f"the store {self.store.root} cannot be written to"
        try:
            follow_store(self.store)
            for name in names:
                self.client.log_artifact(run_id, str(folder / name), str(PurePosixPath(under, name).parent))
        except Exception as error:  # a read-only store, a full disk, a server that is down
            return first_line(error)
        return ""

    def require_artifacts(self, run: Run) -> list[str]:
        """Check that the artifacts of a complete run were not lost, before anything is said to be unknown.

        Returns:
            the single files that are missing, as "recipe.toml of trial 0".

        Raises:
            StoreError: the whole folder is missing.
        """
        if state_of(run) != "complete" or (missing := missing_artifacts(self.store, run)) is None:
            return []
        folder, names = missing
        if not folder.is_dir():
            raise StoreError(
                f"the artifacts of {run.info.run_name} must be in {folder}, but there is no such folder; bring it "
                "back from a copy (run_study.py --verify lists all that is missing)"
            )
        return [f"{name} of {run.info.run_name}" for name in names]

    def artifact(self, run_id: str, path: str) -> bytes | None:
        """Load a run's artifact; None if it has none.

        Raises:
            StoreError: it has one that cannot be downloaded, or MLflow does not answer.
        """
        uri = self.store.tracking_uri
        try:
            run = self.run(run_id)
        except StoreError as error:  # of a reproduction, maybe only the file was copied
            if getattr(error.__cause__, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        folder = artifact_folder(self.store, str(run.info.artifact_uri))
        if folder is not None:
            try:
                return (folder / path).read_bytes()
            except OSError:
                return None
        try:
            with TemporaryDirectory() as scratch:
                return Path(self.client.download_artifacts(run_id, path, scratch)).read_bytes()
        except (MlflowException, OSError) as error:  # a missing artifact, or a failed download
            with answering(uri):
                listed = self.client.list_artifacts(run_id, str(PurePosixPath(path).parent).removeprefix("."))
            if any(file.path == path and not file.is_dir for file in listed):
                raise StoreError(f"{path} of run {run_id} must be readable, but: {first_line(error)}") from error
            return None

    def json(self, run_id: str, path: str) -> dict[str, Any]:
        """Load a run's artifact that is a JSON object; empty if it is missing or damaged."""
        try:
            content = json.loads(self.artifact(run_id, path) or b"null")
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def data_set(self, run: Run) -> DataSet:
        """Load the data set of a run from its study's own run; CIFAR-10 where none is on record.

        Raises:
            StoreError: that of a study of other data is missing or damaged.
        """
        name, above = self.experiments[run.info.experiment_id], run.data.tags.get("mlflow.parentRunId")
        parent = self._parents.get(name) or (run if above is None else self.run(above))
        tags, uri = parent.data.tags, str(parent.info.artifact_uri)
        try:
            return DataSet.from_dict(self.json(parent.info.run_id, DATA_SET))
        except TypeError:
            if tags.get("data_sha256", CIFAR10.sha256) == CIFAR10.sha256:
                return CIFAR10
            raise StoreError(
                f"the data set of {name} ({tags.get('data', 'own images')}) must be in "
                f"{artifact_folder(self.store, uri) or uri}/{DATA_SET}, but that is missing or damaged; bring it back "
                "from a copy"
            ) from None

    def confusion(self, run_id: str, path: str) -> tuple[tuple[str, ...], npt.NDArray[np.int64]] | None:
        """Load the classes and the counts of a run's confusion matrix; None if it is missing or damaged."""
        try:
            content = self.json(run_id, path)
            classes, counts = tuple(content["classes"]), np.array(content["matrix"], dtype=np.int64)
        except (KeyError, TypeError, ValueError):
            return None
        return (classes, counts) if counts.shape == (len(classes), len(classes)) else None

    def answers(self, run_id: str) -> ImageAnswers | None:
        """Load a run's predictions of the test images; None if they are missing or damaged."""
        try:
            content = (self.artifact(run_id, "test/predictions.csv") or b"").decode()
            rows = sorted(csv.DictReader(content.splitlines()), key=lambda row: int(row["index"]))
            true, predicted = (tuple(row[name] for row in rows) for name in ("true", "predicted"))
            return ImageAnswers(true, predicted, tuple(float(row["probability"]) for row in rows)) if rows else None
        except (KeyError, TypeError, ValueError):
            return None

    def serving(self, run_id: str) -> tuple[Timing, ...]:
        """Load the timings of a run's network, smallest batch first; empty if they are missing or damaged."""
        try:
            timings = [Timing(**timing) for timing in json.loads(self.artifact(run_id, "test/serving.json") or b"[]")]
        except (ValueError, TypeError):
            return ()
        return tuple(sorted(timings, key=lambda timing: timing.images))

    def http(self, run_id: str) -> HttpSpeed | None:
        """Load the speed of a run's server; None if it is missing or damaged."""
        try:
            return HttpSpeed(**self.json(run_id, HTTP_SPEED))
        except TypeError:
            return None

    def curve(self, run_id: str, key: str) -> tuple[tuple[int, float], ...]:
        """Load a metric as (step, value), by step and without infinite values."""
        # A resumed run may have logged a step twice; the later value counts.
        with answering(self.store.tracking_uri):
            history = self.client.get_metric_history(run_id, key)
        return tuple(sorted({p.step: p.value for p in history if abs(p.value) < LARGEST}.items()))
