"""Locks between processes: of a study, and of a database while it is created.

The kernel releases a lock when its process exits. A lock file is never removed, because after a removal two processes
could lock two files of the same name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from cifar_core.errors import UserError, cause

_GLANCE_SECONDS = 1.0  # a process that only looks at a lock holds it for a moment
_CREATION_SECONDS = 60.0  # the tables of a database take two seconds to create
_POLL_SECONDS = 0.05


class LockError(UserError):
    """Another process holds the lock, which the message names, or the lock file cannot be used."""


class StudyRunningError(LockError):
    """Another process runs or checks the study."""


@contextlib.contextmanager
def acquire(path: Path, study: str) -> Iterator[None]:
    """Context that holds the lock file `path` of `study`.

    Raises:
        StudyRunningError: another process holds it.
        LockError: the file cannot be written or locked.
    """
    with _open(path, "a+") as file:
        if not _locked(file, fcntl.LOCK_EX, _GLANCE_SECONDS):
            if _locked(file, fcntl.LOCK_SH):
                raise StudyRunningError(f"study {study!r} is being checked by another process; wait for it, or stop it")
            raise StudyRunningError(f"study {study!r} is being run by {_holder(path)}; wait for it, or stop it")
        _sign(file)
        yield


@contextlib.contextmanager
def exclude_runs(path: Path, study: str) -> Iterator[None]:
    """Context in which no process runs `study`; several processes may be in it, and no file is changed.

    Raises:
        LockError: a process runs the study, or the lock file cannot be read or locked.
    """
    if not path.exists():  # no process has ever run the study here
        yield
        return
    with _open(path, "r") as file:
        if not _locked(file, fcntl.LOCK_SH, _GLANCE_SECONDS):
            raise LockError(f"study {study!r} is being run by {_holder(path)}; try again once that has ended")
        yield


@contextlib.contextmanager
def creation_lock(database: Path) -> Iterator[None]:
    """Context for opening an SQLite database, which creates its tables if there are none; others wait meanwhile.

    In a store that is only read, no file is created or changed.

    Raises:
        LockError: another process has held the lock for a minute, or the lock file cannot be locked.
    """
    path = database.with_name(f".{database.name}.lock")
    try:
        file = path.open("r+" if database.exists() else "a+", encoding="utf-8")
    except OSError:  # this user cannot write it, or the database came without it
        yield
        return
    with file:
        if not _locked(file, fcntl.LOCK_EX, _CREATION_SECONDS):
            raise LockError(f"{database} is being created by another process, which takes too long; stop it")
        yield


def holder(path: Path) -> str | None:
    """Return the process that holds the lock, or None; the file is not changed.

    Raises:
        LockError: the lock file cannot be read or locked.
    """
    if not path.exists():
        return None
    with _open(path, "r") as file:
        return None if _locked(file, fcntl.LOCK_SH) else _holder(path)


def _open(path: Path, mode: str) -> IO[str]:
    try:
        if mode != "r":
            path.parent.mkdir(parents=True, exist_ok=True)
        return path.open(mode, encoding="utf-8")
    except OSError as error:
        raise _unusable(path, error) from error


def _locked(file: IO[str], kind: int, seconds: float = 0.0) -> bool:
    """Lock a file; return false if another process still holds it after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        except OSError as error:  # such as ENOLCK on a network file system
            raise _unusable(Path(file.name), error) from error


def _sign(file: IO[str]) -> None:
    """Write this process into a lock file that it holds."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    who = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started})
    try:
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), who.encode(), 0)
    except OSError as error:
        raise _unusable(Path(file.name), error) from error


def _holder(path: Path) -> str:
    try:
        who = json.loads(path.read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written the file yet
        return "another process"


def _unusable(path: Path, error: OSError) -> LockError:
    return LockError(f"a store must have lock files that can be opened and locked, but {path} gave: {cause(error)}")
