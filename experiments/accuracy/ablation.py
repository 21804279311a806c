"""Effect of each ingredient of the recipe fast94: it is left out or changed, at a small budget, over several seeds.

python -m experiments.accuracy.ablation [--seeds 5] [--results FILE]

Runs that the file holds already are not repeated. Accuracies are of the 5,000 validation images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from cifar_core.budget import Budget
from cifar_core.data.data_set import CIFAR10
from cifar_core.recipe import FIXED_SPLIT, Recipe
from cifar_core.recipes import read_recipe
from experiments.accuracy import training_runs
from experiments.accuracy.training_runs import TRAIN_IMAGES, TrainingRun, WantedRun
from experiments.stats import mean_interval
from sweeps.command_line import OneLineParser, positive_int, start
from sweeps.words import percent

RESULTS = Path(__file__).resolve().parents[1] / "data" / "ablation.json"
BUDGET = 0.1e15  # training FLOPs of a run: some three epochs

# What each variant changes in fast94.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "fast94": {},
    "fast_resnet, with residual connections": {"model": "fast_resnet"},
    "three Newton-Schulz steps": {"orthogonalization": "newton-schulz"},
    "weight decay instead of norm reset": {"reset_norms": False},
    "AdamW for head and biases": {
        "aux_optimizer": "adamw",
        "aux_momentum": 0.9,
        "bias_lr_multiple": 1.0,
        "head_lr_multiple": 1.0,
        "decay_all": False,
    },
    "biases at a tenth of their rate": {"bias_lr_multiple": 35.3},
    "head at a third of its rate": {"head_lr_multiple": 1.8},
    "first layer never frozen": {"freeze_first": 1.0},
    "random flips": {"alternate_flip": False},
    "lookahead": {"average": "lookahead"},
    "moving average": {"average": "ema"},
    "warm-up over 10 %": {"warmup": 0.1},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "shifts of up to 4 pixels": {"translate": 4},
    "low resolution for half of training": {"low_resolution": 0.5},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for a user's error, 130 on Ctrl-C."""
    parser = OneLineParser(prog="ablation", description="Measure the effect of each ingredient of fast94.")
    parser.add_argument("--seeds", type=positive_int, default=5, metavar="K", help="runs of each (default: 5)")
    return training_runs.command(parser, arguments, RESULTS, _wanted, table)


def _wanted(options: argparse.Namespace) -> Sequence[WantedRun]:
    return [WantedRun(variant, recipe_of(variant, seed)) for seed in range(options.seeds) for variant in VARIANTS]


def recipe_of(variant: str, seed: int) -> Recipe:
    """Return the recipe of a run."""
    recipe = replace(read_recipe("fast94"), val_fraction=FIXED_SPLIT, seed=seed, **VARIANTS[variant])
    return Budget(flops=BUDGET, max_epochs=100.0).apply(recipe, TRAIN_IMAGES, CIFAR10)


def table(runs: Sequence[TrainingRun]) -> Iterator[str]:
    """Yield the lines of a Markdown table: mean accuracies, and their differences from fast94 seed by seed."""
    yield "| variant | seeds | accuracy | difference in points | with six views | difference in points |"
    yield "| --- | --- | --- | --- | --- | --- |"
    found = {(run.name, run.recipe["seed"], run.machine): run for run in runs}
    for variant in VARIANTS:
        ours = [run for run in found.values() if run.name == variant]
        pairs = [(run, base) for run in ours if (base := found.get(("fast94", run.recipe["seed"], run.machine)))]
        if pairs:
            plain = _cells(variant, [(one.accuracy, other.accuracy) for one, other in pairs])
            augmented = _cells(variant, [(one.tta_accuracy or 0, other.tta_accuracy or 0) for one, other in pairs])
            yield f"| {variant} | {len(pairs)} | {plain} | {augmented} |"


def _cells(variant: str, pairs: Sequence[tuple[float, float]]) -> str:
    reached = percent(fmean(one for one, _ in pairs), 2)
    if variant == "fast94":
        return f"{reached} |"
    differences = [100 * (one - other) for one, other in pairs]
    low, high = mean_interval(differences)
    return f"{reached} | {fmean(differences):+.2f} ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    start(main)
