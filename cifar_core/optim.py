"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from typing import Any

from pytorch_optimizer import Muon
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from cifar_core.recipe import Recipe

# Muon's rate is for orthogonal updates; this ratio gives AdamW, on the weights that Muon leaves, its usual range.
_MUON_TO_ADAMW = 0.05


def build_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Fresh optimiser over the trainable weights of `model`, at the recipe's peak rates.

    Biases and norms have a rate of their own (`bias_lr_multiple`) and no weight decay. Each group keeps its peak
    rate under the key `peak_lr`, for `set_learning_rate`.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.ndim >= 2]
    vectors = [parameter for parameter in trainable if parameter.ndim < 2]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    fast = rate * recipe.bias_lr_multiple
    fused = not any(parameter.is_meta for parameter in trainable)  # fused kernels refuse to run without numbers
    optimizer: Optimizer
    if recipe.optimizer == "muon":
        inner = _hidden_weights(model)
        hidden = [parameter for parameter in matrices if id(parameter) in inner]
        others = [parameter for parameter in matrices if id(parameter) not in inner]
        optimizer = Muon(
            _nonempty(
                {"params": hidden, "use_muon": True, "lr": rate, "weight_decay": decay},
                {"params": others, "use_muon": False, "lr": rate * _MUON_TO_ADAMW, "weight_decay": decay},
                {"params": vectors, "use_muon": False, "lr": fast * _MUON_TO_ADAMW, "weight_decay": 0.0},
            ),
            momentum=recipe.momentum,
            ns_steps=3,
        )
    else:
        groups = _nonempty(
            {"params": matrices, "lr": rate, "weight_decay": decay},
            {"params": vectors, "lr": fast, "weight_decay": 0.0},
        )
        if recipe.optimizer == "sgd":
            optimizer = SGD(groups, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=fused)
        else:
            optimizer = AdamW(groups, betas=(recipe.momentum, 0.99), fused=fused)
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def set_learning_rate(optimizer: Optimizer, multiple: float) -> None:
    """Set every group's rate to `multiple` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiple


def schedule(recipe: Recipe, progress: float) -> float:
    """The learning rate at `progress` in [0, 1] through training, as a multiple of its peak."""
    if progress < recipe.warmup:
        return progress / recipe.warmup
    remaining = (1 - progress) / (1 - recipe.warmup)
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "linear":
        return remaining
    return (1 - math.cos(math.pi * remaining)) / 2


def _nonempty(*groups: dict[str, Any]) -> list[dict[str, Any]]:
    return [group for group in groups if group["params"]]


def _hidden_weights(model: nn.Module) -> set[int]:
    """Identities of the weight matrices between the first and the last layer, which Muon is meant for."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    return {id(layer.weight) for layer in layers[1:-1]}
