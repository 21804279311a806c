"""Runs from MLflow and from result files as the same record."""

from __future__ import annotations

import pytest

from cifar_core.errors import UserError
from experiments.reading.load_study import read_study
from experiments.reading.results import load_results
from experiments.reading.runs import from_mlflow, from_result
from experiments.reading.study_reader import StudyReader
from tests.experiments.fake_store import Fake, Trial


def test_a_result_of_a_reproduction_has_what_a_run_has() -> None:
    result = next(r for r in load_results() if (r.name, r.seed) == ("three_conv", 0))
    found = from_result(result, None)
    assert result.test is not None
    assert found.metrics["test/accuracy"] == result.test.accuracy
    assert found.metrics["test_class/cat"] == result.test.class_accuracy["cat"]
    assert found.curves["val/loss"][-1] == (result.curve[-1].step, result.curve[-1].watched_loss)
    assert found.steps_an_epoch == pytest.approx(2000)
    assert found.answers is None
    assert found.images == {"val": 10_000, "test": 10_000}, "a fifth of the 50,000 images is held out"


def test_damaged_answers_are_as_good_as_none(fresh_store: Fake) -> None:
    fresh_store.add(trials=(Trial(),), champion=(0.9,))
    reader = StudyReader(fresh_store.place)
    run_id = str(read_study(reader).subject["run_id"].iloc[0])
    fresh_store.put(run_id, {"test/predictions.csv": b"index,true\n0,\xff", "confusion.json": b"{"})
    found = from_mlflow(reader.client.get_run(run_id), "demo", reader)
    assert found.answers is None
    assert found.images == {"test": 10_000}


def test_an_accuracy_in_percent_is_refused(fresh_store: Fake) -> None:
    run = fresh_store.client.create_run("0", run_name="mine")
    fresh_store.client.log_metric(run.info.run_id, "val/accuracy", 92.5)
    reader = StudyReader(fresh_store.place)
    message = rf"^an accuracy must be a share in \[0, 1\], but val/accuracy of run {run.info.run_id} is 92\.5$"
    with pytest.raises(UserError, match=message):
        from_mlflow(reader.run(run.info.run_id), "Default", reader)
