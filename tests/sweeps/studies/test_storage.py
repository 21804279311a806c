"""Optuna storages: what does not open, and what one process reads again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from sweeps.store import Store
from sweeps.studies import storage as optuna_storage
from sweeps.studies.storage import OneWriterStorage, StudyError, open_storage

WRITES = ("ask", "enqueue", "suggest", "report", "attribute", "tell", "prune", "read")


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/where/o.db"])
def test_a_storage_that_is_none(url: str) -> None:
    with pytest.raises(StudyError, match=rf"^the Optuna storage must open, but {url} gave: [^\n]*$"):
        open_storage(url)


LIMITS = {"connect_args": {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 60_000}}


@pytest.mark.parametrize(
    ("scheme", "limits"),
    [("postgresql", LIMITS), ("postgresql+psycopg", LIMITS), ("postgresql+pg8000", {}), ("mysql", {})],
)
def test_a_host_that_is_gone_is_noticed(scheme: str, limits: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Mock(side_effect=RuntimeError("there is no such server here"))
    monkeypatch.setattr(optuna_storage, "RDBStorage", opened)
    with pytest.raises(StudyError, match="there is no such server here"):
        open_storage(f"{scheme}://localhost/optuna")
    opened.assert_called_once_with(f"{scheme}://localhost/optuna", engine_kwargs={"pool_pre_ping": True, **limits})


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., BaseStorage]:
    """Opens a storage whose server goes away."""

    def open_it(**options: Any) -> BaseStorage:
        inner = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/o.db")
        monkeypatch.setattr(optuna_storage, "RDBStorage", lambda *_, **__: inner)
        storage = open_storage("postgresql://localhost/optuna", **options)
        inner.engine.dispose()
        monkeypatch.setattr(inner.engine.dialect, "connect", Mock(side_effect=sqlite3.OperationalError("it is away")))
        return storage

    return open_it


def test_a_server_that_is_away_is_waited_for_until_the_user_stops(away: Callable[..., BaseStorage]) -> None:
    said: list[str] = []
    asked = iter([False, False, True])
    storage = away(stop=lambda: next(asked), say=said.append)
    with pytest.raises(StorageInternalError) as caught:
        storage.get_all_studies()
    assert "it is away" in str(caught.value.__cause__)
    assert said == ["Optuna's database does not answer (it is away); waiting up to two minutes for it"]
    assert list(asked) == [], "it tried three times"


def test_a_server_that_stays_away_is_not_waited_for_for_ever(
    away: Callable[..., BaseStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna_storage, "_SERVER_SECONDS", 0.1)
    with pytest.raises(StorageInternalError):
        away().get_all_studies()


@settings(max_examples=30, deadline=None)
@given(writes=st.lists(st.tuples(st.sampled_from(WRITES), st.integers(0, 9)), max_size=25), before=st.integers(0, 2))
def test_the_writer_reads_what_is_stored(writes: list[tuple[str, int]], before: int) -> None:
    inner = InMemoryStorage()
    other = optuna.create_study(storage=inner, study_name="a")
    for _ in range(before):
        other.ask()
    study = optuna.load_study(storage=OneWriterStorage(inner), study_name="a")
    running: list[optuna.Trial] = []
    for write, number in writes:
        if write == "enqueue":
            study.enqueue_trial({"x": number})
        elif write == "read":
            study.get_trials(states=(TrialState.WAITING,))
        elif write == "ask" or not running:
            running.append(study.ask())
        elif write in ("tell", "prune"):
            trial = running.pop(number % len(running))
            study.tell(trial, number, TrialState.COMPLETE) if write == "tell" else study.tell(
                trial, state=TrialState.PRUNED
            )
        else:
            trial = running[number % len(running)]
            if write == "suggest":
                trial.suggest_int("x", 0, 9)
            elif write == "report":
                if number not in inner.get_trial(trial._trial_id).intermediate_values:  # Optuna warns of it
                    trial.report(number, number)
            else:
                trial.set_user_attr("a", number)
            assert trial.user_attrs == inner.get_trial(trial._trial_id).user_attrs
    assert study.get_trials() == other.get_trials()
    assert [trial.number for trial in study.get_trials()] == list(range(len(other.get_trials())))


class CountingStorage(InMemoryStorage):
    """Counts reads of trials."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    def get_trial(self, trial_id: int) -> optuna.trial.FrozenTrial:
        self.read.append(trial_id)
        return super().get_trial(trial_id)


def test_a_trial_is_read_again_only_after_a_write_to_it() -> None:
    inner = CountingStorage()
    study = optuna.create_study(storage=OneWriterStorage(inner))
    trials = [study.ask() for _ in range(3)]
    study.get_trials()
    inner.read.clear()
    trials[1].report(0.5, 1)
    for _ in range(3):
        study.get_trials()
        assert trials[1].user_attrs == {}
    assert set(inner.read) == {1}
    assert len(inner.read) <= 2, "one read to check that it may be written to, and one of what was written"


def test_studies_of_one_storage_are_kept_apart(tmp_path: Path) -> None:
    store = Store.locate(tmp_path)
    store.create()
    storage: BaseStorage = OneWriterStorage(open_storage(store.storage_url))
    first, second = (optuna.create_study(storage=storage, study_name=name) for name in "ab")
    first.ask()
    second.ask().set_user_attr("mine", True)
    assert [trial.user_attrs for trial in first.get_trials()] == [{}]
    assert [trial.user_attrs for trial in second.get_trials()] == [{"mine": True}]
    optuna.delete_study(storage=storage, study_name="a")
    assert [study.study_name for study in optuna.get_all_study_summaries(storage)] == ["b"]
