"""Train the published systems and other recipes, log them to MLflow, and write one JSON file per run.

    python experiments/reproduce.py NAME... | all [--epochs N] [--seeds K] [--device cpu|cuda|mps]
    python experiments/reproduce.py run:RUN

The second trains a run of a study again, and says whether the result is the same; it writes nothing.
The same command resumes after an interruption. `python experiments/compare.py systems` compares the results with the
published ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cifar_core.data import load_test, load_train
from cifar_core.data.download import default_data_dir, ensure_cifar10
from cifar_core.errors import UserError
from cifar_core.hardware import DEVICES, Hardware, set_up_cpu
from cifar_core.recipe import Recipe, RecipeError
from cifar_core.recipes import NAMES, expand, read_recipe
from experiments.reading.named_runs import run_named
from experiments.reading.results import RESULTS
from experiments.reading.study_reader import StudyReader
from experiments.systems.rerun import rerun
from experiments.systems.training import DivergedError, ReproductionContext, open_tracker, reproduce
from sweeps.command_line import (
    FAILED,
    USAGE,
    OneLineParser,
    add_store,
    main_of,
    number,
    positive_int,
    print_error,
    start,
    store_of,
)
from sweeps.console import SweepConsole
from sweeps.lock import acquire
from sweeps.snapshot import readable
from sweeps.store import SYSTEMS_EXPERIMENT, StoreError


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="reproduce.py",
        description="Train published systems as they were described, or other recipes, log to MLflow, and write one "
        "JSON file per run. "
        "The same command resumes after an interruption.",
        epilog="After a run that diverged or that you must mend, the others are still trained. Exit code 1: a run "
        "diverged, MLflow lacks entries, or a run of a study came to another result. Compare the results with the "
        "published ones: `python experiments/compare.py systems`.",
    )
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help=f"{', '.join(NAMES)}, a TOML file, or all: the published ones; or run:RUN, a run of a study: its id or "
        "its first letters, its name, STUDY/KEY or champion",
    )
    parser.add_argument("--epochs", type=_epochs, metavar="N", help="end after N epochs of the unchanged schedule")
    parser.add_argument("--seeds", type=positive_int, default=1, metavar="K", help="runs of each (default: 1)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"folder of CIFAR-10 (default: {default_data_dir()})")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="a run that is complete in this folder is not trained again (default: experiments/data/results, which "
        "holds those that we made)",
    )
    add_store(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    if any(name.startswith(_RUN) for name in options.names):
        return _rerun(options)
    runs = list(_runs(options))
    set_up_cpu()
    hardware = Hardware.detect(options.device)
    store = store_of(options)
    data_dir = options.data or default_data_dir()
    store.create()
    try:
        options.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"--results must be a folder to write to, but: {error}") from error
    with acquire(store.lock(SYSTEMS_EXPERIMENT), SYSTEMS_EXPERIMENT), SweepConsole() as console:
        ensure_cifar10(data_dir, console.progress)
        console.plan(
            {
                "runs": ", ".join(f"{name} seed {recipe.seed}" for name, recipe in runs),
                "device": f"{hardware.describe()}, {hardware.precision}",
                "results": str(options.results),
            }
        )
        tracker = open_tracker(store, hardware, console.say)
        everything, test = load_train(data_dir), load_test(data_dir)
        context = ReproductionContext(everything, test, hardware, store, tracker, options.results, console)
        state, stopped = "interrupted", False
        try:
            failed = _train_all(runs, options.epochs, context)
            state = "interrupted" if failed else "finished"
        except KeyboardInterrupt:
            stopped = True
            raise
        finally:
            tracker.end_study(state, {})
            try:
                lacking = tracker.finish(at_once=stopped)
            except KeyboardInterrupt:  # while it waited for MLflow
                tracker.finish(at_once=True)
                raise
    return failed or (FAILED if lacking else 0)


def _train_all(runs: Sequence[tuple[str, Recipe]], epochs: float | None, context: ReproductionContext) -> int:
    """Train the runs; return the exit code of the worst that befell one, 0 if nothing did.

    Raises:
        StoreError: results cannot be written.
    """
    failed = 0
    for name, recipe in runs:
        try:
            reproduce(name, recipe, epochs, context)
        except StoreError:  # the next one could not write either
            raise
        except (UserError, DivergedError) as error:
            print_error("reproduce.py", error)
            failed = max(failed, USAGE if isinstance(error, UserError) else FAILED)
    return failed


def _rerun(options: argparse.Namespace) -> int:
    """Train a run of a study again; return 1 if that came to another result.

    Raises:
        RecipeError: options that have no meaning for it.
        UserError: as for `rerun`.
    """
    if len(options.names) > 1 or options.epochs is not None or options.seeds > 1:
        raise RecipeError(
            f"{_RUN}RUN must stand alone, without --epochs and --seeds, but got {' '.join(options.names)}"
        )
    with readable(store_of(options)) as store, SweepConsole() as console:
        reader = StudyReader(store)
        run = run_named(options.names[0].removeprefix(_RUN), reader)
        found = rerun(run, reader, options.data, options.device, console)
    print("\n".join(found.lines()))
    return 0 if found.identical else FAILED


def _runs(options: argparse.Namespace) -> Iterator[tuple[str, Recipe]]:
    """Yield names and recipes of all runs, first seeds first.

    Raises:
        RecipeError: a recipe that cannot be read, or two for one result file.
    """
    recipes: dict[str, Recipe] = {}
    for name in expand(options.names, "all"):
        if Path(name).stem in recipes:
            raise RecipeError(f"recipes must have different names, but {Path(name).stem!r} was given twice")
        recipes[Path(name).stem] = read_recipe(name)
    for seed in range(options.seeds):
        for name, recipe in recipes.items():
            yield name, replace(recipe, seed=recipe.seed + seed)


_RUN = "run:"  # before the name of a run of a study
_epochs = number("must be a number above 0 and at most 10000", lambda value: 0 < value <= 10_000, float)


main = main_of(build_parser, _run, stopped="stopped; the same command resumes (run:RUN starts again)")

if __name__ == "__main__":
    start(main)
