"""A JSON file of runs, one a line, which several processes may add to."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as validated

from cifar_core.files import write_atomically
from sweeps.validation import STRICT, read_json

_Run = TypeVar("_Run")


@validated(config=STRICT, frozen=True, kw_only=True)
class _File(Generic[_Run]):
    runs: tuple[_Run, ...]


def load(path: Path, record: type[_Run]) -> tuple[_Run, ...]:
    """Load the runs in `path`, each a `record`; none if there is no file.

    Raises:
        InvalidFileError: the file is not what `add` writes.
    """
    return read_json(path, _File[record]).runs if path.exists() else ()  # type: ignore[valid-type]


def add(path: Path, run: _Run, same: Callable[[_Run], bool]) -> tuple[_Run, ...]:
    """Add a run, unless `same` is true of one in the file; return all runs of the file.

    Raises:
        InvalidFileError: the file is not what this function writes.
    """
    with _locked(path.parent):
        runs = load(path, type(run))
        if not any(map(same, runs)):
            runs = (*runs, run)
            lines = b",\n".join(map(TypeAdapter(type(run)).dump_json, runs))
            write_atomically(path, b'{"runs":[\n' + lines + b"\n]}\n")
    return runs


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder. Each write replaces the file, and would lose a lock on it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
