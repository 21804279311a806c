"""Latency: which batches are timed, and that the times make sense."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from cifar_core.data import Split
from cifar_core.evaluation import serving
from cifar_core.evaluation.serving import BATCHES, Timing, p95, time_serving
from cifar_core.hardware import Hardware
from cifar_core.models import build_model
from cifar_core.recipe import Recipe
from tests.cifar_core.support import synthetic

CPU = Hardware.detect("cpu")


@pytest.mark.parametrize("images", [300, 10])  # those of a split that is smaller than a batch are repeated
def test_single_images_and_large_batches_are_timed(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_SECONDS", 0.05)
    model = CPU.place(build_model(Recipe(model="three_conv", width=0.25)))
    timings = time_serving(model, synthetic(images, 0).train, CPU, "dataset")
    assert tuple(timing.images for timing in timings) == BATCHES
    for timing in timings:
        assert timing.repeats >= 3
        assert 0 < timing.seconds <= timing.slow_seconds
        assert timing.images == 1 or timing.seconds / timing.images < timings[0].seconds


def timed(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int, int], float]) -> tuple[Timing, ...]:
    """Time a network that takes `seconds(call, images)` for the calls, counted from 1, with so many images."""
    now, calls = 0.0, itertools.count(1)

    def predict(model: object, batch: Split, *_: object) -> None:
        nonlocal now
        now += seconds(next(calls), len(batch))

    monkeypatch.setattr(serving, "predict", predict)
    monkeypatch.setattr(serving, "time", Mock(perf_counter=lambda: now))
    return time_serving(Mock(), synthetic(1, 0).train, CPU, "dataset")


def test_the_quietest_of_three_rounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    single, _ = timed(monkeypatch, lambda call, _: 0.5 if call <= 30 else 0.01)  # other work ends in the first round
    assert single.slow_seconds == pytest.approx(0.01)
    assert 59 <= single.repeats <= 200


def test_a_hiccup_that_the_95th_percentile_does_not_show_makes_a_round_less_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hiccup = {30: 2.0}
    single, _ = timed(monkeypatch, lambda call, _: hiccup.get(call, 0.01 if call <= 60 else 0.011))  # 60 end the round
    assert (single.slow_seconds, single.mean_seconds) == pytest.approx((0.011, 0.011))


def test_slow_networks_are_timed_often_enough_for_a_percentile(monkeypatch: pytest.MonkeyPatch) -> None:
    single, large = timed(monkeypatch, lambda _, images: 0.1 * images)
    assert (single.repeats, large.repeats) == (59, 3)


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (3, 3), (19, 19), (20, 19), (21, 20), (100, 95), (101, 96)])
def test_95_percent_are_within_the_nearest_rank(count: int, rank: int) -> None:
    assert p95([float(value) for value in range(count, 0, -1)]) == rank
