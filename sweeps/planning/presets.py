"""Presets: the compute of a sweep, in training FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cifar_core.budget import Budget


@dataclass(frozen=True, slots=True)
class Preset:
    """Budgets of a sweep.

    Attributes:
        name: of the option --preset, or of a fixed number of epochs.
        trial: budget of each trial of the search.
        confirm: budget of each confirmation run, which trains one of the best recipes again.
        recipes: number of the best recipes to confirm.
        seeds: confirmation runs of each recipe, with different seeds.
    """

    name: str
    description: str
    trial: Budget
    confirm: Budget
    recipes: int
    seeds: int


_PRESETS = (
    Preset(
        "smoke",
        "a first check: seconds per trial",
        trial=Budget(flops=3e12, max_epochs=5),
        confirm=Budget(flops=6e12, max_epochs=10),
        recipes=2,
        seeds=1,
    ),
    Preset(
        "quick",
        "an answer from two CPU cores in half an hour (bf16) to an hour and a quarter (fp32)",
        trial=Budget(flops=11e12, max_epochs=10),
        confirm=Budget(flops=240e12, max_epochs=50),
        recipes=2,
        seeds=1,
    ),
    Preset(
        "standard",
        "a good answer, sized for one GPU",
        trial=Budget(flops=0.35e15, max_epochs=30),
        confirm=Budget(flops=1.5e15, max_epochs=100),
        recipes=3,
        seeds=3,
    ),
    Preset(
        "thorough",
        "the best answer, sized for GPUs that run unattended",
        trial=Budget(flops=1.5e15, max_epochs=60),
        confirm=Budget(flops=6e15, max_epochs=200),
        recipes=5,
        seeds=5,
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _PRESETS})


def fixed_epochs(epochs: float) -> Preset:
    """Return a preset in which every run of search and confirmation trains for the same number of epochs."""
    budget = Budget(flops=None, max_epochs=epochs)
    return Preset(f"epochs-{epochs:g}", f"{epochs:g} epochs per run", trial=budget, confirm=budget, recipes=3, seeds=1)
