from __future__ import annotations

import pandas as pd

from experiments.reading import run_table
from experiments.reading.studies import StudyReader
from tests.experiments.fake_store import Fake


def test_the_tables_of_the_file_give_what_the_client_gives(store: Fake) -> None:
    reader = StudyReader(store.place)
    for name in ("demo", "unconfirmed", "interrupted"):
        study = reader.read(name)
        ids = list(study.attempts["run_id"])
        by_client = run_table.from_runs([store.client.get_run(run_id) for run_id in ids])
        pd.testing.assert_frame_equal(run_table.from_sqlite(store.folder / "mlflow.db", study.run_id), by_client)
        pd.testing.assert_frame_equal(study.attempts, by_client)
