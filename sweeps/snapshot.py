"""Reading a store that cannot be written to: a read-only mount, a full disk, or a folder of another user.

SQLite reads a database with a write-ahead log only where it can write to the folder, or finds the files of a process
that writes just now; with `immutable=1` it would ignore the log. So the databases are read from copies. A process may
write meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sweeps.store import Store, StoreError, has_room

_ATTEMPTS, _PAUSE_SECONDS = 20, 0.1
_WAL_HEADER = 32  # bytes; they change whenever SQLite begins a log anew
_LOGS = ("-wal", "-journal")


@contextlib.contextmanager
def readable(store: Store) -> Iterator[Store]:
    """Context with a store to read: `store` itself or, where it cannot be written to, one with copies of its databases.

    Raises:
        StoreError: a database cannot be read, or there is no room for a copy.
    """
    try:
        writable = all(_writable(path) for path in store.databases() if path.exists())
    except OSError as error:  # a folder on the way there that this user may not enter
        raise StoreError(f"the store {store.root} must be readable, but: {error}") from error
    if writable:
        yield store
        return
    with TemporaryDirectory(prefix="cifar-sweeps-") as folder:
        copies = Store.locate(Path(folder))
        yield replace(
            store,
            tracking_uri=_copied(store.tracking_uri, copies.tracking_uri),
            storage_url=_copied(store.storage_url, copies.storage_url),
            original=store,
        )


def _copied(url: str, to: str) -> str:
    """Copy the database at `url` to the new one at `to`, and return its URL; a server, or no database, stays."""
    path, copy = Store.local(url), Store.local(to)
    if path is None or copy is None or not path.exists():
        return url
    _copy(path, copy)
    return to


def _writable(path: Path) -> bool:
    """Return true if SQLite can write to the database and create its logs.

    If this user may only write to the folder, SQLite would create logs there that the owner could not write to.
    """
    return os.access(path.parent, os.W_OK) and os.access(path, os.W_OK) and has_room(path.parent)


def _copy(path: Path, to: Path) -> None:
    """Copy a database and its logs as they were at one moment.

    Pages that a checkpoint changes during the copy are in the log, as long as that is the same one. So the log is
    copied last, and all of it again if another one was begun meanwhile.
    """
    try:
        for _ in range(_ATTEMPTS):
            before = _generation(path)
            shutil.copyfile(path, to)
            for suffix in _LOGS:
                _with(to, suffix).unlink(missing_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(_with(path, suffix), _with(to, suffix))
            if _generation(path) == before:
                return
            time.sleep(_PAUSE_SECONDS)
    except OSError as error:
        raise StoreError(f"the database {path} must be readable, but: {error}") from error
    raise StoreError(f"the database {path} changes too fast to be copied from a folder that cannot be written to")


def _generation(path: Path) -> tuple[object, ...]:
    """Return what stays the same while a copy is sound: the head of the log or, without one, the whole database."""
    with contextlib.suppress(FileNotFoundError), _with(path, "-wal").open("rb") as file:
        if header := file.read(_WAL_HEADER):
            return (header,)
    return tuple(_stamp(each) for each in (path, _with(path, "-journal")))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
