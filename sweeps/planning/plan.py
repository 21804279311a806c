"""Plan of a sweep, and an estimate of its time on this machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from cifar_core.budget import Budget, step_flops
from cifar_core.evaluation.metrics import CLASS_COUNT
from cifar_core.hardware import Hardware
from cifar_core.models import build_model
from cifar_core.optim import build_optimizers
from cifar_core.recipe import Recipe
from sweeps.planning.presets import Preset
from sweeps.planning.search_space import SearchSpace

LOSS_POINTS = 40  # of the training-loss curve of any run
EIGHTHS = 8  # a trial reports to Optuna in eighths of its budget
SEARCH_VALIDATIONS = tuple(k / EIGHTHS for k in (1, 2, 4, 6, 8))
CONFIRM_VALIDATIONS = tuple(k / 16 for k in range(1, 17))

SEARCH_SHARE = 0.4  # of the compute of unpruned trials, spent with pruning; an estimate before the first trial
_OVERHEAD = 1.15  # for validation, and for idle cores at the end of a stage
_START_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that the user chose, and the measured speed."""

    study: str
    trials: int
    space: SearchSpace
    preset: Preset
    seed: int
    sampler: str
    pruner: str
    timeout: float | None  # seconds after which no further trial starts
    confirm: bool
    hardware: Hardware
    workers: int
    threads: int  # of each worker
    flops_per_second: float  # of one worker
    keep_weights: bool = False  # of every complete trial, not only of confirmed runs

    def params(self) -> dict[str, object]:
        """Return the MLflow params of the study's own run."""
        return {
            "trials": self.trials,
            "space": self.space.name,
            "space_hash": self.space.hash,
            "preset": self.preset.name,
            "seed": self.seed,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "trial_flops": self.preset.trial.flops,
            "trial_max_epochs": self.preset.trial.max_epochs,
            "confirm_flops": self.preset.confirm.flops,
            "confirm_recipes": self.preset.recipes,
            "confirm_seeds": self.preset.seeds,
        }

    def rows(self, remaining: int) -> dict[str, str]:
        """Return a table of two columns for people; `remaining` trials are still to do."""
        preset = self.preset
        rows = {
            "study": self.study,
            "device": f"{self.hardware.describe()}, {self.hardware.precision}, {_workers(self)}",
            "trials": f"{self.trials}" + ("" if remaining == self.trials else f", {remaining} of them to do"),
            "space": f"{self.space.name}: {self.space.description}",
            "each trial": _budget(preset.trial.flops, preset.trial.max_epochs),
            "pruning": self.pruner,
        }
        if self.confirm:
            runs = f"best {preset.recipes} recipes x {preset.seeds} seed{'s' if preset.seeds > 1 else ''}"
            rows["confirmation"] = f"{runs}, {_budget(preset.confirm.flops, preset.confirm.max_epochs)} each"
        rows["estimate"] = f"about {max(1, round(self.estimate(remaining) / 60))} min at the speed just measured"
        return rows

    def confirm_flops(self) -> float:
        """Return the training FLOPs of the whole confirmation."""
        if not self.confirm:
            return 0.0
        each = self.preset.confirm.flops or _epoch_flops(self.preset.confirm.max_epochs)
        return each * self.preset.recipes * self.preset.seeds

    def trial_flops(self) -> float:
        """Return the training FLOPs of an unpruned trial."""
        return self.preset.trial.flops or _epoch_flops(self.preset.trial.max_epochs)

    def estimate(self, remaining: int) -> float:
        """Return the seconds that the sweep will take."""
        share = SEARCH_SHARE if self.pruner != "none" else 1.0
        flops = remaining * self.trial_flops() * share + self.confirm_flops()
        return _START_SECONDS + flops * _OVERHEAD / (self.flops_per_second * self.workers)


def shrink_to_budget(recipe: Recipe, budget: Budget) -> Recipe:
    """Halve the width of `recipe` until `budget` covers two training steps, down to an eighth of its width."""
    narrow = recipe
    while affordable_steps(budget, narrow) < 2 and narrow.width > recipe.width / 8:
        narrow = replace(narrow, width=narrow.width / 2)
    return narrow


def affordable_steps(budget: Budget, recipe: Recipe) -> float:
    """Return the number of training steps that `budget` covers."""
    return math.inf if budget.flops is None else budget.flops / step_flops(recipe)


def measure_speed(recipe: Recipe, hardware: Hardware) -> float:
    """Measure the training FLOPs per second of this process on `hardware`, in three steps on noise."""
    model = hardware.place(build_model(recipe))
    optimizers = build_optimizers(model, recipe)
    images = torch.rand(recipe.batch_size, 3, 32, 32).to(hardware.device, memory_format=torch.channels_last)
    labels = torch.arange(recipe.batch_size, device=hardware.device) % CLASS_COUNT
    loss = torch.zeros(())
    for step in range(4):
        if step == 1:  # after the first step, which sets up kernels
            loss.item()
            started = time.perf_counter()
        with hardware.autocast():
            loss = F.cross_entropy(model(images).float(), labels)
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    loss.item()
    return 3 * step_flops(recipe) / (time.perf_counter() - started)


def _epoch_flops(epochs: float) -> float:
    """Training FLOPs of that many epochs of a plain recipe."""
    return epochs * 45_000 * step_flops(Recipe()) / Recipe().batch_size


def _workers(plan: Plan) -> str:
    workers = f"{plan.workers} worker{'s' if plan.workers > 1 else ''}"
    if plan.hardware.device.type != "cpu":
        return workers
    return f"{workers} x {plan.threads} thread{'s' if plan.threads > 1 else ''}"


def _budget(flops: float | None, epochs: float) -> str:
    return f"{epochs:g} epochs" if flops is None else f"{flops / 1e12:g} TFLOP, at most {epochs:g} epochs"
