"""The comparison of searches: its file, its table, its figure."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest

from cifar_core.hardware import Hardware
from experiments.accuracy import searches
from experiments.accuracy.contestants import SPACE, BestSoFar, SearchBudget
from experiments.accuracy.searches import SEARCHES, SearchRun, complete, figure, main, table
from tests.sweeps.small_data import CPU

BUDGET = SearchBudget()


def search_run(search: str, seed: int, accuracy: float = 0.9, budget: SearchBudget = BUDGET) -> SearchRun:
    points = (
        BestSoFar(flops=1e14, seconds=60.0, accuracy=0.5),
        BestSoFar(flops=8e14, seconds=600.0, accuracy=accuracy),
    )
    return SearchRun(
        search=search,
        seed=seed,
        planned_flops=budget.flops,
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

    def pretend(search: str, seed: int, budget: SearchBudget, hardware: Hardware, threads: int) -> SearchRun:
        ran.append((search, seed))
        if ran == [("TPE", 0)]:
            raise RuntimeError("broken")
        return search_run(search, seed, budget=budget)

    def call(seeds: int, budget: SearchBudget = BUDGET) -> list[SearchRun]:
        wanted = [(search, seed) for seed in range(seeds) for search in ("TPE", "random")]
        return complete(tmp_path / "searches.json", wanted, budget, CPU, 1, said.append)

    said: list[str] = []
    monkeypatch.setattr(searches, "run_search", pretend)
    monkeypatch.setattr(searches, "ProcessPoolExecutor", lambda jobs, *_: ThreadPoolExecutor(jobs))
    with pytest.raises(RuntimeError, match="broken"):
        call(1)
    assert said == ["random, seed 0: 90.00 %, 10m00s"]
    assert call(1) == [search_run("random", 0), search_run("TPE", 0)]
    call(2)
    assert ran == [("TPE", 0), ("random", 0), ("TPE", 0), ("TPE", 1), ("random", 1)]
    assert call(1, SearchBudget(trials=10))[0].planned_flops < BUDGET.flops, "none of another budget is in the file"
    assert len(ran) == 7
    assert len(call(2)) == 4, "those of other budgets stay in the file"


def test_table_has_means_with_intervals() -> None:
    runs = [search_run("TPE", 0, 0.90), search_run("TPE", 1, 0.92), search_run("ours", 0, 0.93)]
    assert list(table(runs))[2:] == [
        "| ours | 1 | 93.00 % | 94.00 % | 24 | 0.80 | 10.0 |",
        "| TPE | 2 | 91.00 % (78.29 to 103.71) | 92.00 % (79.29 to 104.71) | 24 | 0.80 | 10.0 |",
    ]


def test_figure_has_each_run_over_compute_and_over_time_and_each_search_once_in_its_legend() -> None:
    drawn = figure([search_run(search, seed) for search in SEARCHES for seed in (1, 2)])
    assert [trace.name for trace in drawn.data if trace.showlegend] == list(SEARCHES)
    lines, ends = ([trace for trace in drawn.data if trace.mode == mode] for mode in ("lines", "markers"))
    assert len(lines) == len(ends) == 2 * 2 * len(SEARCHES)
    assert (list(lines[0].x), list(lines[0].y)) == ([0.1, 0.8], [50.0, 90.0])
    assert (list(lines[1].x), lines[1].xaxis) == ([1.0, 10.0], "x2")
    assert (list(ends[0].x), list(ends[0].y)) == ([0.8], [90.0])
    assert len({trace.line.color for trace in lines}) == len(SEARCHES)


def test_a_search_that_is_given_twice_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Mock(return_value=[])
    monkeypatch.setattr(searches, "complete", asked)
    monkeypatch.setattr(searches, "ensure_cifar10", Mock())
    monkeypatch.setattr(searches, "figure", Mock(return_value=Mock(to_html=lambda: "")))
    given = ["--only", "TPE", "random", "TPE", "--seeds", "1", "--device", "cpu", "--results", str(tmp_path / "a.json")]
    assert main(given) == 0
    assert asked.call_args.args[1] == [("TPE", 0), ("random", 0)]
