from __future__ import annotations

import pandas as pd

from experiments.reading import run_table
from experiments.reading.load_study import read_study
from experiments.reading.study_reader import StudyReader
from tests.experiments.fake_store import Fake


def test_the_tables_of_the_file_give_what_the_client_gives(store: Fake) -> None:
    reader = StudyReader(store.place)
    for name in ("demo", "unconfirmed", "interrupted"):
        study = read_study(reader, name)
        ids = list(study.attempts["run_id"])
        by_client = run_table.from_runs([store.client.get_run(run_id) for run_id in ids])
        pd.testing.assert_frame_equal(run_table.from_sqlite(store.folder / "mlflow.db", study.run_id), by_client)
        pd.testing.assert_frame_equal(study.attempts, by_client)


def test_figures_in_tags_are_read_like_metrics(fresh_store: Fake) -> None:
    parent = fresh_store.add()
    table = run_table.from_sqlite(fresh_store.folder / "mlflow.db", parent)
    run_id = str(table["run_id"][0])
    assert table["metrics.cost/seconds"][0] == 95
    fresh_store.client.set_tag(run_id, "figures.cost", '{"seconds": 12.5, "new": 3}')
    fresh_store.client.set_tag(run_id, "figures.val_class", "edited by hand")
    table = run_table.from_sqlite(fresh_store.folder / "mlflow.db", parent)
    costs = table.loc[table["run_id"] == run_id, ["metrics.cost/seconds", "metrics.cost/new"]]
    assert costs.values.tolist() == [[12.5, 3]], "a study that an earlier version began"
    by_client = run_table.from_runs([fresh_store.client.get_run(run_id) for run_id in table["run_id"]])
    pd.testing.assert_frame_equal(table, by_client)
