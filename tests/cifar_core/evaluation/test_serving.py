"""Latency: which batches are timed, and that the times make sense."""

from __future__ import annotations

import pytest

from cifar_core.evaluation.serving import BATCHES, p95, time_serving
from cifar_core.hardware import Hardware
from cifar_core.models import build_model
from cifar_core.recipe import Recipe
from tests.cifar_core.support import synthetic

CPU = Hardware.detect("cpu")


@pytest.mark.parametrize("images", [300, 10])  # those of a split that is smaller than a batch are repeated
def test_single_images_and_large_batches_are_timed(images: int) -> None:
    model = CPU.place(build_model(Recipe(model="three_conv", width=0.25)))
    timings = time_serving(model, synthetic(images, 0).train, CPU, "dataset", seconds=0.05)
    assert tuple(timing.images for timing in timings) == BATCHES
    for timing in timings:
        assert timing.repeats >= 3
        assert 0 < timing.seconds <= timing.slow_seconds
        assert timing.images == 1 or timing.seconds / timing.images < timings[0].seconds


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (3, 3), (19, 19), (20, 19), (21, 20), (100, 95), (101, 96)])
def test_95_percent_are_within_the_nearest_rank(count: int, rank: int) -> None:
    assert p95([float(value) for value in range(count, 0, -1)]) == rank
