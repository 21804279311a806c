"""On-disk queue of MLflow writes: one line per entry, with a checksum.

The last line that was sent begins with a mark. The mark is not synced, as writing an entry to MLflow twice changes
nothing: after a crash everything that may not have been sent is sent again.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import threading
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cifar_core.errors import cause, first_line
from sweeps.store import StoreError

SUFFIX = ".jsonl"
_MOST_BYTES = 16_000_000  # of lines that are read at once
_MOST_SENT = 64_000_000  # bytes of sent lines, after which the unsent ones move up in their place
_SENT = b"-"  # replaces the first letter of a line's checksum
REFUSED = ".refused"  # of files with entries that MLflow refused


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A write to one run."""

    key: str  # of the run
    at: int  # milliseconds since 1970 in UTC
    name: str | None = None  # of the run, in the first entry of an attempt
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int = 0  # of the metrics; above 0 they are points of curves, of which each step is written once
    files: Mapping[str, bytes] = field(default_factory=dict)  # artifacts by path
    weights: str | None = None  # file with those of a network to log with the run
    registered: Mapping[str, str] | None = None  # tags of a version to register the network as
    state: str | None = None  # how the run ended


class QueueInUseError(Exception):
    """Another process has the queue open."""


class MlflowQueue:
    """Queue of entries in the file `path`, oldest first. Threads may share it; processes may not.

    If a crash cut off the last line, that entry was never acknowledged, and is dropped.

    Raises:
        QueueInUseError: another process has it open.
        StoreError: another line is damaged or of another version, or the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise QueueInUseError(str(path)) from error
        except OSError as error:
            raise StoreError(f"the MLflow queue {path} must be a writable file, but: {cause(error)}") from error
        try:
            content = path.read_bytes()
            self._begin = _first_unsent(content)
            self._lengths = self._read_lengths(content)  # of the lines that have not been sent
            self._end = self._begin + sum(self._lengths)
            os.ftruncate(self._file, self._end)
        except BaseException:
            os.close(self._file)
            raise

    def __len__(self) -> int:
        return len(self._lengths)

    def append(self, entry: Entry, *, sync: bool) -> None:
        """Add an entry. With `sync` it survives a crash of the machine, else only of this process.

        Raises:
            StoreError: the disk has no room for it; the file is unchanged.
        """
        line = _line(entry)
        with self._lock:
            try:
                _write_all(self._file, line, self._end)
                if sync:
                    os.fsync(self._file)
            except OSError as error:
                os.ftruncate(self._file, self._end)
                raise StoreError(f"{self.path} must have room for another entry, but: {cause(error)}") from error
            self._lengths.append(len(line))
            self._end += len(line)

    def first(self, count: int = 1) -> list[Entry]:
        """Return up to `count` of the oldest entries: fewer if they are large, but one if there is any."""
        with self._lock:
            lengths = list(itertools.islice(self._lengths, count))
            fits = sum(size <= _MOST_BYTES for size in itertools.accumulate(lengths))
            lengths = lengths[: max(1, fits)]
            content = os.pread(self._file, sum(lengths), self._begin)
        starts = itertools.accumulate(lengths, initial=0)
        return [_entry(content[start : start + length]) for start, length in zip(starts, lengths, strict=False)]

    def remove(self, count: int) -> None:
        """Remove the oldest `count` entries, which have been sent."""
        with self._lock:
            lengths = [self._lengths.popleft() for _ in range(count)]
            self._begin += sum(lengths)
            if not self._lengths:
                os.ftruncate(self._file, 0)
                self._begin = self._end = 0
                return
            mark = self._begin - lengths[-1]
            with contextlib.suppress(OSError):  # lines that stay are only sent again
                os.pwrite(self._file, _SENT, mark)
                if mark > max(_MOST_SENT, self._end - self._begin):
                    self._move_up()

    def close(self) -> None:
        """Close the file, and delete it if it is empty."""
        with self._lock:
            if not self._lengths:
                self.path.unlink(missing_ok=True)
            os.close(self._file)

    def _move_up(self) -> None:
        """Move the unsent lines to the beginning of the file.

        The copy ends before the mark, so a crash leaves the lines behind the mark, or the file cut off after the copy.
        """
        os.fsync(self._file)  # of the mark
        left = self._end - self._begin
        for start in range(0, left, _MOST_BYTES):
            part = os.pread(self._file, min(_MOST_BYTES, left - start), self._begin + start)
            _write_all(self._file, part, start)
        os.fsync(self._file)
        os.ftruncate(self._file, left)
        self._begin, self._end = 0, left
        os.fsync(self._file)

    def _read_lengths(self, content: bytes) -> deque[int]:
        sent = content.count(b"\n", 0, self._begin)
        lines = content[self._begin :].splitlines(keepends=True)
        if lines and (not lines[-1].endswith(b"\n") or b"\0" in lines[-1]):  # zeros: the disk lacks a part of it
            lines.pop()
        for number, line in enumerate(lines, start=sent + 1):
            try:
                _entry(line)
            except ValueError as error:
                raise StoreError(
                    f"{self.path}: line {number} is damaged ({error}); move the file away to continue without it"
                ) from error
            except TypeError as error:
                raise StoreError(
                    f"{self.path}: line {number} must be of this version, but: {first_line(error)}; send it with the "
                    "version that wrote it, or move the file away to continue without it"
                ) from error
        return deque(len(line) for line in lines)


def queued(folder: Path) -> int:
    """Return the number of entries in the queues in `folder`, without changing them."""
    return sum(_queued(path) for path in folder.glob(f"*{SUFFIX}"))


def unsent(folder: Path) -> int:
    """Return the number of entries in `folder` that wait for MLflow, or that it refused."""
    return queued(folder) + sum(_queued(path) for path in folder.glob(f"*{REFUSED}"))


def refused_of(folder: Path, key: str) -> list[Path]:
    """Return the files in `folder` with what MLflow refused of a run; those that are damaged are left out."""
    found = []
    for path in sorted(folder.glob(f"*{REFUSED}")):
        with contextlib.suppress(ValueError, TypeError):
            if _entry(path.read_bytes()).key == key:  # each has one entry
                found.append(path)
    return found


def _queued(path: Path) -> int:
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # the process that runs the study has sent all of it meanwhile
        return 0
    return content.count(b"\n", _first_unsent(content))


def _first_unsent(content: bytes) -> int:
    """Return where the first line begins that has not been sent: after the last one with the mark."""
    marked = content.rfind(b"\n" + _SENT) + 1
    return content.find(b"\n", marked) + 1 or len(content) if content.startswith(_SENT, marked) else 0


def _line(entry: Entry) -> bytes:
    fields = {name: value for name, value in asdict(entry).items() if value not in (None, {})}
    fields["files"] = {path: base64.b64encode(content).decode() for path, content in entry.files.items()}
    text = json.dumps(fields, ensure_ascii=False).encode(errors="replace")  # MLflow refuses names that are not UTF-8
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entry(line: bytes) -> Entry:
    """Return the entry of a line.

    Raises:
        ValueError: `_line` did not write this line.
        TypeError: that of another version did.
    """
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        raise ValueError("its checksum differs")
    fields = json.loads(text)
    fields["files"] = {path: base64.b64decode(content) for path, content in fields["files"].items()}
    return Entry(**fields)


def _write_all(file: int, content: bytes, offset: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(file, content[done:], offset + done)
