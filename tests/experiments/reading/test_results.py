from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cifar_core.recipe import Recipe
from cifar_core.recipes import SYSTEMS, read_recipe
from experiments.reading.results import RESULTS, load_results, read_result, recipes_in
from sweeps.validation import InvalidFileError, write_json
from tests.experiments.results import RECIPES, content, run_id, write


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = read_result(write(tmp_path, "three_conv", 2, right=6500))
    assert (result.name, result.seed, result.watched, result.kept) == ("three_conv", 2, "validation", "best")
    assert result.test is not None
    assert (result.test.accuracy, result.test.images, result.test.class_accuracy["cat"]) == (0.65, 10_000, 0.65)
    assert [p.epoch for p in result.curve[:2]] == [0.64, 1.0]
    assert [p.watched_accuracy is None for p in result.curve[:2]] == [True, False]
    assert result.seconds_an_epoch == 12.5
    assert result.complete
    assert result.machine == "cpu, a processor of 2 cores, 1 thread, bf16, torch 2.13.0+cpu"
    untested = read_result(write(tmp_path, "custom_resnet", test=None))
    assert (untested.test, untested.complete) == (None, False)


def test_results_come_by_system_and_seed_and_other_recipes_are_left_alone(tmp_path: Path) -> None:
    for name, seed in (("custom_resnet", 0), ("three_conv", 10), ("three_conv", 2), ("five_conv", 0)):
        write(tmp_path, name, seed)
    (tmp_path / "mine-seed0.json").write_text("{}")
    found = [(r.name, r.seed) for r in load_results(tmp_path)]
    assert found == [("five_conv", 0), ("three_conv", 2), ("three_conv", 10), ("custom_resnet", 0)]
    assert load_results(tmp_path / "nowhere") == ()


def test_a_name_that_begins_with_another(tmp_path: Path) -> None:
    written = json.loads((RESULTS / "three_conv-seed0.json").read_text())
    for number, name in enumerate(("a", "a-seed-b")):
        content = {**written, "name": name, "run_id": f"{number}" * 32}
        (tmp_path / f"{name}-seed0.json").write_text(json.dumps(content))
    assert [result.name for result in load_results(tmp_path, recipes_in(tmp_path))] == ["a", "a-seed-b"]


def test_a_result_survives_writing(tmp_path: Path) -> None:
    path = write(tmp_path, "custom_resnet", recipe={**RECIPES["custom_resnet"], "learning_rate": "range-test"})
    result = read_result(path)
    write_json(path, result)
    assert read_result(path) == result
    old = content("custom_resnet")
    assert sorted(json.loads(path.read_text())) == sorted(old), "other fields than in old files"


def test_shipped_results_are_valid() -> None:
    others = [path for path in RESULTS.glob("*.json") if not path.name.startswith(SYSTEMS)]
    assert len(load_results()) == len(list(RESULTS.glob("*.json"))) - len(others)
    for path in others:
        result = read_result(path)
        assert result.complete
        assert Recipe.from_dict(result.recipe) == replace(read_recipe(result.name), seed=result.seed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, r"schema must be 1, but got 2"),
        ({"name": "five_conv"}, r"a file of this run must be named five_conv-seed0\.json"),
        ({"epochs_run": 51.0}, r"epochs_run must be at most 50, but got 51"),
        (
            {"recipe": {"batch_size": None}},
            r"recipe must have a batch_size above 0, and val_fraction in \[0, 1\), but got \{'batch_size': None",
        ),
        *(
            ({"recipe": recipe}, r"recipe must have a batch_size above 0, and val_fraction in \[0, 1\)")
            for recipe in ({}, {"batch_size": 0}, *({"batch_size": 8, "val_fraction": share} for share in (1.0, 2, -1)))
        ),
    ],
)
def test_a_broken_result_is_refused_with_file_rule_and_value(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, "three_conv")
    path.write_text(json.dumps(content("three_conv") | changes))
    with pytest.raises(InvalidFileError, match=rf"^three_conv-seed0\.json: {message}.*$") as caught:
        read_result(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": 0.7}, r"accuracy must be that of confusion, 8000 of 10000, but got 0\.7"),
        ({"images": 9000}, r"confusion must count the 9000 images, but got 10000"),
        ({"class_accuracy": {"cat": 0.5}}, r"class_accuracy must name airplane, .*, but got \['cat'\]"),
        ({"confusion": [[1, 2]]}, r"confusion must be 10 rows of 10 counts, but got \(\(1, 2\),\)"),
    ],
)
def test_a_test_that_does_not_add_up_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    values = content("three_conv")["test"] | changes
    with pytest.raises(InvalidFileError, match=rf"^three_conv-seed0\.json: test\.{message}"):
        read_result(write(tmp_path, "three_conv", test=values))


def test_a_curve_must_rise(tmp_path: Path) -> None:
    points = content("three_conv")["curve"][:2]
    rule = r"curve must rise in epoch and step, but got \[\(1\.0, 2500\), \(0\.64, 16"
    with pytest.raises(InvalidFileError, match=rule):
        read_result(write(tmp_path, "three_conv", curve=points[::-1]))


def test_two_files_cannot_be_of_one_run(tmp_path: Path) -> None:
    write(tmp_path, "block_cnn")
    write(tmp_path, "five_conv", run_id=run_id("block_cnn", 0))
    with pytest.raises(InvalidFileError, match="run_id must be unique, but two files have '0002"):
        load_results(tmp_path)
