"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pytorch_optimizer import Muon, Ranger
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from cifar_core.recipe import Recipe

# Muon's rate is for orthogonal updates; this ratio brings AdamW, for all other weights, into its usual range.
_MUON_TO_ADAMW = 0.05


def build_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Build the recipe's optimiser over the trainable weights of `model`, at peak rates.

    Biases and norms have their own rate (`bias_lr_multiple`) and, without `decay_all`, no weight decay. Each group
    keeps its peak rate under the key `peak_lr`, for `set_schedule`.

    Raises:
        RecipeError: the learning rate is still "range-test".
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.ndim >= 2]
    vectors = [parameter for parameter in trainable if parameter.ndim < 2]
    rate, decay = recipe.peak_rate, recipe.weight_decay
    fast, vector_decay = rate * recipe.bias_lr_multiple, decay if recipe.decay_all else 0.0
    fused = not any(parameter.is_meta for parameter in trainable)  # fused kernels reject the meta device
    optimizer: Optimizer
    if recipe.optimizer == "muon":
        inner = _hidden_weights(model)
        hidden = [parameter for parameter in matrices if id(parameter) in inner]
        others = [parameter for parameter in matrices if id(parameter) not in inner]
        optimizer = Muon(
            _nonempty(
                {"params": hidden, "use_muon": True, "lr": rate, "weight_decay": decay},
                {"params": others, "use_muon": False, "lr": rate * _MUON_TO_ADAMW, "weight_decay": decay},
                {"params": vectors, "use_muon": False, "lr": fast * _MUON_TO_ADAMW, "weight_decay": vector_decay},
            ),
            momentum=recipe.momentum,
            ns_steps=3,
        )
    else:
        groups = _nonempty(
            {"params": matrices, "lr": rate, "weight_decay": decay},
            {"params": vectors, "lr": fast, "weight_decay": vector_decay},
        )
        match recipe.optimizer:
            case "sgd":
                nesterov = recipe.nesterov and recipe.momentum > 0
                optimizer = SGD(groups, momentum=recipe.momentum, nesterov=nesterov, fused=fused)
            case "adam":
                optimizer = Adam(groups, betas=(recipe.momentum, 0.999), fused=fused)
            case "ranger":
                # Otherwise its first steps, which RAdam does not rectify, would raise the loss.
                optimizer = Ranger(groups, betas=(recipe.momentum, 0.999), degenerated_to_sgd=True)
            case _:
                optimizer = AdamW(groups, betas=(recipe.momentum, 0.99), fused=fused)
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


@dataclass(frozen=True, slots=True)
class ScheduleValues:
    """Learning rate and momentum of one step."""

    rate: float  # multiple of the peak rate
    momentum: float | None = None  # of sgd and muon, beta_1 of the others; None leaves it unchanged


def set_schedule(optimizer: Optimizer, values: ScheduleValues) -> None:
    """Set every group's rate to a multiple of its peak, and its momentum."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * values.rate
        if values.momentum is None:
            continue
        if "momentum" in group:
            group["momentum"] = values.momentum
        elif "betas" in group and "use_muon" not in group:  # Muon's AdamW keeps its own
            group["betas"] = (values.momentum, group["betas"][1])


def schedule(recipe: Recipe, progress: float) -> ScheduleValues:
    """Return the values of the recipe's schedule at `progress` in [0, 1] through training.

    One-cycle: Smith, "A disciplined approach to neural network hyper-parameters: Part 1" (2018).
    """
    if recipe.schedule.startswith("one-cycle"):
        return _one_cycle(recipe, progress)
    if progress < recipe.warmup:
        return ScheduleValues(progress / recipe.warmup)
    remaining = (1 - progress) / (1 - recipe.warmup)
    match recipe.schedule:
        case "constant":
            return ScheduleValues(1.0)
        case "step":
            falls = math.floor((progress - recipe.warmup) / recipe.step_every)
            return ScheduleValues(max(recipe.end_factor, recipe.step_factor**falls))
        case "linear":
            return ScheduleValues(remaining)
        case _:
            return ScheduleValues((1 - math.cos(math.pi * remaining)) / 2)


def _one_cycle(recipe: Recipe, progress: float) -> ScheduleValues:
    if progress < recipe.warmup:
        height, foot = progress / recipe.warmup, recipe.start_factor
    else:
        height, foot = (1 - progress) / (1 - recipe.warmup), recipe.end_factor
    if recipe.schedule == "one-cycle-cosine":
        height = (1 - math.cos(math.pi * height)) / 2
    momentum = recipe.momentum + height * (recipe.momentum_at_peak - recipe.momentum)
    return ScheduleValues(foot + height * (1 - foot), momentum)


def _nonempty(*groups: dict[str, Any]) -> list[dict[str, Any]]:
    return [group for group in groups if group["params"]]


def _hidden_weights(model: nn.Module) -> set[int]:
    """Ids of the weight matrices between the first and the last layer, which Muon is made for."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    return {id(layer.weight) for layer in layers[1:-1]}
