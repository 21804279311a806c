"""One coordinator a study: a lock that the system lets go of when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path


class LeaseError(Exception):
    """Another process holds the study; the message is one line that says which."""


@contextlib.contextmanager
def hold(path: Path, study: str) -> Iterator[None]:
    """Hold `study` through the file `path` for as long as this process lives or the context lasts.

    Raises:
        LeaseError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LeaseError(f"study {study!r} is being run by {_holder(path)}; wait for it, or stop it") from error
        file.truncate(0)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started}))
        file.flush()
        yield  # the file stays: removing it could let a third process lock another one of the same name


def holder(path: Path) -> str | None:
    """Who holds the study now, or None; leaves the file as it is."""
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
    except (ValueError, KeyError, TypeError):  # it has not yet written who it is
        return "another process"
