"""Runs by id or name; tests/experiments/test_predict.py loads their networks."""

from __future__ import annotations

import uuid

import pytest

from cifar_core.errors import UserError
from experiments.reading.named_runs import run_named, runs_named
from experiments.reading.study_reader import StudyReader
from tests.experiments.fake_store import Fake, Trial

IDS = ("abcd1111", "abcd2222", "ef013333", "0abc4444", "0abc5555")


@pytest.fixture
def reader(fresh_store: Fake, monkeypatch: pytest.MonkeyPatch) -> StudyReader:
    """A study with three trials, the last of them twice, as a crash can leave it."""
    ids = iter(uuid.UUID(f"{start}{0:024}") for start in IDS)
    monkeypatch.setattr(uuid, "uuid4", lambda: next(ids))
    fresh_store.add(name="a study", trials=(Trial(), Trial(), Trial(number=2), Trial(number=2, attempt=1)), champion=())
    for run_id, name in (("abcd2222", 'it\'s "it"'), ("ef013333", "ef01"), ("0abc4444", "it's")):
        fresh_store.client.set_tag(f"{run_id}{0:024}", "mlflow.runName", name)
    return StudyReader(fresh_store.place)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (f"abcd1111{0:024}", ["abcd1111"]),
        ("ABCD2", ["abcd2222"]),
        ("abcd", ["abcd1111", "abcd2222"]),
        ("it's", ["0abc4444"]),
        ("ef01", ["ef013333"]),
        ("a study/trial-0", ["abcd2222"]),
        ("a study/trial-2", ["0abc5555"]),
        *((wanted, []) for wanted in ("abc", "", "a study/", "a study/trial-9", "other/trial-0", "xyzt", 'it\'s "it"')),
    ],
)
def test_by_id_by_its_beginning_by_name_and_by_key(reader: StudyReader, wanted: str, found: list[str]) -> None:
    assert sorted(run.info.run_id[:8] for run in runs_named(wanted, reader)) == found


def test_none_and_several_are_one_line(reader: StudyReader) -> None:
    with pytest.raises(UserError) as error:
        run_named("firs", reader)
    assert str(error.value) == (
        "RUN must be a run's id, at least 4 of its first letters, STUDY/KEY (such as quick-full/trial-3), a run's "
        "name, or champion, but no run is 'firs'; known: a study"
    )
    with pytest.raises(UserError, match=r"^RUN must be one run, but 'abcd' may be abcd\S+ \(.* in a study\), abcd2"):
        run_named("abcd", reader)
