"""Plan of a sweep, and an estimate of its time on this machine."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean

import torch

from cifar_core.budget import Budget, step_flops
from cifar_core.data.data_set import DataSet
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, evenly
from sweeps.planning.limits import Limits
from sweeps.planning.presets import Preset
from sweeps.planning.search_space import SearchSpace
from sweeps.words import about, counted

LOSS_POINTS = 40  # of the training-loss curve of any run
_VALIDATIONS = 8  # of a run longer than a trial
SEARCH_SHARE = 0.6  # of the compute of unpruned trials, spent with pruning: 0.61 in a study of 50 trials
_OVERHEAD = 1.15  # for validation, and for idle cores at the end of a stage
_START_SECONDS = 10.0
STORAGE = "--storage URL"  # among the places of a study whose trials are in a database outside its store
PLACES = ("--labels FILE", "--skip-unreadable", STORAGE)  # options of files and databases, as a report prints them


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
    timeout: float | None = None  # seconds after which no further trial starts
    patience: int | None = None  # trials without a better one, after which no further trial starts
    confirm: bool
    starts: bool = True  # try the known-good points of the space first
    earlier: str | None = None  # study whose best recipes are tried first
    enqueue: tuple[str, ...] = ()  # names and files of recipes to try first
    limits: Limits = field(default_factory=Limits)
    data_set: DataSet
    hardware: Hardware
    workers: int  # no more than a stage has runs
    threads: int  # of each worker
    cores: int  # of this machine
    flops_per_second: float  # of one worker
    keep_weights: bool = False  # of every complete trial, not only of confirmed runs
    places: str = ""  # further options without which the command is refused, as "--labels FILE"
    on_cluster: bool = False

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
            "final_flops": self.preset.final.flops,
            "final_seeds": self.preset.finals,
            "rung_images": self.preset.rung_images,
            "trial_images": self.preset.trial_images,
            "starts": self.starts,
            "max_parameters": self.limits.parameters,
            "max_latency": self.limits.latency,
        }

    def latest(self) -> dict[str, str]:
        """Return the settings that may change when a study is resumed, as tags of its own run: params cannot change."""
        chosen = {"trials": str(self.trials), "sampler": self.sampler, "pruner": self.pruner}
        stops = {"timeout": str(self.timeout), "patience": str(self.patience)}
        # Without these options a study still has the recipes that an earlier command gave it.
        given = {"from": self.earlier or "", "enqueue": shlex.join(self.enqueue), "places": self.places}
        return chosen | stops | {name: value for name, value in given.items() if value}

    def rows(self, remaining: int, searched: float = 0.0) -> dict[str, str]:
        """Return a table of two columns for people.

        Args:
            remaining: number of trials that are still to do.
            searched: seconds that the search has taken before.
        """
        preset = self.preset
        rows = {
            "study": self.study,
            "device": f"{self.hardware.describe()}, {self.hardware.precision}, {_workers(self)}",
            "trials": f"{self.trials}" + ("" if remaining == self.trials else f", {remaining} of them to do"),
            "space": f"{self.space.name}: {self.space.description}",
            "each trial": _budget(preset.trial.flops, preset.trial.max_epochs),
            "pruning": f"{self.pruner}, judged on {preset.rung_images:,} images, at the end on {preset.trial_images:,}",
        }
        if self.confirm:
            known_good = self.starts and bool(self.space.starts)
            best = "best recipe" if preset.recipes == 1 else f"best {preset.recipes} recipes"
            recipes = f"{best} and the {'starting' if known_good else 'first'} one"
            runs = f"{recipes} x {counted(preset.seeds, 'seed')}"
            rows["confirmation"] = f"{runs}, {_budget(preset.confirm.flops, preset.confirm.max_epochs)} each"
            runs = "once" if preset.finals == 1 else f"{preset.finals} times"
            final = _budget(preset.final.flops, preset.final.max_epochs)
            rows["final"] = f"the champion {runs} on all training images, {final}"
        if stops := list(self._stops()):
            rows["stops"] = f"no further trial after {' or '.join(stops)}"
        if self.limits != Limits():
            rows["limits"] = f"{self.limits}; other networks are not trained"
        if remaining:  # else what is left of confirmation and final is not known here
            rows["estimate"] = f"{about(max(60.0, self.estimate(remaining, searched)))} at the speed just measured"
        return rows

    def _stops(self) -> Iterator[str]:
        if self.timeout is not None:
            yield f"{self.timeout:g} s"
        if self.patience is not None:
            yield f"{counted(self.patience, 'trial')} in a row without a better one"

    def confirm_flops(self) -> float:
        """Return the training FLOPs of the whole confirmation."""
        return self._flops(self.preset.confirm) * self.preset.confirmations

    def final_flops(self) -> float:
        """Return the training FLOPs of all final runs."""
        return self._flops(self.preset.final) * self.preset.finals

    def work_after_search(self) -> float:
        """Return the FLOPs that all workers could compute in the time of confirmation and final."""
        if not self.confirm:
            return 0.0
        confirmed, finals = self.preset.confirmations, self.preset.finals
        return self.confirm_flops() * self.stretch(confirmed) + self.final_flops() * self.stretch(finals)

    def stretch(self, runs: int) -> float:
        """Return how many times longer a stage of `runs` long runs takes than with no worker ever idle."""
        if self.shares_cores or not runs:
            return 1.0
        return math.ceil(runs / self.at_once) * self.at_once / runs

    @property
    def at_once(self) -> int:
        """Workers that train side by side at the measured speed: those on one GPU, or on one core, share it."""
        if self.on_cluster:
            return self.workers
        return min(self.workers, self.cores if self.shares_cores else max(1, torch.cuda.device_count()))

    @property
    def shares_cores(self) -> bool:
        """True if all runs share the cores of one machine, so that fewer runs can have more threads each."""
        return self.hardware.device.type == "cpu" and not self.on_cluster

    @property
    def search_share(self) -> float:
        """Share of the compute of unpruned trials that the search is expected to spend."""
        return SEARCH_SHARE if self.pruner != "none" else 1.0

    def trial_flops(self) -> float:
        """Return the training FLOPs of an unpruned trial."""
        return self._flops(self.preset.trial)

    def estimate(self, remaining: int, searched: float = 0.0) -> float:
        """Return the seconds that the sweep will take; see `rows`."""
        speed = self.flops_per_second * self.at_once / _OVERHEAD
        most = math.inf if self.timeout is None else max(0.0, self.timeout - searched)
        search = remaining * self.trial_flops() * self.search_share / speed
        return _START_SECONDS + min(search, most) + self.work_after_search() / speed

    def _flops(self, budget: Budget) -> float:
        """Training FLOPs of a run with this budget: the mean over the known-good points of the space, if it has any."""
        recipes = [self.space.recipe(start, Recipe()) for start in self.space.starts] or [Recipe()]
        steps = [budget.max_epochs * self.data_set.train_images / recipe.batch_size for recipe in recipes]
        capped = [n * step_flops(recipe, self.data_set) for n, recipe in zip(steps, recipes, strict=True)]
        return fmean(min(budget.flops or math.inf, flops) for flops in capped)


def eval_schedule(validations: Mapping[float, int]) -> EvalSchedule:
    """Return the points of a run; `validations` as for `EvalSchedule`."""
    return EvalSchedule(evenly(LOSS_POINTS), validations)


def eight_validations(few: int, val_images: int) -> dict[float, int]:
    """Return the number of validation images by fraction of a run: `few` after each eighth, all at the end."""
    return {k / _VALIDATIONS: few for k in range(1, _VALIDATIONS)} | {1.0: val_images}


def _workers(plan: Plan) -> str:
    workers = counted(plan.workers, "worker")
    if plan.hardware.device.type != "cpu":
        return workers
    return f"{workers} x {counted(plan.threads, 'thread')}"


def _budget(flops: float | None, epochs: float) -> str:
    return f"{epochs:g} epochs" if flops is None else f"{flops / 1e12:g} TFLOP, at most {epochs:g} epochs"
