"""Limits on the networks of a search: number of weights, and latency on this machine."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from cifar_core.data import Split
from cifar_core.data.data_set import DataSet
from cifar_core.hardware import Hardware
from cifar_core.models import build_model, parameter_count
from cifar_core.recipe import Recipe
from cifar_core.training import predict
from sweeps.words import rounded

_REPEATS = 30  # of a prediction; the fastest counts, as trials run beside it


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits that a trial must keep; None sets no limit.

    Args:
        parameters: number of weights.
        latency: milliseconds from one image to its prediction.
    """

    parameters: int | None = None
    latency: float | None = None

    def __str__(self) -> str:
        parts = [f"at most {self.parameters:,} weights"] if self.parameters is not None else []
        parts += [f"at most {self.latency:g} ms for one image"] if self.latency is not None else []
        return " and ".join(parts) or "none"

    def excesses(self, recipe: Recipe, hardware: Hardware, data_set: DataSet) -> Mapping[str, float]:
        """Return by what share the network of `recipe` exceeds each limit, zero or less where it keeps it."""
        found = {}
        if self.parameters is not None:
            found["parameters"] = parameter_count(recipe.model, recipe.width, data_set) / self.parameters - 1
        if self.latency is not None:
            found["latency"] = _latency(recipe.model, recipe.width, hardware, data_set) / self.latency - 1
        return found

    def broken(self, excesses: Mapping[str, float]) -> str:
        """Return the reason why a trial is not trained, such as "1,977,664 weights where 1,000,000 are allowed"."""
        reasons = []
        if self.parameters is not None and (excess := excesses["parameters"]) > 0:
            reasons.append(f"{round((1 + excess) * self.parameters):,} weights where {self.parameters:,} are allowed")
        if self.latency is not None and (excess := excesses["latency"]) > 0:
            reasons.append(
                f"{rounded((1 + excess) * self.latency)} ms for one image where {self.latency:g} are allowed"
            )
        return " and ".join(reasons)


@functools.cache
def _latency(model: str, width: float, hardware: Hardware, data_set: DataSet) -> float:
    """Measure the milliseconds from one image to its prediction."""
    network = hardware.place(build_model(Recipe(model=model, width=width), data_set=data_set))
    black = torch.zeros(1, 3, data_set.side, data_set.side, dtype=torch.uint8)
    image = Split(black, torch.zeros(1, dtype=torch.int64), data_set)
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        predict(network, image, hardware)
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds)
