"""Budgets: FLOPs of a step against hand counts, and the epochs that a budget buys."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cifar_core.budget import Budget, BudgetError, affordable_eval_schedule, step_flops
from cifar_core.models import MODELS, build_model
from cifar_core.recipe import OPTIMIZERS, Recipe
from cifar_core.training import evenly, total_steps

NARROW = Recipe(model="fast_resnet", width=0.25, batch_size=64, optimizer="sgd")


def multiply_adds(recipe: Recipe) -> list[int]:
    """Count the multiply-adds of each convolution and linear layer for one image, from the shapes."""
    counts: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        weight: Tensor = module.weight
        places = output[0].numel() // len(weight)
        counts.append(places * weight.numel())

    model = build_model(recipe).eval()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    return counts


# What a step costs. The images need no gradient, so the first layer has no backward pass to its inputs.


@pytest.mark.parametrize("name", ["five_conv", "wide_resnet"])
def test_step_costs_three_forward_passes_less_the_gradient_of_the_images(name: str) -> None:
    recipe = Recipe(model=name, batch_size=10, optimizer="sgd")
    first, *others = multiply_adds(recipe)
    assert step_flops(recipe) == 10 * 2 * (2 * first + 3 * sum(others))


def test_frozen_first_layer_costs_a_forward_pass() -> None:
    recipe = Recipe(model="fast_resnet", batch_size=10, optimizer="sgd")
    first, *others = multiply_adds(recipe)
    # The layer behind it still passes a gradient on, to its bias.
    assert step_flops(recipe) == 10 * 2 * (first + 3 * sum(others))


def test_step_of_five_conv_by_hand() -> None:
    areas = (32 * 32, 16 * 16, 8 * 8, 8 * 8, 8 * 8)
    channels = (3, 64, 128, 256, 512, 512)
    convolutions = [
        area * 9 * inputs * outputs for area, inputs, outputs in zip(areas, channels[:-1], channels[1:], strict=True)
    ]
    linear = 512 * 1024 + 1024 * 512 + 512 * 10
    recipe = Recipe(model="five_conv", batch_size=1_000, optimizer="sgd")
    assert step_flops(recipe) == 1_000 * 2 * (3 * (sum(convolutions) + linear) - convolutions[0])


def test_step_of_vision_transformer_by_hand() -> None:
    patches, size = 64, 192
    embed = patches * (3 * 4 * 4) * size
    linear = patches * (3 * size * size + size * size + 2 * size * 4 * size)
    attention = 2 * patches * patches * size
    forward = embed + 6 * (linear + attention) + size * 10
    recipe = Recipe(model="vision_transformer", batch_size=16, optimizer="sgd")
    assert step_flops(recipe) == 16 * 2 * (3 * forward - embed)


@pytest.mark.parametrize("name", MODELS)
def test_step_costs_in_proportion_to_the_batch(name: str) -> None:
    def cost(optimizer: str, batch_size: int) -> int:
        return step_flops(Recipe(model=name, width=0.5, optimizer=optimizer, batch_size=batch_size))

    assert cost("sgd", 128) == cost("adamw", 128) == 2 * cost("sgd", 64)
    # Muon makes its updates orthogonal at a cost that the batch has no part in.
    extra = cost("muon", 64) - cost("sgd", 64)
    assert extra > 0
    assert cost("muon", 128) - cost("sgd", 128) == extra


def test_counting_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    step_flops(NARROW)
    assert torch.equal(torch.get_rng_state(), before)


# What a budget buys


@given(
    whole=st.integers(2, 10_000),
    part=st.sampled_from([0.0, 0.1, 0.9]),
    batch_size=st.integers(2, 2_000),
    train_images=st.integers(5_000, 50_000),
    optimizer=st.sampled_from(OPTIMIZERS),
)
@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])  # to shrink would take minutes
def test_budget_buys_as_many_whole_steps_as_it_pays_for(
    whole: int, part: float, batch_size: int, train_images: int, optimizer: str
) -> None:
    recipe = replace(NARROW, batch_size=batch_size, optimizer=optimizer)
    budget = Budget(flops=(whole + part) * step_flops(recipe), max_epochs=10_000.0)
    bought = budget.apply(recipe, train_images)
    assert replace(bought, epochs=recipe.epochs) == recipe
    assert total_steps(bought, train_images) == whole


def test_smaller_network_gets_more_epochs() -> None:
    budget = Budget(flops=1e14, max_epochs=1_000.0)
    wide, half, quarter = (
        budget.apply(replace(NARROW, model="five_conv", width=width), 45_000).epochs for width in (1.0, 0.5, 0.25)
    )
    assert 1.9 * wide < half
    assert 1.9 * half < quarter


def test_cap_in_epochs() -> None:
    assert Budget(flops=1e18, max_epochs=7.5).apply(NARROW, 45_000) == replace(NARROW, epochs=7.5)


def test_budget_in_epochs_alone() -> None:
    assert Budget(flops=None, max_epochs=3).apply(NARROW, 45_000) == replace(NARROW, epochs=3.0)


def test_budget_that_pays_for_less_than_two_steps() -> None:
    flops = 1.5 * step_flops(NARROW)
    with pytest.raises(BudgetError) as error:
        Budget(flops=flops, max_epochs=10.0).apply(NARROW, 45_000)
    assert str(error.value) == (
        f"a budget must cover two training steps, but {flops:.3g} FLOPs cover 1.50 of fast_resnet at batch size 64"
    )
    bought = Budget(flops=4 / 3 * flops, max_epochs=10.0).apply(NARROW, 45_000)
    assert total_steps(bought, 45_000) == 2


# Validation that a run can afford


@given(
    epochs=st.floats(0.001, 100),
    batch_size=st.integers(2, 2_000),
    train_images=st.integers(10, 50_000),
    val_images=st.integers(1, 10_000),
    fractions=st.lists(st.floats(0.01, 0.99), max_size=12),
)
def test_validation_costs_at_most_7_percent_of_training(
    epochs: float, batch_size: int, train_images: int, val_images: int, fractions: list[float]
) -> None:
    recipe = Recipe(epochs=epochs, batch_size=batch_size)
    validations = (*sorted(fractions), 1.0)
    watch = affordable_eval_schedule(recipe, train_images, val_images, losses=20, validations=validations)
    assert watch.losses == evenly(20)
    assert watch.validations == validations
    assert len(watch.validation_images) == len(validations)
    *others, last = watch.validation_images
    assert 0 < last <= val_images
    assert all(0 < count <= last for count in others)
    assert len(set(others)) <= 1

    # An image costs a forward pass in validation and three in training.
    affordable = 0.07 * 3 * total_steps(recipe, train_images) * batch_size
    assert sum(watch.validation_images) <= affordable + 10 * len(validations)  # ten images at least, one a class
    if affordable >= 25 * len(validations):
        assert sum(watch.validation_images) <= affordable * (1 + 1e-12)
    if affordable >= 2 * val_images and last == val_images and val_images >= 10:
        shared = min(affordable - last, len(others) * val_images)
        assert sum(others) > shared - len(others) - 1  # nothing but the rounding is left


def test_long_run_affords_all_validation_images() -> None:
    watch = affordable_eval_schedule(Recipe(epochs=20.0), 45_000, 5_000, losses=1, validations=(0.5, 1.0))
    assert watch.validation_images == (5_000, 5_000)


@pytest.mark.parametrize("flops", [1e12, 40e12])
def test_an_extended_run_decays_as_much_over_its_whole_length(flops: float) -> None:
    recipe = Recipe(epochs=2.0, weight_decay=0.03, batch_size=128)
    longer = Budget(flops=flops, max_epochs=100).extend(recipe, 45_000)
    assert longer.weight_decay * longer.epochs == pytest.approx(0.06)
    assert replace(longer, weight_decay=0.03) == Budget(flops=flops, max_epochs=100).apply(recipe, 45_000)
