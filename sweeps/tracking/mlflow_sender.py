"""Sends a journal to MLflow in the background, run by run and through outages: nothing that trains waits."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from cifar_core.checkpoint import CheckpointError
from cifar_core.errors import first_line
from sweeps.tracking.mlflow_queue import SUFFIX, Entry, Journal, TakenError

_UNREACHABLE = (MlflowException, SQLAlchemyError, RequestException, OSError)
# What MLflow will never take, however often it is told.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")
_TOGETHER = 400  # entries
_GATHER_SECONDS = 0.5  # for more to come: what is told together costs less
_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds between attempts, the last one again and again


class Outbox:
    """Entries on their way to MLflow; those that it refuses are set aside and the others go on.

    Args:
        folder: of the journals. What an earlier process left there is sent at once.
        tell: brings entries to MLflow, those of a run in their order.
        say: gets a line when MLflow stops answering, answers again or refuses.

    Raises:
        StoreError: a journal that was left cannot be read.
        MlflowException, SQLAlchemyError, RequestException, OSError: MLflow does not answer; what was left stays.
    """

    def __init__(self, folder: Path, tell: Callable[[Sequence[Entry]], None], say: Callable[[str], None]) -> None:
        self._folder, self._tell, self._say = folder, tell, say
        self._refused = 0
        self._send_left()
        self._journal = Journal(folder / f"{time.time_ns()}{SUFFIX}")
        self._changed = threading.Condition()
        self._failures = 0  # in a row
        self._closing = self._flushing = False
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def put(self, entry: Entry, *, sync: bool) -> None:
        """Send `entry` when its turn comes; with `sync` it outlasts the machine from now on.

        Raises:
            StoreError: the disk has no room for it.
        """
        self._check()
        self._journal.append(entry, sync=sync)
        with self._changed:
            self._changed.notify_all()

    def flush(self, seconds: float, model_seconds: float) -> bool:
        """Wait until everything is sent, or until nothing was for so long; true if everything is.

        Args:
            model_seconds: what a network gets in place of `seconds`: exporting it takes a slow machine a while.
        """
        with self._changed:
            self._flushing = True
            self._changed.notify_all()
        try:
            return self._wait_until_sent(seconds, model_seconds)
        finally:
            self._flushing = False

    def _wait_until_sent(self, seconds: float, model_seconds: float) -> bool:
        with self._changed:
            while left := len(self._journal):
                patience = model_seconds if self._journal.first()[0].recipe is not None else seconds
                moved = self._changed.wait_for(functools.partial(self._moved_on, left), patience)
                self._check()
                if not moved:
                    return False
        return True

    def close(self, seconds: float, model_seconds: float) -> int:
        """Flush, and end; what was not sent stays in the journal. Returns how many entries MLflow has not got."""
        self.flush(seconds, model_seconds)
        left = len(self._journal)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(1)
        if not self._thread.is_alive():  # else it waits for a server, and ends with the process
            self._journal.close()
        return left + self._refused

    def _send_left(self) -> None:
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                left = Journal(path)
            except TakenError:
                continue
            try:
                while some := _together(left.first(_TOGETHER)):
                    self._tell_or_set_aside(some)
                    left.forget(len(some))
            finally:
                left.close()

    def _hurried(self) -> bool:
        return self._closing or self._flushing or len(self._journal) >= _TOGETHER

    def _moved_on(self, left: int) -> bool:
        return len(self._journal) < left or self._broken is not None

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or len(self._journal))
                    self._changed.wait_for(self._hurried, _GATHER_SECONDS)
                    if self._closing:
                        return
                self._send_first()
        except BaseException as error:  # an error of ours: it belongs to whoever uses the outbox
            with self._changed:
                self._broken = error
                self._changed.notify_all()

    def _send_first(self) -> None:
        some = _together(self._journal.first(_TOGETHER))
        try:
            self._tell_or_set_aside(some)
        except _UNREACHABLE as error:
            self._pause(error)
            return
        if self._failures:
            self._say(f"MLflow answers again, and gets the {len(self._journal)} entries that waited")
            self._failures = 0
        with self._changed:
            self._journal.forget(len(some))
            self._changed.notify_all()

    def _pause(self, error: Exception) -> None:
        if not self._failures:
            self._say(f"MLflow does not answer ({first_line(error)}); the sweep goes on, and what it learns is kept")
        seconds = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._failures += 1
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)

    def _tell_or_set_aside(self, some: Sequence[Entry]) -> None:
        try:
            self._tell(some)
        except (MlflowException, CheckpointError) as error:
            if isinstance(error, MlflowException) and error.error_code not in _REFUSALS:
                raise
            if len(some) == 1:
                self._set_aside(some[0], error)
                return
            for entry in some:  # one of them is the one that is refused
                self._tell_or_set_aside([entry])

    def _set_aside(self, entry: Entry, error: Exception) -> None:
        path = self._folder / f"{time.time_ns()}.refused"
        refused = Journal(path)
        refused.append(entry, sync=True)
        refused.close()
        self._refused += 1
        self._say(f"MLflow refuses what {entry.key} has to say ({first_line(error)}); it is kept in {path}")


def _together(entries: Sequence[Entry]) -> Sequence[Entry]:
    """As many of the first `entries` as are told at once: a network, which takes its time, is told by itself."""
    return list(itertools.takewhile(lambda entry: entry.recipe is None, entries)) or entries[:1]
