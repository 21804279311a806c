"""A sweep written the usual way."""

from __future__ import annotations

import itertools
import multiprocessing
from types import SimpleNamespace

import pytest

from experiments.accuracy import usual_sweep as module
from experiments.accuracy.contestants import SearchBudget
from experiments.accuracy.usual_sweep import RESNET, SMALL, batches_of, usual_sweep
from experiments.benchmarks.usual import Pictures
from tests.sweeps.small_data import CPU, small_splits


@pytest.mark.slow
@pytest.mark.parametrize("networks", [(SMALL,), (RESNET,)])
def test_the_best_pass_within_the_time_is_the_answer(networks: tuple[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "real_data", lambda: small_splits(8, 20))
    monkeypatch.setattr(module, "WORKERS", 0)
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr(module, "time", clock)  # a second each time that somebody looks
    found = usual_sweep(1, SearchBudget(seconds=12), CPU, networks=networks)
    accuracies = [point.accuracy for point in found.points]
    assert accuracies[:-1] == sorted(set(accuracies)), "each better than the one before"
    assert accuracies[-1] == max(accuracies)
    assert found.points[-1].seconds > 12
    assert found.recipe["network"] == networks[0]
    assert 1 <= found.recipe["epochs"] <= 5
    assert found.trials > 1
    if networks == (RESNET,):  # papers count 0.56 billion multiplications an image, forward
        passes = found.points[-1].flops / (8 * 3 * 2 * 0.556e9)
        assert passes > 1
        assert passes == pytest.approx(round(passes), rel=0.01)


def test_workers_of_a_search_in_a_spawned_process_are_forked() -> None:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)  # as in the processes of `searches`
    try:
        sizes = [len(labels) for _, labels in batches_of(Pictures(small_splits(8, 20).train, augmented=True), 4)]
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert sizes == [4, 4]
