"""Files of runs: those that are kept still load, and no process loses the run of another."""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cifar_core.files import write_atomically
from experiments.accuracy import ablation, lengths, passes, ranking, run_file, searches
from experiments.accuracy.run_file import add, load
from experiments.accuracy.searches import SearchRun
from experiments.accuracy.training_runs import TrainingRun
from sweeps.validation import InvalidFileError


def is_named(name: str, run: TrainingRun) -> bool:
    return run.name == name


def named(name: str) -> TrainingRun:
    return TrainingRun(
        name=name, recipe={"seed": 0}, early=0.1, accuracy=0.9, tta_accuracy=None, seconds=1.0, machine="m"
    )


@pytest.mark.parametrize(
    ("path", "record"),
    [
        (ablation.RESULTS, TrainingRun),
        (lengths.RESULTS, TrainingRun),
        (passes.RESULTS, TrainingRun),
        (ranking.RESULTS, TrainingRun),
        (searches.RESULTS, SearchRun),
    ],
    ids=lambda value: getattr(value, "stem", None),
)
def test_a_run_is_added_to_those_that_are_kept_as_they_are(tmp_path: Path, path: Path, record: type[Any]) -> None:
    copy, (*others, last) = tmp_path / path.name, load(path, record)
    copy.write_bytes(path.read_bytes())
    assert add(copy, last, lambda run: run == last) == (*others, last)
    assert copy.read_bytes() == path.read_bytes()
    add(copy, last, lambda run: False)
    assert copy.read_bytes().startswith(path.read_bytes().rstrip(b" ]}\n"))
    assert load(copy, record) == (*others, last, last)


def test_runs_that_end_at_the_same_time_are_all_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.json"

    def slowly(*arguments: Any) -> None:
        time.sleep(0.05)  # so that the others would have read by now
        write_atomically(*arguments)

    monkeypatch.setattr(run_file, "write_atomically", slowly)
    names = ["a", "b", "c", "a"]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: add(path, named(name), functools.partial(is_named, name)), names))
    assert sorted(run.name for run in load(path, TrainingRun)) == ["a", "b", "c"]


def test_a_file_that_breaks_a_rule_is_named_with_its_field(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text('{"runs": [{"name": 1}]}')
    with pytest.raises(InvalidFileError, match=r"runs\.json: runs 1: name must be a valid string, but got 1"):
        load(path, TrainingRun)
