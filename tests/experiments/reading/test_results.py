from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
        assert result.recipe == {**read_recipe(result.name).to_dict(), "seed": result.seed}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, r"schema must be 1, but got 2"),
        ({"schema": True}, r"schema must be a valid integer, but got True"),
        ({"name": 5}, r"name must be a valid string, but got 5"),
        ({"name": "five_conv"}, r"a file of this run must be named five_conv-seed0\.json"),
        ({"seed": 1.0}, r"seed must be a valid integer, but got 1\.0"),
        ({"seed": True}, r"seed must be a valid integer, but got True"),
        ({"recipe": "three_conv"}, r"recipe must be an object, but got 'three_conv'"),
        ({"learning_rate_found": 0}, r"learning_rate_found must be greater than 0, but got 0"),
        ({"epochs_planned": "50"}, r"epochs_planned must be a valid number, but got '50'"),
        ({"epochs_run": 51.0}, r"epochs_run must be at most 50, but got 51"),
        ({"watched": "train"}, r"watched must be 'validation' or 'test', but got 'train'"),
        ({"kept": "first"}, r"kept must be 'last', 'best' or 'average', but got 'first'"),
        ({"curve": {}}, r"curve must be a valid array, but got \{\}"),
        ({"curve": [1]}, r"curve\[0\] must be an object, but got 1"),
        ({"train_seconds": float("nan")}, r"train_seconds must be a finite number, but got nan"),
        ({"wall_seconds": 10**400}, r"wall_seconds must be a finite number, but got 1000"),
        ({"hardware": {"device": ""}}, r"hardware\.device must have at least 1 character, but got ''"),
        ({"hardware": {"processor": None}}, r"hardware\.processor must be a valid string, but got None"),
        ({"versions": {}}, r"field 'versions\.python' is missing; field 'versions\.torch' is missing"),
        (
            {"recipe": {"batch_size": None}},
            r"recipe must have a batch_size above 0, and val_fraction in \[0, 1\), but got \{'batch_size': None",
        ),
        *(
            ({"recipe": recipe}, r"recipe must have a batch_size above 0, and val_fraction in \[0, 1\)")
            for recipe in ({}, {"batch_size": 0}, *({"batch_size": 8, "val_fraction": share} for share in (1.0, 2, -1)))
        ),
        ({"run_id": "mine"}, r"run_id must match pattern '\^\[0-9a-f\]\{32\}\$', but got 'mine'"),
        ({"date": "21 Nov"}, r"date must be a valid date .*, but got '21 Nov'"),
    ],
)
def test_a_broken_result_is_refused_with_file_rule_and_value(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    values = content("three_conv")
    if "hardware" in changes:
        changes = {"hardware": values["hardware"] | changes["hardware"]}
    path = write(tmp_path, "three_conv")
    path.write_text(json.dumps(values | changes))
    with pytest.raises(InvalidFileError, match=rf"^three_conv-seed0\.json: {message}.*$") as caught:
        read_result(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": 64.76}, r"accuracy must be less than or equal to 1, but got 64\.76"),
        ({"accuracy": 0.7}, r"accuracy must be that of confusion, 8000 of 10000, but got 0\.7"),
        ({"loss": -1}, r"loss must be greater than or equal to 0, but got -1"),
        ({"images": 9000}, r"confusion must count the 9000 images, but got 10000"),
        ({"class_accuracy": {"cat": 0.5}}, r"class_accuracy must name airplane, .*, but got \['cat'\]"),
        ({"class_accuracy": {"cat": 5.0}}, r"class_accuracy\.cat must be less than or equal to 1, but got 5"),
        ({"confusion": [[1, 2]]}, r"confusion must be 10 rows of 10 counts, but got \(\(1, 2\),\)"),
        ({"confusion": [[0.5] * 10] * 10}, r"confusion\[0\]\[0\] must be a valid integer, .*; and 90 more"),
    ],
)
def test_a_test_that_does_not_add_up_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    values = content("three_conv")["test"] | changes
    with pytest.raises(InvalidFileError, match=rf"^three_conv-seed0\.json: test\.{message}"):
        read_result(write(tmp_path, "three_conv", test=values))


@pytest.mark.parametrize("field", sorted(set(content("three_conv")) - {"schema"}))
def test_every_field_must_be_there(tmp_path: Path, field: str) -> None:
    path = write(tmp_path, "three_conv")
    path.write_text(json.dumps({key: value for key, value in content("three_conv").items() if key != field}))
    with pytest.raises(InvalidFileError, match=rf"^three_conv-seed0\.json: field '{field}' is missing$"):
        read_result(path)


def test_a_curve_must_rise_and_have_its_fields(tmp_path: Path) -> None:
    points = content("three_conv")["curve"][:2]
    rule = r"curve must rise in epoch and step, but got \[\(1\.0, 2500\), \(0\.64, 16"
    with pytest.raises(InvalidFileError, match=rule):
        read_result(write(tmp_path, "three_conv", curve=points[::-1]))
    del points[1]["val_loss"]
    with pytest.raises(InvalidFileError, match=r"field 'curve\[1\]\.val_loss' is missing"):
        read_result(write(tmp_path, "three_conv", curve=points))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", " must be a readable JSON file, but: EOF while parsing"),
        ("[" * 100_000, " must be a readable JSON file, but: "),
        ("[]", r": must be an object, but got \[\]"),
    ],
)
def test_a_file_without_a_json_object_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "block_cnn")
    path.write_text(text)
    with pytest.raises(InvalidFileError, match=rf"^block_cnn-seed0\.json{message}") as caught:
        load_results(tmp_path)
    assert "\n" not in str(caught.value)


def test_two_files_cannot_be_of_one_run(tmp_path: Path) -> None:
    write(tmp_path, "block_cnn")
    write(tmp_path, "five_conv", run_id=run_id("block_cnn", 0))
    with pytest.raises(InvalidFileError, match="run_id must be unique, but two files have '0002"):
        load_results(tmp_path)
