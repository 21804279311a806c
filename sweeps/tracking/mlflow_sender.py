"""Background sender of the MLflow queue: it retries through outages, and training never waits for it."""

from __future__ import annotations

import functools
import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mlflow.exceptions import MlflowException
from requests import HTTPError
from sqlalchemy.exc import SQLAlchemyError

from cifar_core.checkpoint import CheckpointError
from cifar_core.errors import first_line
from sweeps.tracking.mlflow_queue import REFUSED, SUFFIX, Entry, MlflowQueue, QueueInUseError, unsent
from sweeps.words import counted

_UNREACHABLE = (MlflowException, SQLAlchemyError, OSError)  # OSError: also requests' own
# Errors that no retry mends.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")
_PASSING = (401, 403, 408, 425, 429)  # statuses from 400 to 499 that a retry can mend
_BATCH = 5_000  # entries
_GATHER_SECONDS = 0.5  # to wait for more entries, at least: a batch has one call for all entries of a run
_MOST_SECONDS = 30.0  # likewise, at most
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # seconds between attempts; the last one repeats
_FLUSH_PAUSE = 4.0  # likewise, at most, while somebody waits


class MlflowSender:
    """Sends entries to MLflow in a thread; an entry that MLflow refuses is moved to a file of its own.

    Args:
        folder: of the queues. Entries that an earlier process left there are sent at once, also those that were
            refused then: what was deleted in MLflow may have been restored.
        write: writes entries to MLflow, and yields after each part of them.
        say: receives a line when entries are left, and when MLflow stops answering, answers again, or refuses one.

    Raises:
        StoreError: a queue of an earlier process is damaged.
        MlflowException, SQLAlchemyError, RequestException, OSError: MLflow does not answer; the queues stay.
    """

    def __init__(
        self, folder: Path, write: Callable[[Sequence[Entry]], Iterator[None]], say: Callable[[str], None]
    ) -> None:
        self._folder, self._write, self._say = folder, write, say
        self._refused: Counter[str] = Counter()  # entries by run
        self._steps = 0  # parts that were written
        self._changed = threading.Condition()
        self._send_leftovers()
        self._queue = MlflowQueue(folder / f"{time.time_ns()}{SUFFIX}")
        self._failures = 0  # in a row
        self._seconds = 0.0  # of the last write
        self._closing = self._flushing = False
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-sender", daemon=True)
        self._thread.start()

    def put(self, entry: Entry, *, sync: bool) -> None:
        """Add `entry` to the queue. With `sync` it survives a crash of the machine, else only of this process.

        Raises:
            StoreError: the disk has no room for it.
        """
        self._check()
        self._queue.append(entry, sync=sync)
        with self._changed:
            self._changed.notify_all()

    def flush(self, seconds: float, model_seconds: float, most: float = math.inf) -> bool:
        """Wait until the queue is empty, or until nothing was sent for `seconds`; return true if it is empty.

        Args:
            model_seconds: time for a network, in place of `seconds`: a slow machine takes a while to export it.
            most: seconds in all.
        """
        deadline = time.monotonic() + most
        with self._changed:
            self._flushing = True
            self._changed.notify_all()
            try:
                while left := len(self._queue):
                    patience = model_seconds if self._queue.first()[0].weights is not None else seconds
                    patience = min(patience, deadline - time.monotonic())
                    moved = self._changed.wait_for(functools.partial(self._moved_on, left, self._steps), patience)
                    self._check()
                    if not moved:
                        return False
            finally:
                self._flushing = False
        return True

    def close(self, seconds: float, model_seconds: float, most: float = math.inf) -> int:
        """Flush and stop; unsent entries stay in the queue. Return the number of entries that MLflow lacks."""
        self.flush(seconds, model_seconds, most)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(1)
        left = len(self._queue)
        if not self._thread.is_alive():  # else it waits for a server, and dies with the process
            self._queue.close()
        return left + self._refused.total()

    def _send_leftovers(self) -> None:
        if entries := unsent(self._folder):
            self._say(f"sending {counted(entries, 'entry')} that an earlier command left")
        # Oldest file first (names begin with the time), so refused entries come before later ones.
        for path in sorted(path for suffix in (REFUSED, SUFFIX) for path in self._folder.glob(f"*{suffix}")):
            try:
                left = MlflowQueue(path)
            except QueueInUseError:
                continue
            try:
                while some := _batch(left.first(_BATCH)):
                    self._move(some, left)
            finally:
                left.close()

    def _moved_on(self, left: int, steps: int) -> bool:
        return len(self._queue) < left or self._steps > steps or self._broken is not None

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or len(self._queue))
                    # As long as the last write took, so that writing leaves the coordinator half of a core.
                    self._changed.wait_for(
                        lambda: self._closing or self._flushing or len(self._queue) >= _BATCH,
                        min(max(_GATHER_SECONDS, self._seconds), _MOST_SECONDS),
                    )
                    if self._closing:
                        return
                self._send_first()
        except BaseException as error:  # a bug: the next call of `put` or `flush` raises it
            with self._changed:
                self._broken = error
                self._changed.notify_all()

    def _send_first(self) -> None:
        some, left, began = _batch(self._queue.first(_BATCH)), len(self._queue), time.monotonic()
        try:
            self._move(some, self._queue)
            self._seconds = time.monotonic() - began if some[0].weights is None else 0.0
        except _UNREACHABLE as error:
            self._seconds = 0.0
            self._pause(error)
            return
        if self._failures:
            self._say(f"MLflow answers again; sending {counted(left, 'entry')}")
            self._failures = 0

    def _pause(self, error: Exception) -> None:
        if not self._failures:
            self._say(
                f"MLflow does not answer ({first_line(error)}); the sweep continues, and its results wait on disk"
            )
        seconds = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._failures += 1
        with self._changed:
            flushing = self._flushing
            seconds = min(seconds, _FLUSH_PAUSE) if flushing else seconds
            self._changed.wait_for(lambda: self._closing or self._flushing > flushing, seconds)

    def _move(self, some: Sequence[Entry], queue: MlflowQueue) -> None:
        """Write `some`, the first entries of `queue`, and remove them from it; what MLflow refuses is set aside."""
        try:
            for _ in self._write(some):
                self._steps += 1
        except (MlflowException, HTTPError, CheckpointError) as error:
            if not _refused(error):
                raise
            if len(some) > 1:  # to find the one that MLflow refuses
                for entry in some:
                    self._move([entry], queue)
                return
            self._set_aside(some[0], error)
        with self._changed:
            queue.remove(len(some))
            self._changed.notify_all()

    def _set_aside(self, entry: Entry, error: Exception) -> None:
        path = self._folder / f"{time.time_ns()}{REFUSED}"
        refused = MlflowQueue(path)
        refused.append(entry, sync=True)
        refused.close()
        self._refused[entry.key] += 1
        if self._refused[entry.key] == 1:
            self._say(
                f"MLflow refuses an entry of {entry.key} ({first_line(error)}); this and further refused entries of "
                f"{entry.key} are kept in {self._folder}"
            )


def _refused(error: Exception) -> bool:
    """Return true if no retry mends the error."""
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS
    if isinstance(error, HTTPError):  # of an upload, which a proxy before MLflow may refuse
        status = error.response.status_code if error.response is not None else 0
        return 400 <= status < 500 and status not in _PASSING
    return True


def _batch(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return the first `entries` that are sent in one call: a network, which is slow to export, goes alone."""
    return list(itertools.takewhile(lambda entry: entry.weights is None, entries)) or entries[:1]
