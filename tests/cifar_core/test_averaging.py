"""Moving averages of a network's state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cifar_core.averaging import copy_average, in_place_of, new_average, update_average
from tests.cifar_core.support import identical, weights


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def fill(model: nn.Module, value: float) -> None:
    for tensor in model.state_dict().values():
        tensor.fill_(value)


def test_it_follows_closely_at_first_and_slowly_at_the_end(model: nn.Module) -> None:
    fill(model, 0.0)
    average = new_average(model)
    assert set(average) == set(model.state_dict()) - {"1.num_batches_tracked"}
    fill(model, 1.0)
    expected = 0.0
    for step in range(1, 13):
        moved = update_average(average, model, 0.9, step, 12)
        assert moved == (step in (5, 10, 12))
        if moved:
            weight = 0.9 ** {5: 5, 10: 5, 12: 2}[step] * (step / 12) ** 3
            expected = weight * expected + (1 - weight)
        for tensor in average.values():
            torch.testing.assert_close(tensor, torch.full_like(tensor, expected))


def test_it_stands_in_for_the_weights_also_when_something_fails(model: nn.Module) -> None:
    before = weights(model)
    average = {name: torch.full_like(tensor, 7.0) for name, tensor in new_average(model).items()}
    with pytest.raises(RuntimeError, match="all is 7"), in_place_of(average, model):
        raise RuntimeError("all is 7" if (model.state_dict()["0.weight"] == 7).all() else "it is not")
    assert identical(model.state_dict(), before)
    copy_average(average, model)
    assert (model.state_dict()["1.running_mean"] == 7).all()
