"""Runs by id or name; tests/experiments/test_predict.py loads their networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_core.errors import UserError
from experiments.reading.weights import KnownRun, find_run

RUNS = (
    KnownRun("abcd1111", "first", "a study", Path("none")),
    KnownRun("abcd2222", "second", "a study", Path("weights", "trial-3.safetensors")),
    KnownRun("ef013333", "abcd", "systems", Path("none")),
    KnownRun("ef01", "abcd1111", "systems", Path("none")),
)


@pytest.mark.parametrize(
    ("wanted", "run"),
    [
        ("abcd1111",) * 2,
        ("abcd2", "abcd2222"),
        ("second", "abcd2222"),
        ("a study/trial-3", "abcd2222"),
        ("ef01", "ef01"),
        ("ef013", "ef013333"),
    ],
)
def test_by_id_by_its_beginning_and_by_name(wanted: str, run: str) -> None:
    assert find_run(wanted, RUNS).run_id == run


@pytest.mark.parametrize("wanted", ["abc", "ef0", "", "firs", "xyzt", "abcd11111"])
def test_none(wanted: str) -> None:
    with pytest.raises(UserError) as error:
        find_run(wanted, RUNS)
    assert str(error.value) == (
        f"RUN must be a run's id, at least 4 of its first letters, STUDY/KEY (as demo/trial-3), a run's name, "
        f"or champion, but no run is {wanted!r}; "
        "no run has kept its weights yet; confirmed runs, reproductions and trials with --keep-weights do"
    )


def test_several() -> None:
    with pytest.raises(UserError) as error:
        find_run("abcd", RUNS)
    assert str(error.value) == (
        "RUN must be one run, but 'abcd' may be abcd1111 (first in a study), abcd2222 (second in a study), "
        "ef013333 (abcd in systems)"
    )


def test_many() -> None:
    runs = [KnownRun(f"{number:08}", "same", "s", Path("none")) for number in range(13)]
    with pytest.raises(UserError, match=r"may be 00000000 \(same in s\), (.*), and 3 more$"):
        find_run("same", runs)
