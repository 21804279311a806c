from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from experiments.reading import run_table as run_tables
from experiments.reading.studies import Looks, Reader, read_looks
from sweeps.store import Store, StoreError

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake


def test_studies_are_listed_with_the_most_recent_first(store: Fake) -> None:
    assert Reader(store.place).studies() == ["demo", "interrupted", "unconfirmed"]


def test_the_most_recent_study_is_read_by_default(store: Fake) -> None:
    assert Reader(store.place).read().name == "demo"


def test_a_study_is_read_with_its_trials_and_confirmations(store: Fake) -> None:
    study = Reader(store.place).read("demo")
    assert study.search["state"].tolist() == ["complete", "pruned", "failed", "complete", "pruned", "pruned"]
    assert study.search["trial"].tolist() == [0, 1, 2, 3, 4, 5]
    assert study.search["metrics.val/accuracy"].round(2).tolist()[3] == 0.84
    assert study.confirm["source_trial"].tolist() == [3, 3]
    assert study.champion["metrics.test/accuracy"].tolist() == [0.921, 0.925]
    assert study.subject["run_id"].tolist() == study.champion["run_id"].tolist()
    assert study.search["tags.reason"].tolist()[2] == "loss is not finite"


def test_curves_are_those_of_the_champion_in_order_of_steps(store: Fake) -> None:
    study = Reader(store.place).read("demo")
    assert set(study.curves["run_id"]) == set(study.champion["run_id"])
    losses = study.curves[study.curves["key"] == "train/loss"]
    assert losses.groupby("run_id").size().tolist() == [40, 40]
    assert losses["step"].tolist()[:3] == [20, 40, 60]


def test_exhibits_come_from_the_test_set_for_a_champion(store: Fake) -> None:
    shown = Reader(store.place).read("demo").exhibits
    assert shown.samples is not None
    assert shown.mistakes is not None
    assert shown.prediction is not None
    assert shown.prediction["true"] == "cat"
    assert sum(map(sum, next(iter(shown.confusions.values())))) == 10_000
    assert all(uri.startswith("models:/m-") for uri in shown.model_uris.values())
    assert len(shown.model_uris) == 2


def test_without_a_champion_the_best_complete_trial_is_the_subject(store: Fake) -> None:
    study = Reader(store.place).read("unconfirmed")
    assert study.champion.empty
    assert study.subject["trial"].tolist() == [3]
    assert study.exhibits.prediction is None
    assert sum(map(sum, next(iter(study.exhibits.confusions.values())))) == 5000


def test_only_the_last_attempt_of_a_trial_is_a_trial(fresh_store: Fake) -> None:
    first = fresh_store.trial(state="failed", number=0)
    second = fresh_store.trial(accuracy=0.7, number=0, attempt=1)
    fresh_store.add(trials=[second, first], champion=())
    study = Reader(fresh_store.place).read()
    assert study.search["state"].tolist() == ["complete"]
    assert len(study.attempts) == 2


def test_a_server_uri_is_read_like_the_store(store: Fake, tmp_path: Path) -> None:
    study = Reader(Store.locate(tmp_path, tracking_uri=store.place.tracking_uri)).read("demo")
    assert len(study.search) == 6
    assert not study.looks.recorded  # the record lies in the store


def test_missing_and_broken_artifacts_are_none(fresh_store: Fake) -> None:
    fresh_store.add(omit=("pictures/samples.png", "test/prediction.json", "test/confusion.json", "recipe.toml"))
    reader = Reader(fresh_store.place)
    run = reader.read().champion["run_id"].iloc[0]
    root = Path(fresh_store.client.get_run(run).info.artifact_uri.removeprefix("file://"))
    (root / "test" / "confusion.json").write_text("{")
    (root / "test" / "mistakes.png").write_bytes(b"not a picture")
    shown = reader.read().exhibits
    assert (shown.samples, shown.prediction, shown.prediction_picture, shown.recipe) == (
        None,
        None,
        None,
        None,
    )
    assert shown.confusions == {}
    assert shown.mistakes_run != run  # the other run still has one


def test_looks_are_counted_and_torn_lines_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "test_looks.jsonl"
    assert read_looks(path, "a") == Looks(recorded=False)
    lines = [json.dumps({"study": name}) for name in ("a", "b", "a")]
    path.write_text("\n".join([*lines, "[1]", '{"study": "a"']))
    assert read_looks(path, "a") == Looks(recorded=True, study=2, store=3, unreadable=2)


def test_a_store_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a store must hold mlflow\.db, but there is no .*/none/mlflow\.db"):
        Reader(Store.locate(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("hello")
    with pytest.raises(StoreError, match=r"mlflow\.db must be an SQLite database, but .* is not"):
        Reader(Store.locate(tmp_path))


def test_a_store_without_studies_is_named(fresh_store: Fake) -> None:
    fresh_store.client.create_experiment("no study")
    with pytest.raises(StoreError, match=r"a store must hold at least one study, but sqlite:.* holds none"):
        Reader(fresh_store.place).read()


def test_an_unknown_study_is_refused_with_those_that_exist(store: Fake) -> None:
    with pytest.raises(StoreError, match="--study must be one of demo, interrupted, unconfirmed, but got 'dmo'"):
        Reader(store.place).read("dmo")


def test_the_tables_of_the_file_give_what_the_client_gives(store: Fake) -> None:
    reader = Reader(store.place)
    for name in ("demo", "unconfirmed", "interrupted"):
        study = reader.read(name)
        ids = list(study.attempts["run_id"])
        by_client = run_tables.of_runs([store.client.get_run(run_id) for run_id in ids])
        pd.testing.assert_frame_equal(run_tables.of_sqlite(store.folder / "mlflow.db", study.run_id), by_client)
        pd.testing.assert_frame_equal(study.attempts, by_client)


def test_a_deleted_run_is_not_read(fresh_store: Fake) -> None:
    fresh_store.add()
    before = Reader(fresh_store.place).read()
    fresh_store.client.delete_run(str(before.search["run_id"].iloc[0]))
    assert list(Reader(fresh_store.place).read().search["trial"]) == list(before.search["trial"])[1:]


def test_a_file_with_other_tables_is_read_through_the_client(
    fresh_store: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_store.add()
    expected = Reader(fresh_store.place).read().attempts

    def changed(*_: object) -> None:
        raise sqlite3.OperationalError("no such table: latest_metrics")

    monkeypatch.setattr(run_tables, "of_sqlite", changed)
    pd.testing.assert_frame_equal(Reader(fresh_store.place).read().attempts, expected)


def test_curves_keep_the_order_of_the_runs(store: Fake) -> None:
    study = Reader(store.place).read("demo")
    assert list(study.curves["run_id"].unique()) == list(study.subject["run_id"])


def test_looks_are_counted_whatever_else_their_lines_say(tmp_path: Path) -> None:
    lines = (
        {"time": "t", "study": "demo", "run_id": "r", "accuracy": 0.9, "images": 10_000},
        {"time": "t", "study": "demo", "key": "confirm-3-0", "images": 10_000},  # told before the images are opened
        {"time": "t", "study": "other", "key": "confirm-1-0", "images": 10_000},
    )
    (tmp_path / "looks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_looks(tmp_path / "looks.jsonl", "demo") == Looks(True, 2, 3, 0)
