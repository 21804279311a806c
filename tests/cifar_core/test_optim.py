"""Optimisers: rate and decay of each weight. Schedules: their shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5
from torch import nn

from cifar_core.models import MODELS, build_model
from cifar_core.optim import ScheduleValues, build_optimizers, schedule, set_schedule
from cifar_core.recipe import CHOICES, OPTIMIZERS, Recipe
from tests.cifar_core.support import identical, seeded, weights

RATES = {"sgd": 0.1, "adam": 0.01, "adamw": 0.01, "muon": 0.05, "ranger": 0.05}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)

FRACTIONS = st.floats(0, 1)
WARMUPS = st.floats(0, 1, exclude_max=True)


def small_network() -> nn.Sequential:
    """Three layers, one of them hidden."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def build_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    return [group for optimizer in build_optimizers(model, recipe) for group in optimizer.param_groups]


def groups_by_name(model: nn.Module, recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """Map each weight of `model` to the optimisers' groups that contain it."""
    groups = build_groups(model, recipe)
    return {
        name: [group for group in groups if any(parameter is member for member in group["params"])]
        for name, parameter in model.named_parameters()
    }


def step(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.step()


def biases_and_norms(model: nn.Module) -> set[str]:
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, NORMS)
    }


# Schedules


@given(kind=st.sampled_from(CHOICES["schedule"]), warmup=WARMUPS, first=FRACTIONS, second=FRACTIONS)
def test_rate_rises_to_its_peak_and_never_after(kind: str, warmup: float, first: float, second: float) -> None:
    recipe = Recipe(schedule=kind, warmup=warmup)
    early, late = sorted((first, second))
    rate, later_rate = schedule(recipe, early).rate, schedule(recipe, late).rate
    assert 0 <= rate <= 1
    if late <= warmup:
        assert rate <= later_rate
    elif early >= warmup:
        assert rate >= later_rate


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
@given(warmup=WARMUPS, progress=FRACTIONS)
@example(warmup=0.0, progress=0.0)
@example(warmup=0.25, progress=0.25)
@example(warmup=0.25, progress=1.0)
def test_rate_after_a_linear_warm_up(kind: str, warmup: float, progress: float) -> None:
    line = np.interp(progress, (warmup, 1.0), (1.0, 0.0))  # from the peak to zero
    down = {"constant": 1.0, "linear": line, "cosine": math.sin(math.pi / 2 * line) ** 2}[kind]
    expected = progress / warmup if progress < warmup else down
    assert schedule(Recipe(schedule=kind, warmup=warmup), progress).rate == pytest.approx(expected, abs=1e-9)


def test_steps_come_at_even_distances_and_end_at_the_floor() -> None:
    for warmup in (0, 4):  # epochs
        recipe = Recipe(schedule="step", warmup=warmup / 40, step_every=0.175, step_factor=0.1, end_factor=0.01)
        epochs = [schedule(recipe, (epoch + 0.5) / 40).rate for epoch in range(warmup, 40)]
        assert epochs == pytest.approx([1.0] * 7 + [0.1] * 7 + [0.01] * (26 - warmup))


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_one_cycle_is_that_of_torch(kind: str) -> None:
    steps, model = 1_000, small_network()
    recipe = Recipe(
        optimizer="adam",
        learning_rate=0.5,
        momentum=0.95,
        schedule=f"one-cycle-{kind}",
        warmup=0.3,
        start_factor=0.04,
        end_factor=4e-6,
        momentum_at_peak=0.85,
    )
    [ours], reference = build_optimizers(model, recipe), torch.optim.Adam(model.parameters())
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        reference, 0.5, total_steps=steps, anneal_strategy="linear" if kind == "linear" else "cos"
    )
    for step in range(steps):
        set_schedule([ours], schedule(recipe, step / (steps - 1)))
        for group in ours.param_groups:
            assert group["lr"] == pytest.approx(reference.param_groups[0]["lr"], rel=0.01, abs=1e-5)
            assert group["betas"] == pytest.approx(reference.param_groups[0]["betas"], abs=1e-3)
        reference.step()
        theirs.step() if step < steps - 1 else None


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_one_cycle_moves_the_momentum(name: str) -> None:
    recipe = Recipe(optimizer=name, momentum=0.9, schedule="one-cycle-linear", warmup=0.5, momentum_at_peak=0.7)
    optimizers = build_optimizers(small_network(), recipe)
    set_schedule(optimizers, schedule(recipe, 0.25))
    *aux, main = optimizers
    assert all(group["momentum"] == pytest.approx(0.8) for group in main.param_groups)
    assert {group["betas"] for optimizer in aux for group in optimizer.param_groups} <= {(0.9, 0.95)}


# Groups


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_groups_of_every_network(name: str, optimizer: str) -> None:
    recipe = Recipe(
        model=name, width=0.25, optimizer=optimizer, learning_rate=0.5, bias_lr_multiple=4.0, weight_decay=0.125
    )
    model = build_model(recipe)
    plain = biases_and_norms(model)
    matrix_rates: set[object] = set()
    vector_rates: set[object] = set()
    for label, groups in groups_by_name(model, recipe).items():
        if not model.get_parameter(label).requires_grad:
            assert groups == [], label
            continue
        assert len(groups) == 1, label
        [group] = groups
        assert group["weight_decay"] == (0.0 if label in plain else 0.125), label
        if not group.get("use_muon"):
            (vector_rates if label in plain else matrix_rates).add(group["lr"])
    rate = 0.5 * 0.05 if optimizer == "muon" else 0.5  # muon: of the weights that it leaves to AdamW
    assert matrix_rates == {rate}
    assert vector_rates == {4 * rate}


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        (
            "dynamic_conv",
            {"blocks.0.branches.0.0.weight", "blocks.0.branches.1.0.weight", "blocks.0.branches.2.0.weight"}
            | {"blocks.0.mixing.0.weight", "classifier.10.weight"},
        ),
        ("fast_resnet", {"head.weight"}),  # its first layer is frozen
        ("five_conv", {"features.0.weight", "classifier.5.weight"}),
        ("vision_transformer", {"embed.weight", "position", "head.weight"}),
        ("wide_resnet", {"stem.weight", "head.weight"}),
    ],
)
def test_muon_has_the_hidden_weights(name: str, ends: set[str]) -> None:
    recipe = Recipe(model=name, width=0.25, optimizer="muon", learning_rate=0.5)
    model = build_model(recipe)
    plain = biases_and_norms(model)
    trained = {label for label, parameter in model.named_parameters() if parameter.requires_grad}
    groups = groups_by_name(model, recipe)
    with_muon = {label for label in trained if groups[label][0].get("use_muon")}
    assert with_muon == trained - plain - ends
    assert {groups[label][0]["lr"] for label in with_muon} == {0.5}


def test_decay_all_decays_biases_and_norms_as_well() -> None:
    for name in OPTIMIZERS:
        groups = build_groups(small_network(), Recipe(optimizer=name, weight_decay=0.125, decay_all=True))
        assert {group["weight_decay"] for group in groups} == {0.125}


def test_momentum_is_that_of_the_recipe() -> None:
    model = small_network()
    for momentum in (0.0, 0.7):
        by_name = {name: build_groups(model, Recipe(optimizer=name, momentum=momentum)) for name in OPTIMIZERS}
        plain_sgd = build_groups(model, Recipe(optimizer="sgd", momentum=momentum, nesterov=False))
        assert {group["momentum"] for group in by_name["sgd"]} == {momentum}
        assert {group["nesterov"] for group in by_name["sgd"]} == {momentum > 0}
        assert {group["nesterov"] for group in plain_sgd} == {False}
        assert {group["betas"][0] for name in ("adam", "adamw", "ranger") for group in by_name[name]} == {momentum}
        assert {group["momentum"] for group in by_name["muon"] if group.get("use_muon")} == {momentum}


# Steps


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_step_lowers_the_loss(name: str) -> None:
    model = small_network()
    optimizers = build_optimizers(model, Recipe(optimizer=name, learning_rate=RATES[name]))
    inputs = torch.randn(32, 3, generator=seeded())
    classes = inputs.argmax(1)
    before = nn.functional.cross_entropy(model(inputs), classes)
    before.backward()
    step(optimizers)
    assert nn.functional.cross_entropy(model(inputs), classes) < before - 0.01


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_gradient_only_decay_acts_and_only_on_matrices(name: str) -> None:
    model = small_network()
    nn.init.constant_(model.get_parameter("0.bias"), 0.5)
    recipe = Recipe(optimizer=name, learning_rate=RATES[name], bias_lr_multiple=3.0, weight_decay=0.5, momentum=0.0)
    optimizers = build_optimizers(model, recipe)
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step(optimizers)
    shrunk = {label: parameter / before[label] for label, parameter in model.named_parameters() if parameter.ndim > 1}
    assert len(shrunk) == 3
    for label, ratio in shrunk.items():
        hidden = name != "muon" or label == "3.weight"
        rate = RATES[name] * (1 if hidden else 0.05)
        # Adam's decay is a gradient, whose size it then takes out again: a step of one rate.
        expected = 1 - rate / before[label].abs() if name == "adam" else torch.full_like(ratio, 1 - rate * 0.5)
        torch.testing.assert_close(ratio, expected, msg=label, rtol=1e-4, atol=1e-4)
    for label, parameter in model.named_parameters():
        if parameter.ndim < 2:
            assert torch.equal(parameter, before[label]), label


@pytest.mark.parametrize(
    ("change", "groups"),
    [
        ({}, 1),
        ({"weight_decay": 0.5}, 2),
        ({"weight_decay": 0.5, "decay_all": True}, 1),
        ({"head_lr_multiple": 2.0}, 2),
        ({"freeze_first": 0.5}, 2),
    ],
)
def test_weights_of_equal_rates_and_decays_are_one_group(change: dict[str, Any], groups: int) -> None:
    recipe = replace(Recipe(optimizer="sgd", weight_decay=0.0), **change)
    assert len(build_groups(small_network(), recipe)) == groups


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_schedule_scales_every_peak(name: str) -> None:
    model = small_network()
    optimizers = build_optimizers(model, Recipe(optimizer=name, bias_lr_multiple=5.0))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group["lr"] for group in groups]
    for multiple in (0.5, 0.25, 1.0, 0.0):
        set_schedule(optimizers, ScheduleValues(multiple))
        assert [group["lr"] for group in groups] == [peak * multiple for peak in peaks]
    before = weights(model)
    model(torch.ones(2, 3)).sum().backward()
    step(optimizers)
    assert identical(model.state_dict(), before)  # at rate zero


# Ingredients of their own


AUX_SGD = Recipe(optimizer="muon", aux_optimizer="sgd", learning_rate=0.25, momentum=0.5, aux_momentum=0.75)


def test_auxiliary_sgd_has_rates_and_a_momentum_of_its_own_and_decays_all_alike() -> None:
    recipe = replace(AUX_SGD, bias_lr_multiple=8.0, head_lr_multiple=4.0, weight_decay=0.5, decay_all=True)
    groups = {name: found for name, [found] in groups_by_name(small_network(), recipe).items()}
    rates = {"0.weight": 0.25, "3.weight": 0.25, "5.weight": 1.0, "0.bias": 2.0, "1.weight": 2.0}
    assert {name: groups[name]["lr"] for name in rates} == rates
    assert {name: groups[name]["momentum"] for name in rates} == dict.fromkeys(rates, 0.75) | {"3.weight": 0.5}
    assert {group["lr"] * group["weight_decay"] for group in groups.values()} == {0.25 * 0.5}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "ranger"])
def test_the_head_has_a_rate_of_its_own(name: str) -> None:
    recipe = Recipe(optimizer=name, learning_rate=0.25, head_lr_multiple=4.0)
    rates = {label: group["lr"] for label, [group] in groups_by_name(small_network(), recipe).items()}
    assert rates == {label: 1.0 if label == "5.weight" else 0.25 for label in rates}


def test_norms_of_hidden_weights_are_reset_before_a_step_and_they_do_not_decay() -> None:
    model = small_network()
    optimizers = build_optimizers(model, replace(AUX_SGD, reset_norms=True, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = weights(model)
    step(optimizers)
    hidden = model.get_parameter("3.weight")
    torch.testing.assert_close(hidden, before["3.weight"] * 8**0.5 / before["3.weight"].norm())
    step(optimizers)
    assert hidden.norm().item() == pytest.approx(8**0.5)


@pytest.mark.parametrize("orthogonalization", CHOICES["orthogonalization"])
@pytest.mark.parametrize(("bf16", "least", "most"), [(True, 1e-4, 0.15), (False, 0.0, 1e-4)])
def test_muon_multiplies_in_the_precision_of_the_run(
    bf16: bool, least: float, most: float, orthogonalization: str
) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(channels, outputs, 3) for channels, outputs in ((3, 8), (8, 16), (16, 8), (8, 4)))
    )
    recipe = Recipe(optimizer="muon", orthogonalization=orthogonalization, momentum=0.0, learning_rate=1.0)
    optimizers = build_optimizers(model, recipe, bf16=bf16)
    draw = seeded(0)
    for weight in model.parameters():
        weight.data.zero_()
        weight.grad = torch.randn(weight.shape, generator=draw)
    gradients = {label: weight.grad.double() for label, weight in model.named_parameters() if weight.grad is not None}
    step(optimizers)
    preset, steps = ("polar_express", 5) if orthogonalization == "polar-express" else ("original", 3)
    for label in ("1.weight", "2.weight"):
        gradient = gradients[label].flatten(1)
        expected = zero_power_via_newton_schulz_5(gradient, steps, weights=preset, dtype=torch.float64)
        update = -model.get_parameter(label).detach().double().flatten(1)
        cosine = (update * expected).sum() / update.norm() / expected.norm()
        assert least <= math.acos(min(1.0, cosine)) <= most


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_layer_learns_in_a_shortened_schedule_and_is_then_frozen(name: str) -> None:
    model = small_network()
    recipe = Recipe(optimizer=name, freeze_first=0.25, warmup=0.0, weight_decay=0.5, decay_all=True)
    optimizers = build_optimizers(model, recipe)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for progress, first, others in ((0.125, 0.5, 0.875), (0.25, 0.0, 0.75), (0.5, 0.0, 0.5)):
        set_schedule(optimizers, schedule(recipe, progress))
        for group in groups:
            of_first = any(weight is member for weight in model[0].parameters() for member in group["params"])
            assert group["lr"] / group["peak_lr"] == pytest.approx(first if of_first else others)
    before = weights(model)
    model(torch.ones(2, 3)).square().sum().backward()
    step(optimizers)
    frozen = {label for label, weight in model.named_parameters() if torch.equal(weight, before[label])}
    assert frozen == {"0.weight", "0.bias"}
    assert model[0].weight.grad is None, "its gradient is not computed"
    set_schedule(optimizers, schedule(recipe, 0.125))
    assert model[0].weight.requires_grad
