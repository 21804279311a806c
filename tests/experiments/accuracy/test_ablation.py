"""The ablation of fast94: its variants, and its table."""

from __future__ import annotations

import pytest

from cifar_core.recipe import Recipe
from cifar_core.recipes import read_recipe
from experiments.accuracy.ablation import VARIANTS, recipe_of, table
from experiments.accuracy.training_runs import TrainingRun


def run(variant: str, seed: int, accuracy: float, tta_accuracy: float) -> TrainingRun:
    return TrainingRun(
        name=variant,
        recipe=recipe_of(variant, seed).to_dict(),
        early=0.3,
        accuracy=accuracy,
        tta_accuracy=tta_accuracy,
        seconds=9.0,
        machine="a machine",
    )


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"fast94"}))
def test_each_variant_changes_the_recipe(variant: str) -> None:
    base = read_recipe("fast94").to_dict()
    assert all(base[name] != value for name, value in VARIANTS[variant].items())
    assert Recipe.from_dict({**base, **VARIANTS[variant]}) != read_recipe("fast94")


def test_differences_are_taken_seed_by_seed() -> None:
    runs = [run("fast94", 0, 0.90, 0.91), run("fast94", 1, 0.92, 0.93), run("random flips", 0, 0.88, 0.90)]
    runs += [run("random flips", 1, 0.91, 0.91), run("lookahead", 1, 0.925, 0.93), run("lookahead", 7, 0.1, 0.1)]
    _, _, *rows = table(runs)
    assert rows == [
        "| fast94 | 2 | 91.00 % | | 92.00 % | |",
        "| random flips | 2 | 89.50 % | -1.50 (-7.85 to +4.85) | 90.50 % | -1.50 (-7.85 to +4.85) |",
        "| lookahead | 1 | 92.50 % | +0.50 (-inf to +inf) | 93.00 % | +0.00 (-inf to +inf) |",
    ]
