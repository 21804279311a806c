"""Optuna storages: opening one, waiting for its server, and reading no trial twice that has not changed."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from cifar_core.errors import UserError, first_line
from sweeps.store import Store, opening

_SERVER_SECONDS, _RETRY_SECONDS = 120.0, 0.5  # for a database server to come back; between attempts
# Of PostgreSQL's library: two in seconds, one in milliseconds. By default a call to a host that is gone blocks for a
# quarter of an hour.
_LIMITS = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 60_000}


class StudyError(UserError):
    """A study that cannot be opened or resumed as asked."""


def open_storage(url: str) -> BaseStorage:
    """Open an Optuna storage. Once open, one on a server waits for it while it restarts.

    Raises:
        StudyError: there can be no such storage.
    """
    with opening_storage(url), opening(url):
        if Store.local(url) is not None:
            return RDBStorage(url)
        limits = {"connect_args": _LIMITS} if url.startswith(("postgresql://", "postgresql+psycopg")) else {}
        storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **limits})
    sqlalchemy.event.listen(storage.engine, "do_connect", _connect)
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


class OneWriterStorage(BaseStorage):
    """Another storage, for the one thread that writes to a study: it reads a trial again only after writing to it.

    Optuna's own cache reads all unfinished trials at each call, which takes 50 ms with a thousand of them.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = get_storage(storage)
        self._trials: dict[int, dict[int, FrozenTrial]] = {}  # of each study that was read, by id
        self._studies: dict[int, int] = {}  # of each of these trials, both by id
        self._written: set[int] = set()  # ids of those that have to be read again

    # Trials

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

    def _to_write(self, trial_id: int) -> BaseStorage:
        """Return the storage, for a write to that trial, which may also fail after it has happened."""
        if trial_id in self._studies:
            self._written.add(trial_id)
        return self._storage

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set a parameter of a trial."""
        self._to_write(trial_id).set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set state and values of a trial; returns false if it was to run, but does so already."""
        return self._to_write(trial_id).set_trial_state_values(trial_id, state, values)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set a value that a trial reports."""
        self._to_write(trial_id).set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial."""
        self._to_write(trial_id).set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial, for Optuna."""
        self._to_write(trial_id).set_trial_system_attr(trial_id, key, value)

    # Studies

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Create a study; returns its id."""
        return self._storage.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        """Delete a study."""
        for trial_id in self._trials.pop(study_id, {}):
            del self._studies[trial_id]
            self._written.discard(trial_id)
        self._storage.delete_study(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return all studies."""
        return self._storage.get_all_studies()

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the id of a study."""
        return self._storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return the name of a study."""
        return self._storage.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return whether each value of a study is minimised or maximised."""
        return self._storage.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the attributes of a study."""
        return self._storage.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the attributes of a study that are Optuna's."""
        return self._storage.get_study_system_attrs(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of a study."""
        self._storage.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of a study, for Optuna."""
        self._storage.set_study_system_attr(study_id, key, value)

    def remove_session(self) -> None:
        """Close the connections of this thread."""
        self._storage.remove_session()


def _connect(
    dialect: Dialect, record: ConnectionPoolEntry, arguments: Sequence[Any], options: Mapping[str, Any]
) -> DBAPIConnection:
    """Connect to a server, and wait for it a while.

    Only a call that was under way when the server went is lost; it raises, and the sweep resumes from what the server
    has.
    """
    deadline = time.monotonic() + _SERVER_SECONDS
    while True:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.loaded_dbapi.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
