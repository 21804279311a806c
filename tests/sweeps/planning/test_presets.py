"""Presets: every draw from every space can be paid for, and the confirmation has more to spend."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from optuna.trial import FixedTrial

from cifar_core.budget import affordable_eval_schedule, step_flops
from cifar_core.recipe import Recipe
from cifar_core.training import total_steps
from sweeps.planning.plan import LOSS_POINTS, SEARCH_VALIDATIONS
from sweeps.planning.presets import PRESETS, Preset, fixed_epochs
from sweeps.planning.search_space import SPACES

TRAIN_IMAGES, VAL_IMAGES = 45_000, 5_000


@dataclass(frozen=True)
class Paid:
    """A recipe, what a step of it costs, and the same with the epochs that a budget pays for."""

    recipe: Recipe
    flops: int
    paid: Recipe

    @property
    def steps(self) -> int:
        return total_steps(self.paid, TRAIN_IMAGES)


@pytest.fixture(scope="module")
def extremes() -> dict[Recipe, int]:
    """FLOPs of a step of the smallest and the largest network of each family, at the smallest and largest batch."""
    recipes = {
        space.suggest(
            FixedTrial({**space.starts[0], "model": model, "width": width, "batch_size": batch}),
            Recipe(),
        )
        for space in (SPACES["full"], SPACES["fast"])  # those of `systems` are narrowed to what a trial pays for
        for model in space.models
        for width in space.widths
        for batch in (min(space.batch_sizes), max(space.batch_sizes))
    }
    return {recipe: step_flops(recipe) for recipe in recipes}


@pytest.fixture(scope="module", params=PRESETS)
def preset(request: pytest.FixtureRequest) -> Preset:
    return PRESETS[request.param]


@pytest.fixture(scope="module")
def paid(preset: Preset, extremes: dict[Recipe, int]) -> list[Paid]:
    return [Paid(recipe, flops, preset.trial.apply(recipe, TRAIN_IMAGES)) for recipe, flops in extremes.items()]


def test_every_draw_can_be_paid_for_and_none_costs_more(preset: Preset, paid: list[Paid]) -> None:
    assert preset.trial.flops is not None
    for one in paid:
        assert one.steps >= 2
        assert one.steps * one.flops <= preset.trial.flops * 1.001
        assert one.paid.epochs <= preset.trial.max_epochs
        assert replace(one.paid, epochs=one.recipe.epochs) == one.recipe


def test_trials_are_of_equal_compute_below_the_cap(preset: Preset, paid: list[Paid]) -> None:
    assert preset.trial.flops is not None
    for one in paid:
        if one.paid.epochs < preset.trial.max_epochs:
            assert (one.steps + 1.001) * one.flops > preset.trial.flops


def test_every_trial_is_judged_at_five_different_points(preset: Preset, paid: list[Paid]) -> None:
    for one in paid:
        watch = affordable_eval_schedule(
            one.paid, TRAIN_IMAGES, VAL_IMAGES, losses=LOSS_POINTS, validations=SEARCH_VALIDATIONS
        )
        steps = {max(1, round(fraction * one.steps)) for fraction in watch.validations}
        assert len(steps) == len(SEARCH_VALIDATIONS)
        if preset is not PRESETS["smoke"]:
            assert min(watch.validation_images) >= 100, "too few images to tell a good trial from a bad one"


def test_presets_rise_and_the_confirmation_has_more_to_spend() -> None:
    presets = list(PRESETS.values())
    budgets = [preset.trial.flops or 0 for preset in presets]
    assert budgets == sorted(set(budgets))
    for preset in presets:
        assert (preset.confirm.flops or 0) > (preset.trial.flops or 0)
        assert preset.confirm.max_epochs > preset.trial.max_epochs
        assert preset.recipes >= 1
        assert preset.seeds >= 1


def test_fixed_epochs_are_the_same_for_every_recipe_and_stage(extremes: dict[Recipe, int]) -> None:
    preset = fixed_epochs(2.5)
    assert preset.trial == preset.confirm
    assert "2.5 epochs" in preset.description
    assert {preset.trial.apply(recipe, TRAIN_IMAGES).epochs for recipe in extremes} == {2.5}
