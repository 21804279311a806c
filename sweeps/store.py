"""The store: one folder with both databases, artifacts, weights and reports."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

_SQLITE, _SQLITE_LONG = "sqlite:///", "sqlite+pysqlite:///"
DEFAULT_STORE = Path(__file__).resolve().parents[1] / "mlruns"


class StoreError(Exception):
    """A store that cannot be used; the message is one line."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where a sweep keeps everything; servers may take the place of either database."""

    root: Path
    tracking_uri: str
    storage_url: str

    @classmethod
    def locate(cls, root: Path, *, tracking_uri: str | None = None, storage_url: str | None = None) -> Store:
        """The store in the folder `root`, without touching it."""
        root = root.absolute()
        return cls(
            root=root,
            tracking_uri=tracking_uri or _sqlite_url(root / "mlflow.db"),
            storage_url=storage_url or _sqlite_url(root / "optuna.db"),
        )

    def create(self) -> None:
        """Make the folder, and set its SQLite files to write-ahead logging, which lasts.

        Raises:
            StoreError: the folder cannot be made or written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for path in self.databases():
                if path.parent == self.root:
                    _write_ahead(path)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the store {self.root} must be a folder to write to, but: {error}") from error

    def check(self) -> None:
        """
        Raises:
            StoreError: one of its SQLite files is not there; a client would quietly make an empty one.
        """
        for path in self.databases():
            if not path.is_file():
                raise StoreError(f"a store must hold {path.name}, but there is no {path}")

    def databases(self) -> list[Path]:
        """Those of the two databases that are files."""
        return [path for url in (self.tracking_uri, self.storage_url) if (path := self._local(url)) is not None]

    def artifacts(self, study: str) -> str | None:
        """Artifact location for the experiment `study`; None leaves it to a tracking server."""
        if self._local(self.tracking_uri) is None:
            return None
        return (self.root / "artifacts" / quote(study, safe="")).as_uri()

    def weights(self, study: str, key: str) -> Path:
        return self.root / "weights" / quote(study, safe="") / f"{key}.safetensors"

    def checkpoints(self, study: str, key: str) -> Path:
        return self.root / "checkpoints" / quote(study, safe="") / key

    def lease(self, study: str) -> Path:
        return self.root / "leases" / f"{quote(study, safe='')}.lock"

    def report(self, study: str) -> Path:
        return self.root / "reports" / quote(study, safe="")

    def record_test_look(self, *, study: str, run_id: str, accuracy: float, images: int) -> None:
        """Add a line to `test_looks.jsonl`: every look at the sealed test set is counted."""
        look = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "study": study,
            "run_id": run_id,
            "accuracy": accuracy,
            "images": images,
        }
        with (self.root / "test_looks.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(look) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _local(url: str) -> Path | None:
        for prefix in (_SQLITE, _SQLITE_LONG):
            if url.startswith(prefix):
                return Path(unquote(url.removeprefix(prefix)))
        return None


def _sqlite_url(path: Path) -> str:
    plain = str(path)
    quoted = plain.replace("%", "%25").replace("?", "%3F")  # they have a meaning of their own in a database URL
    # MLflow makes the folder that a URL with the short name shows, quotes and all.
    return (_SQLITE if quoted == plain else _SQLITE_LONG) + quoted


def _write_ahead(path: Path) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
