from __future__ import annotations

from dataclasses import replace

from cifar_core.data.data_set import CIFAR10
from experiments.decision.facts import Facts
from experiments.pages.blocks import Code, Missing, Pairs
from experiments.sections.reproduction import commands, section
from sweeps.planning.space_file import SPACES
from tests.experiments.support import with_artifacts, with_study


def test_weights_facts_commands_and_recipe_are_shown(demo: Facts) -> None:
    blocks = section(demo).blocks
    weights, facts = (block for block in blocks if isinstance(block, Pairs))
    assert len(weights.rows) == 2
    assert all(value.text.startswith("models:/m-") and label.sources for label, value in weights.rows)
    assert {label.text: value.text for label, value in facts.rows} == {
        "Commit": "0f" * 20, "Data (SHA-256)": CIFAR10.sha256, "Study seed": "0", "Run seeds": "0 and 1",
        "Device, precision": "cpu, bf16", "Processor": "processor of 2 cores", "Workers x threads": "2 x 1",
        "torch": "2.13.0",
    }  # fmt: skip
    assert [block.text for block in blocks if isinstance(block, Code)] == [
        f"git checkout {'0f' * 20}\n"
        "python sweeps/run_study.py --study demo --trials 6 --preset quick --space default --seed 0 --store STORE\n"
        "python experiments/compare.py --study demo --store STORE",
        'model = "fast_resnet"\nepochs = 8.0\nlearning_rate = 1.0',
    ]


def test_commands_name_the_stops_and_the_recipes_that_were_given(demo: Facts) -> None:
    given = {"timeout": "None", "patience": "20", "from": "my first", "enqueue": "five_conv './my recipe.toml'"}
    [run, _] = commands(with_study(demo, params={**demo.study.params, **given}).study, demo.scenario).splitlines()[-2:]
    assert " --patience 20 --from 'my first' --enqueue five_conv './my recipe.toml'" in run
    assert "--timeout" not in run


def test_the_command_that_serves_the_champion_names_its_model_and_server(demo: Facts) -> None:
    assert demo.study.serve_command == "make serve STORE=STORE"
    data_set = replace(CIFAR10, name="My photos", sha256="0123456789")
    own = replace(demo.study, data_set=data_set, in_default_store=True, on_server=True)
    assert own.serve_command == 'make serve ARGS="--model myphotos-01234567 --tracking-uri URI"'


def test_what_was_not_kept_is_stated(demo: Facts) -> None:
    blocks = section(with_study(with_artifacts(demo, model_uris={}, recipe=None), tags={}, params={})).blocks
    assert [b.text for b in blocks if isinstance(b, Missing)] == [
        "No weights were logged as a model.", "No recipe was kept.",
    ]  # fmt: skip
    (facts,) = (block for block in blocks if isinstance(block, Pairs))
    unknown = [label.text for label, value in facts.rows if value.text == "not recorded"]
    assert len(unknown) == 7  # all but the seeds, which are parameters of the runs


def test_commands_name_epochs_and_a_scenario_of_ones_own(demo: Facts) -> None:
    fixed = replace(
        demo.study, name="my study", params={"trials": "3", "preset": "epochs-0.5", "seed": "1"}, tags={},
        in_default_store=True,
    )  # fmt: skip
    assert commands(fixed, replace(demo.scenario, file="my own.toml", is_example=False)) == (
        "python sweeps/run_study.py --study 'my study' --trials 3 --epochs 0.5 --seed 1\n"
        "python experiments/compare.py --study 'my study' --scenario 'my own.toml'"
    )
    told = replace(fixed, params={**fixed.params, "sampler": "gp", "pruner": "none", "starts": "False"})
    [run, _] = commands(told, demo.scenario).splitlines()
    assert run.endswith("--epochs 0.5 --seed 1 --sampler gp --pruner none --no-starts")
    limited = {"max_parameters": "1000", "max_latency": "None", "space": "full", "space_hash": "a" * 64}
    said, run, _ = commands(replace(fixed, params={**fixed.params, **limited}), demo.scenario).splitlines()
    assert said == "# space.toml is an artifact of the study's own run in MLflow"
    assert run.endswith("--epochs 0.5 --space space.toml --seed 1 --max-parameters 1000")
    built_in = {"space": "full", "space_hash": SPACES["full"].hash}
    run, _ = commands(replace(fixed, params={**fixed.params, **built_in}), demo.scenario).splitlines()
    assert run.endswith("--epochs 0.5 --space full --seed 1")
    own = replace(fixed, data_set=replace(CIFAR10, sha256="1", side=48))
    [run, _] = commands(own, demo.scenario).splitlines()
    assert (
        run == "python sweeps/run_study.py --study 'my study' --trials 3 --epochs 0.5 --seed 1 --images DIR --size 48"
    )
