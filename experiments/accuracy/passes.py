"""Accuracy by learning rate after many passes over the training images, most of them over few images.

python -m experiments.accuracy.passes [--device cuda] [--results FILE]

The starting recipe of the space `full`, with the batch size and the rate that a sweep gives it at that length; the rate
is multiplied by 1/2 to 1.4. Runs that the file holds already are not repeated. Accuracies are of the 5,000 validation
images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cifar_core.budget import Budget, from_reference
from cifar_core.data.data_set import CIFAR10
from cifar_core.recipe import FIXED_SPLIT, Recipe
from experiments.accuracy import training_runs
from experiments.accuracy.training_runs import TRAIN_IMAGES, TrainingRun, WantedRun
from sweeps.command_line import OneLineParser, start
from sweeps.planning.presets import PRESETS
from sweeps.planning.search_space import reference_epochs
from sweeps.planning.space_file import SPACES
from sweeps.words import percent

RESULTS = Path(__file__).resolve().parents[1] / "data" / "passes.json"
MULTIPLES = (0.5, 0.7, 1.0, 1.4)


@dataclass(frozen=True, slots=True)
class Setting:
    """Images to train on, passes over them, and the width of the network."""

    images: int
    passes: int
    width: float = 1.0

    def __str__(self) -> str:
        return f"{self.images} images, {self.passes} passes, width {self.width:g}"


SETTINGS = (
    Setting(400, 45),
    Setting(400, 350),
    Setting(1_000, 70),
    Setting(4_000, 40),
    Setting(TRAIN_IMAGES, 30, width=0.5),  # narrow, so that the run ends within minutes on two CPU cores
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for a user's error, 130 on Ctrl-C."""
    parser = OneLineParser(prog="passes", description="Measure the best learning rate of runs of many passes.")
    return training_runs.command(parser, arguments, RESULTS, _wanted, table)


def _wanted(_: argparse.Namespace) -> Sequence[WantedRun]:
    each = ((setting, multiple) for setting in SETTINGS for multiple in MULTIPLES)
    return [WantedRun(_name(*one), recipe_of(*one), one[0].images) for one in each]


def recipe_of(setting: Setting, multiple: float) -> Recipe:
    """Return the recipe of a run: that of a trial of `quick` on so many images, extended to the passes."""
    data_set, space = replace(CIFAR10, train_images=setting.images), SPACES["full"]
    base = Recipe(epochs=reference_epochs(setting.images), val_fraction=FIXED_SPLIT)
    first = replace(space.recipe(space.starts[0], base), width=setting.width)
    trial = PRESETS["quick"].fitted(data_set).trial.apply(first, setting.images, data_set)
    passes = Budget(flops=None, max_epochs=setting.passes)
    recipe = passes.extend(from_reference(first, trial.epochs), setting.images, data_set)
    return replace(recipe, learning_rate=recipe.peak_rate * multiple, weight_decay=recipe.weight_decay / multiple)


def table(runs: Sequence[TrainingRun]) -> Iterator[str]:
    """Yield the lines of a Markdown table: a row for each setting, the best rate of each in bold."""
    yield f"| images | passes | width | {' | '.join(f'rate x {multiple:g}' for multiple in MULTIPLES)} |"
    yield f"| --- | --- | --- |{' --- |' * len(MULTIPLES)}"
    found = {run.name: run.accuracy for run in runs}
    for setting in SETTINGS:
        accuracies = [found[_name(setting, multiple)] for multiple in MULTIPLES]
        cells = [f"**{percent(one)}**" if one == max(accuracies) else percent(one) for one in accuracies]
        yield f"| {setting.images:,} | {setting.passes} | {setting.width:g} | {' | '.join(cells)} |"


def _name(setting: Setting, multiple: float) -> str:
    return f"{setting}, rate x {multiple:g}"


if __name__ == "__main__":
    start(main)
