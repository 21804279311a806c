"""The store: one folder with both databases, artifacts, weights and reports."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

_SQLITE, _SQLITE_LONG = "sqlite:///", "sqlite+pysqlite:///"
_ROOM = 64_000_000  # bytes; a sweep that begins with less soon ends
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
            StoreError: the folder cannot be made or written to, or has no room.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for path in self.databases():
                if path.parent == self.root:
                    _write_ahead(path)
            free = shutil.disk_usage(self.root).free
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the store {self.root} must be a folder to write to, but: {error}") from error
        if free < _ROOM:
            raise StoreError(
                f"the store {self.root} must have at least {_ROOM / 1e6:.0f} MB free, but has {free / 1e6:.0f} MB"
            )

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
        return (self.root / "artifacts" / folder_name(study)).as_uri()

    def weights(self, study: str, key: str) -> Path:
        return self.root / "weights" / folder_name(study) / f"{key}.safetensors"

    def checkpoints(self, study: str, key: str) -> Path:
        return self.root / "checkpoints" / folder_name(study) / key

    def journals(self, study: str) -> Path:
        return self.root / "journals" / folder_name(study)

    def lease(self, study: str) -> Path:
        return self.root / "leases" / f"{folder_name(study)}.lock"

    def report(self, study: str) -> Path:
        return self.root / "reports" / folder_name(study)

    def record_test_look(self, *, study: str, key: str) -> None:
        """Add a line to `test_looks.jsonl` before run `key` meets the sealed test set: every look is counted."""
        look = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "study": study, "key": key}
        path = self.root / "test_looks.jsonl"
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + json.dumps(look) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _local(url: str) -> Path | None:
        for prefix in (_SQLITE, _SQLITE_LONG):
            if url.startswith(prefix):
                return Path(unquote(url.removeprefix(prefix)))
        return None


def folder_name(study: str) -> str:
    """A name for a study's folders; without %, which MLflow takes out of the path of a model that it loads."""
    return quote(study, safe="").replace("%", "=")


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
