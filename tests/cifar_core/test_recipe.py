"""Recipe: rules and their messages, and round trips through a dict and TOML."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifar_core.recipe import CHOICES, Recipe, RecipeError
from tests.cifar_core import support

FIELDS = {field.name: field.type for field in dataclasses.fields(Recipe)}
FLOATS = [name for name, kind in FIELDS.items() if str(kind).startswith("float")]

ANY_RATE = st.floats(0, exclude_min=True, allow_infinity=False)
STRATEGIES = {
    **{name: st.floats(0.01, 0.9) for name in FLOATS},
    **{name: st.integers(2, 16) for name, kind in FIELDS.items() if kind == "int"},
    **{name: st.booleans() for name, kind in FIELDS.items() if kind == "bool"},
    **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
    "model": st.text(max_size=20),
    "learning_rate": ANY_RATE | st.just("range-test"),
    "weight_decay": ANY_RATE,
    "seed": st.integers(0, 2**63 - 1),
}


def recipe_of(values: dict[str, Any]) -> Recipe:
    """Build a recipe without the fields that need others."""
    values["alternate_flip"] &= values["flip"]
    values["reset_norms"] &= values["optimizer"] == "muon"
    return Recipe(**values)


RECIPES = st.fixed_dictionaries(STRATEGIES).map(recipe_of)

# The range of every number.
RULES = """
0 < width <= 8; 0 < bn_momentum <= 1; 0 < epochs <= 10000; 2 <= batch_size <= 50000; 0 <= low_resolution < 1;
0 <= val_fraction <= 0.9;
learning_rate > 0; bias_lr_multiple > 0; head_lr_multiple > 0; 0 <= momentum < 1; 0 <= aux_momentum < 1;
weight_decay >= 0; clip_norm >= 0; 0 < freeze_first <= 1; 0 <= average_decay < 1;
0 <= label_smoothing < 1; 0 <= warmup < 1; 0 <= start_factor <= 1; 0 <= end_factor <= 1; 0 <= momentum_at_peak < 1;
0 < step_every <= 1; 0 < step_factor <= 1; 0 <= translate <= 16; 0 <= cutout <= 32; 0 <= color_jitter <= 1;
0.01 <= mix_alpha <= 10; 0 <= seed < 2**63
"""


def refusal(values: dict[str, Any]) -> str:
    return support.refusal(lambda: Recipe.from_dict(values), RecipeError)


@given(recipe=RECIPES)
def test_recipe_survives_a_dict_and_toml(recipe: Recipe) -> None:
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    ("name", "rule"),
    [("batch_size", "`2 <= batch_size <= 50000` must hold"), ("model", "model must be of type str")],
)
def test_a_number_too_long_to_print_is_one_line(name: str, rule: str) -> None:
    said = support.refusal(lambda: Recipe.from_toml(f"{name} = 0x{'f' * 5000}"), RecipeError)
    assert said == f"{rule}, but got a number of 20000 bits"


def test_digest_is_that_of_the_fields_that_are_not_at_their_defaults() -> None:
    """Files are named by it, so it must stay."""
    assert Recipe().digest == "44136fa3"
    assert Recipe(width=0.5, seed=3).digest == "044b9067"


def test_fields_that_are_left_out_have_their_defaults() -> None:
    assert Recipe.from_dict({}) == Recipe() == Recipe.from_toml("")
    assert Recipe.from_toml('model = "five_conv"\nepochs = 2.5') == Recipe(model="five_conv", epochs=2.5)


@pytest.mark.parametrize("rule", [rule.strip() for rule in RULES.split(";")])
def test_range_of_a_number(rule: str) -> None:
    [name] = re.findall("[a-z_]+", rule)
    for limit in map(eval, re.findall(r"[0-9.*]+", rule)):
        for step in (-1, 0, 1):
            value: Any = math.nextafter(limit, limit + step) if name in FLOATS else limit + step
            if eval(rule, {name: value}):
                assert getattr(Recipe.from_dict({name: value}), name) == value
            else:
                assert refusal({name: value}) == f"`{rule}` must hold, but got {value!r}"


@pytest.mark.parametrize("name", CHOICES)
def test_unknown_choice_states_all_choices(name: str) -> None:
    assert refusal({name: "zzz"}) == f"{name} must be one of {', '.join(CHOICES[name])}, but got 'zzz'"


@pytest.mark.parametrize("name", [name for name, kind in FIELDS.items() if kind != "bool" and name != "model"])
def test_every_number_has_a_range_and_every_text_its_choices(name: str) -> None:
    value: Any = "zzz" if FIELDS[name] == "str" else -1.0 if name in FLOATS else -1
    try:
        Recipe.from_dict({name: value})
    except RecipeError:
        return
    pytest.fail(f"{name} must have a rule in cifar_core.recipe._RULES or CHOICES, but {value!r} was accepted")


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(name: str, value: float) -> None:
    assert refusal({name: value}) == f"{name} must be finite, but got {value!r}"


@pytest.mark.parametrize("value", [None, [1], "1", True, 1.5])
def test_wrong_type(value: Any) -> None:
    for name, kind in FIELDS.items():
        expected = "float" if name in FLOATS else kind
        if type(value).__name__ != expected and (name, value) != ("learning_rate", "1"):
            assert refusal({name: value}) == f"{name} must be of type {expected}, but got {value!r}"


def test_learning_rate_is_a_number_or_to_be_found() -> None:
    assert Recipe(learning_rate=0.5).peak_rate == 0.5
    recipe = Recipe.from_toml('learning_rate = "range-test"')
    message = support.refusal(lambda: recipe.peak_rate, RecipeError)
    assert message == "learning_rate must be a number before training, but got 'range-test'"


def test_int_is_taken_for_a_float_from_outside_only() -> None:
    recipe = Recipe.from_toml("width = 1\nepochs = 10\nlearning_rate = 2\nweight_decay = 0")
    assert recipe == Recipe(width=1.0, epochs=10.0, learning_rate=2.0, weight_decay=0.0)
    assert all(type(getattr(recipe, name)) is float for name in FLOATS)
    with pytest.raises(RecipeError, match="epochs must be of type float, but got 10"):
        Recipe(epochs=10)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 10**400}, "epochs must be finite, but got inf"),
        ({"learning_rate": -(10**400)}, "learning_rate must be finite, but got -inf"),
        ({"learning_rate": "auto"}, "learning_rate must be a number or 'range-test', but got 'auto'"),
        (
            {"keep_best": True, "val_fraction": 0},
            "keep_best needs validation images: `val_fraction > 0` must hold, but got 0.0",
        ),
        (
            {"alternate_flip": True, "flip": False, "reset_norms": True, "optimizer": "sgd"},
            "alternate_flip needs flips: `flip = true` must hold, but got False; "
            "reset_norms needs Muon: `optimizer = \"muon\"` must hold, but got 'sgd'",
        ),
        (
            {"low_resolution": 0.5, "model": "three_conv"},
            "low_resolution needs a network for images of any size: `model not in (three_conv, vision_transformer)` "
            "must hold, but got 'three_conv'",
        ),
        (
            {"width": 9.0, "batch_size": 1.0, "mix": "blend", "warmup": math.nan},
            "`0 < width <= 8` must hold, but got 9.0; batch_size must be of type int, but got 1.0; "
            "warmup must be finite, but got nan; mix must be one of none, mixup, cutmix, but got 'blend'",
        ),
        (
            {"learning_rat": 1.0, "batchsize": 4, "width": 9},
            "unknown recipe field 'learning_rat': did you mean 'learning_rate'?; unknown recipe field 'batchsize': "
            "did you mean 'batch_size'?; `0 < width <= 8` must hold, but got 9.0",
        ),
        ({"zzz": 1}, f"unknown recipe field 'zzz': the fields are {', '.join(FIELDS)}"),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, dict) else "",
)
def test_all_faults_are_reported_together(values: dict[str, Any], message: str) -> None:
    assert refusal(values) == message


@pytest.mark.parametrize(
    "text",
    [
        "epochs = ",
        "epochs 10",
        "epochs = 1\nepochs = 2",
        '"""',
        "epochs = 1" + 5_000 * "0",
        pytest.param("epochs = " + 5_000 * "[", id="deeply-nested"),
    ],
)
def test_broken_toml(text: str) -> None:
    assert support.refusal(lambda: Recipe.from_toml(text), RecipeError).startswith("a recipe must be valid TOML, but: ")


@given(text=st.text() | st.builds("{} = {}".format, st.sampled_from(sorted(FIELDS)), st.text()))
def test_any_text_gives_a_recipe_or_one_line(text: str) -> None:
    message = ""
    try:
        Recipe.from_toml(text)
    except RecipeError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


def test_a_changed_copy_is_checked_too() -> None:
    with pytest.raises(RecipeError, match="must hold, but got 9"):
        dataclasses.replace(Recipe(), width=9.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().width = 2.0  # type: ignore[misc]
