"""Helpers of the tests of the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cifar_core.data import Splits
from cifar_core.errors import UserError
from cifar_core.hardware import Hardware
from tests.synthetic import synthetic_splits

FP32 = Hardware(torch.device("cpu"), bf16=False)
# The CPU, also in bf16 where it computes in it, and the device that "auto" takes.
PRECISIONS, DEVICES = (
    [pytest.param(each, id=f"{each.device.type}-{each.precision}") for each in dict.fromkeys(choice)]
    for choice in ((FP32, Hardware.detect("cpu")), (FP32, Hardware.detect("cpu"), Hardware.detect()))
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def synthetic(train: int, val: int) -> Splits:
    return synthetic_splits(seeded(), train, val)


def refusal(call: Callable[[], object], kind: type[UserError] = UserError) -> str:
    """Return the message of the error that `call` must raise, which has one line."""
    with pytest.raises(kind) as error:
        call()
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy the weights and buffers of `model`."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def identical(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return true if both hold the same names and bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def multiply_adds(model: nn.Module) -> float:
    """Count the multiply-adds of one image through a network on the meta device."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 32, 32, device="meta"))
    return int(counter.get_total_flops()) / 2
