"""Train the published systems again, and keep what came out as one JSON file a run.

    python experiments/reproduce.py NAME... | all [--epochs N] [--seeds K] [--device cpu|cuda|mps]

The same command after an interruption goes on where it was. Set beside the published results by
`python experiments/compare.py systems`.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import hashlib
import json
import math
import platform
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from cifar_core.budget import step_flops
from cifar_core.checkpoint import Checkpoints, save_state, write_atomically
from cifar_core.data import (
    CLASSES,
    DATA_SHA256,
    DataError,
    Split,
    Splits,
    fixed_split,
    hold_out,
    load_test,
    load_train,
)
from cifar_core.download import default_data_dir, ensure_cifar10
from cifar_core.hardware import DEVICES, Hardware, HardwareError
from cifar_core.lr_finder import RangeTestError, settle
from cifar_core.models import build_model, count_parameters
from cifar_core.recipe import FIXED_SPLIT, Recipe, RecipeError
from cifar_core.training import Progress, TrainState, Watch, predict, total_steps, train
from experiments.lr_find import log_range_test
from sweeps import artifacts
from sweeps.command_line import USAGE, OneLineParser, number, positive_int
from sweeps.console import SweepConsole, percent
from sweeps.executors.protocol import Outcome, Point
from sweeps.provenance import provenance
from sweeps.recipes import SYSTEMS, expand, read_recipe
from sweeps.store import DEFAULT_STORE, Store, StoreError
from sweeps.tracking import MlflowTracker, RunLabel, Tracker

RESULTS = Path(__file__).resolve().with_name("results")
EXPERIMENT = "systems"  # of MLflow
SCHEMA = 1

# Of an epoch: where its first 250 batches of 128 end, of which one published curve is the mean loss, and its end.
_LOSSES = (250 * 128 / 50_000, 1.0)


class Stopped(Exception):
    """SIGINT or SIGTERM; what was trained so far is kept."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal = signal_number


class Diverged(Exception):
    """A loss that is no longer finite; the message is one line."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs of one command share."""

    everything: Split  # the 50,000 training images
    test: Split
    hardware: Hardware
    store: Store
    tracker: Tracker
    results: Path
    console: SweepConsole


@dataclass(slots=True)
class Result:
    """What one run came to; `to_json` is what is written."""

    name: str
    recipe: Recipe  # as it was asked for: its learning rate may be "range-test"
    watched: str  # what the curve's val_loss and val_accuracy were measured on: validation or test
    learning_rate_found: float | None = None
    curve: list[Point] = field(default_factory=list)
    test: Outcome | None = None
    confusion: list[list[int]] = field(default_factory=list)
    wall_seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)  # hardware, versions, commit, run_id, date

    @property
    def title(self) -> str:
        return f"{self.name} seed {self.recipe.seed}"

    @property
    def steps(self) -> int:
        """Optimiser steps up to the last point of the curve."""
        return self.curve[-1].step if self.curve else 0

    @property
    def epochs_run(self) -> float:
        return self.curve[-1].epoch if self.curve else 0.0

    @property
    def training_flops(self) -> float:
        return float(_step_flops(self.recipe)) * self.steps

    def to_json(self) -> dict[str, Any]:
        test = self.test
        return {
            "schema": SCHEMA,
            "name": self.name,
            "seed": self.recipe.seed,
            "recipe": self.recipe.to_dict(),
            "learning_rate_found": self.learning_rate_found,
            "epochs_planned": self.recipe.epochs,
            "epochs_run": self.epochs_run,
            "watched": self.watched,
            "kept": "best" if self.recipe.keep_best else "last",
            "test": test
            and {
                "accuracy": test.accuracy,
                "loss": test.loss,
                "images": test.images,
                "class_accuracy": dict(zip(CLASSES, test.class_accuracy, strict=True)),
                "confusion": self.confusion,
            },
            "train_seconds": self.curve[-1].train_seconds if self.curve else 0.0,
            "wall_seconds": self.wall_seconds,
            "training_flops": self.training_flops,
            **self.facts,
            "curve": [asdict(point) for point in self.curve],
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for arguments that cannot be, 130 or 143 when interrupted.

    1 stands for a run that diverged.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        runs = list(_runs(options))
        hardware = Hardware.detect(options.device)
        store = Store.locate(options.store, tracking_uri=options.tracking_uri)
        data_dir = options.data or default_data_dir()
        store.create()
        _make_folder(options.results)
        with SweepConsole() as console:
            ensure_cifar10(data_dir, console.progress)
            console.plan(
                {
                    "runs": ", ".join(f"{name} seed {recipe.seed}" for name, recipe in runs),
                    "device": f"{hardware.describe()}, {hardware.precision}",
                    "results": str(options.results),
                }
            )
            setting = Setting(
                everything=load_train(data_dir),
                test=load_test(data_dir),
                hardware=hardware,
                store=store,
                tracker=_open_tracker(store, hardware),
                results=options.results,
                console=console,
            )
            for number_ in (signal.SIGINT, signal.SIGTERM):  # not before: a download ends at once
                signal.signal(number_, _stop)
            ending = "interrupted"
            try:
                for name, recipe in runs:
                    reproduce(name, recipe, options.epochs, setting)
                ending = "finished"
            finally:
                setting.tracker.end_study(ending, {})
    except (RecipeError, RangeTestError, HardwareError, StoreError, DataError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return USAGE
    except Diverged as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print("stopped; the same command goes on from here")
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("stopped before training; the same command begins again", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="reproduce.py",
        description="Train published systems as they were described, log to MLflow, and write one JSON file a run. "
        "The same command after an interruption goes on.",
        epilog="Set them beside the published results with `python experiments/compare.py systems`.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"{', '.join(SYSTEMS)}, all, or a TOML file")
    parser.add_argument("--epochs", type=_epochs, metavar="N", help="end after N epochs of the schedule, as it stands")
    parser.add_argument("--seeds", type=positive_int, default=1, metavar="K", help="runs of each (default: 1)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"CIFAR-10 (default: {default_data_dir()})")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: experiments/results")
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="default: mlruns")
    parser.add_argument("--tracking-uri", metavar="URI", help="an MLflow server in place of the store's database")
    return parser


def reproduce(name: str, recipe: Recipe, epochs: float | None, setting: Setting) -> Result:
    """Train `recipe` for `epochs` of its epochs, or all, from wherever an earlier call left it.

    Raises:
        RangeTestError: a range test was asked for, and found no rate.
        Diverged: a loss was no longer finite.
        Stopped: SIGINT or SIGTERM; a later call goes on.
    """
    console, tracker = setting.console, setting.tracker
    key = f"{name}-seed{recipe.seed}-{_digest(recipe)}"
    path = setting.results / f"{name}-seed{recipe.seed}.json"
    data = _split(recipe, setting)
    steps = total_steps(recipe, len(data.train))
    goal = steps if epochs is None else min(steps, round(epochs / recipe.epochs * steps))
    result = _earlier(path, name, recipe)
    if result.steps >= goal and result.test is not None:
        console.say(f"{result.title}: nothing is left to do, {path} holds {result.epochs_run:g} epochs")
        return result
    if path.exists() and not result.curve:
        console.say(f"{result.title}: {path} does not hold this run, and will be replaced")

    checkpoints = Checkpoints(setting.store.checkpoints(EXPERIMENT, key))
    tracker.begin(_label(name, key, recipe, setting))
    try:
        state = _train(key, path, goal, data, result, checkpoints, setting)
        _test(key, path, state, data, result, setting)
    except Stopped:
        tracker.end(key, "interrupted", reason="stopped by the user", metrics=_costs(result))
        raise
    except (RangeTestError, Diverged) as error:
        tracker.end(key, "failed", reason=str(error), metrics=_costs(result))
        raise
    if state.step == state.total_steps:
        checkpoints.clear()
    else:
        console.say(
            f"{result.title}: {result.epochs_run:g} of {recipe.epochs:g} epochs were run; without --epochs it goes on"
        )
    return result


def _train(
    key: str, path: Path, goal: int, data: Splits, result: Result, checkpoints: Checkpoints, setting: Setting
) -> TrainState:
    """Train up to the first point of the curve at step `goal` or after it, from where `result` stands.

    Raises:
        RangeTestError, Diverged, Stopped: as for `reproduce`.
    """
    recipe, tracker = result.recipe, setting.tracker
    state = _resume(path, result, checkpoints, data, setting)
    anew = state is None
    if state is None:
        result.curve, result.wall_seconds = [], 0.0
        settled, found = settle(recipe, data, setting.hardware)
        if found is not None:
            setting.console.say(
                f"{result.title}: the range test suggests a peak learning rate of {found.suggestion:.3g}"
            )
            result.learning_rate_found = found.suggestion
            log_range_test(tracker, key, found)
        state = TrainState.create(settled, data, setting.hardware)
    run_id = tracker.run_id(key)
    result.facts = _facts(setting.hardware, run_id)
    if state.step >= goal:  # stopped between the last step and the test
        return state
    before, started = result.wall_seconds, time.perf_counter()
    for progress in train(state, data, _watch(recipe, len(data.val))):
        point = Point.of(progress)
        if not math.isfinite(point.train_loss) or not math.isfinite(point.val_loss or 0.0):
            raise Diverged(f"a loss must stay finite, but that of {result.title} did not, up to step {point.step}")
        tracker.point(key, point, met="test" if result.watched == "test" else "val")
        result.curve.append(point)
        result.wall_seconds = before + time.perf_counter() - started
        result.test = None
        if progress.validation is not None and result.watched == "test":
            setting.store.record_test_look(
                study=EXPERIMENT, run_id=run_id, accuracy=progress.validation.accuracy, images=len(data.val)
            )
        # The file comes first: a checkpoint then never stands for points that are in no file.
        _write(path, result)
        if anew:
            checkpoints.clear()  # later ones of an earlier run would be taken for the newest
            anew = False
        checkpoints.save(state)
        if progress.validation is not None:
            setting.console.say(_line(progress, result))
        if progress.step >= goal:
            break
    return state


def _runs(options: argparse.Namespace) -> Iterator[tuple[str, Recipe]]:
    """Names and recipes of all runs, first seeds first.

    Raises:
        RecipeError: a recipe that cannot be read, or two that would be written to the same file.
    """
    recipes: dict[str, Recipe] = {}
    for name in expand(options.names, "all"):
        if Path(name).stem in recipes:
            raise RecipeError(f"recipes must have names of their own, but {Path(name).stem!r} was given twice")
        recipes[Path(name).stem] = read_recipe(name)
    for seed in range(options.seeds):
        for name, recipe in recipes.items():
            yield name, replace(recipe, seed=recipe.seed + seed)


def _split(recipe: Recipe, setting: Setting) -> Splits:
    """What `recipe` trains on, and what is met after each epoch: without a validation split, the test set.

    The test set then draws the curve that was published, and no choice is made by it.
    """
    if recipe.val_fraction == 0:
        return Splits(train=setting.everything, val=setting.test)
    if recipe.val_fraction == FIXED_SPLIT:
        return fixed_split(setting.everything)
    return hold_out(setting.everything, recipe.val_fraction, recipe.seed)


def _watch(recipe: Recipe, images: int) -> Watch:
    whole = int(recipe.epochs)
    ends = [epoch / recipe.epochs for epoch in range(1, whole + 1)]
    if whole < recipe.epochs:
        ends.append(1.0)
    losses = sorted({min(1.0, (epoch + part) / recipe.epochs) for epoch in range(len(ends)) for part in _LOSSES})
    return Watch(tuple(losses), tuple(ends), (images,) * len(ends))


def _resume(path: Path, result: Result, checkpoints: Checkpoints, data: Splits, setting: Setting) -> TrainState | None:
    """The newest checkpoint that `result` reaches to, with `result` cut to where it stands."""
    recipe, say = result.recipe, setting.console.say
    if result.learning_rate_found is not None:
        recipe = replace(recipe, learning_rate=result.learning_rate_found)
    state = checkpoints.load(recipe, data, setting.hardware, say)
    if state is None:
        return None
    if not any(point.step == state.step for point in result.curve):
        say(f"{result.title}: begins again, as {path} does not hold its points up to step {state.step}")
        return None
    result.curve = [point for point in result.curve if point.step <= state.step]
    say(f"{result.title}: goes on after {result.curve[-1].epoch:g} epochs")
    return state


def _test(key: str, path: Path, state: TrainState, data: Splits, result: Result, setting: Setting) -> None:
    """Meet the test set with the weights that the recipe keeps, and end the run."""
    recipe, tracker, store = result.recipe, setting.tracker, setting.store
    save_state(state, store.weights(EXPERIMENT, key))
    if state.best:  # also where only a part of the schedule was run
        state.model.load_state_dict(state.best)
    predictions = predict(state.model, setting.test, setting.hardware, recipe.normalisation)
    files = artifacts.of_training(recipe, state.model, data.train)
    validation = None
    if result.watched == "validation":
        kept = predict(state.model, data.val, setting.hardware, recipe.normalisation)
        validation = Outcome.of(kept, files | artifacts.of_predictions(data.val, kept))
        files = {}
    result.test = Outcome.of(predictions, files | artifacts.of_test(setting.test, predictions))
    result.confusion = predictions.confusion().tolist()
    run_id = tracker.tested(key, result.test, {"epochs_run": f"{result.epochs_run:g}"})
    store.record_test_look(study=EXPERIMENT, run_id=run_id, accuracy=predictions.accuracy, images=len(predictions))
    tracker.end(key, "complete", outcome=validation, metrics=_costs(result))
    _write(path, result)
    setting.console.say(
        f"{result.title}: {percent(predictions.accuracy, 2)} of the test set after {result.epochs_run:g} epochs; {path}"
    )


def _earlier(path: Path, name: str, recipe: Recipe) -> Result:
    """What an earlier call left of this very recipe, or an empty result."""
    result = Result(name, recipe, watched="test" if recipe.val_fraction == 0 else "validation")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["schema"] != SCHEMA or Recipe.from_dict(stored["recipe"]) != recipe:
            return result
        result.learning_rate_found = stored["learning_rate_found"]
        result.wall_seconds = stored["wall_seconds"]
        result.curve = [Point(**point) for point in stored["curve"]]
        tested = stored["test"]
        if tested is not None:
            result.confusion = tested["confusion"]
            result.test = Outcome(
                loss=tested["loss"],
                accuracy=tested["accuracy"],
                class_accuracy=tuple(tested["class_accuracy"].values()),
                images=tested["images"],
                group_accuracy={},
                files={},
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Result(name, recipe, watched=result.watched)
    return result


def _label(name: str, key: str, recipe: Recipe, setting: Setting) -> RunLabel:
    params = {
        **recipe.to_dict(),
        "parameters": count_parameters(build_model(recipe)),
        "flops_per_image": _step_flops(recipe) / recipe.batch_size,
    }
    tags = {"stage": "reproduction", "system": name, **provenance(setting.hardware, torch.get_num_threads())}
    files = {"recipe.toml": recipe.to_toml().encode()}
    return RunLabel(key=key, name=f"{name} seed {recipe.seed}", tags=tags, params=params, files=files)


def _open_tracker(store: Store, hardware: Hardware) -> MlflowTracker:
    tracker = MlflowTracker(store.tracking_uri, store.artifacts(EXPERIMENT), source="experiments/reproduce.py")
    tags = {"stage": "reproductions", **provenance(hardware, torch.get_num_threads())}
    tracker.open_study(RunLabel(key="study", name=EXPERIMENT, tags=tags, params={}))
    return tracker


def _facts(hardware: Hardware, run_id: str) -> dict[str, Any]:
    threads = torch.get_num_threads()
    tags = provenance(hardware, threads)
    return {
        "hardware": {
            "device": tags["device"],
            "processor": tags["cpu"],
            "precision": tags["precision"],
            "threads": threads,
        },
        "versions": {"python": platform.python_version(), "torch": tags["torch"]},
        "commit": tags["git_commit"],
        "data_sha256": DATA_SHA256,
        "run_id": run_id,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _costs(result: Result) -> Mapping[str, float]:
    if not result.curve:
        return {}
    last = result.curve[-1]
    return {
        "cost/seconds": last.train_seconds + last.validation_seconds,
        "cost/training_flops": result.training_flops,
        "cost/epochs": last.epoch,
        "cost/images_per_second": last.step * result.recipe.batch_size / last.train_seconds,
    }


def _line(progress: Progress, result: Result) -> str:
    assert progress.validation is not None
    each = (progress.train_seconds + progress.validation_seconds) / progress.epoch
    return (
        f"{result.title}: epoch {progress.epoch:.0f} of {result.recipe.epochs:g}, "
        f"training loss {progress.train_loss:.3f}, {result.watched} {percent(progress.validation.accuracy, 2)}, "
        f"{each:.1f} s an epoch"
    )


def _digest(recipe: Recipe) -> str:
    """A name for the recipe that stays when recipes get new fields."""
    plain = Recipe().to_dict()
    chosen = {name: value for name, value in recipe.to_dict().items() if value != plain[name]}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]


def _make_folder(results: Path) -> None:
    """
    Raises:
        StoreError: there is no such folder, and none can be made.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"--results must be a folder to write to, but: {error}") from error


def _write(path: Path, result: Result) -> None:
    write_atomically(path, (json.dumps(result.to_json(), indent=1) + "\n").encode())


def _stop(number_: int, frame: FrameType | None) -> None:
    raise Stopped(number_)


_step_flops = functools.cache(step_flops)
_epochs = number("must be a number above 0 and at most 10000", lambda value: 0 < value <= 10_000, float)


if __name__ == "__main__":
    sys.exit(main())
