"""The MLflow store of a sweep, read into tidy DataFrames: one row a run, one row a point of a curve."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

# Before mlflow is imported: a report phones nobody, draws no progress bars, and leaves a dead server soon.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

import numpy as np
import numpy.typing as npt
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from cifar_core.errors import first_line
from cifar_core.evaluation.serving import Timing
from experiments.reading import run_table as run_tables
from experiments.reading.run_table import STATES, time_of
from sweeps.store import Store, StoreError
from sweeps.tracking.mlflow_client import every_run

CURVES = ("train/loss", "val/loss", "train/accuracy", "val/accuracy", "lr")


@dataclass(frozen=True, slots=True)
class Looks:
    """The record of every time that the sealed test set was used."""

    recorded: bool  # the record is there
    study: int = 0  # looks of this study
    store: int = 0  # looks of all studies in the store
    unreadable: int = 0  # lines that could not be read, such as one cut off by a crash


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a run said of each test image: the probability (N,) of its answer, and whether that was right (N,)."""

    probability: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exhibits:
    """What the report shows of the runs it is about; None or empty where the store does not have it."""

    samples: bytes | None  # PNG: training images with labels
    mistakes: bytes | None  # PNG: most confident mistakes
    mistakes_run: str
    prediction_picture: bytes | None  # PNG: one test image
    prediction: Mapping[str, Any] | None  # {"index", "true", "predicted", "probability"}
    prediction_run: str
    confusions: Mapping[str, Sequence[Sequence[int]]]  # run id -> counts, rows = true class
    classes: tuple[str, ...]  # in the order of the confusion matrices
    validation_images: int | None  # that the first run was validated on at its end
    recipe: str | None  # TOML
    model_uris: Mapping[str, str]  # run id -> models:/...
    answers: Mapping[str, Answers] = field(default_factory=dict)  # run id -> the test images one by one
    serving: Mapping[str, tuple[Timing, ...]] = field(default_factory=dict)  # run id -> smallest batch first


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """One study as its runs left it in MLflow.

    `search` and `confirm` have one row a run (the last attempt of a trial), `attempts` every run. Columns:
    run_id, state, start, end (UTC) and, as in MLflow, `metrics.<name>` (float), `params.<name>` and
    `tags.<name>` (text; None where a run has none), and trial, attempt, source_trial, seed as numbers.
    `curves` has columns run_id, key, step, value for the runs in `subject`.
    """

    name: str
    run_id: str
    state: str  # running | finished | interrupted
    start: datetime
    end: datetime  # of the parent run, or of the last run that ended
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    attempts: pd.DataFrame
    search: pd.DataFrame
    confirm: pd.DataFrame
    curves: pd.DataFrame
    looks: Looks
    exhibits: Exhibits

    @property
    def champion(self) -> pd.DataFrame:
        """The complete runs of the champion's recipe, by seed; empty where none was chosen."""
        return champion_runs(self.confirm)

    @property
    def subject(self) -> pd.DataFrame:
        """The runs that the report is about: the champion's, else the best complete search trial, or none."""
        return subject_runs(self.search, self.confirm)


def champion_runs(confirm: pd.DataFrame) -> pd.DataFrame:
    return confirm[(confirm["tags.champion"] == "true") & (confirm["state"] == "complete")]


def subject_runs(search: pd.DataFrame, confirm: pd.DataFrame) -> pd.DataFrame:
    champion = champion_runs(confirm)
    if len(champion):
        return champion
    complete = search[(search["state"] == "complete") & search["metrics.val/accuracy"].notna()]
    return complete.sort_values(["metrics.val/accuracy", "trial"], ascending=[False, True], kind="stable").head(1)


class Reader:
    """Reads studies from the databases and files of a store.

    Raises:
        StoreError: there is no such store, or its server does not answer.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.tracking_uri = store.tracking_uri
        # MLflow would quietly create a database that is not there.
        for path in store.databases():
            if path.name == "mlflow.db":
                _check_database(path)
        try:
            self._client = MlflowClient(tracking_uri=self.tracking_uri)
            self._experiments = {e.experiment_id: e.name for e in self._client.search_experiments()}
            self._parents = every_run(self._client, list(self._experiments), "tags.stage = 'study'")
        except Exception as error:  # sqlalchemy's, requests' and MLflow's own share no base class
            raise StoreError(
                f"{self.tracking_uri} must be a readable MLflow store, but: {first_line(error)}"
            ) from error

    def studies(self) -> list[str]:
        """The names of the studies in the store, the most recent first."""
        parents = sorted(self._parents, key=lambda r: (r.info.start_time, r.info.run_id), reverse=True)
        return list(dict.fromkeys(self._experiments[run.info.experiment_id] for run in parents))

    def read(self, name: str | None = None) -> Study:
        """The study of that name, or the most recent one.

        Raises:
            StoreError: there is no such study, or none at all.
        """
        names = self.studies()
        if not names:
            raise StoreError(f"a store must hold at least one study, but {self.tracking_uri} holds none")
        if name is not None and name not in names:
            raise StoreError(f"--study must be one of {', '.join(names)}, but got {name!r}")
        name = name or names[0]
        parent = max(
            (run for run in self._parents if self._experiments[run.info.experiment_id] == name),
            key=lambda r: (r.info.start_time, r.info.run_id),
        )
        attempts = self._attempts(parent)
        search = attempts[attempts["tags.stage"] == "search"].drop_duplicates("trial", keep="last")
        search = search.reset_index(drop=True)
        confirm = attempts[attempts["tags.stage"] == "confirm"].drop_duplicates(["source_trial", "seed"], keep="last")
        confirm = confirm.sort_values(["source_trial", "seed"], kind="stable").reset_index(drop=True)
        subject = subject_runs(search, confirm)
        ends = [when for when in (time_of(parent.info.end_time), *attempts["end"]) if isinstance(when, datetime)]
        start = time_of(parent.info.start_time) or datetime.fromtimestamp(0, UTC)
        return Study(
            name=name,
            run_id=parent.info.run_id,
            state=parent.data.tags.get("state", STATES.get(parent.info.status, "running")),
            start=start,
            end=time_of(parent.info.end_time) or max(ends, default=start),
            tags={k: v for k, v in parent.data.tags.items() if not k.startswith("mlflow.")},
            params=dict(parent.data.params),
            metrics=dict(parent.data.metrics),
            attempts=attempts,
            search=search,
            confirm=confirm,
            curves=self._curves(list(subject["run_id"])),
            looks=read_looks(self._store.root / "test_looks.jsonl", name),
            exhibits=self._exhibits(parent.info.run_id, subject, is_champion=len(champion_runs(confirm)) > 0),
        )

    def log(self, run_id: str, folder: Path, names: Sequence[str], under: str) -> str:
        """Log files of a folder to a run, in the place of those of the same names.

        Returns:
            Why that could not be done, on one line; empty where it was.
        """
        try:
            for name in names:
                self._client.log_artifact(run_id, str(folder / name), str(PurePosixPath(under, name).parent))
        except Exception as error:  # a store that can only be read, a full disk, a server that went away
            return first_line(error)
        return ""

    def artifact(self, run_id: str, path: str) -> bytes | None:
        """The bytes of a run's artifact, or None where it has none."""
        with TemporaryDirectory() as scratch:
            try:
                return Path(self._client.download_artifacts(run_id, path, scratch)).read_bytes()
            except (MlflowException, OSError):
                return None

    def _attempts(self, parent: Run) -> pd.DataFrame:
        """Every run of a study."""
        files = [path for path in self._store.databases() if path.name == "mlflow.db"]
        if files:
            with suppress(sqlite3.Error):
                return run_tables.of_sqlite(files[0], parent.info.run_id)
        where = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
        return run_tables.of_runs(every_run(self._client, [parent.info.experiment_id], where))

    def _curves(self, run_ids: Sequence[str]) -> pd.DataFrame:
        rows = [
            (run_id, key, point.step, point.value)
            for run_id in run_ids
            for key in CURVES
            for point in self._client.get_metric_history(run_id, key)
        ]
        curves = pd.DataFrame(rows, columns=["run_id", "key", "step", "value"])
        curves = curves[curves["value"].abs() < 1e300]  # MLflow keeps infinity as 1.8e308
        # A run that was resumed may have told a step twice: the later word counts.
        curves = curves.drop_duplicates(["run_id", "key", "step"], keep="last")
        place = {run_id: number for number, run_id in enumerate(run_ids)}  # the first run is drawn strong
        curves = curves.assign(place=curves["run_id"].map(place))
        curves = curves.sort_values(["place", "key", "step"], kind="stable").drop(columns="place")
        return curves.reset_index(drop=True)

    def _exhibits(self, parent: str, subject: pd.DataFrame, *, is_champion: bool) -> Exhibits:
        run_ids = list(subject["run_id"])
        # The champion is shown on the test set, any other run on the validation set.
        folder, mistakes = ("test/", "test/mistakes.png") if is_champion else ("", "pictures/mistakes.png")
        validated = (self._json(run_ids[0], "confusion.json") or {}) if run_ids else {}
        matrices = {run_id: self._json(run_id, f"{folder}confusion.json") for run_id in run_ids}
        confusions = {run_id: m for run_id, m in matrices.items() if m and {"classes", "matrix"} <= m.keys()}
        recipe = next((text for r in run_ids if (text := self.artifact(r, "recipe.toml"))), None)
        shown, picture = self._first(run_ids, "test/prediction.png")
        prediction = self._json(shown, "test/prediction.json") if shown else None
        mistakes_run, mistakes_picture = self._first(run_ids, mistakes)
        return Exhibits(
            samples=self._first([parent], "pictures/samples.png")[1],
            mistakes=mistakes_picture,
            mistakes_run=mistakes_run,
            prediction_picture=picture if prediction else None,
            prediction=prediction,
            prediction_run=shown,
            confusions={run_id: m["matrix"] for run_id, m in confusions.items()},
            classes=tuple(next(iter(confusions.values()))["classes"]) if confusions else (),
            validation_images=sum(map(sum, validated["matrix"])) if validated.get("matrix") else None,
            recipe=recipe.decode() if recipe else None,
            model_uris=self._model_uris(run_ids),
            answers={r: known for r in run_ids if is_champion and (known := self._answers(r)) is not None},
            serving={r: found for r in run_ids if is_champion and (found := self._serving(r))},
        )

    def _first(self, run_ids: Sequence[str], path: str) -> tuple[str, bytes | None]:
        """The first of the runs that has this picture, and the picture."""
        for run_id in run_ids:
            picture = self.artifact(run_id, path)
            if picture and picture.startswith(b"\x89PNG"):
                return run_id, picture
        return "", None

    def _json(self, run_id: str, path: str) -> dict[str, Any] | None:
        try:
            content = json.loads(self.artifact(run_id, path) or b"null")
        except ValueError:
            return None
        return content if isinstance(content, dict) else None

    def _answers(self, run_id: str) -> Answers | None:
        content = self.artifact(run_id, "test/predictions.csv")
        if content is None:
            return None
        try:
            rows = pd.read_csv(io.BytesIO(content))
            right = (rows["true"] == rows["predicted"]).to_numpy()
            return Answers(rows["probability"].to_numpy(dtype=float), right)
        except (ValueError, KeyError):
            return None

    def _serving(self, run_id: str) -> tuple[Timing, ...]:
        try:
            timings = [Timing(**timing) for timing in json.loads(self.artifact(run_id, "test/serving.json") or b"[]")]
        except (ValueError, TypeError):
            return ()
        return tuple(sorted(timings, key=lambda timing: timing.images))

    def _model_uris(self, run_ids: Sequence[str]) -> dict[str, str]:
        outputs = {run_id: self._client.get_run(run_id).outputs for run_id in run_ids}
        return {
            run_id: f"models:/{out.model_outputs[0].model_id}"
            for run_id, out in outputs.items()
            if out is not None and out.model_outputs
        }


def read_looks(path: Path, study: str) -> Looks:
    """Count the lines of the record of test looks (one JSON object a line)."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError:
        return Looks(recorded=False)
    studies: list[str] = []
    for line in lines:
        try:
            studies.append(json.loads(line)["study"])
        except (ValueError, TypeError, KeyError):
            continue
    return Looks(True, studies.count(study), len(studies), len(lines) - len(studies))


def _check_database(path: Path) -> None:
    if not path.is_file():
        raise StoreError(f"a store must hold mlflow.db, but there is no {path}")
    with path.open("rb") as file:
        if not file.read(16).startswith(b"SQLite format 3"):
            raise StoreError(f"mlflow.db must be an SQLite database, but {path} is not")
