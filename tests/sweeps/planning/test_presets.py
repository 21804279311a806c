"""Presets: every draw from every space can be paid for, and the confirmation has more to spend."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cifar_core.budget import step_flops
from cifar_core.data.data_set import CIFAR10
from cifar_core.recipe import Recipe
from cifar_core.training import total_steps
from sweeps.planning.presets import PRESETS, Preset, fixed_epochs
from sweeps.planning.space_file import SPACES

TRAIN_IMAGES = 45_000


@pytest.fixture(scope="module")
def extremes() -> dict[Recipe, int]:
    """FLOPs of a step of the smallest and the largest network of each family, at the smallest and largest batch."""
    recipes = {
        space.recipe(
            space.nearest(replace(space.recipe(start, Recipe()), model=model, width=width, batch_size=batch)), Recipe()
        )
        for space in (SPACES["full"], SPACES["fast"])  # those of `systems` are narrowed to what a trial pays for
        for start in space.starts
        for model in space.models
        for width in (0.01, 8.0)  # the nearest in the space are its bounds
        for batch in (2, 50_000)
    }
    return {recipe: step_flops(recipe, CIFAR10) for recipe in recipes}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_draw_gets_equal_compute_and_is_judged_at_four_points(
    preset: Preset, extremes: dict[Recipe, int]
) -> None:
    budget = preset.trial
    assert budget.flops is not None
    for recipe, flops in extremes.items():
        paid = budget.apply(recipe, TRAIN_IMAGES, CIFAR10)
        steps = total_steps(paid, TRAIN_IMAGES)
        assert steps >= 2
        assert steps * flops <= budget.flops * 1.001
        assert paid.epochs <= budget.max_epochs
        assert paid.epochs == budget.max_epochs or (steps + 1.001) * flops > budget.flops
        assert replace(paid, epochs=recipe.epochs) == recipe

        fractions = preset.trial_validations()
        assert steps < 8 or len({round(fraction * steps) for fraction in fractions}) == len(fractions)


def test_presets_rise_and_the_confirmation_has_more_to_spend() -> None:
    presets = list(PRESETS.values())
    budgets = [preset.trial.flops or 0 for preset in presets]
    assert budgets == sorted(set(budgets))
    for preset in presets:
        assert (preset.confirm.flops or 0) > (preset.trial.flops or 0)
        assert preset.confirm.max_epochs > preset.trial.max_epochs
        assert preset.recipes >= 1
        assert (preset.final.flops or 0) > (preset.confirm.flops or 0)
        assert preset.rung_images <= preset.trial_images
        assert preset.seeds >= 1


def test_fixed_epochs_are_the_same_for_every_recipe_and_stage(extremes: dict[Recipe, int]) -> None:
    preset = fixed_epochs(2.5)
    assert preset.trial == preset.confirm
    assert "2.5 epochs" in preset.description
    assert {preset.trial.apply(recipe, TRAIN_IMAGES, CIFAR10).epochs for recipe in extremes} == {2.5}


@pytest.mark.parametrize(
    ("pictures", "side", "passes"), [(560, 32, 4), (4_500, 64, 4), (15_000, 48, 3), (45_000, 32, 1), (90_000, 32, 1)]
)
def test_a_run_on_other_data_takes_as_many_steps(pictures: int, side: int, passes: float) -> None:
    own = replace(CIFAR10, train_images=pictures, val_images=pictures // 9, side=side)
    for preset in PRESETS.values():
        fitted = preset.fitted(own)
        for stage in ("trial", "confirm", "final"):
            one, other = getattr(fitted, stage), getattr(preset, stage)
            assert (one.flops, one.max_epochs) == ((side / 32) ** 2 * other.flops, passes * other.max_epochs)
        assert fitted.rung_images == min(preset.rung_images, own.val_images)
        assert fitted.trial_images == min(preset.trial_images, own.val_images)
    assert replace(fixed_epochs(3).fitted(own), rung_images=2000, trial_images=5000) == fixed_epochs(3)


def test_the_presets_are_made_for_cifar10() -> None:
    assert all(preset.fitted(CIFAR10) == preset for preset in PRESETS.values())
