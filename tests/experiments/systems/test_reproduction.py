"""The published systems beside synthetic results: files as reproduce.py writes them, numbers that can be checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cifar_core.data import CLASSES
from cifar_core.recipes import SYSTEMS
from experiments import compare
from experiments.pages import plots
from experiments.reading.published import PublishedError, load_published
from experiments.reading.published_curves import DEFAULT_FOLDER, load_curves
from experiments.reading.results import ResultError, load_recipes, load_results, read_result
from experiments.report import write_report
from experiments.sections import figures, static_figures
from experiments.stats import wilson
from experiments.systems import sentences as system_sentences
from experiments.systems.page import write_systems
from experiments.systems.reproduction import System, our_series, side_by_side

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake

PLANNED = {"five_conv": 40, "three_conv": 50, "block_cnn": 30, "dynamic_conv": 60, "custom_resnet": 24}
BATCH = {"five_conv": 128, "three_conv": 20, "block_cnn": 128, "dynamic_conv": 128, "custom_resnet": 512}
RECIPES = load_recipes()


def run_id(name: str, seed: int) -> str:
    return f"{SYSTEMS.index(name):04x}{seed:04x}" + "ab" * 12


def point(name: str, epoch: float, final: float) -> dict[str, Any]:
    """Curves that end at the accuracy `final`, with what was met at whole epochs alone."""
    share = 1 - math.exp(-9 * epoch / PLANNED[name])
    whole = epoch == int(epoch)
    return {
        "epoch": epoch,
        "step": round(epoch * 50_000 / BATCH[name]),
        "fraction": epoch / PLANNED[name],
        "train_loss": round(2.3 - 2.2 * share, 4),
        "train_accuracy": round((final + 0.02) * share, 4),
        "learning_rate": 0.01,
        "train_seconds": 12.5 * epoch,
        "validation_seconds": 0.5 * epoch,
        "val_loss": round(2.3 - 1.7 * share, 4) if whole else None,
        "val_accuracy": round(final * share / (1 - math.exp(-9)), 4) if whole else None,
        "group_accuracy": {},
    }


def confusion(right: Sequence[int]) -> list[list[int]]:
    """Counts of ten classes of 1,000 images, mistakes going to the next class."""
    rows = []
    for k, count in enumerate(right):
        row = [0] * 10
        row[k], row[(k + 1) % 10] = count, 1000 - count
        rows.append(row)
    return rows


def content(name: str, seed: int = 0, *, right: int = 8000, epochs: float | None = None, **changes: Any) -> Any:
    """What a run of so many right test images writes; of each class, a tenth."""
    planned = PLANNED[name]
    done = float(planned if epochs is None else epochs)
    watched = "validation" if name == "three_conv" else "test"
    points = [e + part for e in range(planned) for part in (0.64, 1.0) if e + part <= done]
    return {
        "schema": 1,
        "name": name,
        "seed": seed,
        "recipe": {**RECIPES[name], "seed": seed},
        "learning_rate_found": 0.0123 if name == "custom_resnet" else None,
        "epochs_planned": float(planned),
        "epochs_run": done,
        "watched": watched,
        "kept": "best" if name == "three_conv" else "last",
        "curve": [point(name, e, right / 10_000) for e in points],
        "test": {
            "accuracy": right / 10_000,
            "loss": 0.61,
            "images": 10_000,
            "class_accuracy": dict.fromkeys(CLASSES, right / 10_000),
            "confusion": confusion([right // 10] * 10),
        },
        "train_seconds": 12.5 * done,
        "wall_seconds": 13.5 * done,
        "training_flops": 1.2e15,
        "hardware": {"device": "cpu", "processor": "a processor of 2 cores", "precision": "bf16", "threads": 1},
        "versions": {"python": "3.11.7", "torch": "2.13.0+cpu"},
        "commit": "0f" * 20,
        "data_sha256": "ab" * 32,
        "run_id": run_id(name, seed),
        "date": "2026-11-21",
        **changes,
    }


def write(folder: Path, name: str, seed: int = 0, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-seed{seed}.json"
    path.write_text(json.dumps(content(name, seed, **changes)))
    return path


def systems(folder: Path) -> dict[str, System]:
    return {s.name: s for s in side_by_side(load_published(), load_results(folder), RECIPES)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


# ------------------------------------------------------------------ result files


def test_a_result_is_read_as_it_was_written(folder: Path) -> None:
    result = read_result(write(folder, "three_conv", 2, right=6500))
    assert (result.name, result.seed, result.watched, result.kept) == ("three_conv", 2, "validation", "best")
    assert result.test is not None
    assert (result.test.accuracy, result.test.images, result.test.class_accuracy["cat"]) == (0.65, 10_000, 0.65)
    assert [p.epoch for p in result.curve[:2]] == [0.64, 1.0]
    assert [p.watched_accuracy is None for p in result.curve[:2]] == [True, False]
    assert result.seconds_an_epoch == 12.5
    assert result.whole
    assert result.machine == "cpu, a processor of 2 cores, 1 thread, bf16, torch 2.13.0+cpu"


def test_results_come_by_system_and_seed_and_other_recipes_are_left_alone(folder: Path) -> None:
    for name, seed in (("custom_resnet", 0), ("three_conv", 10), ("three_conv", 2), ("five_conv", 0)):
        write(folder, name, seed)
    (folder / "mine-seed0.json").write_text("{}")
    found = [(r.name, r.seed) for r in load_results(folder)]
    assert found == [("five_conv", 0), ("three_conv", 2), ("three_conv", 10), ("custom_resnet", 0)]
    assert load_results(folder / "nowhere") == ()


def test_a_run_that_goes_on_has_no_test_yet(folder: Path) -> None:
    result = read_result(write(folder, "custom_resnet", test=None))
    assert result.test is None
    assert not result.whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, r"schema must be 1, but got 2"),
        ({"name": "six_conv"}, r"name must be one of five_conv, three_conv, .*, but got 'six_conv'"),
        ({"name": "five_conv"}, r"a file of this run must be named five_conv-seed0\.json"),
        ({"seed": 1.0}, r"seed must be a whole number, but got 1\.0"),
        ({"seed": True}, r"seed must be a whole number, but got True"),
        ({"recipe": "three_conv"}, r"recipe must be an object, but got 'three_conv'"),
        ({"learning_rate_found": 0}, r"learning_rate_found must be finite, > 0, but got 0"),
        ({"epochs_planned": "50"}, r"epochs_planned must be a number, but got '50'"),
        ({"epochs_run": 51.0}, r"epochs_run must be finite, > 0, <= 50\.02, but got 51\.0"),
        ({"watched": "train"}, r"watched must be one of validation, test, but got 'train'"),
        ({"kept": "first"}, r"kept must be one of last, best, but got 'first'"),
        ({"curve": {}}, r"curve must be a list, but got \{\}"),
        ({"curve": [1]}, r"curve\[0\] must be an object, but got 1"),
        ({"train_seconds": float("nan")}, r"train_seconds must be finite, > 0, but got nan"),
        ({"wall_seconds": 10**400}, r"wall_seconds must be finite, > 0, but got 1000"),
        ({"hardware": {"device": ""}}, r"hardware\.device must be not empty, but got ''"),
        ({"hardware": {"device": "cpu", "processor": None}}, r"hardware\.processor must be text, but got None"),
        ({"versions": {}}, r"field 'versions\.python' must be there, but is missing"),
        ({"run_id": "mine"}, r"run_id must be 32 hexadecimal digits, but got 'mine'"),
        ({"date": "21 Nov"}, r"date must be YYYY-MM-DD, but got '21 Nov'"),
    ],
)
def test_a_broken_result_is_refused_with_file_rule_and_value(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(folder, "three_conv")
    path.write_text(json.dumps(content("three_conv") | changes))
    with pytest.raises(ResultError, match=rf"^three_conv-seed0\.json: {message}.*$") as caught:
        load_results(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": 64.76}, r"test\.accuracy must be finite, >= 0, <= 1, but got 64\.76"),
        ({"accuracy": 0.7}, r"test\.accuracy must be that of confusion, 8000 of 10000, but got 0\.7"),
        ({"loss": -1}, r"test\.loss must be finite, >= 0, but got -1"),
        ({"images": 9000}, r"test\.confusion must count the 9000 images, but got 10000"),
        ({"class_accuracy": {"cat": 0.5}}, r"test\.class_accuracy must name airplane, .*, but got \['cat'\]"),
        ({"confusion": [[1, 2]]}, r"test\.confusion must be 10 rows of 10 counts, but got \[\[1, 2\]\]"),
        ({"confusion": [[0.5] * 10] * 10}, r"test\.confusion must be 10 rows of 10 counts"),
    ],
)
def test_a_test_that_does_not_add_up_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    path = write(folder, "three_conv")
    values = content("three_conv")
    values["test"] |= changes
    path.write_text(json.dumps(values))
    with pytest.raises(ResultError, match=rf"^three_conv-seed0\.json: {message}"):
        read_result(path)


@pytest.mark.parametrize("field", sorted(set(content("three_conv")) - {"schema"}))
def test_every_field_must_be_there(folder: Path, field: str) -> None:
    path = write(folder, "three_conv")
    values = content("three_conv")
    del values[field]
    path.write_text(json.dumps(values))
    with pytest.raises(ResultError, match=rf"^three_conv-seed0\.json: field '{field}' must be there, but is missing$"):
        read_result(path)


def test_a_curve_must_rise_and_have_its_fields(folder: Path) -> None:
    points = content("three_conv")["curve"][:2]
    with pytest.raises(ResultError, match=r"curve must rise in epoch and step, but got \[\(1\.0, 2500\), \(0\.64, 16"):
        read_result(write(folder, "three_conv", curve=points[::-1]))
    del points[1]["val_loss"]
    with pytest.raises(ResultError, match=r"field 'curve\[1\]\.val_loss' must be there, but is missing"):
        read_result(write(folder, "three_conv", curve=points))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be a readable JSON file, but: Expecting property name"),
        ("[" * 100_000, "must be a readable JSON file, but: "),
        ("[]", r"must hold a JSON object, but got \[\]"),
    ],
)
def test_what_is_no_json_object_is_refused_in_one_line(folder: Path, text: str, message: str) -> None:
    path = write(folder, "block_cnn")
    path.write_text(text)
    with pytest.raises(ResultError, match=rf"^block_cnn-seed0\.json {message}") as caught:
        load_results(folder)
    assert "\n" not in str(caught.value)


def test_two_files_cannot_be_of_one_run(folder: Path) -> None:
    write(folder, "block_cnn")
    write(folder, "five_conv", run_id=run_id("block_cnn", 0))
    with pytest.raises(ResultError, match="run_id must be unique, but two files have '0002"):
        load_results(folder)


def test_epochs_are_those_of_the_shipped_recipes() -> None:
    assert all(RECIPES[name]["epochs"] == PLANNED[name] for name in SYSTEMS)


# ------------------------------------------------------------------ published curves


def test_printed_units_are_converted() -> None:
    three = load_curves("three_conv").series
    assert three["train_loss"].at(1) == pytest.approx(0.938 / 0.8)
    assert three["val_loss"].at(17) == pytest.approx(0.328 / 0.2)
    resnet = load_curves("custom_resnet")
    assert resnet.series["test_loss"].at(1) == pytest.approx(1.65)  # printed as 0.0033
    assert resnet.series["test_accuracy"].at(1) == 0.4142
    assert "train_loss" not in resnet.series
    assert resnet.seconds == pytest.approx(20.71, abs=0.01)
    five = load_curves("five_conv").series["train_loss"]
    assert (len(five.epochs), five.values[0], five.values[-1]) == (20, 1.493, 0.07)
    assert (five.epochs[0], five.epochs[-1]) == pytest.approx((0.64, 19.64))
    assert load_curves("block_cnn").series == {}


def test_curves_end_where_the_stated_figures_are() -> None:
    stated = {a.key: a for a in load_published().group("system")}
    assert tuple(stated) == SYSTEMS
    for name in ("dynamic_conv", "custom_resnet"):
        assert load_curves(name).series["test_accuracy"].values[-1] == pytest.approx(stated[name].accuracy)
    best = load_curves("dynamic_conv").best
    assert best is not None
    assert list(best) == pytest.approx([55, 0.8921])
    assert load_curves("custom_resnet").best == (24, 0.9006)
    assert load_curves("three_conv").best is None
    assert sum(load_curves("three_conv").classes.values()) / 10 == pytest.approx(stated["three_conv"].accuracy)
    assert [stated[name].stated for name in SYSTEMS] == ["84.52 %", "64.76 %", "92 %", "88.39 %", "90.06 %"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("23.389", "", r"three_conv\.csv: seconds > 0 must hold, but got ''"),
        ("0.938", "low", r"three_conv\.csv: train_loss_as_printed > 0 must hold, but got 'low'"),
        ("val_loss_as_printed", "val_loss", r"three_conv\.csv: column 'val_loss_as_printed' must be there"),
    ],
)
def test_a_broken_curve_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "three_conv.csv").write_text((DEFAULT_FOLDER / "three_conv.csv").read_text().replace(old, new, 1))
    with pytest.raises(PublishedError, match=message):
        load_curves("three_conv", tmp_path)
    with pytest.raises(PublishedError, match=r"five_conv\.csv must be a readable CSV file"):
        load_curves("five_conv", tmp_path)


def test_every_system_must_have_a_published_accuracy() -> None:
    published = load_published()
    short = replace(published, accuracies=tuple(a for a in published.accuracies if a.key != "block_cnn"))
    with pytest.raises(PublishedError, match="an accuracy 'block_cnn' of group system must be there"):
        side_by_side(short, [], RECIPES)


# ------------------------------------------------------------------ numbers


def test_losses_between_epochs_are_joined_by_their_steps(folder: Path) -> None:
    points = content("dynamic_conv", epochs=2)["curve"]
    for at, (step, loss) in zip(points, ((25, 2.0), (100, 1.0), (150, 0.8), (200, 0.6)), strict=True):
        at |= {"step": step, "train_loss": loss}
    series = our_series(read_result(write(folder, "dynamic_conv", epochs=2, curve=points)))
    assert list(series["train_loss"].epochs) == [1, 2]
    # 25 steps at 2.0 and 75 at 1.0; then 50 at 0.8 and 50 at 0.6
    assert series["train_loss"].values == pytest.approx((1.25, 0.7))
    assert list(series["test_accuracy"].epochs) == [1, 2]


def test_five_conv_keeps_the_loss_of_its_first_batches(folder: Path) -> None:
    points = content("five_conv", epochs=2)["curve"]
    for at, loss in zip(points, (1.5, 1.1, 1.0, 0.9), strict=True):
        at["train_loss"] = loss
    write(folder, "five_conv", epochs=2, curve=points)
    system = systems(folder)["five_conv"]
    series = our_series(system.runs[0])["train_loss"]
    assert series.epochs == pytest.approx((0.64, 1.64))
    assert series.values == (1.5, 1.0)
    assert system.meeting is not None
    assert [system.meeting.ours, system.meeting.published] == [1.0, 1.02]
    assert "over the first 250 batches of epoch 2 the mean training loss is 1.000" in said(system)


def said(system: System) -> str:
    return system_sentences.sentence(system).text


def test_one_run_has_the_interval_of_both_test_sets(folder: Path) -> None:
    write(folder, "five_conv", right=8500)
    system = systems(folder)["five_conv"]
    assert system.accuracy is not None
    assert system.gap is not None
    assert (system.accuracy.low, system.accuracy.high) == pytest.approx(wilson(0.85, 10_000))
    assert system.gap.mean == pytest.approx(0.0048)
    ours, theirs = wilson(0.85, 10_000), wilson(0.8452, 10_000)
    assert system.gap.interval == pytest.approx(
        (
            0.0048 - math.hypot(0.85 - ours[0], theirs[1] - 0.8452),
            0.0048 + math.hypot(ours[1] - 0.85, 0.8452 - theirs[0]),
        )
    )


def test_three_seeds_add_their_spread(folder: Path) -> None:
    for seed, right in enumerate((6400, 6500, 6600)):
        write(folder, "three_conv", seed, right=right)
    accuracy = systems(folder)["three_conv"].accuracy
    assert accuracy is not None
    assert accuracy.mean == pytest.approx(0.65)
    # Student's t with two degrees of freedom: 4.303; the standard deviation is 0.01.
    seeds = 4.302653 * 0.01 / math.sqrt(3)
    assert accuracy.mean - accuracy.low == pytest.approx(math.hypot(seeds, 0.65 - wilson(0.65, 10_000)[0]))


@pytest.mark.parametrize(
    ("right", "near", "words"),
    [
        (6540, True, "0.64 points above the published 64.76 %"),
        (6376, True, "1.00 points below the published 64.76 % .*; it counts as reproduced"),
        (6375, False, "1.01 points below .*it does not count as reproduced, though chance could explain that"),
        (6000, False, "4.76 points below .*it does not count as reproduced.$"),
        (6476, True, "level with the published 64.76 %"),
    ],
)
def test_reproduced_is_within_a_point_or_above(folder: Path, right: int, near: bool, words: str) -> None:
    # 6,375 hits leave a remainder of 5 for the last class.
    tested = content("three_conv", right=right)["test"]
    tested["confusion"] = confusion([right // 10] * 9 + [right // 10 + right % 10])
    write(folder, "three_conv", right=right, test=tested)
    system = systems(folder)["three_conv"]
    assert system.near is near
    assert re.search(words, said(system))


def test_the_best_epoch_is_compared_where_the_test_images_were_watched(folder: Path) -> None:
    values = content("dynamic_conv", 1002, right=8800)
    values["curve"][2 * 50 - 1]["val_accuracy"] = 0.8950
    write(folder, "dynamic_conv", 1002).write_text(json.dumps(values))
    system = systems(folder)["dynamic_conv"]
    assert system.best is not None
    assert system.best_gap is not None
    assert system.best_gap.mean == pytest.approx(0.8950 - 0.8921)
    assert system_sentences.best_epochs(system) == "epoch 50"
    write(folder, "three_conv")
    assert systems(folder)["three_conv"].best is None


def test_a_schedule_cut_short_is_compared_at_its_epoch_and_never_judged(folder: Path) -> None:
    values = content("dynamic_conv", 1002, right=7900, epochs=7)
    values["curve"][-1]["val_accuracy"] = 0.79
    write(folder, "dynamic_conv", 1002).write_text(json.dumps(values))
    system = systems(folder)["dynamic_conv"]
    assert (system.accuracy, system.gap, system.best, system.near) == (None, None, None, False)
    assert system.meeting is not None
    assert (system.meeting.epoch, system.meeting.ours, system.meeting.published) == (7, 0.79, 0.7847)
    assert said(system) == (
        "dynamic_conv was run for 7 of 60 planned epochs: at epoch 7 its test accuracy is 79.00 %, 0.53 points above "
        "the 78.47 % of the published curve at that epoch. What the whole schedule reaches has not been measured."
    )
    published, ours, difference, epochs, _ = system_sentences.cells(system)
    assert (published.note, ours.text, ours.note) == ("78.47 % at epoch 7", "79.00 %", "at epoch 7")
    assert (difference.text, epochs.text) == ("+0.53", "7 of 60")


def test_runs_of_different_length_meet_at_the_last_epoch_of_all(folder: Path) -> None:
    write(folder, "custom_resnet", 0, epochs=5)
    write(folder, "custom_resnet", 1, epochs=3.64)
    system = systems(folder)["custom_resnet"]
    assert system.meeting is not None
    assert system.meeting.epoch == 3
    assert system_sentences.epochs(system.judged) == "3.64 of 24 and 5 of 24"


@pytest.mark.parametrize("name", ["block_cnn", "three_conv"])
def test_without_a_published_figure_there_nothing_is_compared(folder: Path, name: str) -> None:
    write(folder, name, right=7000, epochs=3)
    system = systems(folder)[name]
    assert system.meeting is None
    assert "70.00 % on the test images; no published figure belongs to that epoch" in said(system)


def test_a_run_watched_on_validation_images_meets_the_published_curve_at_its_end_alone(folder: Path) -> None:
    write(folder, "custom_resnet", right=7800, epochs=5, watched="validation")
    system = systems(folder)["custom_resnet"]
    assert system.meeting is not None
    assert (system.meeting.epoch, system.meeting.ours) == (5, 0.78)
    notes = " ".join(note.text for note in system_sentences.notes(system))
    assert "of validation images, the published one of the test images" in notes
    assert "test at the end, ours" in {line.name for line in system.overlay.accuracies}


def test_whole_runs_count_and_those_cut_short_are_named(folder: Path) -> None:
    write(folder, "custom_resnet", 0, right=9000)
    write(folder, "custom_resnet", 1, right=5000, epochs=4)
    system = systems(folder)["custom_resnet"]
    assert system.accuracy is not None
    assert system.accuracy.run_ids == (run_id("custom_resnet", 0),)
    notes = " ".join(note.text for note in system_sentences.notes(system))
    assert "Seed 1 has not come to the end of its schedule: not counted." in notes


def test_a_run_of_another_recipe_is_shown_and_not_counted(folder: Path) -> None:
    narrow = {"recipe": {**RECIPES["dynamic_conv"], "width": 0.125, "seed": 7}}
    write(folder, "dynamic_conv", 7, **narrow)
    system = systems(folder)["dynamic_conv"]
    assert (system.judged, system.meeting, system.accuracy) == ((), None, None)
    assert said(system) == "dynamic_conv: the shipped recipe was not run yet, only another one; 88.39 % was published."
    notes = " ".join(note.text for note in system_sentences.notes(system))
    assert "Seed 7 was trained by another recipe than the shipped one (width 0.125 instead of 1.0)" in notes
    assert system.overlay.accuracies == ()


def test_classes_are_means_over_seeds_and_groups(folder: Path) -> None:
    for seed, cat in enumerate((0.50, 0.60)):
        tested = content("three_conv", right=6500)["test"]
        tested["class_accuracy"]["cat"] = cat
        write(folder, "three_conv", seed, right=6500, test=tested)
    system = systems(folder)["three_conv"]
    rows = {row.name: row for row in system.classes}
    assert [row.name for row in system.classes][:2] == ["bird", "dog"]
    assert (rows["cat"].published, rows["cat"].ours, rows["cat"].gap) == pytest.approx((0.585, 0.55, -0.035))
    assert rows["animals"].published == pytest.approx(3459 / 6000)
    assert rows["vehicles"].published == pytest.approx(3017 / 4000)
    assert rows["animals"].ours == pytest.approx((5 * 0.65 + 0.55) / 6)
    sentence = system_sentences.classes_sentence(system)
    assert sentence is not None
    assert sentence.text == (
        "The published network is right 17.78 points less often on animals than on vehicles, ours 1.67 points."
    )


def test_classes_of_a_schedule_cut_short_are_not_compared(folder: Path) -> None:
    write(folder, "three_conv", epochs=3)
    assert all(row.ours is None for row in systems(folder)["three_conv"].classes)


def test_seconds_are_a_range_where_machines_differ(folder: Path) -> None:
    write(folder, "custom_resnet", 0)
    gpu = {"device": "cuda", "processor": "a GPU", "precision": "bf16", "threads": 1}
    write(folder, "custom_resnet", 1, hardware=gpu, train_seconds=24.0)
    system = systems(folder)["custom_resnet"]
    assert system_sentences.seconds(system.judged) == "1.0 to 12.5 s"
    assert system_sentences.seconds(system.judged[:1]) == "12.5 s"
    assert [system_sentences.second(v) for v in (0.5123, 22.76, 3651.2)] == ["0.51 s", "22.8 s", "3,651 s"]


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ({}, "None of the five published systems has been run to the end"),
        ({"five_conv": 8500}, "One of the five .*: five_conv, within a point of its published accuracy, or above."),
        ({"five_conv": 8000}, "One of the five .*: five_conv, too low by more than a point."),
        ({"five_conv": 8500, "three_conv": 6500}, "Two of the five .*; each is within a point"),
        ({"five_conv": 8500, "three_conv": 6000}, "Two .*; three_conv is more than a point below the published"),
        ({"five_conv": 8000, "three_conv": 6000}, "Two .*; five_conv and three_conv are more than a point below"),
    ],
)
def test_the_headline_counts_whole_runs(folder: Path, right: dict[str, int], words: str) -> None:
    write(folder, "dynamic_conv", 1002, epochs=2)
    for name, count in right.items():
        write(folder, name, right=count)
    assert re.search(words, system_sentences.headline(list(systems(folder).values())).text)


# ------------------------------------------------------------------ figures


def test_curves_lie_over_the_published_ones(folder: Path) -> None:
    write(folder, "custom_resnet", 0)
    write(folder, "custom_resnet", 1)
    overlay = systems(folder)["custom_resnet"].overlay
    figure = json.loads(figures.overlay(overlay).to_json())
    assert figure["layout"]["yaxis"]["title"]["text"] == "accuracy (%)"
    assert figure["layout"]["yaxis2"]["title"]["text"] == "loss (nats an image)"
    assert figure["layout"]["xaxis2"]["title"]["text"] == "epoch"
    assert figure["layout"]["xaxis2"]["matches"] == "x"
    assert figure["layout"]["yaxis"]["domain"][0] > figure["layout"]["yaxis2"]["domain"][1]
    assert '"bdata"' not in json.dumps(figure)
    tested = [t for t in figure["data"] if t["name"].startswith("test") and t["yaxis"] == "y"]
    assert [(t["line"]["dash"], t["opacity"]) for t in tested] == [("solid", 1), ("solid", 0.5), ("dash", 1)]
    assert len({t["line"]["color"] for t in tested}) == 1
    assert tested[-1]["y"][-1] == 90.06
    first, second = (static_figures.overlay(overlay) for _ in range(2))
    assert first.startswith(b"\x89PNG")
    assert first == second


def test_a_figure_that_was_published_for_the_end_is_a_level(folder: Path) -> None:
    write(folder, "three_conv", right=6500)
    figure = figures.overlay(systems(folder)["three_conv"].overlay)
    assert plots.legend(figure) == [
        ("training, ours", plots.BLUE, "line"),
        ("validation, ours", plots.GREEN, "line"),
        ("test at the end, ours", plots.RUST, "dot"),
        ("test at the end, published", plots.RUST, "dots"),
        ("training, published", plots.BLUE, "dash"),
        ("validation, published", plots.GREEN, "dash"),
    ]
    level = next(t for t in figure.data if t.name == "test at the end, published")
    assert (list(level.x), list(level.y)) == ([0, 50], [64.76, 64.76])
    printed = next(t for t in figure.data if t.name == "validation, published")
    assert printed.y[0] == pytest.approx(1.13)


def test_a_run_of_less_than_an_epoch_has_no_accuracies_to_draw(folder: Path) -> None:
    write(folder, "block_cnn", epochs=0.64)
    overlay = systems(folder)["block_cnn"].overlay
    assert (overlay.accuracies, overlay.losses) == ((), ())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("five_conv", "over the first 250 batches of epoch 20 the mean training loss is"),
        ("three_conv", "validation loss is 0.60 nats an image where ours is lowest, 1.09 where the published one is"),
        ("block_cnn", "only the accuracy at the end was published, 92 %"),
        ("custom_resnet", "at epoch 24 test accuracy is 80.00 % for ours and 90.06 % as published"),
    ],
)
def test_captions_say_what_to_see(folder: Path, name: str, words: str) -> None:
    write(folder, name)
    sentence = system_sentences.sights(systems(folder)[name])
    assert words in sentence.text
    assert set(sentence.sources) == {f"run/{run_id(name, 0)}", f"source/{name}"}


# ------------------------------------------------------------------ the page


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("systems") / "results"
    for seed, right in enumerate((6400, 6500, 6600)):
        write(folder, "three_conv", seed, right=right)
    write(folder, "five_conv", right=8400)
    write(folder, "dynamic_conv", 1002, epochs=7)
    write(folder, "custom_resnet", epochs=5, test=None)
    return folder


@pytest.fixture(scope="module")
def page(results: Path) -> Path:
    out = results.parent / "out"
    assert compare.main(["systems", "--results", str(results), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def prose(page: Path) -> str:
    """The page without its scripts, in one kind of space."""
    text = re.sub(r"<script>.*?</script>", "", (page / "systems.html").read_text(), flags=re.DOTALL)
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    "words",
    [
        "Two of the five published systems were run to the end of their schedules; each is within a point",
        "five_conv reaches 84.00 % on the test images (one run), 0.52 points below the published 84.52 %",
        "three_conv reaches 65.00 % on the test images (mean of 3 runs), 0.24 points above the published 64.76 %",
        "block_cnn: not run yet; 92 % was published.",
        "dynamic_conv was run for 7 of 60 planned epochs",
        "not tested yet",
        "0.0123 (found)",
        "50 of 50",
        "22.8 s",  # an epoch of three_conv, published
        "vehicles",
        "reproduction of three_conv, seed 1, 50 of 50 epochs",
        run_id("three_conv", 1),
        "a processor of 2 cores, 1 thread, bf16",
        "undated",
    ],
)
def test_both_pages_state(page: Path, prose: str, words: str) -> None:
    assert words in prose
    assert words in (page / "systems.md").read_text()


def test_the_page_stands_alone_and_its_links_lead_somewhere(page: Path, prose: str) -> None:
    html = (page / "systems.html").read_text()
    assert html.count("plotly.js v") == 1
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', prose)) <= {"data:"}
    links = set(re.findall(r'href="#([\w-]+)"', prose))
    assert links
    assert links <= set(re.findall(r'id="([\w-]+)"', prose))
    places = re.findall(r'id="plot-(\w+)"', html)
    assert places == ["five_conv", "three_conv", "dynamic_conv", "custom_resnet"]
    assert all(f'"{place}":{{"data":' in html for place in places)


def test_markdown_pictures_lie_beside_the_page(page: Path) -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (page / "systems.md").read_text())
    assert len(pictures) == 4
    assert all((page / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_the_same_results_give_the_same_bytes(results: Path, page: Path, tmp_path: Path) -> None:
    write_systems(results, out=tmp_path)
    files = sorted(path.relative_to(page) for path in page.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((page / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_the_page_is_written_into_the_store_and_its_place_printed(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(["systems", "--results", str(results), "--store", str(tmp_path)]) == 0
    out = tmp_path / "reports" / "systems"
    assert capsys.readouterr().out.splitlines() == [f"Report: {out / 'systems.html'}", f"        {out / 'systems.md'}"]
    assert (out / "systems.md").is_file()


def test_without_a_result_one_line_says_how_to_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert compare.main(["systems", "--results", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"compare.py: error: no results in {tmp_path / 'none'}: python experiments/reproduce.py NAME makes some\n"
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["system"], "argument what: invalid choice: 'system'"),
        (["systems", "--scenario", "mine.toml"], "--study, --scenario and --tracking-uri go with the report"),
        (
            ["systems", "--study", "demo"],
            "--study, --scenario and --tracking-uri go with the report of a study, not with systems",
        ),
    ],
)
def test_wrong_arguments_get_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.main(arguments)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_broken_result_ends_both_commands_with_one_line(
    folder: Path, store: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "five_conv", kept="first")
    given = ["--store", str(store.folder), "--results", str(folder), "--out", str(tmp_path / "out")]
    for arguments in (["systems", *given], given):
        assert compare.main(arguments) == 2
        error = capsys.readouterr().err
        assert error == "compare.py: error: five_conv-seed0.json: kept must be one of last, best, but got 'first'\n"
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ their section in the report of a study


def test_the_report_of_a_study_has_the_systems_as_a_section(results: Path, store: Fake, tmp_path: Path) -> None:
    paths = write_report("demo", store=store.folder, results=results, out=tmp_path)
    html, markdown = paths.html.read_text(), paths.markdown.read_text()
    for text in (html.replace("\N{NO-BREAK SPACE}", " "), markdown):
        assert "The published systems" in text
        assert "three_conv reaches 65.00 % on the test images (mean of 3 runs)" in text
        assert "dynamic_conv was run for 7 of 60 planned epochs" in text
        assert "reproduction of five_conv, seed 0, 40 of 40 epochs" in text
        assert run_id("three_conv", 2) in text
    page = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert set(re.findall(r'href="#([\w-]+)"', page)) <= set(re.findall(r'id="([\w-]+)"', page))


def test_a_report_without_reproductions_says_so(store: Fake, tmp_path: Path) -> None:
    paths = write_report("demo", store=store.folder, results=tmp_path / "none", out=tmp_path / "out")
    for path in (paths.html, paths.markdown):
        text = path.read_text()
        assert "None of them has been trained again yet" in text
        assert text.count("not run yet") == 5
        assert "reproduction of" not in text
