"""Run the LR range test of a recipe: print the suggested peak rate, draw the curve, and log both to MLflow.

python experiments/lr_find.py RECIPE
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import torch

from cifar_core.data import Splits
from cifar_core.data.data_set import CIFAR10
from cifar_core.data.download import default_data_dir
from cifar_core.data.source import DataSource
from cifar_core.errors import UserError
from cifar_core.files import write_atomically
from cifar_core.hardware import DEVICES, Hardware, set_up_cpu
from cifar_core.lr_finder import HIGH, ITERATIONS, LEAST_STEPS, LOW, RangeTest, range_test
from cifar_core.recipe import Recipe
from cifar_core.recipes import NAMES, read_recipe
from experiments.systems.range_test import log_range_test
from sweeps.command_line import FAILED, OneLineParser, add_store, main_of, number, start, store_of
from sweeps.console import SweepConsole
from sweeps.lock import acquire
from sweeps.store import RANGE_TESTS_EXPERIMENT, Store, StoreError
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.provenance import provenance
from sweeps.tracking.tracker import MlflowTracker, RunLabel


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="lr_find.py",
        description="Train fresh weights while the learning rate rises, and suggest the rate at which the loss fell "
        "fastest (Smith, 2017).",
        epilog='learning_rate = "range-test" in a recipe does this before training. Exit code 1: MLflow lacks entries.',
    )
    parser.add_argument("recipe", metavar="RECIPE", help=f"{', '.join(NAMES)}, or a recipe file (TOML)")
    parser.add_argument("--low", type=_rate, default=LOW, metavar="LR", help="first rate (default: %(default)g)")
    parser.add_argument("--high", type=_rate, default=HIGH, metavar="LR", help="last rate (default: %(default)g)")
    parser.add_argument("--steps", type=_steps, default=ITERATIONS, metavar="N", help="default: %(default)s")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"folder of CIFAR-10 (default: {default_data_dir()})")
    add_store(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    recipe = read_recipe(options.recipe)
    if not options.low < options.high:
        raise UserError(f"`--low < --high` must hold, but got {options.low:g} and {options.high:g}")
    set_up_cpu()
    hardware = Hardware.detect(options.device)
    store = store_of(options)
    store.create()
    with acquire(store.lock(RANGE_TESTS_EXPERIMENT), RANGE_TESTS_EXPERIMENT), SweepConsole() as console:
        source = DataSource.cifar10(options.data, console.progress)
        console.plan(
            {
                "recipe": options.recipe,
                "range test": f"{options.steps} steps from {options.low:g} to {options.high:g}",
                "device": f"{hardware.describe()}, {hardware.precision}",
            }
        )
        data = source.train_val()
        found, figure, lacking = _run_range_test(options, recipe, data, hardware, store, console)
    print(f"suggested learning rate: {found.suggestion:.3g}")
    out = store.report(RANGE_TESTS_EXPERIMENT) / f"{Path(options.recipe).stem}.html"
    try:
        write_atomically(out, figure)
    except OSError as error:
        raise StoreError(f"the store {store.root} must be a folder to write to, but: {error}") from error
    print(f"curve: {out}")
    return FAILED if lacking else 0


def _run_range_test(
    options: argparse.Namespace, recipe: Recipe, data: Splits, hardware: Hardware, store: Store, console: SweepConsole
) -> tuple[RangeTest, bytes, int]:
    """Run the range test of a recipe and log it to MLflow.

    Returns:
        the range test, its figure, and the number of entries that MLflow still lacks.

    Raises:
        UserError: the test found no rate.
        OutOfMemory: the device has too little memory.
        StoreError: MLflow does not answer.
    """
    name, ends = Path(options.recipe).stem, {"low": options.low, "high": options.high, "steps": options.steps}
    tracker = MlflowTracker(store, RANGE_TESTS_EXPERIMENT, source="experiments/lr_find.py", say=console.say)
    tags = provenance(CIFAR10, hardware, torch.get_num_threads())
    parent = RunLabel(key=STUDY_KEY, name=RANGE_TESTS_EXPERIMENT, tags={"stage": "range-tests", **tags}, params={})
    tracker.open_study(parent)
    key = f"{quote(name, safe='')}-{datetime.now(UTC).isoformat(timespec='seconds')}"
    tracker.begin(
        RunLabel(
            key=key,
            name=f"range test of {name}",
            tags={"stage": "range-test", **tags},
            params={**recipe.to_dict(), **ends},
            files={"recipe.toml": recipe.to_toml().encode()},
        )
    )
    state, reason = "failed", ""
    try:
        found = range_test(recipe, data, hardware, **ends)
        figure = log_range_test(tracker, key, found)
        state = "complete"
    except UserError as error:
        reason = str(error)
        raise
    except KeyboardInterrupt:
        state, reason = "interrupted", "stopped by the user"
        raise
    finally:
        tracker.end(key, state, reason=reason)
        tracker.end_study("finished" if state == "complete" else state, {})
        lacking = tracker.finish(at_once=state == "interrupted", way="the next range test sends them")
    return found, figure, lacking


_steps = number(f"must be a whole number of at least {LEAST_STEPS}", lambda value: value >= LEAST_STEPS, int)
_rate = number("must be a number above 0", lambda value: 0 < value < float("inf"), float)


main = main_of(build_parser, _run, stopped="stopped; nothing was suggested")

if __name__ == "__main__":
    start(main)
