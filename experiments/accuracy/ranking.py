"""Rank correlation of accuracies after a short and after a long run, by group of parameters.

python -m experiments.accuracy.ranking [--lengths 6 8 12 45 320] [--results FILE]

Each group varies its own parameters around the starting recipe of the space `full`; the others keep their start, and
the rate goes with the square root of the batch size, and both with the length of the run, as in a sweep. Runs that the
file holds already are not repeated. Accuracies are of the validation images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from cifar_core.budget import Budget, from_reference
from cifar_core.data.data_set import CIFAR10
from cifar_core.recipe import Recipe
from experiments.accuracy import training_runs
from experiments.accuracy.training_runs import TRAIN_IMAGES, TrainingRun, WantedRun
from sweeps.command_line import OneLineParser, start
from sweeps.planning.search_space import reference_epochs
from sweeps.planning.space_file import SPACES
from sweeps.words import percent

RESULTS = Path(__file__).resolve().parents[1] / "data" / "ranking.json"

# By TFLOP: three lengths for a trial, that of a confirmation, and that of a final.
LENGTHS: Mapping[str, Budget] = {
    "6": Budget(flops=6e12, max_epochs=10),
    "8": Budget(flops=8e12, max_epochs=10),
    "12": Budget(flops=12e12, max_epochs=10),
    "45": Budget(flops=45e12, max_epochs=50),
    "320": Budget(flops=320e12, max_epochs=100),
}
TRIALS, CONFIRMATION, FINAL = ("6", "8", "12"), "45", "320"
_FIRST_SEEDS = {"6": 300, "8": 0, "12": 100, "45": 200, "320": 400}

_ARCHITECTURE = "architecture and optimiser"
WIDTHS = (0.5, 0.75, 1.0, 1.25, 1.5)
_TO_THE_END = ("width", range(3))  # recipes that are trained for the length of a final too

# Gives the values of a group's recipe by its number, or draws them: parameters of the space, or fields of the recipe
# that the space holds.
GROUPS: Mapping[str, Callable[[int, np.random.Generator], dict[str, Any]]] = {
    "rate and batch size": lambda _, draw: {
        "learning_rate_multiple": float(4 ** draw.uniform(-1, 1)),
        "batch_size": int(draw.choice([128, 256, 512])),
    },
    "width": lambda number, _: {"width": WIDTHS[number]},
    "regularisation": lambda _, draw: {"label_smoothing": float(draw.uniform(0, 0.3))},
    "augmentation": lambda _, draw: {
        "translate": int(draw.integers(0, 5)),
        "cutout": int(draw.choice([0, 4, 8, 12])),
        "alternate_flip": bool(draw.integers(2)),
        "mix": str(draw.choice(["none", "mixup", "cutmix"])),
    },
    _ARCHITECTURE: lambda _, draw: {
        "model": str(draw.choice(SPACES["full"].models)),
        "optimizer": str(draw.choice(["sgd", "adamw", "muon"])),
    },
}
# The recipes of a group. Most numbers left out of the last would draw a network and optimiser again.
NUMBERS: Mapping[str, Sequence[int]] = {group: range(5) for group in GROUPS} | {
    _ARCHITECTURE: (0, 1, 2, 3, 4, 5, 7, 8, 11)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for a user's error, 130 on Ctrl-C."""
    parser = OneLineParser(prog="ranking", description="Measure which parameters a short training can rank.")
    lengths = list(LENGTHS)
    help_ = f"TFLOP to train for (default: {' '.join(lengths)})"
    parser.add_argument("--lengths", nargs="+", choices=lengths, default=lengths, metavar="TFLOP", help=help_)
    return training_runs.command(parser, arguments, RESULTS, _wanted, table)


def _wanted(options: argparse.Namespace) -> Sequence[WantedRun]:
    lengths = [length for length in LENGTHS if length in options.lengths]
    each = ((group, n, length) for length in lengths for group, n in _numbers(length))
    return [WantedRun(_name(*one), recipe_of(*one)) for one in each]


def recipe_of(group: str, number: int, length: str) -> Recipe:
    """Return a recipe of a group: the same parameters for each length in TFLOP, with other seeds."""
    drawn = GROUPS[group](number, np.random.default_rng([list(GROUPS).index(group), number]))
    space = SPACES["full"]
    values = {"mix_alpha": Recipe().mix_alpha, "weight_decay_multiple": 1.0, **space.starts[0], **drawn}
    base = Recipe(seed=_FIRST_SEEDS[length] + number, epochs=reference_epochs(TRAIN_IMAGES))
    fields = {name: value for name, value in drawn.items() if name not in space.parameters}
    recipe = replace(space.recipe(space.point_of(values.__getitem__), base), **fields)
    trials = {
        name: from_reference(recipe, LENGTHS[name].apply(recipe, TRAIN_IMAGES, CIFAR10).epochs) for name in TRIALS
    }
    return trials.get(length) or LENGTHS[length].extend(trials["12"], TRAIN_IMAGES, CIFAR10)


def table(runs: Sequence[TrainingRun]) -> Iterator[str]:
    """Yield the lines of Markdown tables.

    Spearman's rank correlations by group, and over all recipes; then the accuracy of each width by the length of a run.
    """
    quarters = [f"a quarter of {length} with its end" for length in TRIALS]
    pairs = [f"{length} with {CONFIRMATION}" for length in TRIALS]
    yield f"| parameters | recipes | {' | '.join([*quarters, *pairs])} |"
    yield f"| --- | --- |{' --- |' * (2 * len(TRIALS))}"
    found = {run.name: run for run in runs}
    for group in (*GROUPS, "all"):
        own = [(g, n) for g, n in _numbers(CONFIRMATION) if group in (g, "all")]
        ends = {length: _values(found, own, length, "accuracy") for length in (*TRIALS, CONFIRMATION)}
        cells = [_correlation(_values(found, own, length, "early"), ends[length]) for length in TRIALS]
        cells += [_correlation(ends[length], ends[CONFIRMATION]) for length in TRIALS]
        yield f"| {group} | {len(own)} | {' | '.join(cells)} |"
    yield ""
    yield f"| width alone | {' | '.join(f'{length} TFLOP' for length in LENGTHS)} |"
    yield f"| --- |{' --- |' * len(LENGTHS)}"
    for number, width in enumerate(WIDTHS):
        each = [_values(found, [("width", number)], length, "accuracy")[0] for length in LENGTHS]
        yield f"| {width:g} | {' | '.join('' if np.isnan(one) else percent(one) for one in each)} |"


def _values(found: Mapping[str, TrainingRun], own: Sequence[tuple[str, int]], length: str, field: str) -> list[float]:
    """Accuracies of these recipes; NaN of those that were not trained to this length."""
    runs = (found.get(_name(group, number, length)) for group, number in own)
    return [float(getattr(run, field)) if run else float("nan") for run in runs]


def _correlation(one: Sequence[float], other: Sequence[float]) -> str:
    pairs = np.array([pair for pair in zip(one, other, strict=True) if not np.isnan(pair).any()])
    if len(pairs) < 3 or len(set(pairs[:, 0])) < 2 or len(set(pairs[:, 1])) < 2:
        return "not measured"
    return f"{stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic:+.2f}"


def _numbers(length: str) -> list[tuple[str, int]]:
    """Return the group and the number of each recipe that is trained to this length."""
    groups = [_TO_THE_END] if length == FINAL else NUMBERS.items()
    return [(group, number) for group, numbers in groups for number in numbers]


def _name(group: str, number: int, length: str) -> str:
    return f"{group} {number}, {length} TFLOP"


if __name__ == "__main__":
    start(main)
