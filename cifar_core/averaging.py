"""Moving averages of a network's weights and running statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

EVERY = 5  # steps between two updates


def new_average(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the floating-point state of `model`: weights and running statistics, trained or not."""
    return {name: tensor.clone() for name, tensor in _state(model).items()}


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, decay: float, step: int, total_steps: int) -> bool:
    """Move `average` towards the state of `model` after every fifth step and the last one.

    The decay rises with the cube of the progress, from 0 to `decay` a step: the average follows closely at first.

    Returns:
        true if `average` was moved.
    """
    since = step % EVERY or EVERY  # the update before
    if since < EVERY and step < total_steps:
        return False
    weight = 1 - decay**since * (step / total_steps) ** 3
    state = _state(model)
    torch._foreach_lerp_(list(average.values()), [state[name] for name in average], weight)
    return True


@contextmanager
def in_place_of(average: dict[str, Tensor], model: nn.Module) -> Iterator[None]:
    """Context in which `model` has the state `average`."""
    own = new_average(model)
    copy_average(average, model)
    try:
        yield
    finally:
        copy_average(own, model)


@torch.no_grad()
def copy_average(average: dict[str, Tensor], model: nn.Module) -> None:
    """Set the state of `model` to `average`."""
    state = _state(model)
    for name, tensor in average.items():
        state[name].copy_(tensor)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
