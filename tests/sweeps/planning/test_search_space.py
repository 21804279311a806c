"""Search spaces: every draw is a recipe that trains, and the way back from a recipe to a draw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from cifar_core.models import MODELS, build_model
from cifar_core.recipe import MIXES, OPTIMIZERS, Recipe
from cifar_core.recipes import NAMES, SYSTEMS, read_recipe
from sweeps.planning.search_space import OPTIMIZER_SCALES, SPACES, SearchSpace, comparable

LEFT_ALONE: dict[str, Any] = {"bn_momentum": 0.3, "epochs": 3.5, "schedule": "cosine", "warmup": 0.1, "seed": 7}
BASE = replace(Recipe(), **LEFT_ALONE)

# Fields of a recipe that no space varies, because they are quirks of published systems, or not for a sweep to choose.
FIXED = {
    *("bn_momentum", "epochs", "val_fraction", "normalisation", "nesterov", "decay_all", "clip_norm", "keep_best"),
    *("schedule", "warmup", "start_factor", "end_factor", "momentum_at_peak", "step_every", "step_factor"),
    *("schedule_per_epoch", "padding", "seed", "deterministic", "aux_optimizer", "aux_momentum", "head_lr_multiple"),
    *("reset_norms", "freeze_first", "average", "average_decay", "alternate_flip", "tta", "orthogonalization"),
}

spaces = st.sampled_from(sorted(SPACES)).map(SPACES.__getitem__)
seeds = st.integers(0, 2**32 - 1)
recipes = st.builds(
    Recipe,
    model=st.sampled_from(sorted(MODELS)),
    width=st.floats(0.01, 8),
    batch_size=st.integers(2, 50_000),
    optimizer=st.sampled_from(OPTIMIZERS),
    learning_rate=st.floats(1e-9, 1e9),
    weight_decay=st.floats(0, 1e6),
    label_smoothing=st.floats(0, 0.99),
    flip=st.booleans(),
    translate=st.integers(0, 16),
    cutout=st.integers(0, 32),
    color_jitter=st.floats(0, 1),
    mix=st.sampled_from(MIXES),
    mix_alpha=st.floats(0.01, 10),
)


def draw(space: SearchSpace, seed: int) -> tuple[Recipe, dict[str, Any]]:
    trial = optuna.create_study(sampler=RandomSampler(seed=seed)).ask()
    return space.suggest(trial, BASE), trial.params


def enqueue(space: SearchSpace, params: dict[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """What becomes of `params` in the queue of a study; a value outside of the space is a warning, an error here."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    study.enqueue_trial(params)
    trial = study.ask()
    return space.suggest(trial, BASE), trial.params


def approximately(params: dict[str, Any]) -> dict[str, Any]:
    return {name: pytest.approx(value) if type(value) is float else value for name, value in params.items()}


@pytest.mark.slow
@given(spaces, seeds)
def test_every_draw_is_a_recipe_whose_network_gives_ten_logits(space: SearchSpace, seed: int) -> None:
    recipe, params = draw(space, seed)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    with torch.device("meta"):
        assert build_model(recipe)(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert {name: getattr(recipe, name) for name in LEFT_ALONE} == LEFT_ALONE, "from the base"
    nearest = space.nearest(recipe)
    assert nearest == approximately(params), "the nearest point to a draw is that draw"
    assert {type(value) for value in nearest.values()} == {str, float, int, bool}


@given(spaces, recipes)
def test_the_nearest_point_to_any_recipe_lies_in_the_space(space: SearchSpace, recipe: Recipe) -> None:
    nearest = space.nearest(recipe)
    found, params = enqueue(space, nearest)
    assert params == nearest
    assert space.nearest(found) == approximately(nearest)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_starts_lie_in_the_space_and_every_trial_has_the_same_parameters(space: SearchSpace) -> None:
    assert space.starts or space is SPACES["systems"], "which begins with the systems themselves"
    for start in space.starts:
        recipe, params = enqueue(space, space.nearest(start))
        fields = ["learning_rate", "weight_decay", *(name for name in params if hasattr(start, name))]
        assert {name: getattr(recipe, name) for name in fields} == {name: getattr(start, name) for name in fields}
    names = {tuple(sorted(draw(space, seed)[1])) for seed in range(20)}
    assert len(names) == 1, "a parameter that only some trials have would split the sampler's history"


def test_the_spaces_reach_everything_there_is() -> None:
    of_recipes = {read_recipe(name).model for name in NAMES}
    missing = set(MODELS) - of_recipes - {model for space in SPACES.values() for model in space.models}
    assert not missing, f"{missing} must be in a space of sweeps/planning/search_space.py, or in a recipe"
    assert {draw(space, seed)[0].optimizer for space in SPACES.values() for seed in range(20)} == set(OPTIMIZERS)
    assert set(OPTIMIZER_SCALES) == set(OPTIMIZERS)
    assert len(SPACES["full"].models) >= 4
    assert {draw(SPACES["full"], seed)[0].mix for seed in range(50)} == set(MIXES)


def test_every_field_of_a_recipe_is_varied_or_fixed() -> None:
    recipes = [draw(space, seed)[0].to_dict() for space in SPACES.values() for seed in range(20)]
    varied = {name for name in recipes[0] if len({recipe[name] for recipe in recipes}) > 1}
    for name in set(recipes[0]) - varied - FIXED:
        pytest.fail(
            f"no space varies {name}: `_FULL` of sweeps/planning/search_space.py must name it, or FIXED in "
            "this file must list it"
        )


def test_the_rate_grows_with_the_square_root_of_the_batch() -> None:
    start = SPACES["full"].nearest(SPACES["full"].starts[0])
    small, large = (
        SPACES["full"].suggest(FixedTrial({**start, "batch_size": size}), BASE).learning_rate for size in (64, 256)
    )
    assert large == pytest.approx(2 * small)
    assert small == pytest.approx(OPTIMIZER_SCALES["muon"].learning_rate * 0.5)


def test_a_recipe_outside_of_the_space_is_clipped_to_it() -> None:
    network: dict[str, Any] = {"model": "five_conv", "width": 4.0, "batch_size": 1000, "cutout": 9, "color_jitter": 1.0}
    far = Recipe(**network, optimizer="adamw", learning_rate=1.0, weight_decay=0.0)
    clipped = {"model": "fast_resnet", "optimizer": "muon", "width": 1.5, "batch_size": 256}
    clipped |= {"learning_rate_multiple": 4.0, "weight_decay_multiple": 0.25, "cutout": 8, "color_jitter": 0.4}
    assert SPACES["fast"].nearest(far).items() >= clipped.items()


class TestSystems:
    """The space of the five published systems, and what makes their recipes comparable."""

    @pytest.mark.parametrize("name", SYSTEMS)
    def test_a_system_is_made_comparable_and_the_nearest_point_has_its_network_and_optimiser(self, name: str) -> None:
        system = read_recipe(name)
        recipe = comparable(system)
        assert (recipe.val_fraction, recipe.keep_best, recipe.tta) == (0.1, False, "mirror-shift")
        assert recipe.peak_rate > 0
        changed = {field: getattr(system, field) for field in ("val_fraction", "keep_best", "learning_rate", "tta")}
        assert replace(recipe, **changed) == system, "and is otherwise the same"
        found, params = enqueue(SPACES["systems"], SPACES["systems"].nearest(recipe))
        assert params["model"] == name
        assert (found.optimizer, found.width, found.flip) == (recipe.optimizer, recipe.width, recipe.flip)
        sizes = {"three_conv": 32, "custom_resnet": 256}  # the nearest to 20 and to 512
        assert found.batch_size == sizes.get(name, recipe.batch_size)

    def test_a_draw_for_each_system_and_each_optimiser(self) -> None:
        drawn = [draw(SPACES["systems"], seed)[0] for seed in range(60)]
        assert {recipe.model for recipe in drawn} == set(SYSTEMS)
        assert {recipe.optimizer for recipe in drawn} == {"sgd", "adam", "ranger"}
        assert {recipe.width for recipe in drawn} == {0.25, 0.5, 0.75, 1.0}
        assert all(OPTIMIZER_SCALES[recipe.optimizer].momentum == recipe.momentum for recipe in drawn)

    def test_a_rate_that_is_there_stays_and_one_that_is_to_be_found_becomes_the_optimisers_own(self) -> None:
        recipe = Recipe(optimizer="adam", batch_size=64, learning_rate=0.1 + 0.2)
        assert comparable(recipe).learning_rate == 0.1 + 0.2
        ranged = replace(recipe, learning_rate="range-test")
        assert comparable(ranged).learning_rate == OPTIMIZER_SCALES["adam"].learning_rate / 2

    @given(recipes)
    def test_a_recipe_is_made_comparable_once(self, recipe: Recipe) -> None:
        assert comparable(comparable(recipe)) == comparable(recipe)
