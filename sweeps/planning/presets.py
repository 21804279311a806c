"""Presets: the compute of a sweep, in training FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cifar_core.budget import Budget
from cifar_core.data.data_set import CIFAR10, DataSet

_LARGEST_FACTOR = 4  # on the caps in epochs, for a small data set

EIGHTHS = 8  # a trial reports to Optuna in eighths of its steps


@dataclass(frozen=True, slots=True)
class Preset:
    """Budgets of a sweep.

    Attributes:
        name: of the option --preset, or of a fixed number of epochs.
        trial: budget of each trial of the search.
        rung_images, trial_images: number of validation images before the end of a trial, and at its end.
        confirm: budget of each confirmation run, which trains one of the best recipes again.
        recipes: number of the best recipes to confirm, beside the one that the search begins with.
        seeds: confirmation runs of each recipe, with different seeds.
        final: budget of each final run, which trains the champion's recipe on all training images.
        finals: final runs, with different seeds.
    """

    name: str
    description: str
    trial: Budget
    rung_images: int
    trial_images: int
    confirm: Budget
    recipes: int
    seeds: int
    final: Budget
    finals: int

    @property
    def confirmations(self) -> int:
        """Number of confirmation runs: of the best recipes, and of the one that the search begins with."""
        return (self.recipes + 1) * self.seeds

    def largest_stage(self, trials: int, *, confirm: bool) -> int:
        """Return the number of runs in the largest stage of a sweep with `trials` trials."""
        return max(trials, *((self.confirmations, self.finals) if confirm else ()), 1)

    def fitted(self, data_set: DataSet) -> Preset:
        """Return the preset for a data set: a run of the same network takes as many steps as on CIFAR-10, or fewer.

        On more images than CIFAR-10's, runs that the cap in epochs ends take more steps, up to the budget in FLOPs.
        Budgets in FLOPs grow with the pixels of an image. A pass over fewer images is shorter, so more of them are
        allowed: caps in epochs rise with the inverse of the number of training images, four times at most, as more
        passes gained nothing (docs/measurements.md).
        """
        pixels = (data_set.side / CIFAR10.side) ** 2
        factor = min(max(1.0, CIFAR10.train_images / data_set.train_images), _LARGEST_FACTOR)

        def longer(budget: Budget) -> Budget:
            if budget.flops is None:
                return budget
            return replace(budget, flops=pixels * budget.flops, max_epochs=factor * budget.max_epochs)

        return replace(
            self,
            trial=longer(self.trial),
            rung_images=min(self.rung_images, data_set.val_images),
            trial_images=min(self.trial_images, data_set.val_images),
            confirm=longer(self.confirm),
            final=longer(self.final),
        )

    def trial_validations(self) -> dict[float, int]:
        """Return the number of validation images by fraction of a trial. Halving judges it after the first."""
        return {eighths / EIGHTHS: self.rung_images for eighths in (2, 4, 6)} | {1.0: self.trial_images}


_PRESETS = (
    Preset(
        "smoke",
        "a first check: seconds per trial",
        trial=Budget(flops=3e12, max_epochs=5),
        rung_images=300,
        trial_images=1000,
        confirm=Budget(flops=6e12, max_epochs=10),
        recipes=1,
        seeds=1,
        final=Budget(flops=8e12, max_epochs=20),
        finals=1,
    ),
    Preset(
        "quick",
        "an answer, sized for two CPU cores",
        trial=Budget(flops=6e12, max_epochs=10),
        rung_images=1000,
        trial_images=3000,
        confirm=Budget(flops=45e12, max_epochs=50),
        recipes=2,
        seeds=1,
        final=Budget(flops=320e12, max_epochs=100),
        finals=1,
    ),
    Preset(
        "standard",
        "a good answer, sized for one GPU",
        trial=Budget(flops=0.35e15, max_epochs=30),
        rung_images=5000,
        trial_images=5000,
        confirm=Budget(flops=1e15, max_epochs=100),
        recipes=3,
        seeds=2,
        final=Budget(flops=1.5e15, max_epochs=100),
        finals=3,
    ),
    Preset(
        "thorough",
        "the best answer, sized for GPUs that run unattended",
        trial=Budget(flops=1.5e15, max_epochs=60),
        rung_images=5000,
        trial_images=5000,
        confirm=Budget(flops=3e15, max_epochs=100),
        recipes=5,
        seeds=3,
        final=Budget(flops=6e15, max_epochs=200),
        finals=5,
    ),
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _PRESETS}


def fixed_epochs(epochs: float) -> Preset:
    """Return a preset in which every run, the final included, trains for the same number of epochs."""
    budget = Budget(flops=None, max_epochs=epochs)
    return Preset(
        f"epochs-{epochs:g}",
        f"{epochs:g} epochs per run",
        trial=budget,
        rung_images=2000,
        trial_images=5000,
        confirm=budget,
        recipes=3,
        seeds=1,
        final=budget,
        finals=1,
    )
