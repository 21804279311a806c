"""Train a recorded run again from its recipe, and compare every point with the record. The store is only read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cifar_core.checkpoint import load_weights
from cifar_core.data import Splits
from cifar_core.data.source import DataSource
from cifar_core.errors import UserError
from cifar_core.hardware import Hardware, set_up_cpu
from cifar_core.recipe import FIXED_SPLIT, Recipe
from cifar_core.training import EvalSchedule, TrainState, total_steps, train
from experiments.pages.text import listed
from experiments.reading.named_runs import KnownRun, recipe_of
from experiments.reading.study_reader import StudyReader
from sweeps.console import SweepConsole
from sweeps.tracking.provenance import provenance

_CONDITIONS = ("device", "cpu", "precision", "kernels", "threads", "torch", "git_commit")  # equal: equal bits on CPUs


@dataclass(frozen=True, slots=True)
class Rerun:
    """A run that was trained again, beside its record."""

    points: int  # points of the training loss on record
    loss_gap: float  # largest difference of the training loss, in nats
    gap_step: int  # step of the largest difference
    val_accuracy: tuple[float, float] | None  # final accuracy on record, and now
    same_weights: bool | None  # None: the run kept none
    conditions: tuple[str, ...]  # conditions that differ, such as "threads 2, now 1"
    on_cpu: bool  # True if the second training ran on a CPU

    @property
    def identical(self) -> bool:
        same_accuracy = self.val_accuracy is None or self.val_accuracy[0] == self.val_accuracy[1]
        return self.loss_gap == 0 and same_accuracy and self.same_weights is not False

    def lines(self) -> list[str]:
        """Return the comparison for people."""
        if self.identical:
            same = [f"{self.points} points of the training loss"]
            same += ["the final validation accuracy"] * (self.val_accuracy is not None)
            same += ["the kept weights"] * (self.same_weights is not None)
            return [f"identical to the last bit: {listed(same)}"]
        loss = f"by up to {self.loss_gap:.3g} nats, at step {self.gap_step}" if self.loss_gap else "not at all"
        said = [f"it differs: the training loss {loss}"]
        if self.same_weights is False:
            said.append("the kept weights are others")
        if self.val_accuracy is not None:
            recorded, now = self.val_accuracy
            said.append(f"final validation accuracy: {100 * recorded:.2f} % on record, {100 * now:.2f} % now")
        if self.conditions:
            said.append(f"what was different: {'; '.join(self.conditions)}")
        else:
            said.append("machine, precision, kernels, threads, torch and commit are the same, as far as recorded")
        if not self.on_cpu:
            said.append("a GPU need not repeat bits")
        return said


def rerun(run: KnownRun, reader: StudyReader, cifar10: Path | None, device: str, console: SweepConsole) -> Rerun:
    """Train the recipe of `run` again, up to the last point on record, with the threads that it had.

    Args:
        cifar10: folder of the CIFAR-10 files, None for the default one; a user's own pictures come from the cache.

    Raises:
        UserError: the run trained no recipe of a sweep, or has no points on record; its recipe, its weights or the data
            set are missing or damaged.
    """
    recorded = reader.run(run.run_id)
    tags, curve = recorded.data.tags, reader.curve(run.run_id, "train/loss")
    if tags.get("stage") not in ("search", "confirm", "final") or not curve:
        raise UserError(
            "run: must name a search trial, confirmation or final with recorded points, but "
            f"{run.name!r} has stage {tags.get('stage', '')!r} and {len(curve)} points"
        )
    recipe = recipe_of(run.run_id, reader)
    on_cpu = tags.get("device", "cpu") == "cpu"
    set_up_cpu(int(tags["threads"]) if on_cpu and tags.get("threads", "").isdecimal() else None)
    hardware = Hardware.detect(device)
    data = DataSource.find(tags["data_sha256"], tags["data"], cifar10, console.progress).train_val()
    if recipe.val_fraction != FIXED_SPLIT:  # a final, on all images
        data = Splits(train=data.everything(), val=data.val.head(0))
    state = TrainState.create(recipe, data, hardware)
    steps, last = total_steps(recipe, len(data.train)), curve[-1][0]
    console.say(f"{run.experiment}/{run.key}, {recipe.model}: {last:,} of {steps:,} steps on {hardware.describe()}")
    found: dict[int, float] = {}
    accuracy = None
    confusion = reader.confusion(run.run_id, "confusion.json")  # of the last validation, on some of the images
    validated = 0 if confusion is None else min(int(confusion[1].sum()), len(data.val))
    for progress in train(state, data, _schedule([step for step, _ in curve], steps, validated)):
        found[progress.step], accuracy = progress.train_loss, progress.val_accuracy
        console.say(f"step {progress.step:,} of {last:,}: training loss {progress.train_loss:.4f}")
        if last <= progress.step < steps:  # at the end the loop gives the network the weights that the recipe keeps
            break
    finished = state.step == steps
    gap, at = max((_gap(value, found[step]), step) for step, value in curve)
    on_record = recorded.data.metrics.get("val/accuracy")
    now = provenance(state.data_set, hardware, torch.get_num_threads())
    return Rerun(
        points=len(curve),
        loss_gap=gap,
        gap_step=at,
        val_accuracy=(on_record, accuracy) if finished and accuracy is not None and on_record is not None else None,
        same_weights=_same_weights(recipe, run, state) if finished and run.kept else None,
        conditions=tuple(f"{c} {tags[c]}, now {now[c]}" for c in _CONDITIONS if c in tags and tags[c] != now[c]),
        on_cpu=hardware.device.type == "cpu",
    )


def _schedule(points: Sequence[int], steps: int, val_images: int) -> EvalSchedule:
    """Return the points on record, with a validation at the end where there are images for it."""
    return EvalSchedule(tuple(step / steps for step in points), {1.0: val_images} if val_images else {})


def _gap(recorded: float, now: float) -> float:
    return abs(recorded - now) if math.isfinite(now) else math.inf


def _same_weights(recipe: Recipe, run: KnownRun, state: TrainState) -> bool:
    kept, now = load_weights(recipe, run.weights).state_dict(), state.model.state_dict()
    return all(torch.equal(tensor, now[name].cpu()) for name, tensor in kept.items())
