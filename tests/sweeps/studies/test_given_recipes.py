"""Recipes that a search is given: what is reduced to the budget of a trial, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cifar_core.budget import Budget, step_flops
from cifar_core.data.data_set import CIFAR10
from cifar_core.errors import UserError
from cifar_core.recipe import Recipe
from sweeps.studies.given_recipes import affordable

FEW = replace(CIFAR10, train_images=46)
RECIPE = Recipe(batch_size=256)


@pytest.mark.parametrize("named", [["mine"], []])
def test_no_batch_is_larger_than_the_training_set(named: list[str]) -> None:
    (tried,), (note,) = affordable({"mine": RECIPE}, named, Budget(flops=None, max_epochs=8), FEW)
    assert (tried.batch_size, tried.width) == (32, RECIPE.width)
    assert note == "mine is tried at batch size 32: there the budget of a trial covers 11.5 training steps, not 1.44"


def test_the_width_of_a_recipe_that_is_named_by_itself_stays() -> None:
    budget = Budget(flops=step_flops(RECIPE, CIFAR10), max_epochs=8)
    (tried,), _ = affordable({"mine": RECIPE}, [], budget, CIFAR10)
    assert tried.width < RECIPE.width
    with pytest.raises(UserError, match=r"^a budget must cover two training steps, but .* FLOPs cover 1\.00 of "):
        affordable({"mine": RECIPE}, ["mine"], budget, CIFAR10)
