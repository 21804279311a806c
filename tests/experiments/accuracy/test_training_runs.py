"""Training runs in a file: what it holds is not trained again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_core.data import Split, Splits
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, Progress, TrainState, train
from experiments.accuracy import training_runs
from experiments.accuracy.run_file import add, load
from experiments.accuracy.training_runs import TrainingRun, WantedRun, measure
from sweeps.command_line import OneLineParser
from tests.sweeps.small_data import CPU, small_splits

RECIPE = Recipe(model="fast_resnet", width=0.125, batch_size=32, epochs=1.0, tta="mirror")


def run_of(wanted: WantedRun, accuracy: float = 0.9) -> TrainingRun:
    """A run as if it had been measured."""
    return TrainingRun(
        name=wanted.name,
        recipe=wanted.recipe.to_dict(),
        early=0.1,
        accuracy=accuracy,
        tta_accuracy=None,
        seconds=1.0,
        machine="m",
    )


def test_a_run_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_runs, "real_data", small_splits)
    run = measure(WantedRun("mine", RECIPE), CPU)
    assert (run.name, run.recipe) == ("mine", RECIPE.to_dict())
    assert WantedRun("mine", RECIPE).is_measured_by(run)
    assert 0 <= run.early <= 1
    assert 0 <= run.accuracy <= 1
    assert run.tta_accuracy is not None
    assert run.seconds > 0


def test_few_images_are_drawn_evenly_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Split] = []

    def watch(state: TrainState, data: Splits, schedule: EvalSchedule) -> Iterator[Progress]:
        trained.append(data.train)
        return train(state, data, schedule)

    monkeypatch.setattr(training_runs, "real_data", small_splits)
    monkeypatch.setattr(training_runs, "train", watch)
    for seed in (0, 0, 1):
        measure(WantedRun("few", replace(RECIPE, seed=seed, batch_size=8), images=30), CPU)
    first, again, other = trained
    assert first.labels.bincount().tolist() == other.labels.bincount().tolist() == [3] * 10
    assert first.images.equal(again.images)
    assert not first.images.equal(other.images)


def test_runs_of_the_file_are_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []

    def pretend(wanted: WantedRun, hardware: Hardware) -> TrainingRun:
        measured.append(wanted.name)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return run_of(wanted)

    def call(recipes: list[Recipe]) -> int:
        wanted = [WantedRun(str(number), recipe) for number, recipe in enumerate(recipes)]
        arguments = ["--device", "cpu", "--results", str(tmp_path / "runs.json")]
        parser = OneLineParser(prog="try")
        return training_runs.command(parser, arguments, tmp_path, lambda _: wanted, lambda r: map(str, map(len, [r])))

    monkeypatch.setattr(training_runs, "measure", pretend)
    monkeypatch.setattr(training_runs, "ensure_cifar10", lambda folder, progress: None)
    recipes = [replace(RECIPE, seed=seed) for seed in range(4)]
    assert call(recipes) == 130
    assert [run.name for run in load(tmp_path / "runs.json", TrainingRun)] == measured[:2] == ["0", "1"]
    assert call(recipes) == 0
    assert measured[3:] == ["2", "3"]
    recipes[1] = replace(RECIPE, cutout=4)
    assert call(recipes) == 0
    assert measured[5:] == ["1"], "the run of another recipe under its name does not count"
    assert capsys.readouterr().out.splitlines()[-1] == "4"


def test_a_run_from_before_a_field_of_recipes_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(wanted: WantedRun, hardware: Hardware) -> TrainingRun:
        raise AssertionError(f"{wanted.name} is in the file")

    monkeypatch.setattr(training_runs, "measure", never)
    older = {name: value for name, value in RECIPE.to_dict().items() if name != "cutout"}
    kept = replace(run_of(WantedRun("mine", RECIPE)), recipe=older)
    add(tmp_path / "runs.json", kept, lambda run: False)
    assert training_runs.complete(tmp_path / "runs.json", [WantedRun("mine", RECIPE)], CPU, print) == (kept,)


def test_what_another_process_adds_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.json"

    def meanwhile(wanted: WantedRun, hardware: Hardware) -> TrainingRun:
        if wanted.name == "ours":
            training_runs.complete(path, [WantedRun("theirs", RECIPE)], hardware, lambda line: None)
        return run_of(wanted)

    monkeypatch.setattr(training_runs, "measure", meanwhile)
    training_runs.complete(path, [WantedRun("ours", RECIPE)], CPU, lambda line: None)
    assert [run.name for run in load(path, TrainingRun)] == ["theirs", "ours"]
