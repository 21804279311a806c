"""Training runs on the real data that a benchmark collects in a file, over as many calls as it takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic.dataclasses import dataclass as validated

from cifar_core.data.download import default_data_dir, ensure_cifar10
from cifar_core.hardware import DEVICES, Hardware, set_up_cpu
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, TrainState, evaluate, train
from experiments.accuracy.run_file import add, load
from experiments.benchmarks import real_data
from sweeps.command_line import OneLineParser, output_file, run_command
from sweeps.console import SweepConsole
from sweeps.validation import STRICT
from sweeps.words import percent

TRAIN_IMAGES = 45_000  # of the fixed split
_EARLY, _EARLY_IMAGES = 0.25, 1000  # where and on how many images a run is judged before its end


@validated(config=STRICT, frozen=True, kw_only=True, slots=True)
class TrainingRun:
    """A run, with accuracies as shares of the 5,000 validation images."""

    name: str
    recipe: Mapping[str, Any]
    early: float  # accuracy on the first 1,000 images after a quarter of the run
    accuracy: float
    tta_accuracy: float | None  # with the recipe's test-time augmentation, if it has one
    seconds: float  # time of training
    machine: str


def command(
    parser: OneLineParser,
    arguments: Sequence[str] | None,
    results: Path,
    wanted: Callable[[argparse.Namespace], Sequence[tuple[str, Recipe]]],
    table: Callable[[Sequence[TrainingRun]], Iterable[str]],
) -> int:
    """Run a command that trains the wanted recipes, those already in the results file aside, and prints a table.

    Args:
        parser: parser with the options of this command alone; `--device` and `--results` are added.
        results: the default of its option `--results`.

    Returns:
        its exit code: 0, 2 for a user's error, 130 on Ctrl-C.
    """
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    shown = f"experiments/data/{results.name}"
    parser.add_argument("--results", type=output_file, default=results, metavar="FILE", help=f"default: {shown}")
    options = parser.parse_args(arguments)

    def run() -> int:
        set_up_cpu()
        with SweepConsole() as console:
            ensure_cifar10(default_data_dir(), console.progress)
            runs = complete(options.results, wanted(options), Hardware.detect(options.device), console.say)
        for line in table(runs):
            print(line)
        return 0

    return run_command(parser, run, stopped="stopped; the same command resumes here")


def complete(
    path: Path, wanted: Sequence[tuple[str, Recipe]], hardware: Hardware, say: Callable[[str], None]
) -> tuple[TrainingRun, ...]:
    """Train the recipes that the file does not hold, write each to it, and return the runs of all wanted ones.

    Raises:
        InvalidFileError: the file is not what this function writes.
        RecipeError: it holds a run under a wanted name whose recipe is not valid.
    """
    runs = load(path, TrainingRun)
    for name, recipe in wanted:
        if not any(is_of(run, name, recipe) for run in runs):
            run = measure(name, recipe, hardware)
            runs = add(path, run, partial(is_of, name=name, recipe=recipe))
            say(f"{name}: {percent(run.accuracy, 2)}, {run.seconds:.0f} s")
    return tuple(run for run in runs if any(is_of(run, *one) for one in wanted))


def is_of(run: TrainingRun, name: str, recipe: Recipe) -> bool:
    """Return true if this is the run of that recipe under that name; it may be older than a field with a default."""
    return run.name == name and Recipe.from_dict(run.recipe) == recipe


def measure(name: str, recipe: Recipe, hardware: Hardware) -> TrainingRun:
    """Train a recipe on the 45,000 training images."""
    data = real_data()
    state = TrainState.create(recipe, data, hardware)
    early, end = train(state, data, EvalSchedule((1.0,), {_EARLY: _EARLY_IMAGES}))
    predictions, augmented = evaluate(state.model, data.val, hardware, recipe)
    assert early.val_accuracy is not None
    return TrainingRun(
        name=name,
        recipe=recipe.to_dict(),
        early=early.val_accuracy,
        accuracy=predictions.accuracy,
        tta_accuracy=augmented,
        seconds=end.train_seconds,
        machine=machine(hardware),
    )


def machine(hardware: Hardware) -> str:
    """Describe what runs are trained on."""
    return f"{hardware.describe()}, {hardware.precision}, torch {torch.__version__}"
