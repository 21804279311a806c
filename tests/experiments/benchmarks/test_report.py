"""Benchmark of the report on a small synthetic study."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.benchmarks.report import bench_report
from experiments.benchmarks.synthetic import fill_store
from experiments.reading.load_study import read_study
from experiments.reading.study_reader import StudyReader
from sweeps.store import Store


@pytest.mark.slow
def test_report_of_a_synthetic_study_is_timed(tmp_path: Path) -> None:
    fill_store(Store.locate(tmp_path / "mlruns"), 30)
    study = read_study(StudyReader(Store.locate(tmp_path / "mlruns")))
    assert (len(study.search), len(study.confirm), len(study.champion), study.state) == (30, 2, 2, "finished")
    assert list(study.champion["tags.key"]) == ["final-0-0", "final-0-1"]
    assert study.confirm["metrics.test/accuracy"].isna().all()
    assert study.search["state"].value_counts().to_dict() == {"pruned": 20, "complete": 10}
    [line] = bench_report(30)
    assert line.text.startswith("report of a study with 30 trials: ")
    assert line.text.endswith(" GB (rule: <= 10 s, <= 1 GB)")
    assert set(line.figures) == {"seconds", "gigabytes"}
