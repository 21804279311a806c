"""LR range test: find a peak learning rate for a recipe in a few hundred steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cifar_core.data import Splits
from cifar_core.errors import UserError
from cifar_core.hardware import Hardware
from cifar_core.memory import oom_context
from cifar_core.optim import ScheduleValues
from cifar_core.recipe import RANGE_TEST, Recipe
from cifar_core.training import TrainState, train_step

LOW, HIGH = 1e-2, 10.0  # first and last learning rate
ITERATIONS = 200
_SMOOTHING = 0.9  # weight of the past in the smoothed loss
_BLOWN_UP = 4.0  # multiple of the lowest loss so far at which the test ends
LEAST_STEPS = 100  # so that the skipped ones are few
_SKIPPED = 10  # first steps, whose losses are too noisy
# Multiple of the noise of the smoothed loss that its fall must exceed. Independent normal noise does so in at most 2 of
# 100 tests without any fall, one with heavy tails or between steps alike more often.
_CLEAR = 6.0


@dataclass(frozen=True, slots=True)
class RangeTest:
    """Result of a range test: the learning rate and the smoothed loss (nats) of each step."""

    rates: Sequence[float]
    losses: Sequence[float]
    suggestion: float  # the rate at which the loss fell fastest


def range_test(
    recipe: Recipe, data: Splits, hardware: Hardware, *, low: float = LOW, high: float = HIGH, steps: int = ITERATIONS
) -> RangeTest:
    """Train fresh weights for `LEAST_STEPS` steps or more, while the rate rises exponentially from `low` to `high`.

    Smith, "Cyclical Learning Rates for Training Neural Networks" (2017). The suggestion is the rate at which the
    smoothed loss falls most steeply over the logarithm of the rate, before it is lowest. The test ends early when the
    loss blows up.

    Raises:
        UserError: the loss did not fall by more than its noise.
        RecipeError: unknown model.
        OutOfMemory: the training images or a batch did not fit into the memory of the device.
    """
    bare = replace(recipe, learning_rate=1.0, average="none", low_resolution=0.0)
    state = TrainState.create(bare, data, hardware)
    with oom_context(f"the {len(data.train):,} training images", recipe):
        images, labels = data.train.images.to(hardware.device), data.train.labels.to(hardware.device)
    state.model.train()
    rates: list[float] = []
    raw: list[float] = []
    losses: list[float] = []
    average = 0.0
    for step in range(steps):
        rate = low * (high / low) ** (step / (steps - 1))
        loss, _ = train_step(state, images, labels, ScheduleValues(rate))
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss.item()
        smooth = average / (1 - _SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or (losses and smooth > _BLOWN_UP * min(losses)):
            break
        rates.append(rate)
        raw.append(loss.item())
        losses.append(smooth)
    return RangeTest(tuple(rates), tuple(losses), _steepest(rates, raw, losses))


def settle(recipe: Recipe, data: Splits, hardware: Hardware) -> tuple[Recipe, RangeTest | None]:
    """Replace a learning rate of "range-test" by the rate that a range test suggests.

    Returns:
        the recipe with a numeric learning rate, and the range test, or None if the recipe asks for none.

    Raises:
        UserError, OutOfMemory: as for `range_test`.
    """
    if recipe.learning_rate != RANGE_TEST:
        return recipe, None
    found = range_test(recipe, data, hardware)
    return replace(recipe, learning_rate=found.suggestion), found


def _steepest(rates: Sequence[float], raw: Sequence[float], losses: Sequence[float]) -> float:
    """The rate of the steepest fall before the lowest loss; later falls only recover from a blow-up."""
    smoothed = torch.tensor(losses, dtype=torch.float64)
    lowest = int(smoothed.argmin()) if losses else 0
    if lowest <= _SKIPPED or smoothed[_SKIPPED] - smoothed[lowest] < _CLEAR * _noise(raw[:lowest]):
        reach = f"from {rates[0]:g} to {rates[-1]:g}" if rates else "from the first rate on"
        text = f"a range test must see the loss fall by more than its noise after {_SKIPPED} steps"
        raise UserError(f"{text}, but {reach} it did not")
    slopes = torch.gradient(smoothed)[0]  # the rates are even on the logarithmic axis
    return float(rates[_SKIPPED + int(slopes[_SKIPPED:lowest].argmin())])


def _noise(raw: Sequence[float]) -> float:
    """The deviation of the smoothed loss by noise alone; that of the raw one shows between neighbours."""
    deviation = float(torch.tensor(raw, dtype=torch.float64).diff().std()) / math.sqrt(2)
    return deviation * math.sqrt((1 - _SMOOTHING) / (1 + _SMOOTHING))
