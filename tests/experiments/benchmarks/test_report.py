from __future__ import annotations

from pathlib import Path

from experiments.benchmarks.report import bench_report, fill
from experiments.reading.studies import Reader
from sweeps.store import Store


def test_the_store_is_one_that_the_report_can_be_timed_on(tmp_path: Path) -> None:
    fill(Store.locate(tmp_path / "mlruns"), 30)
    study = Reader(Store.locate(tmp_path / "mlruns")).read()
    assert (len(study.search), len(study.champion), study.state) == (30, 2, "finished")
    assert study.search["state"].value_counts().to_dict() == {"pruned": 20, "complete": 10}
    [line] = bench_report(tmp_path / "mlruns", 30)
    assert line.startswith("report of a study with 30 trials: ")
    assert line.endswith(" GB (rule: <= 10 s, <= 1 GB)")
