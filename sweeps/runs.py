"""A training run of a sweep: what it is made of, and how far it has come."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import Trial

from cifar_core.budget import affordable_watch, step_flops
from cifar_core.models import parameter_count
from cifar_core.recipe import Recipe
from cifar_core.training import total_steps
from sweeps.console import RunningTrial
from sweeps.executors.protocol import Job, Point
from sweeps.plan import LOSS_POINTS, Plan
from sweeps.store import Store
from sweeps.tracking.tracker import RunLabel


@dataclass(slots=True)
class SweepRun:
    """A run on its way."""

    title: str
    label: RunLabel
    recipe: Recipe
    job: Job
    flops: float  # training FLOPs of the whole run
    trial: Trial | None = None
    reported: set[int] = field(default_factory=set)  # eighths that Optuna heard of, also from an earlier attempt
    attempt: int = 1
    furthest: int = 0  # step of the last validation of any attempt
    deaths: int = 0  # of workers since then
    point: Point | None = None
    accuracy: float | None = None  # last validation
    started: float = 0.0  # time.monotonic()

    @property
    def spent(self) -> float:
        return self.flops * self.point.fraction if self.point else 0.0

    def costs(self) -> dict[str, float]:
        if self.point is None:
            return {}
        seconds = self.point.train_seconds + self.point.validation_seconds
        images = self.point.step * self.recipe.batch_size
        return {
            "cost/seconds": seconds,
            "cost/training_flops": self.spent,
            "cost/epochs": self.point.epoch,
            "cost/images_per_second": images / self.point.train_seconds,
            "cost/validation_share": self.point.validation_seconds / seconds,
        }

    def view(self) -> RunningTrial:
        return RunningTrial(
            label=self.title,
            model=self.recipe.model,
            epoch=self.point.epoch if self.point else 0.0,
            epochs=self.recipe.epochs,
            accuracy=self.accuracy,
            seconds=time.monotonic() - self.started,
        )


@dataclass(frozen=True, slots=True)
class RunMaker:
    """Makes the runs of a sweep from their recipes.

    Args:
        train_images, val_images: in the data set's splits.
        tags: what every run is tagged with: commit, data, machine.
    """

    plan: Plan
    train_images: int
    val_images: int
    store: Store
    tags: Mapping[str, str]

    def make(
        self, key: str, title: str, recipe: Recipe, validations: tuple[float, ...], tags: Mapping[str, str]
    ) -> SweepRun:
        """A run that starts from its newest checkpoint, if it has one."""
        flops_per_step = step_flops(recipe)
        flops = float(flops_per_step * total_steps(recipe, self.train_images))
        params: dict[str, Any] = {
            **recipe.to_dict(),
            "parameters": parameter_count(recipe.model, recipe.width),
            "trial_flops": flops,
            "flops_per_image": flops_per_step / recipe.batch_size,
        }
        label = RunLabel(
            key=key,
            name=f"{title} {recipe.model}",
            tags={"study": self.plan.study, **self.tags, "attempt": "1", **tags},
            params=params,
            files={"recipe.toml": recipe.to_toml().encode()},
        )
        watch = affordable_watch(
            recipe, self.train_images, self.val_images, losses=LOSS_POINTS, validations=validations
        )
        job = Job(key=key, recipe=recipe, watch=watch, checkpoints=self.store.checkpoints(self.plan.study, key))
        return SweepRun(title, label, recipe, job, flops)
