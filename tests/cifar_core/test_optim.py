"""Optimisers: rate and decay of each weight. Schedules: their shape."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cifar_core.models import MODELS, build_model
from cifar_core.optim import ScheduleValues, build_optimizer, schedule, set_schedule
from cifar_core.recipe import CHOICES, OPTIMIZERS, Recipe

RATES = {"sgd": 0.1, "adam": 0.01, "adamw": 0.01, "muon": 0.05, "ranger": 0.05}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)
SMOOTH = ("constant", "linear", "cosine")

FRACTIONS = st.floats(0, 1)
WARMUPS = st.floats(0, 1, exclude_max=True)


def small_network() -> nn.Sequential:
    """Three layers, one of them hidden."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def groups_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, list[dict[str, object]]]:
    """Map each weight of `model` to the optimiser's groups that contain it."""
    return {
        name: [group for group in optimizer.param_groups if any(parameter is member for member in group["params"])]
        for name, parameter in model.named_parameters()
    }


def biases_and_norms(model: nn.Module) -> set[str]:
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, NORMS)
    }


# Schedules


@given(kind=st.sampled_from(CHOICES["schedule"]), warmup=WARMUPS, progress=FRACTIONS)
def test_rate_is_a_fraction_of_its_peak(kind: str, warmup: float, progress: float) -> None:
    assert 0 <= schedule(Recipe(schedule=kind, warmup=warmup), progress).rate <= 1


@given(kind=st.sampled_from(SMOOTH), warmup=WARMUPS)
def test_rate_starts_peaks_and_ends_where_it_should(kind: str, warmup: float) -> None:
    recipe = Recipe(schedule=kind, warmup=warmup)
    assert schedule(recipe, 0.0).rate == (0.0 if warmup else 1.0)
    assert schedule(recipe, warmup).rate == pytest.approx(1.0)
    assert schedule(recipe, 1.0).rate == pytest.approx(1.0 if kind == "constant" else 0.0, abs=1e-9)


@given(kind=st.sampled_from(CHOICES["schedule"]), warmup=WARMUPS, first=FRACTIONS, second=FRACTIONS)
def test_rate_rises_before_the_peak_and_never_after(kind: str, warmup: float, first: float, second: float) -> None:
    recipe = Recipe(schedule=kind, warmup=warmup)
    early, late = sorted((first, second))
    if late <= warmup:
        assert schedule(recipe, early).rate <= schedule(recipe, late).rate
    elif early >= warmup:
        assert schedule(recipe, early).rate >= schedule(recipe, late).rate


@given(kind=st.sampled_from(SMOOTH), warmup=st.floats(0.01, 0.95), progress=FRACTIONS, step=st.floats(0, 1e-3))
def test_rate_does_not_jump(kind: str, warmup: float, progress: float, step: float) -> None:
    recipe = Recipe(schedule=kind, warmup=warmup)
    later = min(1.0, progress + step)
    steepest = max(1 / warmup, math.pi / 2 / (1 - warmup))
    change = abs(schedule(recipe, later).rate - schedule(recipe, progress).rate)
    assert change <= steepest * (later - progress) + 1e-12


@pytest.mark.parametrize(
    ("kind", "quarter", "half"), [("constant", 1.0, 1.0), ("linear", 0.75, 0.5), ("cosine", 0.8535533905932737, 0.5)]
)
def test_rate_on_the_way_down(kind: str, quarter: float, half: float) -> None:
    recipe = Recipe(schedule=kind, warmup=0.2)
    assert schedule(recipe, 0.1).rate == pytest.approx(0.5)
    assert schedule(recipe, 0.4).rate == pytest.approx(quarter)
    assert schedule(recipe, 0.6).rate == pytest.approx(half)


def test_steps_come_at_even_distances_and_end_at_the_floor() -> None:
    recipe = Recipe(schedule="step", warmup=0.0, step_every=0.175, step_factor=0.1, end_factor=0.01)
    epochs = [schedule(recipe, (epoch + 0.5) / 40).rate for epoch in range(40)]
    assert epochs == pytest.approx([1.0] * 7 + [0.1] * 7 + [0.01] * 26)


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
    ours, reference = build_optimizer(model, recipe), torch.optim.Adam(model.parameters())
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        reference, 0.5, total_steps=steps, anneal_strategy="linear" if kind == "linear" else "cos"
    )
    for step in range(steps):
        set_schedule(ours, schedule(recipe, step / (steps - 1)))
        for group in ours.param_groups:
            assert group["lr"] == pytest.approx(reference.param_groups[0]["lr"], rel=0.01, abs=1e-5)
            assert group["betas"] == pytest.approx(reference.param_groups[0]["betas"], abs=1e-3)
        reference.step()
        theirs.step() if step < steps - 1 else None


def test_one_cycle_moves_the_momentum_of_sgd_and_muon() -> None:
    for name in ("sgd", "muon"):
        recipe = Recipe(optimizer=name, momentum=0.9, schedule="one-cycle-linear", warmup=0.5, momentum_at_peak=0.7)
        optimizer = build_optimizer(small_network(), recipe)
        set_schedule(optimizer, schedule(recipe, 0.25))
        assert [g["momentum"] for g in optimizer.param_groups if "momentum" in g] == pytest.approx(
            [0.8] * sum("momentum" in g for g in optimizer.param_groups)
        )
        assert all(g["betas"] == (0.9, 0.95) for g in optimizer.param_groups if "betas" in g)


# Groups


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_groups_of_every_network(name: str, optimizer: str) -> None:
    recipe = Recipe(
        model=name, width=0.25, optimizer=optimizer, learning_rate=0.5, bias_lr_multiple=4.0, weight_decay=0.125
    )
    model = build_model(recipe)
    built = build_optimizer(model, recipe)
    plain = biases_and_norms(model)
    matrix_rates: set[object] = set()
    vector_rates: set[object] = set()
    for label, groups in groups_by_name(model, built).items():
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
    groups = groups_by_name(model, build_optimizer(model, recipe))
    with_muon = {label for label in trained if groups[label][0]["use_muon"]}
    assert with_muon == trained - plain - ends
    assert {groups[label][0]["lr"] for label in with_muon} == {0.5}


def test_decay_all_decays_biases_and_norms_as_well() -> None:
    for name in OPTIMIZERS:
        optimizer = build_optimizer(small_network(), Recipe(optimizer=name, weight_decay=0.125, decay_all=True))
        assert {group["weight_decay"] for group in optimizer.param_groups} == {0.125}


def test_sgd_without_nesterov() -> None:
    optimizer = build_optimizer(small_network(), Recipe(optimizer="sgd", nesterov=False))
    assert {group["nesterov"] for group in optimizer.param_groups} == {False}


def test_momentum_is_that_of_the_recipe() -> None:
    model = small_network()
    for momentum in (0.0, 0.7):
        sgd, adamw, muon = (
            build_optimizer(model, Recipe(optimizer=name, momentum=momentum)) for name in ("sgd", "adamw", "muon")
        )
        assert {group["momentum"] for group in sgd.param_groups} == {momentum}
        assert {group["nesterov"] for group in sgd.param_groups} == {momentum > 0}
        assert {group["betas"][0] for group in adamw.param_groups} == {momentum}
        assert {group["momentum"] for group in muon.param_groups if group["use_muon"]} == {momentum}


# Steps


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_step_lowers_the_loss(name: str) -> None:
    model = small_network()
    optimizer = build_optimizer(model, Recipe(optimizer=name, learning_rate=RATES[name]))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, 4, generator=generator)
    classes = inputs[:, :3].argmax(1)
    before = nn.functional.cross_entropy(model(inputs), classes)
    before.backward()
    optimizer.step()
    assert nn.functional.cross_entropy(model(inputs), classes) < before - 0.01


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_gradient_only_decay_acts_and_only_on_matrices(name: str) -> None:
    model = small_network()
    nn.init.constant_(model.get_parameter("0.bias"), 0.5)
    recipe = Recipe(optimizer=name, learning_rate=RATES[name], bias_lr_multiple=3.0, weight_decay=0.5, momentum=0.0)
    optimizer = build_optimizer(model, recipe)
    before = {label: parameter.detach().clone() for label, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_schedule_scales_every_peak(name: str) -> None:
    model = small_network()
    optimizer = build_optimizer(model, Recipe(optimizer=name, bias_lr_multiple=5.0))
    peaks = [group["lr"] for group in optimizer.param_groups]
    for multiple in (0.5, 0.0, 0.25, 1.0):
        set_schedule(optimizer, ScheduleValues(multiple))
        assert [group["lr"] for group in optimizer.param_groups] == [peak * multiple for peak in peaks]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_at_rate_zero_nothing_moves(name: str) -> None:
    model = small_network()
    optimizer = build_optimizer(model, Recipe(optimizer=name))
    set_schedule(optimizer, ScheduleValues(0.0))
    before = {label: parameter.detach().clone() for label, parameter in model.named_parameters()}
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert all(torch.equal(parameter, before[label]) for label, parameter in model.named_parameters())
