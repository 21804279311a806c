from __future__ import annotations

from cifar_core.data.data_set import CIFAR10
from experiments.decision.facts import Facts
from experiments.pages.blocks import Code, Missing, Pairs
from experiments.sections.rerun import section
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


def test_what_was_not_kept_is_stated(demo: Facts) -> None:
    blocks = section(with_study(with_artifacts(demo, model_uris={}, recipe=None), tags={}, params={})).blocks
    assert [b.text for b in blocks if isinstance(b, Missing)] == [
        "No weights were logged as a model.", "No recipe was kept.",
    ]  # fmt: skip
    (facts,) = (block for block in blocks if isinstance(block, Pairs))
    unknown = [label.text for label, value in facts.rows if value.text == "not recorded"]
    assert len(unknown) == 7  # all but the seeds, which are parameters of the runs
