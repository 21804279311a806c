"""Search spaces: every draw is a recipe that trains, and the way back from a recipe to a draw."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import tomli_w
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FixedTrial

from cifar_core.models import MODELS, build_model
from cifar_core.recipe import MIXES, OPTIMIZERS, Recipe
from cifar_core.recipes import NAMES, SYSTEMS, read_recipe
from sweeps.planning.search_space import OPTIMIZER_SCALES, SearchSpace, comparable, is_true
from sweeps.planning.space_file import SPACES, parse_space

LEFT_ALONE: dict[str, Any] = {"bn_momentum": 0.3, "epochs": 3.5, "schedule": "cosine", "start_factor": 0.1, "seed": 7}
BASE = replace(Recipe(), **LEFT_ALONE)

# Fields of a recipe that no space varies, because they are quirks of published systems, or not for a sweep to choose.
FIXED = {
    *("bn_momentum", "epochs", "val_fraction", "normalisation", "nesterov", "decay_all", "clip_norm", "keep_best"),
    *("schedule", "warmup", "start_factor", "end_factor", "momentum_at_peak", "step_every", "step_factor"),
    *("schedule_per_epoch", "padding", "seed", "deterministic", "aux_optimizer", "aux_momentum", "head_lr_multiple"),
    *("reset_norms", "freeze_first", "average", "average_decay", "alternate_flip", "tta", "orthogonalization"),
    "low_resolution",
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
    """Take a trial whose `params` were enqueued; a value outside of the space is a warning, an error here."""
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
    assert {type(value) for value in nearest.values()} <= {str, float, int, bool}


@given(spaces, recipes)
def test_the_nearest_point_to_any_recipe_lies_in_the_space(space: SearchSpace, recipe: Recipe) -> None:
    nearest = space.nearest(recipe)
    found, params = enqueue(space, nearest)
    assert params == nearest
    assert space.nearest(found) == approximately(nearest)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_starts_lie_in_the_space_and_only_conditional_parameters_can_lack(space: SearchSpace) -> None:
    assert space.starts or space.enqueue, "known-good points come first"
    for start in space.starts:
        recipe, params = enqueue(space, start)
        assert params == start
        assert space.nearest(recipe) == approximately(start)
    for seed in range(20):
        params = draw(space, seed)[1]
        absent = {name for name, parameter in space.parameters.items() if not is_true(parameter.when, params)}
        assert list(params) == [name for name in space.parameters if name not in absent]


def test_the_spaces_reach_everything_there_is() -> None:
    of_recipes = {read_recipe(name).model for name in NAMES}
    missing = set(MODELS) - of_recipes - {model for space in SPACES.values() for model in space.models}
    assert not missing, f"{missing} must be in a space of sweeps/spaces, or in a recipe"
    assert {draw(space, seed)[0].optimizer for space in SPACES.values() for seed in range(20)} == set(OPTIMIZERS)
    assert set(OPTIMIZER_SCALES) == set(OPTIMIZERS)
    assert len(SPACES["full"].models) >= 4
    assert {draw(SPACES["full"], seed)[0].mix for seed in range(50)} == set(MIXES)


def test_every_field_of_a_recipe_is_varied_or_fixed() -> None:
    recipes = [draw(space, seed)[0].to_dict() for space in SPACES.values() for seed in range(20)]
    varied = {name for name in recipes[0] if len({recipe[name] for recipe in recipes}) > 1}
    for name in set(recipes[0]) - varied - FIXED:
        pytest.fail(f"no space varies {name}: a file in sweeps/spaces must name it, or FIXED in this file must list it")


def test_the_rate_grows_with_the_square_root_of_the_batch() -> None:
    start = {**SPACES["full"].starts[0], "model": "five_conv"}
    small, large = (
        SPACES["full"].suggest(FixedTrial({**start, "batch_size": size}), BASE).learning_rate for size in (128, 512)
    )
    assert large == pytest.approx(2 * small)
    assert small == pytest.approx(OPTIMIZER_SCALES["muon"].learning_rate * 0.5**0.5)


@given(st.sampled_from([128, 256, 512]), st.floats(0.25, 4))
def test_the_start_of_airbench_is_fast94_whatever_its_rate_and_batch(size: int, multiple: float) -> None:
    point = {**SPACES["full"].starts[0], "batch_size": size, "learning_rate_multiple": multiple}
    recipe, fast94 = SPACES["full"].suggest(FixedTrial(point), Recipe()), read_recipe("fast94")
    other = {"epochs", "batch_size", "learning_rate", "weight_decay", "val_fraction", "seed", "tta"}
    ours, theirs = recipe.to_dict(), fast94.to_dict()
    assert {name for name in ours if ours[name] != theirs[name]} <= other
    # Its biases and head forget as fast for each image.
    assert recipe.peak_rate * recipe.weight_decay / size == pytest.approx(0.15 * 0.0133 / 1000, rel=0.01)


def test_a_recipe_outside_of_the_space_is_clipped_to_it() -> None:
    network: dict[str, Any] = {"model": "five_conv", "width": 4.0, "batch_size": 1000, "cutout": 9, "translate": 0}
    far = Recipe(**network, optimizer="adamw", learning_rate=1.0, weight_decay=0.0)
    clipped = {"model": "airbench", "optimizer": "muon", "batch_size": 512}
    clipped |= {"learning_rate_multiple": 4.0, "cutout": 8, "translate": 1}
    assert SPACES["fast"].nearest(far).items() >= clipped.items()


CONDITIONAL = parse_space(
    Path("conditional.toml"),
    """
    description = "conditions on conditions, held fields and every kind of parameter"
    [[hold]]
    label_smoothing = 0.3
    flip = false
    [[hold]]
    when = { optimizer = "muon" }
    label_smoothing = 0.1
    reset_norms = true
    momentum = 0.7
    [[hold]]
    when = { optimizer = ["sgd", "adam"], mix = "mixup" }
    learning_rate = 0.125
    [parameters.optimizer]
    choices = ["muon", "sgd", "adam"]
    start = "sgd"
    [parameters.model]
    choices = ["fast_resnet", "five_conv"]
    [parameters.learning_rate_multiple]
    low = 0.5
    high = 2
    log = true
    start = 2
    when = { optimizer = "muon" }
    [parameters.weight_decay]
    low = 0
    high = 0.3
    step = 0.1
    start = 0.1
    [parameters.mix]
    choices = ["none", "mixup"]
    when = { optimizer = ["sgd", "adam"] }
    start = "mixup"
    [parameters.mix_alpha]
    choices = [0.5, 1]
    when = { mix = "mixup" }
    start = 1
    [parameters.translate]
    low = 1
    high = 9
    step = 4
    start = 5
    [parameters.cutout]
    low = 1
    high = 16
    log = true
    start = 4
    """,
)


class TestConditions:
    """A space in which parameters and held fields have conditions."""

    @given(seeds)
    def test_a_draw_has_the_parameters_whose_conditions_hold_and_the_held_values(self, seed: int) -> None:
        recipe, params = draw(CONDITIONAL, seed)
        muon, mixes = params["optimizer"] == "muon", params.get("mix") == "mixup"
        absent = {"mix", "mix_alpha"} if muon else {"learning_rate_multiple", *(() if mixes else ("mix_alpha",))}
        assert list(params) == [name for name in CONDITIONAL.parameters if name not in absent]
        assert (recipe.flip, recipe.label_smoothing, recipe.reset_norms) == (False, 0.1 if muon else 0.3, muon)
        scale = OPTIMIZER_SCALES[recipe.optimizer]
        assert recipe.momentum == (0.7 if muon else scale.momentum)
        usual = (0.075 if muon else scale.learning_rate) * math.sqrt(BASE.batch_size / 256)
        multiple = params.get("learning_rate_multiple", 1.0)
        assert recipe.learning_rate == (0.125 if mixes else pytest.approx(usual * multiple))
        assert 0 <= recipe.weight_decay <= 0.3
        assert recipe.translate in (1, 5, 9)
        assert 1 <= recipe.cutout <= 16
        assert CONDITIONAL.nearest(recipe) == approximately(params)

    @given(recipes)
    def test_the_nearest_point_has_only_what_exists_there(self, recipe: Recipe) -> None:
        nearest = CONDITIONAL.nearest(recipe)
        found, params = enqueue(CONDITIONAL, nearest)
        assert params == nearest
        assert CONDITIONAL.nearest(found) == approximately(nearest)

    def test_there_is_a_start_for_each_model(self) -> None:
        common = {
            "optimizer": "sgd",
            "weight_decay": 0.1,
            "mix": "mixup",
            "mix_alpha": 1.0,
            "translate": 5,
            "cutout": 4,
        }
        assert CONDITIONAL.starts == ({**common, "model": "fast_resnet"}, {**common, "model": "five_conv"})

    def test_the_sampler_works_with_them(self) -> None:
        study = optuna.create_study(sampler=TPESampler(seed=0, n_startup_trials=4), direction="maximize")
        for _ in range(30):
            trial = study.ask()
            recipe = CONDITIONAL.suggest(trial, BASE)
            study.tell(trial, recipe.mix_alpha if recipe.mix == "mixup" else 0.0)
        assert study.best_params["mix_alpha"] == 1.0


def test_the_content_is_that_of_the_file() -> None:
    content = CONDITIONAL.content()
    assert json.loads(json.dumps(content)) == content
    assert content["parameters"]["weight_decay"] == {"low": 0.0, "high": 0.3, "step": 0.1, "start": 0.1}
    assert content["parameters"]["mix_alpha"] == {"choices": [0.5, 1.0], "start": 1.0, "when": {"mix": ["mixup"]}}
    assert content["hold"][2] == {"learning_rate": 0.125, "when": {"optimizer": ["sgd", "adam"], "mix": ["mixup"]}}
    again = parse_space(Path("again.toml"), tomli_w.dumps({"description": "another", **content}))
    assert (again.hash, again.content()) == (CONDITIONAL.hash, content)
    assert len({space.hash for space in (*SPACES.values(), CONDITIONAL)}) == 4


class TestSystems:
    """The space of the five published systems, and what makes their recipes comparable."""

    @pytest.mark.parametrize("name", SYSTEMS)
    def test_a_system_is_made_comparable_and_the_nearest_point_has_its_network_and_optimiser(self, name: str) -> None:
        system = read_recipe(name)
        recipe = comparable(system)
        assert (recipe.val_fraction, recipe.keep_best, recipe.tta) == (0.1, False, "mirror-shift")
        assert recipe.peak_rate > 0
        seen = recipe.epochs * (1 - recipe.val_fraction)
        assert seen == pytest.approx(system.epochs * (1 - system.val_fraction)), "as many images"
        changes = ("val_fraction", "keep_best", "learning_rate", "tta", "epochs")
        changed = {field: getattr(system, field) for field in changes}
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
