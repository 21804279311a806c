"""The plan of a label curve: counts, lengths, and seeds within a budget."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_core.budget import lengthen
from cifar_core.data.data_set import CIFAR10
from cifar_core.errors import UserError
from cifar_core.recipe import Recipe
from cifar_core.recipes import read_recipe
from cifar_core.training import total_steps
from experiments.labels.plan import BUDGET, SEEDS, SHARES, build_runs, counts_of
from sweeps.planning.search_space import comparable

RECIPE = read_recipe("fast94")


def test_few_labels_get_more_seeds_and_more_passes_over_them() -> None:
    runs = build_runs(RECIPE, SHARES, BUDGET, CIFAR10)
    assert Counter(run.labels for run in runs) == {450: 4, 1_350: 3, 4_500: 2, 13_500: 1, 45_000: 1}
    assert [run.labels for run in runs[:5]] == [450, 1_350, 4_500, 13_500, 45_000]  # the first seeds come first
    passes = [run.recipe.epochs for run in runs[:5]]
    assert passes == sorted(passes, reverse=True)
    assert 5 < passes[-1] < RECIPE.epochs
    assert {run.recipe.val_fraction for run in runs} == {0.1}  # the validation images are no training images
    assert len({run.key for run in runs}) == len(runs)


@settings(max_examples=20, deadline=None)
@given(
    shares=st.lists(st.floats(0.001, 1), min_size=1, max_size=8),
    budget=st.floats(1e14, 1e17),
    images=st.integers(100, 45_000),
)
def test_a_plan_keeps_to_its_budget_and_to_the_length_of_the_recipe(
    shares: list[float], budget: float, images: int
) -> None:
    runs = build_runs(RECIPE, shares, budget, replace(CIFAR10, train_images=images))
    counts = counts_of(shares, images, 10)
    assert sum(run.flops for run in runs) <= budget
    assert {run.labels for run in runs} == set(counts)
    assert max(Counter(run.labels for run in runs).values()) <= SEEDS
    assert all(10 <= run.labels <= images for run in runs)
    assert all(total_steps(run.recipe, run.labels) <= total_steps(comparable(RECIPE), images) for run in runs)


def test_a_run_as_long_as_the_recipe_keeps_its_decay_and_a_shorter_one_scales_it() -> None:
    recipe = replace(Recipe(), epochs=4.0)
    [long] = build_runs(recipe, [1.0], 1e18, CIFAR10)[:1]
    [short] = build_runs(recipe, [1.0], 6e13, CIFAR10)[:1]
    assert long.recipe.epochs == pytest.approx(4, rel=0.01)
    assert long.recipe.weight_decay == pytest.approx(recipe.weight_decay, rel=0.01)
    assert short.recipe.weight_decay * short.recipe.epochs == pytest.approx(recipe.weight_decay * 4, rel=0.01)


def test_where_norms_are_reset_the_rate_is_that_of_the_length_at_every_batch_size() -> None:
    runs = build_runs(RECIPE, SHARES, BUDGET, CIFAR10)
    whole = runs[4].recipe
    rate = lengthen(comparable(RECIPE), whole.epochs).learning_rate
    assert len({run.recipe.batch_size for run in runs}) > 1
    assert [run.recipe.learning_rate for run in runs] == pytest.approx([rate] * len(runs), rel=0.01)
    assert whole.peak_rate > 1.05 * RECIPE.peak_rate


def test_a_budget_that_is_too_small_is_refused() -> None:
    for shares in (SHARES, SHARES[1:], SHARES[2:]):
        with pytest.raises(
            UserError, match=r"^--pflop must be at least .* for these shares, but got 1e-06$"
        ) as refused:
            build_runs(RECIPE, shares, 1e9, CIFAR10)
        least = float(str(refused.value).split()[5])
        assert build_runs(RECIPE, shares, 1e15 * least, CIFAR10)
