from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.decision.facts import Facts
from experiments.pages.blocks import Missing, Table
from experiments.pages.text import CitedText
from experiments.reading.results import load_results
from experiments.systems.section import epochs, second, seconds, section, sentence, systems_table
from tests.experiments.results import RECIPES, content, run_id, system, write


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (6540, "0.64 points above the published 64.76 %"),
        (6576, "1.00 points above .*; it counts as reproduced"),
        (6577, "1.01 points above .*more than a point above, it does not count as reproduced, though chance could"),
        (6800, "3.24 points above .*more than a point above, it does not count as reproduced.$"),
        (6376, "1.00 points below the published 64.76 % .*; it counts as reproduced"),
        (6375, "1.01 points below .*it does not count as reproduced, though chance could explain that"),
        (6000, "4.76 points below .*it does not count as reproduced.$"),
        (6476, "level with the published 64.76 %"),
    ],
)
def test_reproduced_is_within_a_point_on_either_side(tmp_path: Path, right: int, words: str) -> None:
    found = system(tmp_path, "three_conv", {"right": right})
    text = sentence(found).text
    assert re.search(words, text)
    assert found.within_tolerance is ("not count" not in text)


def test_a_schedule_cut_short_is_compared_at_its_epoch_alone(tmp_path: Path) -> None:
    curve = content("dynamic_conv", epochs=7)["curve"]
    curve[-1]["val_accuracy"] = 0.79
    found = system(tmp_path, "dynamic_conv", {"right": 7900, "epochs": 7, "curve": curve})
    assert sentence(found).text == (
        "dynamic_conv was run for 7 of 60 planned epochs: at epoch 7 its test accuracy is 79.00 %, 0.53 points above "
        "the 78.47 % of the published curve at that epoch. What the whole schedule reaches has not been measured."
    )
    [row] = systems_table([found]).rows
    _, published, ours, difference, done, _ = row.cells
    assert (published.note, ours.text, ours.note) == ("78.47 % at epoch 7", "79.00 %", "at epoch 7")
    assert (difference.text, done.text) == ("+0.53", "7 of 60")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("block_cnn", {"epochs": 3}, "gave 70.00 % on the test images; no published figure belongs to that epoch"),
        ("three_conv", {"epochs": 3}, "; no published figure belongs to that epoch"),
        ("five_conv", {"epochs": 2}, "over the first 250 batches of epoch 2 the mean training loss is 1.621 nats"),
        (
            "dynamic_conv",
            {"recipe": {**RECIPES["dynamic_conv"], "width": 0.125}},
            "dynamic_conv: the shipped recipe was not run yet, only another one; 88.39 % was published.",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path: Path, name: str, changes: dict[str, Any], words: str) -> None:
    found = system(tmp_path, name, {"right": 7000, **changes})
    assert found.accuracy is None
    assert words in sentence(found).text
    assert sentence(found).sources == (f"run/{run_id(name, 0)}", f"source/{name}")


def test_seconds_are_a_range_where_machines_differ(tmp_path: Path) -> None:
    gpu = {"device": "cuda", "processor": "a GPU", "precision": "bf16", "threads": 1}
    fast = {"epochs": 3.64, "hardware": gpu, "train_seconds": 3.64}
    runs = system(tmp_path, "custom_resnet", {"epochs": 5}, fast).runs
    assert (seconds(runs), seconds(runs[:1]), seconds(())) == ("1.0 to 12.5 s", "12.5 s", "")
    assert epochs(runs) == "3.64 of 24 and 5 of 24"
    assert [second(v) for v in (0.5123, 22.76, 3651.2)] == ["0.51 s", "22.8 s", "3,651 s"]


def test_the_report_has_a_row_for_each_system_and_a_sentence_for_each_that_was_run(demo: Facts, tmp_path: Path) -> None:
    for seed, right in enumerate((6400, 6500, 6600)):
        write(tmp_path, "three_conv", seed, right=right)
    write(tmp_path, "dynamic_conv", 1002, epochs=7, test=None)
    made = section(replace(demo, results=load_results(tmp_path)))
    table, *texts = made.blocks
    assert isinstance(table, Table)
    reproduced = ["not run yet", "65.00 %", "not run yet", "52.01 %", "not run yet"]
    assert [row.cells[2].text for row in table.rows] == reproduced
    said = [text.text for text in texts if isinstance(text, CitedText)]
    assert said[0].startswith("three_conv reaches 65.00 % on the test images (mean of 3 runs)")
    assert said[1].startswith("dynamic_conv was run for 7 of 60 planned epochs")
    assert "`python experiments/compare.py systems`" in said[2]
    numbers = {number.name: number for number in made.numbers}
    assert numbers["system.three_conv.seed2.test"].sources == (f"run/{run_id('three_conv', 2)}", "source/three_conv")
    assert "system.dynamic_conv.seed1002.test" not in numbers


def test_a_mean_cites_the_complete_runs_of_the_shipped_recipe(demo: Facts, tmp_path: Path) -> None:
    write(tmp_path, "three_conv", 0)
    write(tmp_path, "three_conv", 1, epochs=3)
    write(tmp_path, "three_conv", 2, recipe={**RECIPES["three_conv"], "width": 0.5})
    numbers = {number.name: number for number in section(replace(demo, results=load_results(tmp_path))).numbers}
    assert numbers["system.three_conv.test.mean"].sources == ("source/three_conv", f"run/{run_id('three_conv', 0)}")


def test_a_report_without_reproductions_says_so(demo: Facts) -> None:
    made = section(replace(demo, results=()))
    assert isinstance(made.blocks[-1], Missing)
    assert made.blocks[-1].text.startswith("None of them has been trained again yet")
    assert len(made.blocks) == 2
    assert made.numbers == ()
