"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from cifar_core.recipe import Recipe

# Muon's rate is for orthogonal updates; this ratio brings AdamW, for all other weights, into its usual range.
_MUON_TO_ADAMW = 0.05
_COLOURS = 3


def import_optimizers() -> None:
    """Import what optimisers need, which takes a second; a worker does so before its first job.

    All need torch's compiler, Muon and Ranger also pytorch_optimizer.
    """
    import pytorch_optimizer  # noqa: F401
    import torch._dynamo  # noqa: F401


def build_optimizers(model: nn.Module, recipe: Recipe, *, bf16: bool = False) -> list[Optimizer]:
    """Build the recipe's optimiser over the trainable weights of `model`, at peak rates; a second one beside Muon.

    With `bf16` Muon makes its updates orthogonal in that precision, else in fp32.

    Biases and norms have their own rate and, without `decay_all`, no weight decay. The weights of the last layer have
    their own rate. For `set_schedule`, each group keeps its peak rate under the key `peak_lr`, and under `first`
    whether it is of a first layer that the recipe freezes: the layers that take the three colours.

    Muon: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). Polar Express: Amsel et al.,
    "The Polar Express: Optimal matrix sign methods and their application to the Muon algorithm" (2025).

    Raises:
        RecipeError: the learning rate is still "range-test".
    """
    others, hidden = _groups(model, recipe)
    fused = not any(parameter.is_meta for parameter in model.parameters())  # fused kernels reject the meta device
    optimizers: list[Optimizer] = []
    match recipe.optimizer, recipe.aux_optimizer:
        case "muon", "adamw":
            optimizers.append(AdamW(others, betas=(recipe.aux_momentum, 0.95), eps=1e-10, fused=fused))
        case "muon", _:
            optimizers.append(SGD(others, momentum=recipe.aux_momentum, nesterov=recipe.aux_momentum > 0, fused=fused))
        case "sgd", _:
            nesterov = recipe.nesterov and recipe.momentum > 0
            optimizers.append(SGD(others, momentum=recipe.momentum, nesterov=nesterov, fused=fused))
        case "adam", _:
            optimizers.append(Adam(others, betas=(recipe.momentum, 0.999), fused=fused))
        case "ranger", _:
            from pytorch_optimizer import Ranger  # its import takes more than a second

            # Otherwise its first steps, which RAdam does not rectify, would raise the loss.
            optimizers.append(Ranger(others, betas=(recipe.momentum, 0.999), degenerated_to_sgd=True))
        case _:
            optimizers.append(AdamW(others, betas=(recipe.momentum, 0.99), fused=fused))
    if hidden:
        polar = recipe.orthogonalization == "polar-express"
        steps, coefficients = (5, "polar_express") if polar else (3, "original")
        muon = _muon(bf16=bf16)
        of_muon = [group | {"use_muon": True} for group in hidden]
        optimizers.append(muon(of_muon, momentum=recipe.momentum, ns_steps=steps, ns_coeffs=coefficients))
        if recipe.reset_norms:
            optimizers[-1].register_step_pre_hook(_reset_norms)
    return optimizers


def _groups(model: nn.Module, recipe: Recipe) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the groups of trainable weights that Muon does not take, and those it takes.

    Weights are in one group unless their rates or decays may differ, as each group costs a call in every step.
    """
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    head = layers[-1].weight
    first = {weight for layer in layers if layer.weight.shape[1] == _COLOURS for weight in layer.parameters()}
    muon = recipe.optimizer == "muon"
    hidden = {layer.weight for layer in layers} - first - {head} if muon else set()
    rate = recipe.peak_rate
    aux_rate = rate * _MUON_TO_ADAMW if muon and recipe.aux_optimizer == "adamw" else rate
    settings = {
        "hidden": (rate, 0.0 if recipe.reset_norms else recipe.weight_decay),
        "head": (aux_rate * recipe.head_lr_multiple, recipe.weight_decay),
        "matrix": (aux_rate, recipe.weight_decay),
        "vector": (aux_rate * recipe.bias_lr_multiple, recipe.weight_decay if recipe.decay_all else 0.0),
    }
    found: dict[tuple[bool, float, float, bool], list[nn.Parameter]] = defaultdict(list)
    for weight in model.parameters():
        if not weight.requires_grad:
            continue
        if weight in hidden:
            kind = "hidden"
        elif weight is head:
            kind = "head"
        else:
            kind = "vector" if weight.ndim < 2 else "matrix"
        lr, decay = settings[kind]
        if muon and recipe.aux_optimizer == "sgd" and kind != "hidden":
            decay *= rate / lr  # rate times decay is that of Muon, before momentum multiplies both
        found[kind == "hidden", lr, decay, recipe.freeze_first < 1 and weight in first].append(weight)
    groups: tuple[list[dict[str, Any]], list[dict[str, Any]]] = [], []
    for (of_muon, lr, decay, may_freeze), weights in found.items():
        group = {"params": weights, "lr": lr, "peak_lr": lr, "weight_decay": decay, "first": may_freeze}
        groups[of_muon].append(group)
    return groups


def _muon(*, bf16: bool) -> type[Any]:
    """Return Muon, which the library runs in bf16; emulated, its large products take 5 to 56 times as long."""
    from pytorch_optimizer import Muon
    from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5

    class Fp32Muon(Muon):
        @staticmethod
        def _orthogonalize(group: dict[str, Any], updates: list[Tensor]) -> list[Tensor]:
            steps, weights = group["ns_steps"], group["ns_coeffs"]
            matrices = (update.flatten(1) for update in updates)
            return [zero_power_via_newton_schulz_5(m, steps, weights=weights, dtype=torch.float32) for m in matrices]

    return Muon if bf16 else Fp32Muon


@torch.no_grad()
def _reset_norms(optimizer: Optimizer, *_: object) -> None:
    """Scale each weight (C_out, ...) to the Frobenius norm sqrt(C_out)."""
    for group in optimizer.param_groups:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        for weight, norm in zip(weights, torch._foreach_norm(weights), strict=True):
            weight.mul_(len(weight) ** 0.5 / norm)


@dataclass(frozen=True, slots=True)
class ScheduleValues:
    """Learning rate and momentum of one step."""

    rate: float  # multiple of the peak rate
    momentum: float | None = None  # of sgd and muon, beta_1 of the others; None leaves it unchanged
    first_rate: float | None = None  # `rate` of the first layer, if another; 0 freezes it


def set_schedule(optimizers: Sequence[Optimizer], values: ScheduleValues) -> None:
    """Set every group's rate to a multiple of its peak, and the momentum of the main optimiser, which is the last."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            rate = values.rate
            if group["first"] and values.first_rate is not None:
                rate = values.first_rate
                for weight in group["params"]:
                    weight.requires_grad_(rate > 0)
            group["lr"] = group["peak_lr"] * rate
    if values.momentum is None:
        return
    for group in optimizers[-1].param_groups:
        if "momentum" in group:
            group["momentum"] = values.momentum
        else:
            group["betas"] = (values.momentum, group["betas"][1])


def schedule(recipe: Recipe, progress: float) -> ScheduleValues:
    """Return the values of the recipe's schedule at `progress` in [0, 1] through training.

    The first layer runs through the whole schedule in `freeze_first` of training, and is frozen after it: Brock et
    al., "FreezeOut: Accelerate Training by Progressively Freezing Layers" (2017).
    """
    values = _values(recipe, progress)
    if recipe.freeze_first == 1:
        return values
    share = progress / recipe.freeze_first
    return replace(values, first_rate=_values(recipe, share).rate if share < 1 else 0.0)


def _values(recipe: Recipe, progress: float) -> ScheduleValues:
    """The schedule of all but the first layer.

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
