from __future__ import annotations

import torch

from cifar_core.data import synthetic_splits
from cifar_core.evaluation.serving import BATCHES, time_serving
from cifar_core.hardware import Hardware
from cifar_core.models import build_model
from cifar_core.recipe import Recipe

CPU = Hardware.detect("cpu")


def test_single_images_and_large_batches_are_timed() -> None:
    split = synthetic_splits(torch.Generator().manual_seed(0), train=300, val=10).train
    model = CPU.place(build_model(Recipe(model="three_conv", width=0.25)))
    one, many = time_serving(model, split, CPU, "dataset", seconds=0.05)
    assert (one.images, many.images) == BATCHES
    for timing in (one, many):
        assert timing.repeats >= 3
        assert 0 < timing.seconds <= timing.slow_seconds
    assert many.seconds / many.images < one.seconds


def test_a_batch_that_the_images_do_not_fill_is_left_out() -> None:
    split = synthetic_splits(torch.Generator().manual_seed(0), train=10, val=10).val
    model = CPU.place(build_model(Recipe(model="three_conv", width=0.25)))
    assert [t.images for t in time_serving(model, split, CPU, "dataset", seconds=0.01)] == [1]
