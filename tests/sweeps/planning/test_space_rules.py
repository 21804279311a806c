"""Rules of a space file: one line for all that it breaks, before anything is written."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import RandomSampler

from cifar_core.recipe import FIELD_TYPES, Recipe
from sweeps.planning.search_space import SearchSpace
from sweeps.planning.space_file import parse_space
from sweeps.planning.space_rules import KNOWN, SET_BY_SWEEP
from sweeps.validation import InvalidFileError

OPTIMIZER = '[parameters.optimizer]\nchoices = ["muon", "sgd"]\n'
MIX = '[parameters.mix]\nchoices = ["none", "mixup"]\n'


def space(text: str) -> SearchSpace:
    return parse_space(Path("mine.toml"), f'description = "d"\n{text}')


def faults(text: str) -> str:
    with pytest.raises(InvalidFileError) as error:
        space(text)
    assert str(error.value).startswith("mine.toml: ")
    assert len(str(error.value).splitlines()) == 1
    return str(error.value).removeprefix("mine.toml: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[parameters]", "parameters must name at least one"),
        ("paramters = 3", "field 'parameters' is missing; unknown field 'paramters'; did you mean 'parameters'?"),
    ],
)
def test_the_shape_of_the_file(text: str, message: str) -> None:
    assert faults(text) == message


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("widht", "choices = [1]", "parameters: unknown parameter 'widht': did you mean 'width'?"),
        ("seed", "choices = [1]", "parameters: seed is set by the sweep itself"),
        ("mix", "", "parameters.mix must have choices, because mix is of type str"),
        ("width", "low = 1", "parameters.width must have choices, or low and high, but has no high"),
        ("width", "choices = [1.0]\nlow = 1\nlog = true",
         "parameters.width must have either choices or a range, but has choices and low, log"),
        ("width", "choices = []", "parameters.width.choices must not be empty"),
        ("width", "choices = [1, 1.0]", "parameters.width.choices must differ, but got [1.0, 1.0]"),
        ("width", "choices = [9, true]", "parameters.width.choices: `0 < width <= 8` must hold, but got 9.0; "
         "parameters.width.choices: width must be of type float, but got True"),
        ("model", 'choices = ["fastresnet"]',
         "parameters.model.choices: unknown model 'fastresnet': did you mean 'fast_resnet'?"),
        ("flip", "low = 0\nhigh = 1", "parameters.flip must have choices, because flip is of type bool"),
        ("translate", "low = 0\nhigh = 40", "parameters.translate.high: `0 <= translate <= 16` must hold, but got 40"),
        ("width", "low = 2\nhigh = 2", "parameters.width.low must be less than high, but got low = 2.0 and high = 2.0"),
        ("color_jitter", "low = 0\nhigh = 1\nlog = true",
         "parameters.color_jitter.low must be above 0 where log = true, but got 0.0"),
        ("width", "low = 1\nhigh = 2\nlog = true\nstep = 0.5", "parameters.width must not have both log and step"),
        ("width", "low = 1\nhigh = 2\nstep = 0.3",
         "parameters.width.step must divide the range, but got step = 0.3 from 1.0 to 2.0"),
        ("width", "low = 1\nhigh = 2\nstep = 0", "parameters.width.step must be a number above 0, but got 0"),
        ("width", "low = 1\nhigh = 2\nstep = 1e-300",
         "parameters.width.step must divide the range, but got step = 1e-300 from 1.0 to 2.0"),
        ("cutout", "low = 1\nhigh = 2\nstep = 0.5",
         "parameters.cutout.step must be a whole number above 0, but got 0.5"),
        ("width", "choices = [1, 2]\nstart = 3",
         "parameters.width.start must be one of the choices [1.0, 2.0], but got 3"),
        ("flip", "choices = [true]\nstart = 1", "parameters.flip.start must be one of the choices [true], but got 1"),
        ("width", "low = 1\nhigh = 2\nstart = 3", "parameters.width.start must lie between 1.0 and 2.0, but got 3"),
        ("width", "low = 1\nhigh = 2\nstep = 0.5\nstart = 1.25",
         "parameters.width.start must be low plus a multiple of step, but got 1.25"),
        ("learning_rate", 'choices = ["range-test"]',
         "parameters.learning_rate.choices: learning_rate must be a number, but got 'range-test'"),
        ("learning_rate_multiple", "low = 0\nhigh = 1",
         "parameters.learning_rate_multiple.low: `learning_rate_multiple > 0` must hold, but got 0.0"),
        ("learning_rate_multiple", "low = 1\nhigh = 1e308",
         "with : learning_rate must be finite, but got inf"),
    ],
)  # fmt: skip
def test_a_parameter(name: str, entry: str, message: str) -> None:
    large = "[parameters.batch_size]\nchoices = [64, 50_000]\n" if "1e308" in entry else ""
    assert faults(f"{large}[parameters.{name}]\n{entry}") == message.removeprefix("with : ")


def test_steps_that_floats_cannot_hold_divide_their_range() -> None:
    assert space("[parameters.color_jitter]\nlow = 0.1\nhigh = 0.7\nstep = 0.2\nstart = 0.3").starts


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ('mx = "none"', "when: unknown parameter 'mx': did you mean 'mix'?"),
        ('x = "none"', "when: unknown parameter 'x': the earlier ones are mix, width"),
        ('flip = true', "when.flip must be a parameter that stands earlier in the file"),
        ("mix_alpha = 1.0", "when.mix_alpha must be a parameter that stands earlier in the file"),
        ("width = 1.0", "when.width must be a parameter with choices"),
        ("mix = []", "when.mix must have at least one value"),
        ('mix = ["mixup", "cutmix"]', 'when.mix must be one of the choices ["none", "mixup"], but got "cutmix"'),
    ],
)  # fmt: skip
def test_a_condition(when: str, message: str) -> None:
    text = f"{MIX}[parameters.width]\nlow = 1\nhigh = 2\n"
    text += f"[parameters.mix_alpha]\nlow = 0.1\nhigh = 1\nwhen = {{ {when} }}\n[parameters.flip]\nchoices = [true]"
    assert faults(text) == f"parameters.mix_alpha.{message}"


@pytest.mark.parametrize(
    ("hold", "message"),
    [
        ("", "hold[0] must hold at least one field"),
        ("when = 3\nflip = true", "hold[0].when must be a table, but got 3"),
        ("when = { mx = 1 }\nflip = true", "hold[0].when: unknown parameter 'mx': did you mean 'mix'?"),
        ("epochs = 3.0", "hold[0]: epochs is set by the sweep itself"),
        ("flop = true", "hold[0]: unknown parameter 'flop': did you mean 'flip'?"),
        ("weight_decay_multiple = -1", "hold[0]: `weight_decay_multiple >= 0` must hold, but got -1.0"),
        ('mix = "none"', 'with optimizer = "muon": mix is both held and a parameter'),
        ("learning_rate = 1.0\nlearning_rate_multiple = 1.0",
         'with optimizer = "muon": learning_rate_multiple and learning_rate exclude each other'),
        ("reset_norms = true",
         'with optimizer = "sgd": reset_norms needs Muon: `optimizer = "muon"` must hold, but got \'sgd\''),
        ('when = { mix = "mixup", optimizer = ["muon", "sgd"] }\nreset_norms = true',
         'with mix = "mixup", optimizer = "sgd": reset_norms needs Muon: '
         '`optimizer = "muon"` must hold, but got \'sgd\''),
    ],
)  # fmt: skip
def test_a_held_field(hold: str, message: str) -> None:
    assert faults(f"[[hold]]\n{hold}\n{MIX}{OPTIMIZER}") == message


def test_a_field_may_be_held_where_it_is_no_parameter() -> None:
    text = f'[[hold]]\nwhen = {{ mix = "none" }}\nmix_alpha = 1\n{MIX}[parameters.mix_alpha]\nlow = 0.1\nhigh = 1\n'
    assert space(f'{text}when = {{ mix = "mixup" }}').holds
    assert faults(text) == 'with mix = "none": mix_alpha is both held and a parameter'


def test_a_switch_that_is_drawn_beside_what_it_needs() -> None:
    text = "[parameters.flip]\nchoices = [true, false]\n[parameters.alternate_flip]\nchoices = [true, false]\n"
    assert faults(text) == (
        "with flip = false, alternate_flip = true: alternate_flip needs flips: `flip = true` must hold, but got False"
    )
    assert space(f"{text}when = {{ flip = true }}").choices("flip")


def test_all_parameters_or_none_have_a_start() -> None:
    text = f"{MIX}start = 'none'\n[parameters.mix_alpha]\nchoices = [1.0]\nwhen = {{ mix = 'mixup' }}\n"
    model = '[parameters.model]\nchoices = ["airbench", "five_conv"]\n'
    assert [start["model"] for start in space(text + model).starts] == ["airbench", "five_conv"]
    assert [start["model"] for start in space(f'{text}{model}start = "five_conv"').starts] == ["five_conv"]
    lacking = "each parameter but model must have a start, or none may, but there is none for "
    assert faults(f"{text}{model}{OPTIMIZER}") == f"{lacking}optimizer"
    assert faults(text.replace("'none'", "'mixup'")) == f"{lacking}mix_alpha"


def test_the_recipes_to_try_first() -> None:
    assert faults(f'enqueue = ["sytems", "five_cnov"]\n{MIX}') == (
        "enqueue: unknown recipe 'sytems': did you mean 'systems'?; "
        "enqueue: unknown recipe 'five_cnov': did you mean 'five_conv'?"
    )


def test_more_combinations_than_can_be_checked() -> None:
    names = ("translate", "cutout", "batch_size", "width", "bn_momentum")
    text = "".join(
        f"[parameters.{name}]\nchoices = {[number / 20 if name in names[3:] else number for number in range(2, 10)]}\n"
        for name in names
    )
    when = ", ".join(f"{name} = {0.1 if name in names[3:] else 2}" for name in names)
    assert faults(f"[[hold]]\nwhen = {{ {when} }}\nflip = true\n{text}") == (
        f"{', '.join(names)} must have at most 10,000 combinations of values, but have more"
    )


def test_every_fault_is_in_the_line() -> None:
    assert faults("[[hold]]\nepochs = 1.0\n[parameters.widht]\nlow = 1\n[parameters.mix]\nchoices = []") == (
        "parameters: unknown parameter 'widht': did you mean 'width'?; parameters.mix.choices must not be empty; "
        "hold[0]: epochs is set by the sweep itself"
    )


def test_any_field_that_the_sweep_leaves_alone_can_vary() -> None:
    assert set(KNOWN) == set(FIELD_TYPES) - SET_BY_SWEEP | {"learning_rate_multiple", "weight_decay_multiple"}


BEFORE: dict[str, Any] = {
    "flip": {"choices": [True, False]},
    "mix": {"choices": ["none", "mixup"]},
    "optimizer": {"choices": ["sgd", "muon"]},
}
AFTER: dict[str, Any] = {
    "alternate_flip": {"choices": [True, False]},
    "reset_norms": {"choices": [False, True]},
    "cutout": {"low": 0, "high": 12, "step": 4},
    "width": {"low": 0.5, "high": 2, "log": True},
    "learning_rate": {"low": 0.1, "high": 1},
    "learning_rate_multiple": {"choices": [1, 2]},
}
conditions = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(entry["choices"]) for name, entry in BEFORE.items()}
)
held = st.fixed_dictionaries(
    {"when": conditions, "warmup": st.just(0.1)},
    optional={"cutout": st.just(8), "reset_norms": st.booleans(), "learning_rate": st.just(0.5)},
)
broken = st.dictionaries(
    st.sampled_from(["choices", "low", "high", "step", "start", "when"]),
    st.one_of(st.booleans(), st.integers(-2, 20), st.floats(), st.lists(st.integers(0, 2)), conditions),
)


def conditional(entry: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return conditions.map(lambda when: {**entry, "when": when})


whole = st.fixed_dictionaries({}, optional={name: conditional(entry) for name, entry in AFTER.items()})
parameters = st.one_of(whole, whole, st.dictionaries(st.sampled_from(list(AFTER)), broken))
files = st.fixed_dictionaries(
    {"parameters": parameters.map(lambda after: BEFORE | after)}, optional={"hold": st.lists(held, max_size=2)}
)


@given(files, st.integers(0, 99))
def test_a_file_is_refused_in_one_line_or_every_draw_is_a_valid_recipe(file: dict[str, Any], seed: int) -> None:
    text = tomli_w.dumps(file)
    with contextlib.suppress(InvalidFileError):
        made = space(text)
        study = optuna.create_study(sampler=RandomSampler(seed=seed))
        for _ in range(5):
            trial = study.ask()
            recipe = made.suggest(trial, Recipe())
            assert json.loads(json.dumps(made.nearest(recipe))).keys() == trial.params.keys()
        return
    assert faults(text)
