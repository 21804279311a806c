"""Training runs on the real data that a benchmark collects in a file, over as many calls as it takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic.dataclasses import dataclass as validated

from cifar_core.data import nested_places
from cifar_core.data.data_set import CIFAR10
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

TRAIN_IMAGES = CIFAR10.train_images  # of the fixed split
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


@dataclass(frozen=True, slots=True)
class WantedRun:
    """A run to measure, on all training images or fewer: about as many of each class, drawn with the recipe's seed."""

    name: str  # another one for other images or another recipe
    recipe: Recipe
    images: int = TRAIN_IMAGES

    def is_measured_by(self, run: TrainingRun) -> bool:
        """Return true if `run` is this one; it may be older than a field of the recipe with a default."""
        return run.name == self.name and Recipe.from_dict(run.recipe) == self.recipe


def command(
    parser: OneLineParser,
    arguments: Sequence[str] | None,
    results: Path,
    wanted: Callable[[argparse.Namespace], Sequence[WantedRun]],
    table: Callable[[Sequence[TrainingRun]], Iterable[str]],
) -> int:
    """Run a command that measures the wanted runs, those already in the results file aside, and prints a table.

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
    path: Path, wanted: Sequence[WantedRun], hardware: Hardware, say: Callable[[str], None]
) -> tuple[TrainingRun, ...]:
    """Measure the wanted runs that the file does not hold, write each to it, and return all wanted ones.

    Raises:
        InvalidFileError: the file is not what this function writes.
        RecipeError: it holds a run under a wanted name whose recipe is not valid.
    """
    runs = load(path, TrainingRun)
    for one in wanted:
        if not any(map(one.is_measured_by, runs)):
            run = measure(one, hardware)
            runs = add(path, run, one.is_measured_by)
            say(f"{run.name}: {percent(run.accuracy, 2)}, {run.seconds:.0f} s")
    return tuple(run for run in runs if any(one.is_measured_by(run) for one in wanted))


def measure(wanted: WantedRun, hardware: Hardware) -> TrainingRun:
    """Train a recipe, and evaluate it on the 5,000 validation images."""
    data, recipe = real_data(), wanted.recipe
    if wanted.images < len(data.train):
        data = replace(data, train=data.train.part(nested_places(data.train.labels, wanted.images, recipe.seed)))
    state = TrainState.create(recipe, data, hardware)
    early, end = train(state, data, EvalSchedule((1.0,), {_EARLY: _EARLY_IMAGES}))
    predictions, augmented = evaluate(state.model, data.val, hardware, recipe)
    assert early.val_accuracy is not None
    return TrainingRun(
        name=wanted.name,
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
