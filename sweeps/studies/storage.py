"""Optuna storages: opening one, waiting for its server, and reading no trial twice that has not changed."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from cifar_core.errors import UserError, cause, first_line
from sweeps.store import Store, opening

_SERVER_SECONDS, _RETRY_SECONDS = 120.0, 0.5  # for a database server to come back; between attempts
# Of PostgreSQL's library: two in seconds, one in milliseconds. By default a call to a host that is gone blocks for a
# quarter of an hour.
_LIMITS = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 60_000}


class StudyError(UserError):
    """A study that cannot be opened or resumed as asked."""


def open_storage(
    url: str, *, stop: Callable[[], bool] = lambda: False, say: Callable[[str], None] = lambda line: None
) -> BaseStorage:
    """Open an Optuna storage. Once open, one on a server waits for it up to two minutes while it restarts.

    A call that was under way when the server went is lost; it raises, and the sweep resumes from what the server has.

    Args:
        stop: called between attempts; once it returns true, a call raises at once.
        say: prints a line for the user.

    Raises:
        StudyError: there can be no such storage.
    """
    with opening_storage(url), opening(url):
        if Store.local(url) is not None:
            return RDBStorage(url)
        limits = {"connect_args": _LIMITS} if url.startswith(("postgresql://", "postgresql+psycopg")) else {}
        storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **limits})

    def connect(
        dialect: Dialect, record: ConnectionPoolEntry, arguments: Sequence[Any], options: Mapping[str, Any]
    ) -> DBAPIConnection:
        started, waits = time.monotonic(), False
        while True:
            try:
                return dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError as error:
                if stop() or time.monotonic() > started + _SERVER_SECONDS:
                    raise
                if not waits:
                    waits = True
                    say(f"Optuna's database does not answer ({cause(error)}); waiting up to two minutes for it")
                time.sleep(_RETRY_SECONDS)

    sqlalchemy.event.listen(storage.engine, "do_connect", connect)
    return storage


@contextlib.contextmanager
def opening_storage(url: str) -> Iterator[None]:
    """Context that says in one line why an Optuna storage does not open.

    Raises:
        StudyError: it does not.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError) as error:  # RuntimeError: foreign tables
        raise StudyError(f"the Optuna storage must open, but {url} gave: {first_line(error)}") from error


def _passed_on(name: str) -> Any:
    """Return a method that calls the one of the wrapped storage."""
    return lambda self, *arguments, **named: getattr(self._storage, name)(*arguments, **named)


def _write(name: str) -> Any:
    """Return a method that calls the one of the wrapped storage, and has the trial read again."""

    def method(self: OneWriterStorage, trial_id: int, *arguments: Any, **named: Any) -> Any:
        if trial_id in self._studies:
            self._written.add(trial_id)  # first, as a write that fails may have happened
        return getattr(self._storage, name)(trial_id, *arguments, **named)

    return method


class OneWriterStorage(BaseStorage):
    """Wrapper for the only thread that writes to a study: it reads a trial again only after writing to it.

    Optuna's own cache reads all unfinished trials at each call, which takes 50 ms with a thousand of them.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = get_storage(storage)
        self._trials: dict[int, dict[int, FrozenTrial]] = {}  # of each study that was read, by id
        self._studies: dict[int, int] = {}  # of each of these trials, both by id
        self._written: set[int] = set()  # ids of those that have to be read again

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials of a study by number."""
        if study_id not in self._trials:
            self._trials[study_id] = {}
            for trial in self._storage.get_all_trials(study_id, deepcopy=False):
                self._keep(study_id, trial)
        for trial_id in list(self._written):
            self.get_trial(trial_id)
        found = [trial for trial in self._trials[study_id].values() if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial."""
        study_id = self._studies.get(trial_id)
        if study_id is None:
            return self._storage.get_trial(trial_id)
        if trial_id in self._written:
            self._keep(study_id, self._storage.get_trial(trial_id))
            self._written.remove(trial_id)
        return self._trials[study_id][trial_id]

    def _keep(self, study_id: int, trial: FrozenTrial) -> None:
        self._studies[trial._trial_id] = study_id
        self._trials[study_id][trial._trial_id] = trial

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial to a study; returns its id."""
        trial_id = self._storage.create_new_trial(study_id, template_trial)
        if study_id in self._trials:
            self._keep(study_id, self._storage.get_trial(trial_id))
        return trial_id

    set_trial_param = _write("set_trial_param")
    set_trial_state_values = _write("set_trial_state_values")
    set_trial_intermediate_value = _write("set_trial_intermediate_value")
    set_trial_user_attr = _write("set_trial_user_attr")
    set_trial_system_attr = _write("set_trial_system_attr")

    create_new_study = _passed_on("create_new_study")
    delete_study = _passed_on("delete_study")
    get_all_studies = _passed_on("get_all_studies")
    get_study_id_from_name = _passed_on("get_study_id_from_name")
    get_study_name_from_id = _passed_on("get_study_name_from_id")
    get_study_directions = _passed_on("get_study_directions")
    get_study_user_attrs = _passed_on("get_study_user_attrs")
    get_study_system_attrs = _passed_on("get_study_system_attrs")
    set_study_user_attr = _passed_on("set_study_user_attr")
    set_study_system_attr = _passed_on("set_study_system_attr")
    remove_session = _passed_on("remove_session")
