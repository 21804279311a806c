"""Effect of each ingredient of the recipe fast94: it is left out or changed, at a small budget, over several seeds.

python -m experiments.benchmarks.ablation [--seeds 3] [--results FILE]

Runs that the file holds already are not repeated. Accuracies are of the 5,000 validation images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

import torch
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as validated

from cifar_core.budget import Budget
from cifar_core.data.download import default_data_dir, ensure_cifar10
from cifar_core.files import write_atomically
from cifar_core.hardware import DEVICES, Hardware, set_up_cpu
from cifar_core.recipe import FIXED_SPLIT, Recipe
from cifar_core.recipes import read_recipe
from cifar_core.training import EvalSchedule, TrainState, predict, train, tta_accuracy
from experiments.benchmarks import real_data
from experiments.stats import mean_interval
from sweeps.command_line import OneLineParser, output_file, positive_int, run_command
from sweeps.console import SweepConsole, percent
from sweeps.validation import STRICT, read_json

RESULTS = Path(__file__).resolve().parents[1] / "data" / "ablation.json"
BUDGET = 0.1e15  # training FLOPs of a run: some three epochs
_TRAIN_IMAGES = 45_000  # of the fixed split

# What each variant changes in fast94.
VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
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
    }
)


@validated(config=STRICT, frozen=True, kw_only=True, slots=True)
class AblationRun:
    """A run of a variant. Accuracies are shares of the validation images."""

    variant: str
    seed: int
    recipe: Mapping[str, Any]
    accuracy: float
    tta_accuracy: float
    seconds: float  # of training
    machine: str

    @property
    def is_current(self) -> bool:
        """True while the recipe is the one that is measured."""
        return self.variant in VARIANTS and self.recipe == _recipe(self.variant, self.seed).to_dict()


@validated(config=STRICT, frozen=True, kw_only=True, slots=True)
class _File:
    runs: tuple[AblationRun, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for a user's error, 130 on Ctrl-C."""
    parser = OneLineParser(prog="ablation", description="Measure the effect of each ingredient of fast94.")
    parser.add_argument("--seeds", type=positive_int, default=3, metavar="K", help="runs of each (default: 3)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    parser.add_argument("--results", type=output_file, default=RESULTS, metavar="FILE", help=f"default: {RESULTS.name}")
    options = parser.parse_args(arguments)
    return run_command(parser, lambda: _run(options), stopped="stopped; the same command resumes here")


def _run(options: argparse.Namespace) -> int:
    set_up_cpu()
    hardware = Hardware.detect(options.device)
    with SweepConsole() as console:
        ensure_cifar10(default_data_dir(), console.progress)
        runs = list(load(options.results))
        known = {(run.variant, run.seed) for run in runs if run.is_current}
        for seed in range(options.seeds):
            for variant in VARIANTS:
                if (variant, seed) in known:
                    continue
                runs.append(_measure(variant, seed, hardware))
                content = TypeAdapter(_File).dump_json(_File(runs=tuple(runs)), indent=1)
                write_atomically(options.results, content + b"\n")
                console.say(f"{variant}, seed {seed}: {percent(runs[-1].accuracy, 2)}, {runs[-1].seconds:.0f} s")
        for line in table(runs):
            print(line)
    return 0


def load(path: Path) -> tuple[AblationRun, ...]:
    """Load the runs in `path`; none if there is no file.

    Raises:
        InvalidFileError: the file is not what this command writes.
    """
    return read_json(path, _File).runs if path.exists() else ()


def _recipe(variant: str, seed: int) -> Recipe:
    recipe = replace(read_recipe("fast94"), val_fraction=FIXED_SPLIT, seed=seed, **VARIANTS[variant])
    return Budget(flops=BUDGET, max_epochs=100.0).apply(recipe, _TRAIN_IMAGES)


def _measure(variant: str, seed: int, hardware: Hardware) -> AblationRun:
    recipe, data = _recipe(variant, seed), real_data()
    state = TrainState.create(recipe, data, hardware)
    [end] = train(state, data, EvalSchedule((1.0,), (), ()))
    augmented = tta_accuracy(state.model, data.val, hardware, recipe)
    assert augmented is not None
    return AblationRun(
        variant=variant,
        seed=seed,
        recipe=recipe.to_dict(),
        accuracy=predict(state.model, data.val, hardware, recipe.normalisation).accuracy,
        tta_accuracy=augmented,
        seconds=end.train_seconds,
        machine=f"{hardware.describe()}, {hardware.precision}, torch {torch.__version__}",
    )


def table(runs: Sequence[AblationRun]) -> Iterator[str]:
    """Yield the lines of a Markdown table: mean accuracies, and their differences from fast94 seed by seed."""
    yield "| variant | seeds | accuracy | difference in points | with six views | difference in points |"
    yield "| --- | --- | --- | --- | --- | --- |"
    found = {(run.variant, run.seed, run.machine): run for run in runs if run.is_current}
    for variant in VARIANTS:
        ours = [run for run in found.values() if run.variant == variant]
        pairs = [(run, base) for run in ours if (base := found.get(("fast94", run.seed, run.machine)))]
        if pairs:
            plain = _cells(variant, [(one.accuracy, other.accuracy) for one, other in pairs])
            augmented = _cells(variant, [(one.tta_accuracy, other.tta_accuracy) for one, other in pairs])
            yield f"| {variant} | {len(pairs)} | {plain} | {augmented} |"


def _cells(variant: str, pairs: Sequence[tuple[float, float]]) -> str:
    reached = percent(fmean(one for one, _ in pairs), 2)
    if variant == "fast94":
        return f"{reached} |"
    differences = [100 * (one - other) for one, other in pairs]
    low, high = mean_interval(differences)
    return f"{reached} | {fmean(differences):+.2f} ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    sys.exit(main())
