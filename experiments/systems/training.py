"""Reproduction of a published system: train it, log it to MLflow, and write a result file.

The file is written at each point of the curve and a checkpoint after it, so that an interrupted run resumes there.
"""

from __future__ import annotations

import datetime
import itertools
import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import torch

from cifar_core.budget import step_flops
from cifar_core.checkpoint import Checkpoints, save_state
from cifar_core.data import Split, Splits, fixed_split, hold_out
from cifar_core.data.data_set import CIFAR10
from cifar_core.errors import UserError
from cifar_core.evaluation.metrics import Predictions
from cifar_core.hardware import Hardware
from cifar_core.lr_finder import settle
from cifar_core.recipe import FIXED_SPLIT, Recipe
from cifar_core.training import (
    EvalSchedule,
    Progress,
    TrainState,
    evaluate,
    keep_weights,
    predict,
    total_steps,
    train,
)
from experiments.reading.published_curves import FIRST_BATCHES
from experiments.reading.results import Machine, Point, Result, Tested, Versions, read_result
from experiments.systems.range_test import log_range_test
from sweeps.console import SweepConsole
from sweeps.executors.protocol import Outcome
from sweeps.executors.system_metrics import SystemMetrics
from sweeps.store import SYSTEMS_EXPERIMENT, Store, StoreError
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking import artifacts
from sweeps.tracking.provenance import provenance
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from sweeps.validation import write_json
from sweeps.words import percent, with_tta

# Fractions of an epoch: its first batches, whose mean loss one published curve shows, and its end.
_LOSSES = (FIRST_BATCHES, 1.0)


class DivergedError(Exception):
    """A loss that is no longer finite; the message is one line."""


@dataclass(frozen=True, slots=True)
class ReproductionContext:
    """Data, hardware and outputs that all runs of one command share."""

    everything: Split  # the 50,000 training images
    test: Split
    hardware: Hardware
    store: Store
    tracker: MlflowTracker
    results: Path
    console: SweepConsole


def open_tracker(store: Store, hardware: Hardware, say: Callable[[str], None]) -> MlflowTracker:
    """Open the MLflow experiment of all reproductions."""
    tracker = MlflowTracker(store, SYSTEMS_EXPERIMENT, source="experiments/reproduce.py", say=say)
    tags = {"stage": "reproductions", "study": SYSTEMS_EXPERIMENT}
    tags |= provenance(CIFAR10, hardware, torch.get_num_threads())
    tracker.open_study(RunLabel(key=STUDY_KEY, name=SYSTEMS_EXPERIMENT, tags=tags, params={}))
    return tracker


def reproduce(name: str, recipe: Recipe, epochs: float | None, context: ReproductionContext) -> None:
    """Train `recipe` for `epochs` of its epochs (default: all), and resume where an earlier call ended.

    Raises:
        UserError: a range test found no rate, a batch did not fit into memory, MLflow does not answer, the disk is
            full, or an earlier call trained on another kind of device.
        DivergedError: a loss was no longer finite.
        KeyboardInterrupt: a later call resumes.
    """
    run = _Run(name, recipe, context)
    steps = total_steps(recipe, len(run.data.train))
    goal = steps if epochs is None else min(steps, max(1, round(epochs / recipe.epochs * steps)))
    if run.result is not None and run.result.test is not None and run.step >= goal:
        run.say(f"nothing is left to do, {run.path} reaches to epoch {run.epochs}; another --results trains it anew")
        return
    run.check_device()
    run.begin()
    try:
        state = run.train(goal)
        run.test(state)
    except KeyboardInterrupt:
        context.tracker.end(run.key, "interrupted", reason="stopped by the user", metrics=run.costs())
        raise
    except (StoreError, OSError) as error:
        reason = f"{run.title} must be able to write its results, but: {error}"
        with suppress(StoreError):
            context.tracker.end(run.key, "interrupted", reason=reason, metrics=run.costs())
        raise StoreError(reason) from error
    except (UserError, DivergedError) as error:
        context.tracker.end(run.key, "failed", reason=str(error), metrics=run.costs())
        raise
    if state.step == state.total_steps:
        run.checkpoints.clear()
    else:
        run.say(f"{run.epochs} of {recipe.epochs:g} epochs are done; without --epochs the same command resumes")


class _Run:
    """One reproduction, whose result file holds its progress and says which run it is.

    Without such a file, it is a new run. The file has the id of the run in MLflow, whose key is the name of the folder
    with the checkpoints.
    """

    def __init__(self, name: str, recipe: Recipe, context: ReproductionContext) -> None:
        self.name, self.recipe, self.context = name, recipe, context
        self.title = f"{name} seed {recipe.seed}"
        self.path = context.results / f"{name}-seed{recipe.seed}.json"
        self.data = _split(recipe, context)
        self.watched: Literal["test", "validation"] = "test" if recipe.val_fraction == 0 else "validation"
        self.tags = provenance(CIFAR10, context.hardware, torch.get_num_threads())
        self.result = self._recall()  # None before the first point
        self.key = self._key()
        self.checkpoints = Checkpoints(context.store.checkpoints(SYSTEMS_EXPERIMENT, self.key))
        self.run_id = ""  # in MLflow, once it has begun

    @property
    def curve(self) -> tuple[Point, ...]:
        return self.result.curve if self.result is not None else ()

    @property
    def step(self) -> int:
        """Optimiser steps up to the last point of the curve."""
        return self.curve[-1].step if self.curve else 0

    @property
    def epochs(self) -> str:
        """Epochs done, for people: whole steps may add up to 14.0006 instead of 14."""
        return f"{round(self.curve[-1].epoch, 2):g}"

    def say(self, line: str) -> None:
        self.context.console.say(f"{self.title}: {line}")

    def _recall(self) -> Result | None:
        """Load the result file of an earlier call; None if there is none of this run."""
        if not self.path.exists():
            return None
        with suppress(UserError):
            stored = read_result(self.path)
            if Recipe.from_dict(stored.recipe) == self.recipe:
                return stored
        self.say(f"{self.path} does not hold this run")
        return None

    def _key(self) -> str:
        """Return the key of the run that the result file is of; of a new one if there is no file.

        So trainings for two folders of results, or on two kinds of device, share no run, weights or checkpoints.
        """
        tracker, recipe = self.context.tracker, self.recipe
        first = f"{quote(self.name, safe='')}-seed{recipe.seed}-{recipe.digest}"
        free = None  # the first key without a point
        for key in (f"{first}-{number}" if number > 1 else first for number in itertools.count(1)):
            if tracker.state(key) is None:
                return free or key
            if self.result is not None and tracker.run_id(key) == self.result.run_id:
                return key
            if free is None and not tracker.recorded(key):
                free = key
        raise AssertionError("the numbers do not end")

    def check_device(self) -> None:
        """Check that the run can resume on this device.

        Raises:
            UserError: it began on another kind of device.
        """
        if self.result is None:
            return
        before, now = self.result.hardware.device, self.tags["device"]
        if before != now and self.checkpoints.folder.exists():
            raise UserError(
                f"{self.title} must resume on {before}, where it began, but got {now}; without {self.path} it begins "
                "anew"
            )

    def begin(self) -> None:
        """Begin the run in MLflow.

        Raises:
            StoreError: MLflow does not answer, but the result file needs the run's id.
        """
        tags = {"stage": "reproduction", "system": self.name, **self.tags}
        self.context.tracker.begin(RunLabel.of_training(self.key, self.title, tags, self.recipe, CIFAR10))
        self.run_id = self.context.tracker.run_id(self.key)

    def train(self, goal: int) -> TrainState:
        """Train up to the first point of the curve at or after step `goal`.

        Raises:
            UserError, DivergedError, KeyboardInterrupt: as for `reproduce`.
        """
        tracker = self.context.tracker
        state = self._resume() or self._begin_anew()
        if state.step >= goal:  # stopped between the last step and the test
            return state
        before = self.result.wall_seconds if self.result is not None else 0.0
        started = time.perf_counter()
        system = SystemMetrics(self.context.hardware.device)
        for progress in train(state, self.data, _schedule(self.recipe, len(self.data.val))):
            validation = progress.validation
            if not math.isfinite(progress.train_loss) or not (validation is None or math.isfinite(validation.loss)):
                raise DivergedError(
                    f"a loss must stay finite, but that of {self.title} did not, up to step {progress.step}"
                )
            met = "test" if self.watched == "test" else "val"
            tracker.point(self.key, progress, met=met, system=system.read())
            curve = (*self.curve, Point(**asdict(replace(progress, validation=None))))
            self.result = self._result(state, curve, before + time.perf_counter() - started)
            if validation is not None and self.watched == "test":
                self._record_evaluation()
            if len(curve) == 1:
                self._set_aside()
            # The file is written first, so that every checkpoint has its points in the file.
            write_json(self.path, self.result)
            self.checkpoints.save(state)
            if validation is not None:
                self._report(progress, validation)
            if progress.step >= goal:
                break
        return state

    def _record_evaluation(self) -> None:
        self.context.store.record_test_set_evaluation(
            study=SYSTEMS_EXPERIMENT, key=self.key, data_sha256=CIFAR10.sha256
        )

    def test(self, state: TrainState) -> None:
        """Evaluate the weights that the recipe keeps on the test set, and end the run."""
        recipe, tracker, hardware = self.recipe, self.context.tracker, self.context.hardware
        save_state(state, self.context.store.weights(SYSTEMS_EXPERIMENT, self.key))
        keep_weights(state)  # also after a part of the schedule
        self._record_evaluation()
        predictions, augmented = evaluate(state.model, self.context.test, hardware, recipe)
        files = artifacts.of_training(recipe, self.data.train)
        validation = None
        if self.watched == "validation":
            kept = predict(state.model, self.data.val, hardware, recipe.normalisation)
            validation = Outcome.of(kept, files | artifacts.of_predictions(self.data.val, kept))
            files = {}
        outcome = Outcome.of(predictions, files | artifacts.of_test(self.context.test, predictions), augmented)
        tracker.tested(self.key, outcome, {"epochs_run": self.epochs})
        tracker.end(self.key, "complete", outcome=validation, metrics=self.costs())
        assert self.result is not None
        write_json(self.path, replace(self.result, test=Tested.of(predictions, augmented)))
        reached = percent(predictions.accuracy, 2) + with_tta(augmented)
        self.say(f"{reached} of the test set after epoch {self.epochs}; {self.path}")

    def _result(self, state: TrainState, curve: tuple[Point, ...], wall_seconds: float) -> Result:
        done = curve[-1].step / state.total_steps
        return Result(
            name=self.name,
            seed=self.recipe.seed,
            recipe=self.recipe.to_dict(),
            learning_rate_found=None if state.recipe == self.recipe else state.recipe.peak_rate,
            epochs_planned=self.recipe.epochs,
            epochs_run=curve[-1].epoch,
            watched=self.watched,
            curve=curve,
            test=None,
            kept="best" if self.recipe.keep_best else "last" if self.recipe.average == "none" else "average",
            train_seconds=curve[-1].train_seconds,
            wall_seconds=wall_seconds,
            training_flops=float(step_flops(self.recipe, CIFAR10, until=done) * curve[-1].step),
            hardware=Machine(
                device=self.tags["device"],
                processor=self.tags["cpu"],
                precision=self.tags["precision"],
                threads=int(self.tags["threads"]),
            ),
            versions=Versions(python=platform.python_version(), torch=self.tags["torch"]),
            commit=self.tags["git_commit"],
            data_sha256=CIFAR10.sha256,
            run_id=self.run_id,
            date=datetime.datetime.now(datetime.UTC).date(),
        )

    def costs(self) -> Mapping[str, float]:
        return {} if self.result is None else self.result.costs

    def _resume(self) -> TrainState | None:
        """Load the newest checkpoint, and cut the curve to its step; None if either is missing."""
        found = self.result.learning_rate_found if self.result is not None else None
        recipe = self.recipe if found is None else replace(self.recipe, learning_rate=found)
        state = self.checkpoints.load(recipe, self.data, self.context.hardware, self.context.console.say)
        if state is None:
            return None
        curve = tuple(point for point in self.curve if point.step <= state.step)
        if self.result is None or not curve or curve[-1].step != state.step:
            self.say(f"starts again, as {self.path} does not hold its points up to step {state.step}")
            return None
        self.result = self._result(state, curve, self.result.wall_seconds)
        self.say(f"resumes after epoch {self.epochs}")
        return state

    def _begin_anew(self) -> TrainState:
        self.result = None
        recipe, found = settle(self.recipe, self.data, self.context.hardware)
        if found is not None:
            self.say(f"the range test suggests a peak learning rate of {found.suggestion:.3g}")
            log_range_test(self.context.tracker, self.key, found)
        return TrainState.create(recipe, self.data, self.context.hardware)

    def _set_aside(self) -> None:
        """Keep the result file of an earlier run, as this one begins anew, and drop its checkpoints."""
        if self.path.exists():
            names = (self.path.with_suffix(f".json.old{number or ''}") for number in itertools.count())
            kept = next(name for name in names if not name.exists())
            self.path.replace(kept)
            self.say(f"began anew, and keeps the earlier result as {kept}")
        self.checkpoints.clear()  # they would count as the newest

    def _report(self, progress: Progress, validation: Predictions) -> None:
        each = (progress.train_seconds + progress.validation_seconds) / progress.epoch
        self.say(
            f"epoch {progress.epoch:.0f} of {self.recipe.epochs:g}, training loss {progress.train_loss:.3f}, "
            f"{self.watched} {percent(validation.accuracy, 2)}, {each:.1f} s per epoch"
        )


def _split(recipe: Recipe, context: ReproductionContext) -> Splits:
    """Return the images to train on, and those to evaluate after each epoch: without a validation split, the test set.

    The test set then gives the curve that was published; nothing is chosen by it.
    """
    if recipe.val_fraction == 0:
        return Splits(train=context.everything, val=context.test)
    if recipe.val_fraction == FIXED_SPLIT:
        return fixed_split(context.everything)
    return hold_out(context.everything, recipe.val_fraction, recipe.seed)


def _schedule(recipe: Recipe, images: int) -> EvalSchedule:
    """Validate on all `images` after each epoch; the last one may be cut short."""
    passes = range(math.ceil(recipe.epochs))
    ends = {min(1.0, (epoch + 1) / recipe.epochs): images for epoch in passes}
    losses = sorted({min(1.0, (epoch + part) / recipe.epochs) for epoch in passes for part in _LOSSES})
    return EvalSchedule(tuple(losses), ends)
