"""Artifact locations, and commands in tags, that follow the store when it is moved or copied.

MLflow records absolute locations, and has none that follow a database: it makes relative paths absolute on the first
write, and `mlflow-artifacts:` needs a server to resolve it. So a location below the store's old folder means the same
place below its present one. `artifact_folder` translates it and writes nothing; `follow_store` records the new one, for
MLflow's own UI and for models.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote
from urllib.request import url2pathname

from sweeps.lock import LockError
from sweeps.store import Store, StoreError

_SCHEME = "file://"
_STUDY = re.compile(r"(?P<root>file://.*)/artifacts/(?P<folder>[^/]+)")  # location of an experiment
_ARTIFACTS = re.compile(r"(?P<study>file://.*/artifacts/[^/]+)(?P<rest>/(?:models/)?[^/]+/artifacts)")
_PLACES = (  # that MLflow records locations in
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
_RECORDED = """
    SELECT artifact_location FROM experiments
    UNION SELECT substr(artifact_uri, 1, length(artifact_uri) - length(run_uuid) - length('//artifacts')) FROM runs
    WHERE artifact_uri LIKE '%/' || run_uuid || '/artifacts'
"""
_LOCK_SECONDS = 20


def artifact_folder(store: Store, uri: str) -> Path | None:
    """Return the folder that the artifact URI of a run or a logged network stands for in this store.

    None means that only MLflow can resolve it.
    """
    if not uri.startswith(_SCHEME):
        return None
    match = _ARTIFACTS.fullmatch(uri) if store.holds_mlflow else None
    moved = _moved(store, match["study"]) if match is not None else None
    return _path(uri if match is None or moved is None else moved + match["rest"])


def is_new(store: Store) -> bool:
    """Return true if the store's own database has no tables of MLflow yet."""
    path = store.mlflow_file
    if not store.holds_mlflow or path is None or not path.is_file():
        return store.holds_mlflow
    try:
        with closing(sqlite3.connect(path, _LOCK_SECONDS)) as database:
            return not _tables(database)
    except sqlite3.Error:
        return False  # MLflow will say what is wrong


def moved_from(store: Store) -> list[Path]:
    """Return the folders that the store was in when MLflow recorded locations which are out of date.

    Raises:
        StoreError: the database cannot be read.
    """
    matches = map(_STUDY.fullmatch, _out_of_date(store))
    return sorted({_path(match["root"]) for match in matches if match is not None})


def follow_store(store: Store, study: str | None = None) -> list[Path]:
    """Record in MLflow where the artifacts of a moved or copied store are now.

    It is one transaction, which changes nothing but locations below an old folder of this store, and its name in the
    commands of descriptions and tags.

    Args:
        study: the study that this process runs, if any.

    Returns:
        the folders that the store was in before; none if all is up to date.

    Raises:
        LockError: another process runs a study of this store; it may know the store by its old name.
        StoreError: the database cannot be read or written.
    """
    if not (before := moved_from(store)):
        return []
    if who := store.runner(but=study):
        raise LockError(f"the store {store.root} was moved, and {who} still runs a study of it; wait for it")
    path = store.mlflow_file
    assert path is not None  # else nothing was moved
    try:
        with closing(sqlite3.connect(path, _LOCK_SECONDS, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            for old, new in _out_of_date(store).items():
                _replace(database, old, new)
            for folder in reversed(before):  # a longer name before one that it begins with
                _replace_in_commands(database, folder, store.root)
            database.execute("COMMIT")
    except sqlite3.Error as error:
        raise StoreError(f"the locations in {path} must follow the store, but: {error}") from error
    return before


def uri_for_mlflow(store: Store) -> str:
    """Return the tracking URI for MLflow's own commands, which go by the recorded locations.

    Those are brought up to date first, unless a process still runs a study under the old name of the store.

    Raises:
        StoreError: the database cannot be read or written.
    """
    with suppress(LockError):
        follow_store(store)
    return store.tracking_uri


def _out_of_date(store: Store) -> dict[str, str]:
    """Return the locations of experiments that have moved with the store, and where they are now."""
    path = store.mlflow_file
    if not store.holds_mlflow or path is None or not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(path, _LOCK_SECONDS)) as database:
            if not {"experiments", "runs"} <= _tables(database):
                return {}
            recorded = [location for (location,) in database.execute(_RECORDED) if location]
    except sqlite3.Error as error:
        raise StoreError(f"the MLflow database must be readable, but {path} gave: {error}") from error
    return {old: new for old in recorded if (new := _moved(store, old)) is not None}


def _moved(store: Store, location: str) -> str | None:
    """Return what an experiment's recorded location is now; None if it is up to date, or no folder of this store."""
    match = _STUDY.fullmatch(location)
    if match is None:
        return None
    here = store.root / "artifacts" / unquote(match["folder"])
    old = _path(match["root"])
    if location == here.as_uri() or _same(old, store.root):
        return None
    foreign = (old / "artifacts" / here.name).is_dir() and not (old / "mlflow.db").exists()
    return None if foreign and not here.is_dir() else here.as_uri()


def _replace(database: sqlite3.Connection, old: str, new: str) -> None:
    tables = _tables(database)
    for table, column in _PLACES:
        if table in tables:
            database.execute(
                f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
                f"WHERE {column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'",
                {"old": old, "new": new},
            )


def _replace_in_commands(database: sqlite3.Connection, old: Path, new: Path) -> None:
    for table in {"tags", "experiment_tags"} & _tables(database):
        database.execute(
            f"UPDATE {table} SET value = replace(value, ?, ?) WHERE key IN ('rerun', 'mlflow.note.content')",
            [f" --store {shlex.quote(str(folder))}" for folder in (old, new)],
        )


def _tables(database: sqlite3.Connection) -> set[str]:
    return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _path(uri: str) -> Path:
    return Path(url2pathname(uri.removeprefix(_SCHEME)))


def _same(one: Path, other: Path) -> bool:
    """Return true for two names of one folder, such as a link and what it points to."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
