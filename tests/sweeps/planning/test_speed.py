from __future__ import annotations

import time
from unittest.mock import Mock

import pytest
import torch

from cifar_core.data.data_set import CIFAR10
from cifar_core.errors import UserError
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from sweeps.planning.speed import measure_speed

CPU = Hardware.detect("cpu")


def test_speed_is_measured_in_flops_a_second() -> None:
    speed = measure_speed(Recipe(model="five_conv", width=0.125, batch_size=16), CPU, CIFAR10)  # which has dropout
    assert 1e7 < speed < 1e14


def test_the_speed_does_not_count_the_time_that_counting_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> float:
        time.sleep(1.0)
        return 1e12

    monkeypatch.setattr("sweeps.planning.speed.step_flops", slow)
    assert measure_speed(Recipe(width=0.125, batch_size=2), CPU, CIFAR10) > 3e12, "three steps, in less than a second"


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("cpu", RuntimeError, "CUDA error: no kernel image is available\nand more"),
        (
            "cuda",
            UserError,
            f"the device cuda must work with torch {torch.__version__}, but gave: CUDA error: no kernel image is "
            "available; --device cpu trains without it",
        ),
    ],
)
def test_a_gpu_that_cannot_train_is_one_line(
    monkeypatch: pytest.MonkeyPatch, kind: str, error: type[Exception], said: str
) -> None:
    cause = RuntimeError("CUDA error: no kernel image is available\nand more")
    monkeypatch.setattr("cifar_core.training.build_model", Mock(side_effect=cause))
    with pytest.raises(error) as raised:
        measure_speed(Recipe(), Hardware(torch.device(kind), bf16=False), CIFAR10)
    assert str(raised.value) == said
