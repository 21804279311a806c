"""The comparison of searches: its file, its table, its figure."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cifar_core.hardware import Hardware
from experiments.benchmarks import searches
from experiments.benchmarks.contestants import SEARCHES, SPACE, Point, Terms
from experiments.benchmarks.searches import SearchRun, complete, figure, main, table
from tests.sweeps.small_data import CPU

TERMS = Terms()


def search_run(search: str, seed: int, accuracy: float = 0.9, terms: Terms = TERMS) -> SearchRun:
    points = (Point(flops=1e14, seconds=60.0, accuracy=0.5), Point(flops=8e14, seconds=600.0, accuracy=accuracy))
    return SearchRun(
        search=search,
        seed=seed,
        planned_flops=terms.flops,
        space=SPACE.hash,
        trials=24,
        points=points,
        tta_accuracy=accuracy + 0.01,
        recipe={},
        machine="m",
    )


def test_searches_of_the_file_are_not_repeated_and_an_error_loses_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, int]] = []

    def pretend(search: str, seed: int, terms: Terms, hardware: Hardware, threads: int) -> SearchRun:
        ran.append((search, seed))
        if ran == [("TPE", 0)]:
            raise RuntimeError("broken")
        return search_run(search, seed, terms=terms)

    def call(seeds: int, terms: Terms = TERMS) -> list[SearchRun]:
        wanted = [(search, seed) for seed in range(seeds) for search in ("TPE", "random")]
        return complete(tmp_path / "searches.json", wanted, terms, CPU, 1, said.append)

    said: list[str] = []
    monkeypatch.setattr(searches, "run_search", pretend)
    monkeypatch.setattr(searches, "ProcessPoolExecutor", lambda jobs, context: ThreadPoolExecutor(jobs))
    with pytest.raises(RuntimeError, match="broken"):
        call(1)
    assert said == ["random, seed 0: 90.00 %, 10m00s"]
    assert call(1) == [search_run("random", 0), search_run("TPE", 0)]
    call(2)
    assert ran == [("TPE", 0), ("random", 0), ("TPE", 0), ("TPE", 1), ("random", 1)]
    assert call(1, Terms(trials=10))[0].planned_flops < TERMS.flops, "of other terms there is none in the file"
    assert len(ran) == 7
    assert len(call(2)) == 4, "those of other terms stay in the file"


def test_table_has_means_with_intervals() -> None:
    runs = [search_run("TPE", 0, 0.90), search_run("TPE", 1, 0.92), search_run("ours", 0, 0.93)]
    assert list(table(runs))[2:] == [
        "| ours | 1 | 93.00 % | 94.00 % | 24 | 0.80 | 10.0 |",
        "| TPE | 2 | 91.00 % (78.29 to 103.71) | 92.00 % (79.29 to 104.71) | 24 | 0.80 | 10.0 |",
    ]


def test_figure_has_each_run_over_compute_and_over_time_and_each_search_once_in_its_legend() -> None:
    drawn = figure([search_run(search, seed) for search in SEARCHES for seed in (1, 2)])
    assert [trace.name for trace in drawn.data if trace.showlegend] == list(SEARCHES)
    first, second, *_ = drawn.data
    assert (list(first.x), list(first.y)) == ([0.1, 0.8], [50.0, 90.0])
    assert (list(second.x), second.xaxis) == ([1.0, 10.0], "x2")
    assert len(drawn.data) == 2 * 2 * len(SEARCHES)
    assert len({trace.line.color for trace in drawn.data}) == len(SEARCHES)


def test_an_unknown_search_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--only", "ours", "grid"])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("searches: error: argument --only: invalid choice: 'grid'")
