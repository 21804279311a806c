"""Recipe: rules and their messages, and round trips through a dict and TOML."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifar_core.recipe import CHOICES, Recipe, RecipeError

FIELDS = {field.name: field.type for field in dataclasses.fields(Recipe)}
FLOATS = [name for name, kind in FIELDS.items() if str(kind).startswith("float")]

RECIPES = st.builds(
    Recipe,
    model=st.text(max_size=20),
    width=st.floats(0, 8, exclude_min=True),
    bn_momentum=st.floats(0, 1, exclude_min=True),
    epochs=st.floats(0, 10_000, exclude_min=True),
    batch_size=st.integers(2, 50_000),
    val_fraction=st.floats(0.01, 0.9),
    learning_rate=st.floats(0, exclude_min=True, allow_infinity=False) | st.just("range-test"),
    bias_lr_multiple=st.floats(0, exclude_min=True, allow_infinity=False),
    momentum=st.floats(0, 1, exclude_max=True),
    weight_decay=st.floats(0, allow_infinity=False),
    clip_norm=st.floats(0, allow_infinity=False),
    warmup=st.floats(0, 1, exclude_max=True),
    start_factor=st.floats(0, 1),
    end_factor=st.floats(0, 1),
    momentum_at_peak=st.floats(0, 1, exclude_max=True),
    step_every=st.floats(0, 1, exclude_min=True),
    step_factor=st.floats(0, 1, exclude_min=True),
    label_smoothing=st.floats(0, 1, exclude_max=True),
    translate=st.integers(0, 16),
    cutout=st.integers(0, 32),
    color_jitter=st.floats(0, 1),
    mix_alpha=st.floats(0.01, 10),
    seed=st.integers(0, 2**63 - 1),
    **{name: st.booleans() for name, kind in FIELDS.items() if kind == "bool"},
    **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
)

OUT_OF_RANGE: list[tuple[str, str, tuple[Any, ...]]] = [
    ("width", "0 < width <= 8", (0.0, -1.0, 8.001)),
    ("bn_momentum", "0 < bn_momentum <= 1", (0.0, 1.001)),
    ("epochs", "0 < epochs <= 10000", (0.0, -1.0, 10_001.0)),
    ("batch_size", "2 <= batch_size <= 50000", (1, 0, -2, 50_001)),
    ("val_fraction", "0 <= val_fraction <= 0.9", (-0.1, 0.91)),
    ("learning_rate", "learning_rate > 0", (0.0, -0.1)),
    ("bias_lr_multiple", "bias_lr_multiple > 0", (0.0, -1.0)),
    ("momentum", "0 <= momentum < 1", (-0.1, 1.0)),
    ("weight_decay", "weight_decay >= 0", (-1e-9,)),
    ("clip_norm", "clip_norm >= 0", (-0.1,)),
    ("warmup", "0 <= warmup < 1", (-0.1, 1.0)),
    ("start_factor", "0 <= start_factor <= 1", (-0.1, 1.1)),
    ("end_factor", "0 <= end_factor <= 1", (-0.1, 1.1)),
    ("momentum_at_peak", "0 <= momentum_at_peak < 1", (-0.1, 1.0)),
    ("step_every", "0 < step_every <= 1", (0.0, 1.1)),
    ("step_factor", "0 < step_factor <= 1", (0.0, 1.1)),
    ("label_smoothing", "0 <= label_smoothing < 1", (-0.1, 1.0)),
    ("translate", "0 <= translate <= 16", (-1, 17)),
    ("cutout", "0 <= cutout <= 32", (-1, 33)),
    ("color_jitter", "0 <= color_jitter <= 1", (-0.1, 1.1)),
    ("mix_alpha", "0.01 <= mix_alpha <= 10", (0.0, 10.1)),
    ("seed", "0 <= seed < 2**63", (-1, 2**63)),
]


def refusal(values: dict[str, Any]) -> str:
    """Return the message of the RecipeError for these fields."""
    with pytest.raises(RecipeError) as error:
        Recipe.from_dict(values)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


@given(recipe=RECIPES)
def test_recipe_survives_a_dict(recipe: Recipe) -> None:
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@given(recipe=RECIPES)
def test_recipe_survives_toml(recipe: Recipe) -> None:
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_fields_that_are_left_out_have_their_defaults() -> None:
    assert Recipe.from_dict({}) == Recipe() == Recipe.from_toml("")
    assert Recipe.from_toml('model = "five_conv"\nepochs = 2.5') == Recipe(model="five_conv", epochs=2.5)


@pytest.mark.parametrize(
    ("name", "rule", "value"), [(name, rule, value) for name, rule, values in OUT_OF_RANGE for value in values]
)
def test_out_of_range_states_rule_and_value(name: str, rule: str, value: Any) -> None:
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


def test_int_too_large_for_a_float_is_not_finite() -> None:
    assert refusal({"epochs": 10**400}) == "epochs must be finite, but got inf"
    assert refusal({"learning_rate": -(10**400)}) == "learning_rate must be finite, but got -inf"


@pytest.mark.parametrize("value", [None, [1], "1", True, 1.5])
def test_wrong_type(value: Any) -> None:
    for name, kind in FIELDS.items():
        expected = "float" if name in FLOATS else kind
        if type(value).__name__ != expected and (name, value) != ("learning_rate", "1"):
            assert refusal({name: value}) == f"{name} must be of type {expected}, but got {value!r}"


def test_learning_rate_is_a_number_or_to_be_found() -> None:
    assert Recipe.from_toml('learning_rate = "range-test"').learning_rate == "range-test"
    assert refusal({"learning_rate": "auto"}) == "learning_rate must be a number or 'range-test', but got 'auto'"
    assert Recipe(learning_rate=0.5).peak_rate == 0.5
    with pytest.raises(RecipeError, match=r"^learning_rate must be a number before training, but got 'range-test'$"):
        _ = Recipe(learning_rate="range-test").peak_rate


def test_best_weights_are_not_chosen_without_validation_images() -> None:
    assert refusal({"keep_best": True, "val_fraction": 0}) == (
        "keep_best needs validation images: `val_fraction > 0` must hold, but got 0.0"
    )


def test_int_is_taken_for_a_float_from_outside_only() -> None:
    recipe = Recipe.from_toml("width = 1\nepochs = 10\nlearning_rate = 2\nweight_decay = 0")
    assert recipe == Recipe(width=1.0, epochs=10.0, learning_rate=2.0, weight_decay=0.0)
    assert all(type(getattr(recipe, name)) is float for name in FLOATS)
    with pytest.raises(RecipeError, match="epochs must be of type float, but got 10"):
        Recipe(epochs=10)


def test_all_faults_are_reported_together() -> None:
    assert refusal({"width": 9.0, "batch_size": 1.0, "mix": "blend", "warmup": math.nan}) == (
        "`0 < width <= 8` must hold, but got 9.0; "
        "batch_size must be of type int, but got 1.0; "
        "warmup must be finite, but got nan; "
        "mix must be one of none, mixup, cutmix, but got 'blend'"
    )


def test_unknown_field() -> None:
    assert refusal({"learning_rat": 1.0, "batchsize": 4}) == (
        "unknown recipe field 'learning_rat': did you mean 'learning_rate'?; "
        "unknown recipe field 'batchsize': did you mean 'batch_size'?"
    )
    assert refusal({"batchsize": 4, "width": 9}) == (
        "unknown recipe field 'batchsize': did you mean 'batch_size'?; `0 < width <= 8` must hold, but got 9.0"
    )
    assert refusal({"zzz": 1}) == f"unknown recipe field 'zzz': the fields are {', '.join(FIELDS)}"


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
    with pytest.raises(RecipeError, match=r"^a recipe must be valid TOML, but: .") as error:
        Recipe.from_toml(text)
    assert len(str(error.value).splitlines()) == 1


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
