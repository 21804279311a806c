"""Store of a sweep: one folder with both databases, artifacts, weights and reports."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

from cifar_core.errors import UserError, cause
from sweeps.lock import creation_lock, holder

_SQLITE, _SQLITE_LONG = "sqlite:///", "sqlite+pysqlite:///"
_ROOM = 64_000_000  # bytes that a sweep needs to get anywhere
_LONGEST_PATH = 490  # bytes: SQLite opens paths of at most 512, and needs some of them for files beside a database
_LEAST_ROOM = 1_000_000  # bytes for the files that SQLite creates beside a database, also to read it
DEFAULT_STORE = Path(__file__).resolve().parents[1] / "mlruns"

# Names of other commands and of MLflow itself, which no study may have: of experiments, unless they say otherwise.
SYSTEMS_EXPERIMENT = "systems"
RANGE_TESTS_EXPERIMENT = "range-tests"
DEFAULT_EXPERIMENT = "Default"  # MLflow's own, whose artifacts lie in the working directory
VENDORS = "vendors"  # not an experiment: the study name of evaluations by vendors, and the folder of their scores
RESERVED_STUDIES = (SYSTEMS_EXPERIMENT, RANGE_TESTS_EXPERIMENT, DEFAULT_EXPERIMENT, VENDORS)


class StoreError(UserError):
    """A store that cannot be used."""


@dataclass(frozen=True, slots=True)
class Store:
    """Locations of everything that a sweep keeps; a server can replace either database.

    Args:
        checkpoint_root: folder of the checkpoints, if it is elsewhere.
        original: the store whose databases were copied for reading, if these are copies (sweeps/snapshot.py).
    """

    root: Path
    tracking_uri: str
    storage_url: str
    checkpoint_root: Path | None = None
    original: Store | None = None

    @classmethod
    def locate(
        cls,
        root: Path,
        *,
        tracking_uri: str | None = None,
        storage_url: str | None = None,
        checkpoints: Path | None = None,
    ) -> Store:
        """Return the store in the folder `root`, without touching it.

        Raises:
            StoreError: its path is not UTF-8, as MLflow writes it into its database, or too long for SQLite.
        """
        root = root.absolute()
        try:
            str(root).encode()
        except UnicodeEncodeError as error:
            locale = "in a UTF-8 locale such as LC_ALL=C.UTF-8"
            raise StoreError(f"the path of a store must be UTF-8, {locale}, but got {root}") from error
        if (length := len(os.fsencode(root))) > _LONGEST_PATH:
            raise StoreError(f"the path of a store must have at most {_LONGEST_PATH} bytes, but has {length}: {root}")
        return cls(
            root=root,
            tracking_uri=tracking_uri or _sqlite_url(root / "mlflow.db"),
            storage_url=storage_url or _sqlite_url(root / "optuna.db"),
            checkpoint_root=None if checkpoints is None else checkpoints.absolute(),
        )

    def create(self) -> None:
        """Create the folder, and set its SQLite files to write-ahead logging.

        Raises:
            StoreError: the folder cannot be created or written to, or has no room.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for path in self.databases():
                if path.parent == self.root:
                    with creation_lock(path), contextlib.closing(sqlite3.connect(path)) as connection:
                        connection.execute("PRAGMA journal_mode=WAL")
            free = shutil.disk_usage(self.root).free
        except (OSError, sqlite3.Error) as error:
            reason = "it is a file" if os.path.isfile(self.root) else error
            raise StoreError(f"the store {self.root} must be a folder to write to, but: {reason}") from error
        if free < _ROOM:
            raise StoreError(
                f"the store {self.root} must have at least {_ROOM / 1e6:.0f} MB free, but has {free / 1e6:.0f} MB"
            )

    def check_exists(self) -> None:
        """Check that one of the SQLite files exists, unless servers are used.

        Raises:
            StoreError: none does, or they may not be looked for.
        """
        paths = self.databases()
        if paths and not any(map(self._holds, paths)):
            ways = "'make study' runs one, --store DIR names another store"
            raise StoreError(f"a store must hold a study, but there is no {paths[0]}: {ways}")

    def check(self) -> None:
        """Check that the SQLite files exist, as a client would quietly create empty ones.

        Raises:
            StoreError: one of them does not, or may not be looked for.
        """
        self.check_exists()
        for path in self.databases():
            if not self._holds(path):
                raise StoreError(f"a store must hold {path.name}, but there is no {path}")

    def has_mlflow(self) -> bool:
        """Return true if MLflow's database is there and not empty, or that of a server is used.

        Raises:
            StoreError: it may not be looked for.
        """
        path = self.mlflow_file
        return path is None or (self._holds(path) and path.stat().st_size > 0)

    def _holds(self, path: Path) -> bool:
        try:
            return path.is_file()
        except OSError as error:  # a folder on the way there that this user may not enter
            raise StoreError(f"the store {self.root} must be readable, but: {error}") from error

    def databases(self) -> list[Path]:
        """Return the databases that are files."""
        return [path for path in (self.mlflow_file, self.local(self.storage_url)) if path is not None]

    @property
    def mlflow_file(self) -> Path | None:
        """MLflow's database; None if it is no SQLite file."""
        return self.local(self.tracking_uri)

    @property
    def holds_mlflow(self) -> bool:
        """True if the folder holds MLflow's database, and with it the artifacts."""
        path = (self.original or self).mlflow_file
        return path is not None and path.parent == self.root

    def artifacts(self, study: str) -> str | None:
        """Return the artifact location of the experiment `study`; None leaves it to a tracking server."""
        if self.mlflow_file is None:
            return None
        return (self.root / "artifacts" / folder_name(study)).as_uri()

    def weights(self, study: str, key: str) -> Path:
        return self.weights_folder(study) / f"{key}.safetensors"

    def weights_folder(self, study: str) -> Path:
        return self.root / "weights" / folder_name(study)

    def checkpoints(self, study: str, key: str) -> Path:
        return self.checkpoint_folder(study) / key

    def checkpoint_folder(self, study: str) -> Path:
        if self.checkpoint_root is None:
            return self.root / "checkpoints" / folder_name(study)
        store = hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:8]  # stores may share the folder
        return self.checkpoint_root / store / folder_name(study)

    def queues(self, study: str) -> Path:
        """Return the folder of the queues of MLflow writes."""
        return self.root / "journals" / folder_name(study)

    def lock(self, study: str) -> Path:
        return self.root / "leases" / f"{folder_name(study)}.lock"

    def locks(self) -> list[Path]:
        """Return the locks of all studies that were ever run here."""
        return sorted((self.root / "leases").glob("*.lock"))

    def runner(self, *, but: str | None = None) -> str | None:
        """Return the process that runs a study of the store, other than the study `but`; None if there is none."""
        running = (holder(path) for path in self.locks() if but is None or path != self.lock(but))
        return next((who for who in running if who is not None), None)

    def report(self, study: str) -> Path:
        return self.root / "reports" / folder_name(study)

    @property
    def test_set_evaluations(self) -> Path:
        """File with one line for each evaluation on the sealed test set."""
        return self.root / "test_looks.jsonl"

    def record_test_set_evaluation(self, *, study: str, key: str, data_sha256: str) -> None:
        """Add a line to the record of test set evaluations, before run `key` is evaluated on a data set.

        Raises:
            StoreError: writing failed, for example on a full disk; the record is as it was.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"time": now, "study": study, "key": key, "data_sha256": data_sha256}
        path = self.test_set_evaluations
        try:
            with path.open("ab", buffering=0) as file:  # a buffer would be written again by `close`
                fcntl.flock(file, fcntl.LOCK_EX)  # other studies of the store may add theirs
                end = file.seek(0, os.SEEK_END)
                torn = path.read_bytes()[-1:] not in (b"", b"\n")
                content = b"\n" * torn + json.dumps(line).encode() + b"\n"
                try:
                    while content:
                        content = content[file.write(content) :]
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise StoreError(f"a test must be recorded in {path} before it, but: {cause(error)}") from error

    def evaluations(self, data_sha256: str | None = None) -> Iterator[tuple[str, str]]:
        """Yield study and key of each evaluation on record; damaged lines are left out.

        Args:
            data_sha256: of a data set, to leave out evaluations on others.
        """
        for study, key, data in filter(None, map(parse_evaluation, lines_of(self.test_set_evaluations))):
            if data_sha256 in (None, data):
                yield study, key

    def as_option(self, *, storage: bool = False) -> list[str]:
        """Return the arguments that name this store on a command line; none for the default store.

        Args:
            storage: name Optuna's database too; only `run_study.py` has an option for it.
        """
        given = [] if self.root == DEFAULT_STORE else ["--store", str(self.root)]
        own = Store.locate(self.root)
        if self.tracking_uri != own.tracking_uri:
            given += ["--tracking-uri", self.tracking_uri]
        if storage and self.storage_url != own.storage_url:
            given += ["--storage", self.storage_url]
        return given

    def for_make(self) -> str:
        """Return the variable that names this store to `make`, after a space; "" for the default store."""
        # make would take a single $ for the beginning of a variable
        return "" if self.root == DEFAULT_STORE else f" STORE={shlex.quote(str(self.root)).replace('$', '$$')}"

    @staticmethod
    def local(url: str) -> Path | None:
        """Return the SQLite file of a database URL; None if it is no such file."""
        for prefix in (_SQLITE, _SQLITE_LONG):
            if url.startswith(prefix):
                return Path(unquote(url.removeprefix(prefix).partition("?")[0])).absolute()
        return None


def has_room(folder: Path) -> bool:
    """Return true if SQLite can open a database in the folder: its disk is not full.

    Raises:
        OSError: the folder cannot be entered.
    """
    return shutil.disk_usage(folder).free >= _LEAST_ROOM


def opening(url: str) -> contextlib.AbstractContextManager[None]:
    """Context for opening the database at `url`: one process at a time, as the first one creates the tables.

    Raises:
        LockError: as for `creation_lock`. Servers have locks of their own.
    """
    path = Store.local(url)
    return creation_lock(path) if path is not None and path.parent.is_dir() else contextlib.nullcontext()


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file; none if there is no such file."""
    return path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.exists() else []


def parse_evaluation(line: str) -> tuple[str, str, str] | None:
    """Return study, key and data set of a line of the record of test set evaluations; None if it is damaged."""
    try:
        fields = json.loads(line)
        study, key, data = fields["study"], fields["key"], fields["data_sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (study, key, data) if all(isinstance(each, str) for each in (study, key, data)) else None


def folder_name(study: str) -> str:
    """Return the name of a study's folders; it has no %, which MLflow unquotes in the path of a model."""
    name = quote(study, safe="").replace("%", "=")
    return name.replace(".", "=2E") if name in (".", "..") else name  # else it would be another folder


def _sqlite_url(path: Path) -> str:
    plain = str(path)
    quoted = plain.replace("%", "%25").replace("?", "%3F")  # special characters of a database URL
    # For a URL with the short prefix MLflow would create a folder with the quoted name.
    return (_SQLITE if quoted == plain else _SQLITE_LONG) + quoted
