"""Budgets: FLOPs of a step against hand counts, and the epochs that a budget buys."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cifar_core.budget import (
    Budget,
    at_length,
    for_data_set,
    from_reference,
    lengthen,
    spent_share,
    step_flops,
    to_reference,
)
from cifar_core.data.data_set import CIFAR10
from cifar_core.models import MODELS, build_shapes
from cifar_core.recipe import OPTIMIZERS, Recipe
from cifar_core.training import total_steps
from tests.cifar_core.support import multiply_adds, refusal

pytestmark = pytest.mark.usefixtures("global_generator_unused")

NARROW = Recipe(model="fast_resnet", width=0.25, batch_size=64, optimizer="sgd")


# What a step costs. The images need no gradient, so the first layer has no backward pass to its inputs.


@pytest.mark.parametrize(
    ("name", "first", "passes"),
    [
        ("wide_resnet", 32 * 32 * (3 * 3 * 3) * 16, 2),
        ("fast_resnet", 31 * 31 * (3 * 2 * 2) * 24, 1),  # frozen; the next layer still passes a gradient to its bias
    ],
)
def test_step_costs_three_forward_passes_less_the_gradients_of_the_first_layer(
    name: str, first: int, passes: int
) -> None:
    forward = multiply_adds(build_shapes(name, 1.0))
    recipe = Recipe(model=name, batch_size=10, optimizer="sgd")
    assert step_flops(recipe, CIFAR10) == 10 * 2 * (3 * (forward - first) + passes * first)


def test_step_of_five_conv_by_hand() -> None:
    areas = (32 * 32, 16 * 16, 8 * 8, 8 * 8, 8 * 8)
    channels = (3, 64, 128, 256, 512, 512)
    convolutions = [
        area * 9 * inputs * outputs for area, inputs, outputs in zip(areas, channels[:-1], channels[1:], strict=True)
    ]
    linear = 512 * 1024 + 1024 * 512 + 512 * 10
    recipe = Recipe(model="five_conv", batch_size=1_000, optimizer="sgd")
    assert step_flops(recipe, CIFAR10) == 1_000 * 2 * (3 * (sum(convolutions) + linear) - convolutions[0])


def test_step_of_vision_transformer_by_hand() -> None:
    patches, size = 64, 192
    embed = patches * (3 * 4 * 4) * size
    linear = patches * (3 * size * size + size * size + 2 * size * 4 * size)
    attention = 2 * patches * patches * size
    forward = embed + 6 * (linear + attention) + size * 10
    recipe = Recipe(model="vision_transformer", batch_size=16, optimizer="sgd")
    assert step_flops(recipe, CIFAR10) == 16 * 2 * (3 * forward - embed)


def test_step_costs_less_where_the_first_layer_is_frozen_sooner_and_more_for_a_better_orthogonalization() -> None:
    recipe = replace(NARROW, optimizer="muon")
    quarter, half, whole = (step_flops(replace(recipe, freeze_first=share), CIFAR10) for share in (0.25, 0.5, 1.0))
    assert quarter < half
    assert whole - half == pytest.approx(2 * (half - quarter), rel=1e-6)
    assert step_flops(replace(recipe, orthogonalization="polar-express"), CIFAR10) > whole


def test_steps_at_low_resolution_cost_what_they_do_on_small_images() -> None:
    recipe = replace(NARROW, freeze_first=0.5)
    small = step_flops(recipe, replace(CIFAR10, side=24), until=0.25)
    large = step_flops(recipe, CIFAR10, until=0.25)
    assert small < 0.6 * large
    low = replace(recipe, low_resolution=0.25)
    assert step_flops(low, CIFAR10, until=0.1) == step_flops(low, CIFAR10, until=0.25) == small
    assert step_flops(low, CIFAR10, until=0.5) == pytest.approx((small + large) / 2, rel=1e-6)
    # From 0.5 on the first layer is frozen, which saves as much as it does at full resolution.
    saved = 2 * (large - step_flops(recipe, CIFAR10))
    assert step_flops(low, CIFAR10) == pytest.approx((small + 3 * large - 2 * saved) / 4, rel=1e-6)


@given(low=st.floats(0, 0.99), frozen=st.floats(0.01, 1), fractions=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_the_share_spent_rises_from_0_to_1(low: float, frozen: float, fractions: tuple[float, float]) -> None:
    recipe = replace(NARROW, low_resolution=low, freeze_first=frozen)
    assert (spent_share(recipe, CIFAR10, 0.0), spent_share(recipe, CIFAR10, 1.0)) == (0.0, 1.0)
    early, late = (spent_share(recipe, CIFAR10, fraction) for fraction in sorted(fractions))
    assert 0 <= early <= late + 1e-6 <= 1 + 2e-6  # FLOPs of a step are whole


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_step_costs_in_proportion_to_the_batch(name: str) -> None:
    @functools.cache
    def cost(optimizer: str, batch_size: int) -> int:
        return step_flops(Recipe(model=name, width=0.5, optimizer=optimizer, batch_size=batch_size), CIFAR10)

    assert cost("sgd", 128) == cost("adamw", 128) == 2 * cost("sgd", 64)
    # Muon makes its updates orthogonal at a cost that the batch has no part in.
    extra = cost("muon", 64) - cost("sgd", 64)
    assert extra > 0
    assert cost("muon", 128) - cost("sgd", 128) == extra


# What a budget buys


@pytest.mark.slow
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
    budget = Budget(flops=(whole + part) * step_flops(recipe, CIFAR10), max_epochs=10_000.0)
    bought = budget.apply(recipe, train_images, CIFAR10)
    assert replace(bought, epochs=recipe.epochs) == recipe
    assert total_steps(bought, train_images) == whole


@pytest.mark.parametrize("flops", [1e18, None])
def test_cap_in_epochs(flops: float | None) -> None:
    assert Budget(flops=flops, max_epochs=7).apply(NARROW, 45_000, CIFAR10) == replace(NARROW, epochs=7.0)


def test_a_recipe_is_narrowed_and_then_its_batch_until_the_budget_pays_for_two_steps() -> None:
    wide = Recipe(model="five_conv", width=1.0, batch_size=512)
    for share, width, batch_size in ((2.0, 1.0, 512), (1.0, 0.5, 512), (0.02, 0.125, 256)):
        budget = Budget(flops=share * step_flops(wide, CIFAR10), max_epochs=1)
        narrow = budget.narrow(wide, CIFAR10)
        assert (narrow.width, narrow.batch_size) == (width, batch_size)
        assert budget.steps(narrow, 45_000, CIFAR10) >= 2
        assert narrow.peak_rate == pytest.approx(wide.peak_rate * (batch_size / 512) ** 0.5)


@pytest.mark.parametrize("flops", [None, 1e15])
def test_few_images_have_no_more_epochs_than_the_budget_as_the_batch_is_halved(flops: float | None) -> None:
    few = replace(CIFAR10, train_images=32)
    budget, recipe = Budget(flops=flops, max_epochs=1), replace(NARROW, batch_size=1024, learning_rate=0.1)
    covered = "1 epochs over 32 images cover 0.03 of fast_resnet at batch size 1024"
    assert refusal(lambda: budget.apply(recipe, 32, few)) == f"a budget must cover two training steps, but {covered}"
    assert replace(budget, max_epochs=8).narrow(recipe, few).batch_size == 32, "no batch is larger than the data set"
    narrow = budget.narrow(recipe, few)
    assert (narrow.width, narrow.batch_size) == (recipe.width, 16)
    assert narrow.peak_rate == pytest.approx(0.1 / 8)
    assert total_steps(budget.apply(narrow, 32, few), 32) == 2
    two = replace(few, train_images=2)
    assert replace(budget, max_epochs=8).narrow(replace(recipe, batch_size=3), two).batch_size == 2, "no batch has one"


def test_budget_that_pays_for_less_than_two_steps() -> None:
    flops = 1.5 * step_flops(NARROW, CIFAR10)
    message = refusal(lambda: Budget(flops=flops, max_epochs=10.0).apply(NARROW, 45_000, CIFAR10))
    covered = f"{flops:.3g} FLOPs cover 1.50 of fast_resnet at batch size 64"
    assert message == f"a budget must cover two training steps, but {covered}"
    bought = Budget(flops=4 / 3 * flops, max_epochs=10.0).apply(NARROW, 45_000, CIFAR10)
    assert total_steps(bought, 45_000) == 2


@pytest.mark.parametrize("flops", [1e12, 40e12])
def test_an_extended_run_decays_as_much_over_its_whole_length(flops: float) -> None:
    recipe = Recipe(epochs=2.0, weight_decay=0.03, batch_size=128)
    longer = Budget(flops=flops, max_epochs=100).extend(recipe, 45_000, CIFAR10)
    assert longer.weight_decay * longer.epochs == pytest.approx(0.06)
    assert replace(longer, weight_decay=0.03) == Budget(flops=flops, max_epochs=100).apply(recipe, 45_000, CIFAR10)


lengths = st.floats(0.1, 100.0)


@given(first=lengths, second=lengths)
def test_the_rate_falls_with_the_length_where_norms_are_reset(first: float, second: float) -> None:
    recipe = Recipe(model="airbench", optimizer="muon", reset_norms=True, learning_rate=0.15, epochs=8.0)
    one, other = at_length(recipe, first), at_length(at_length(recipe, second), first)
    assert one.epochs == first
    assert one.peak_rate == pytest.approx(0.15 * (8 / min(first, 12)) ** 0.3)
    assert one.peak_rate * one.weight_decay == pytest.approx(0.15 * recipe.weight_decay)
    assert (other.peak_rate, other.weight_decay) == pytest.approx((one.peak_rate, one.weight_decay))
    assert at_length(recipe, 8.0) == recipe
    images = 8 * 50_000 / 400
    reference = replace(recipe, epochs=images)  # over 400 images as over so many different ones
    few = from_reference(reference, first)
    assert few.peak_rate == pytest.approx(0.15 * (images / min(first, 12)) ** 0.3)
    again = to_reference(few, images)
    assert (again.peak_rate, again.epochs) == pytest.approx((0.15, images))
    own = at_length(for_data_set(recipe, 50_000, replace(CIFAR10, train_images=400)), first)
    assert (own.peak_rate, own.epochs) == pytest.approx((few.peak_rate, first))
    plain = replace(recipe, reset_norms=False)
    assert at_length(plain, first) == replace(plain, epochs=first)


@pytest.mark.parametrize(
    ("batch_size", "images", "longer"),
    [(64, 45_000, 256), (256, 45_000, 1024), (500, 45_000, 1024), (2000, 45_000, 2000), (64, 150, 150), (64, 50, 64)],
)
def test_the_batch_of_an_extended_run_grows_with_the_root_of_its_length(
    batch_size: int, images: int, longer: int
) -> None:
    recipe = Recipe(model="airbench", width=0.25, optimizer="muon", reset_norms=True, epochs=1.0)
    recipe = replace(recipe, batch_size=batch_size, learning_rate=0.3)
    extended = Budget(flops=None, max_epochs=16.0).extend(recipe, images, CIFAR10)
    assert (extended.batch_size, extended.epochs) == (longer, 16.0)
    assert extended.peak_rate == pytest.approx(0.3 * (longer / batch_size) ** 0.5 * 12**-0.3)
    product = recipe.peak_rate * recipe.weight_decay * longer / batch_size
    assert extended.peak_rate * extended.weight_decay == pytest.approx(product)


@pytest.mark.parametrize(
    ("tuned", "epochs", "factor"),
    [(0.5, 4.0, 8.0), (3.0, 12.0, 4.0), (3.0, 400.0, 4.0), (24.0, 178.0, 1.0), (95.0, 24.0, 1.0), (24.0, 3.0, 0.25)],
)
def test_more_than_twelve_passes_do_not_lower_the_rate(tuned: float, epochs: float, factor: float) -> None:
    recipe = Recipe(model="airbench", optimizer="muon", reset_norms=True, learning_rate=0.3, epochs=tuned)
    longer = lengthen(recipe, epochs)
    assert longer.epochs == epochs
    assert longer.peak_rate == pytest.approx(0.3 * factor**-0.3)
    assert longer.peak_rate * longer.weight_decay == pytest.approx(0.3 * recipe.weight_decay)


@given(flops=st.floats(2e12, 400e12))
def test_an_extended_run_keeps_to_its_budget(flops: float) -> None:
    trial = Budget(flops=12e12, max_epochs=100).apply(
        Recipe(model="airbench", optimizer="muon", reset_norms=True, batch_size=256), 45_000, CIFAR10
    )
    extended = Budget(flops=flops, max_epochs=100).extend(trial, 45_000, CIFAR10)
    spent = total_steps(extended, 45_000) * step_flops(extended, CIFAR10)
    assert flops - step_flops(extended, CIFAR10) <= spent <= flops
