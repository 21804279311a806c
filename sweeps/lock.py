"""Lock of a study: one coordinator at a time. The kernel releases the lock when the process exits."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cifar_core.errors import UserError


class LockError(UserError):
    """Another process runs the study; the message names it."""


@contextlib.contextmanager
def acquire(path: Path, study: str) -> Iterator[None]:
    """Context that holds the lock file `path` of `study`.

    Raises:
        LockError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockError(f"study {study!r} is being run by {_holder(path)}; wait for it, or stop it") from error
        file.truncate(0)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started}))
        file.flush()
        yield  # the file stays, because after a removal two processes could lock two files of the same name


def holder(path: Path) -> str | None:
    """Return the process that holds the lock, or None; the file is not changed."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _holder(path)
    return None


def _holder(path: Path) -> str:
    try:
        who = json.loads(path.read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):  # it has not written the file yet
        return "another process"
