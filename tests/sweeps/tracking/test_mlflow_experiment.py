"""Entries give the same runs, written together or one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from sweeps.store import Store
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.mlflow_experiment import MlflowExperiment
from sweeps.tracking.mlflow_queue import Entry

KEYS = (STUDY_KEY, "trial-0", "trial-1")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def beginning(key: str, attempt: int) -> Entry:
    params = {"seed": "1"} if attempt == 1 else {"seed": "1", "width": "2"}
    tags = {"state": "running", "stage": "study" if key == STUDY_KEY else "search", "attempt": str(attempt)}
    return Entry(key=key, at=1000 + attempt, name=f"{key} sgd", tags=tags, params=params, files={"recipe.toml": b"x"})


def end(key: str, state: str) -> Entry:
    tags = {"state": state, "reason": f"it was {state}"}
    return Entry(key=key, at=9000, tags=tags, metrics={"cost": 2.5}, files={"a/b.txt": state.encode()}, state=state)


@st.composite
def told(draw: st.DrawFn) -> list[Entry]:
    """A study and two trials of one or two attempts, mixed; each attempt repeats points of the one before."""
    of_runs: list[list[Entry]] = []
    for key in KEYS:
        entries = []
        for attempt in range(1, draw(st.integers(1, 2)) + 1):
            entries.append(beginning(key, attempt))
            for step in range(1, draw(st.integers(0, 4)) + 1):
                entries.append(Entry(key=key, at=2000 + step, metrics={"loss": 1 / step, "rate": 0.5}, step=step))
            if draw(st.booleans()):
                entries.append(end(key, draw(st.sampled_from(["interrupted", "complete", "pruned"]))))
        of_runs.append(entries)
    order = draw(st.permutations([key for key, entries in enumerate(of_runs) for _ in entries]))
    queues = [iter(entries) for entries in of_runs]
    mixed = [next(queues[key]) for key in order]
    first = next(entry for entry in mixed if entry.key == STUDY_KEY)  # a sweep opens its study before all else
    return [first, *(entry for entry in mixed if entry is not first)]


def record(store: Path, experiment: str, batches: Sequence[Sequence[Entry]]) -> dict[str, Any]:
    """Write the batches, and return what MLflow knows at the end, by run."""
    runs = MlflowExperiment(Store.locate(store), experiment, source="test")
    for batch in batches:
        list(runs.write(batch))
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    known = {}
    for run in runs.stored(""):
        points = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        histories = {name: sorted((p.step, p.timestamp, p.value) for p in curve) for name, curve in points.items()}
        folder = store / experiment / run.info.run_id
        paths = [path for path in folder.rglob("*") if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_text() for path in paths}
        tags = {name: value for name, value in run.data.tags.items() if name != "mlflow.parentRunId"}
        known[run.data.tags["key"]] = (run.info.status, run.info.end_time, run.data.params, tags, histories, files)
    return known


@pytest.mark.slow
@pytest.mark.timeout(180)
@settings(max_examples=8, deadline=None)
@given(entries=told(), data=st.data())
def test_it_is_the_same_told_together_or_one_by_one(store: Path, entries: list[Entry], data: st.DataObject) -> None:
    number = sum(1 for _ in store.glob("*"))
    cuts = [*sorted(data.draw(st.sets(st.integers(1, len(entries)), max_size=4))), len(entries)]
    together = [entries[start:stop] for start, stop in itertools.pairwise([0, *cuts]) if start < stop]
    one_by_one = [[entry] for entry in entries]
    assert record(store, f"together-{number}", together) == record(store, f"alone-{number}", one_by_one)


def test_telling_it_again_changes_nothing(store: Path) -> None:
    entries = [beginning(STUDY_KEY, 1), beginning("trial-0", 1)]
    entries += [Entry(key="trial-0", at=2000 + step, metrics={"loss": 1 / step}, step=step) for step in (1, 2, 3)]
    entries.append(end("trial-0", "complete"))
    once = record(store, "once", [entries])
    assert once["trial-0"][4]["loss"] == [(1, 2001, 1.0), (2, 2002, 0.5), (3, 2003, 1 / 3)]
    assert once == record(store, "twice", [entries[:4], entries, entries])


def test_points_that_were_refused_may_come_after_later_ones(store: Path) -> None:
    """As `--replay` sends them, from another process."""
    points = [Entry(key="trial-0", at=step, metrics={"loss": 1 / step}, step=step) for step in range(1, 7)]
    record(store, "late", [[beginning(STUDY_KEY, 1), beginning("trial-0", 1), *points[:2], *points[4:]]])
    known = record(store, "late", [[*points[1:4], points[3]], points])
    assert known["trial-0"][4]["loss"] == [(step, step, 1 / step) for step in range(1, 7)]


def test_a_run_that_resumes_is_asked_once_what_it_has(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Entry(key="trial-0", at=step, metrics={"loss": 1 / step}, step=step) for step in range(1, 5)]
    record(store, "asked", [[beginning(STUDY_KEY, 1), beginning("trial-0", 1), *points[:3]]])
    history, asked = MlflowClient.get_metric_history, list[str]()

    def watched(client: MlflowClient, run_id: str, name: str) -> list[Metric]:
        asked.append(name)
        return list(history(client, run_id, name))

    again = MlflowExperiment(Store.locate(store), "asked", source="test")
    monkeypatch.setattr(MlflowClient, "get_metric_history", watched)
    for batch in ([beginning("trial-0", 2), *points[1:]], points, [end("trial-0", "complete")]):
        list(again.write(batch))
    assert asked == ["loss"]
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    assert [point.step for point in history(client, again.id_of("trial-0"), "loss")] == [1, 2, 3, 4]


def test_a_batch_that_is_sent_again_asks_nothing_of_the_runs_that_it_ended(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [Entry(key="trial-0", at=step, metrics={"loss": 1 / step}, step=step) for step in range(1, 5)]
    batch = [beginning(STUDY_KEY, 1), beginning("trial-0", 1), *points, end("trial-0", "complete")]
    experiment = MlflowExperiment(Store.locate(store), "again", source="test")
    monkeypatch.setattr(MlflowClient, "get_metric_history", Mock(side_effect=AssertionError("it knows what it wrote")))
    stopped = experiment.write([*batch, beginning("trial-1", 1)])
    next(stopped), next(stopped)  # and the server is away
    list(experiment.write(batch))


def test_more_at_once_than_mlflow_takes_in_a_call(store: Path) -> None:
    metrics = {step: {"loss": 1 / step, "rate": 0.5} for step in range(1, 901)}
    points = [Entry(key=STUDY_KEY, at=step, metrics=values, step=step) for step, values in metrics.items()]
    known = record(store, "many", [[beginning(STUDY_KEY, 1), *points]])
    assert known[STUDY_KEY][4]["loss"] == [(step, step, 1 / step) for step in range(1, 901)]


def test_a_study_ends_after_the_last_of_its_runs(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    terminate = MlflowClient.set_terminated

    def watched(client: MlflowClient, run_id: str, *args: Any, **options: Any) -> None:
        terminate(client, run_id, *args, **options)
        ended.append(client.get_run(run_id).data.tags["key"])

    monkeypatch.setattr(MlflowClient, "set_terminated", watched)
    beginnings = [beginning(STUDY_KEY, 1), beginning("trial-0", 1)]
    record(store, "ends", [[*beginnings, end("trial-0", "complete"), end(STUDY_KEY, "complete")]])
    assert ended == ["trial-0", STUDY_KEY]


def test_a_description_links_to_runs_that_are_sent_with_it(store: Path) -> None:
    notes = [Entry(key=STUDY_KEY, at=2, tags={MLFLOW_RUN_NOTE: f"{text} [0](run:trial-0)"}) for text in ("one", "two")]
    end_of_study = end(STUDY_KEY, "complete")
    known = record(store, "linked", [[beginning(STUDY_KEY, 1), *notes, beginning("trial-0", 1), end_of_study]])
    assert known[STUDY_KEY][3][MLFLOW_RUN_NOTE].startswith("two [0](#/experiments/")
    assert known[STUDY_KEY][0] == "FINISHED"
