"""Train the published systems again, and keep what came out as one JSON file a run.

    python experiments/reproduce.py NAME... | all [--epochs N] [--seeds K] [--device cpu|cuda|mps]

The same command after an interruption goes on where it was. Set beside the published results by
`python experiments/compare.py systems`.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import torch

from cifar_core.budget import step_flops
from cifar_core.checkpoint import Checkpoints, save_state
from cifar_core.data import (
    DATA_SHA256,
    DataError,
    Split,
    Splits,
    fixed_split,
    hold_out,
    load_test,
    load_train,
)
from cifar_core.data.download import default_data_dir, ensure_cifar10
from cifar_core.evaluation.metrics import Predictions
from cifar_core.hardware import DEVICES, Hardware, HardwareError, set_up_cpu
from cifar_core.lr_finder import RangeTestError, settle
from cifar_core.models import parameter_count
from cifar_core.recipe import FIXED_SPLIT, Recipe, RecipeError
from cifar_core.recipes import SYSTEMS, expand, read_recipe
from cifar_core.training import Progress, TrainState, Watch, predict, total_steps, train
from experiments.lr_find import log_range_test
from experiments.reading.results import (
    RESULTS,
    Point,
    Result,
    ResultError,
    Tested,
    read_result,
    write_result,
)
from sweeps.command_line import FAILED, USAGE, OneLineParser, number, positive_int
from sweeps.console import SweepConsole, percent
from sweeps.executors.protocol import Outcome
from sweeps.executors.protocol import Point as RunPoint
from sweeps.store import DEFAULT_STORE, Store, StoreError
from sweeps.tracking import artifacts
from sweeps.tracking.provenance import provenance
from sweeps.tracking.tracker import MlflowTracker, RunLabel, Tracker

EXPERIMENT = "systems"  # of MLflow

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for arguments that cannot be, 130 or 143 when interrupted.

    1 stands for a run that diverged.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        runs = list(_runs(options))
        set_up_cpu()
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
            tracker = _open_tracker(store, hardware, console.say)
            setting = Setting(
                everything=load_train(data_dir),
                test=load_test(data_dir),
                hardware=hardware,
                store=store,
                tracker=tracker,
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
                tracker.end_study(ending, {})
                lacking = tracker.close()
    except (RecipeError, RangeTestError, HardwareError, StoreError, DataError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return USAGE
    except Diverged as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return FAILED
    except Stopped as stopped:
        print("stopped; the same command goes on from here")
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("stopped before training; the same command begins again", file=sys.stderr)
        return 128 + signal.SIGINT
    if lacking:
        print(f"MLflow lacks {lacking} entries; once it answers, the same command sends them", file=sys.stderr)
    return FAILED if lacking else 0


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
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="default: experiments/data/results"
    )
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="default: mlruns")
    parser.add_argument("--tracking-uri", metavar="URI", help="an MLflow server in place of the store's database")
    return parser


def reproduce(name: str, recipe: Recipe, epochs: float | None, setting: Setting) -> None:
    """Train `recipe` for `epochs` of its epochs, or all, from wherever an earlier call left it.

    Raises:
        RangeTestError: a range test was asked for, and found no rate.
        Diverged: a loss was no longer finite.
        Stopped: SIGINT or SIGTERM; a later call goes on.
    """
    run = _Run(name, recipe, setting)
    goal = run.steps if epochs is None else min(run.steps, round(epochs / recipe.epochs * run.steps))
    if run.recall() and run.step >= goal and run.tested is not None:
        run.say(f"nothing is left to do, {run.path} reaches to epoch {run.epochs}")
        return
    run.begin()
    try:
        state = run.train(goal)
        run.test(state)
    except Stopped:
        setting.tracker.end(run.key, "interrupted", reason="stopped by the user", metrics=run.costs())
        raise
    except (RangeTestError, Diverged) as error:
        setting.tracker.end(run.key, "failed", reason=str(error), metrics=run.costs())
        raise
    if state.step == state.total_steps:
        run.checkpoints.clear()
    else:
        run.say(f"{run.epochs} of {recipe.epochs:g} epochs were run; without --epochs it goes on")


class _Run:
    """One reproduction: where its files lie, and how far it has come."""

    def __init__(self, name: str, recipe: Recipe, setting: Setting) -> None:
        self.name, self.recipe, self.setting = name, recipe, setting
        self.key = f"{quote(name, safe='')}-seed{recipe.seed}-{_digest(recipe)}"
        self.path = setting.results / f"{name}-seed{recipe.seed}.json"
        self.checkpoints = Checkpoints(setting.store.checkpoints(EXPERIMENT, self.key))
        self.data = _split(recipe, setting)
        self.watched = "test" if recipe.val_fraction == 0 else "validation"
        self.steps = total_steps(recipe, len(self.data.train))  # of the whole schedule
        self.tags = provenance(setting.hardware, torch.get_num_threads())
        self.run_id = ""  # in MLflow, once it has begun
        self.curve: list[Point] = []
        self.tested: Tested | None = None
        self.learning_rate_found: float | None = None
        self.wall_seconds = 0.0
        self.validation_seconds = 0.0

    @property
    def step(self) -> int:
        """Optimiser steps up to the last point of the curve."""
        return self.curve[-1].step if self.curve else 0

    @property
    def epoch(self) -> float:
        return self.curve[-1].epoch if self.curve else 0.0

    @property
    def epochs(self) -> str:
        """Epochs run, for people: whole steps come to 14.0006 where 14 are meant."""
        return f"{round(self.epoch, 2):g}"

    @property
    def training_flops(self) -> float:
        return float(step_flops(self.recipe)) * self.step

    def say(self, line: str) -> None:
        self.setting.console.say(f"{self.name} seed {self.recipe.seed}: {line}")

    def recall(self) -> bool:
        """Take over what an earlier call wrote of this very run; false where it wrote nothing."""
        if not self.path.exists():
            return False
        try:
            stored = read_result(self.path)
            if Recipe.from_dict(stored.recipe) != self.recipe:
                raise RecipeError("another recipe")
        except (ResultError, RecipeError):
            self.say(f"{self.path} does not hold this run, and will be replaced")
            return False
        self.curve, self.tested = list(stored.curve), stored.test
        self.learning_rate_found, self.wall_seconds = stored.learning_rate_found, stored.wall_seconds
        return True

    def begin(self) -> None:
        """
        Raises:
            StoreError: MLflow does not answer, and the result's file must name its run.
        """
        self.setting.tracker.begin(self.label())
        self.run_id = self.setting.tracker.run_id(self.key)

    def train(self, goal: int) -> TrainState:
        """Train up to the first point of the curve at step `goal` or after it, from where the run stands.

        Raises:
            RangeTestError, Diverged, Stopped: as for `reproduce`.
        """
        setting, tracker = self.setting, self.setting.tracker
        state = self._resume()
        anew = state is None
        if state is None:
            self.curve, self.wall_seconds = [], 0.0
            settled, found = settle(self.recipe, self.data, setting.hardware)
            if found is not None:
                self.say(f"the range test suggests a peak learning rate of {found.suggestion:.3g}")
                self.learning_rate_found = found.suggestion
                log_range_test(tracker, self.key, found)
            state = TrainState.create(settled, self.data, setting.hardware)
        if state.step >= goal:  # stopped between the last step and the test
            return state
        before, started = self.wall_seconds, time.perf_counter()
        for progress in train(state, self.data, _watch(self.recipe, len(self.data.val))):
            met = progress.validation
            if not math.isfinite(progress.train_loss) or (met is not None and not math.isfinite(met.loss)):
                title = f"{self.name} seed {self.recipe.seed}"
                raise Diverged(f"a loss must stay finite, but that of {title} did not, up to step {progress.step}")
            tracker.point(self.key, RunPoint.of(progress), met="test" if self.watched == "test" else "val")
            self.curve.append(Point.of(progress))
            self.wall_seconds = before + time.perf_counter() - started
            self.validation_seconds = progress.validation_seconds
            self.tested = None
            if met is not None and self.watched == "test":
                self._record_look()
            # The file comes first: a checkpoint then never stands for points that are in no file.
            write_result(self.path, self.result())
            if anew:
                self.checkpoints.clear()  # later ones of an earlier run would be taken for the newest
                anew = False
            self.checkpoints.save(state)
            if met is not None:
                self._tell(progress, met)
            if progress.step >= goal:
                break
        return state

    def test(self, state: TrainState) -> None:
        """Meet the test set with the weights that the recipe keeps, and end the run."""
        recipe, tracker, hardware = self.recipe, self.setting.tracker, self.setting.hardware
        save_state(state, self.setting.store.weights(EXPERIMENT, self.key))
        if state.best:  # also where only a part of the schedule was run
            state.model.load_state_dict(state.best)
        self._record_look()
        predictions = predict(state.model, self.setting.test, hardware, recipe.normalisation)
        files = artifacts.of_training(recipe, state.model, self.data.train)
        validation = None
        if self.watched == "validation":
            kept = predict(state.model, self.data.val, hardware, recipe.normalisation)
            validation = Outcome.of(kept, files | artifacts.of_predictions(self.data.val, kept))
            files = {}
        outcome = Outcome.of(predictions, files | artifacts.of_test(self.setting.test, predictions))
        tracker.tested(self.key, outcome, {"epochs_run": self.epochs})
        tracker.end(self.key, "complete", outcome=validation, metrics=self.costs())
        self.tested = Tested.of(predictions)
        write_result(self.path, self.result())
        self.say(f"{percent(predictions.accuracy, 2)} of the test set after epoch {self.epochs}; {self.path}")

    def result(self) -> Result:
        """The run as it stands now; it must have a point."""
        return Result(
            name=self.name,
            seed=self.recipe.seed,
            recipe=self.recipe.to_dict(),
            learning_rate_found=self.learning_rate_found,
            epochs_planned=self.recipe.epochs,
            epochs_run=self.epoch,
            watched=self.watched,
            curve=tuple(self.curve),
            test=self.tested,
            kept="best" if self.recipe.keep_best else "last",
            train_seconds=self.curve[-1].train_seconds,
            wall_seconds=self.wall_seconds,
            training_flops=self.training_flops,
            device=self.tags["device"],
            processor=self.tags["cpu"],
            precision=self.tags["precision"],
            threads=int(self.tags["threads"]),
            python=platform.python_version(),
            torch=self.tags["torch"],
            commit=self.tags["git_commit"],
            data_sha256=DATA_SHA256,
            run_id=self.run_id,
            date=datetime.datetime.now(datetime.UTC).date(),
        )

    def label(self) -> RunLabel:
        params = {
            **self.recipe.to_dict(),
            "parameters": parameter_count(self.recipe.model, self.recipe.width),
            "flops_per_image": step_flops(self.recipe) / self.recipe.batch_size,
        }
        return RunLabel(
            key=self.key,
            name=f"{self.name} seed {self.recipe.seed}",
            tags={"stage": "reproduction", "system": self.name, **self.tags},
            params=params,
            files={"recipe.toml": self.recipe.to_toml().encode()},
        )

    def costs(self) -> Mapping[str, float]:
        if not self.curve:
            return {}
        last = self.curve[-1]
        return {
            "cost/seconds": last.train_seconds + self.validation_seconds,
            "cost/training_flops": self.training_flops,
            "cost/epochs": last.epoch,
            "cost/images_per_second": last.step * self.recipe.batch_size / last.train_seconds,
        }

    def _resume(self) -> TrainState | None:
        """The newest checkpoint that the curve reaches to, with the curve cut to where it stands."""
        recipe = self.recipe
        if self.learning_rate_found is not None:
            recipe = replace(recipe, learning_rate=self.learning_rate_found)
        state = self.checkpoints.load(recipe, self.data, self.setting.hardware, self.setting.console.say)
        if state is None:
            return None
        if not any(point.step == state.step for point in self.curve):
            self.say(f"begins again, as {self.path} does not hold its points up to step {state.step}")
            return None
        self.curve = [point for point in self.curve if point.step <= state.step]
        self.validation_seconds = state.validation_seconds
        self.say(f"goes on after epoch {self.epochs}")
        return state

    def _record_look(self) -> None:
        self.setting.store.record_test_look(study=EXPERIMENT, key=self.key)

    def _tell(self, progress: Progress, met: Predictions) -> None:
        each = (progress.train_seconds + progress.validation_seconds) / progress.epoch
        self.say(
            f"epoch {progress.epoch:.0f} of {self.recipe.epochs:g}, training loss {progress.train_loss:.3f}, "
            f"{self.watched} {percent(met.accuracy, 2)}, {each:.1f} s an epoch"
        )


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


def _open_tracker(store: Store, hardware: Hardware, say: Callable[[str], None]) -> MlflowTracker:
    tracker = MlflowTracker(store, EXPERIMENT, source="experiments/reproduce.py", say=say)
    tags = {"stage": "reproductions", **provenance(hardware, torch.get_num_threads())}
    tracker.open_study(RunLabel(key="study", name=EXPERIMENT, tags=tags, params={}))
    return tracker


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


def _stop(number_: int, frame: FrameType | None) -> None:
    raise Stopped(number_)


_epochs = number("must be a number above 0 and at most 10000", lambda value: 0 < value <= 10_000, float)


if __name__ == "__main__":
    sys.exit(main())
