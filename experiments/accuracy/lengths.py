"""Accuracy of fast94 by learning rate and batch size after short and long runs: how the best rate falls with length.

python -m experiments.accuracy.lengths [--device cuda] [--results FILE]

The rate of fast94 goes with the square root of the batch size, and is multiplied by 1/2 to 4. Runs that the file holds
already are not repeated. Accuracies are of the 5,000 validation images.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cifar_core.budget import Budget
from cifar_core.data.data_set import CIFAR10
from cifar_core.recipe import FIXED_SPLIT, Recipe
from cifar_core.recipes import read_recipe
from experiments.accuracy import training_runs
from experiments.accuracy.training_runs import TRAIN_IMAGES, TrainingRun, WantedRun
from sweeps.command_line import OneLineParser, start
from sweeps.words import percent

RESULTS = Path(__file__).resolve().parents[1] / "data" / "lengths.json"
BUDGETS = (12, 60, 240)  # TFLOP: the preset `quick` has 6, 45 and 320 in its trials, confirmations and final
BATCH_SIZES = (128, 256, 512, 1000, 2000)
MULTIPLES = (0.5, 1.0, 2.0, 4.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for a user's error, 130 on Ctrl-C."""
    description = "Measure how the best learning rate and batch size change with the length of a run."
    parser = OneLineParser(prog="lengths", description=description)
    return training_runs.command(parser, arguments, RESULTS, _wanted, table)


def _wanted(_: argparse.Namespace) -> Sequence[WantedRun]:
    each = ((budget, size, multiple) for budget in BUDGETS for size in BATCH_SIZES for multiple in MULTIPLES)
    return [WantedRun(_name(*one), recipe_of(*one)) for one in each]


def recipe_of(budget: int, batch_size: int, multiple: float) -> Recipe:
    """Return the recipe of a run of `budget` TFLOP."""
    base = read_recipe("fast94")
    rate = base.peak_rate * math.sqrt(batch_size / base.batch_size) * multiple
    recipe = replace(base, batch_size=batch_size, learning_rate=rate, val_fraction=FIXED_SPLIT)
    return Budget(flops=budget * 1e12, max_epochs=100.0).apply(recipe, TRAIN_IMAGES, CIFAR10)


def table(runs: Sequence[TrainingRun]) -> Iterator[str]:
    """Yield the lines of a Markdown table: a row for each budget and batch size, the best rate of each in bold."""
    yield f"| TFLOP | batch size | {' | '.join(f'rate x {multiple:g}' for multiple in MULTIPLES)} |"
    yield f"| --- | --- |{' --- |' * len(MULTIPLES)}"
    found = {run.name: run.accuracy for run in runs}
    for budget in BUDGETS:
        for size in BATCH_SIZES:
            accuracies = [found.get(_name(budget, size, multiple)) for multiple in MULTIPLES]
            best = max(accuracy or 0.0 for accuracy in accuracies)
            shown = ["" if each is None else percent(each) for each in accuracies]
            cells = [f"**{text}**" if each == best else text for text, each in zip(shown, accuracies, strict=True)]
            yield f"| {budget} | {size} | {' | '.join(cells)} |"


def _name(budget: int, batch_size: int, multiple: float) -> str:
    return f"{budget} TFLOP, batch size {batch_size}, rate x {multiple:g}"


if __name__ == "__main__":
    start(main)
