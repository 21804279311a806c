"""Latency of a trained network on single images and on large batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cifar_core.data import Split
from cifar_core.hardware import Hardware
from cifar_core.training import predict

BATCHES = (1, 256)  # images
_SECONDS = 2.0  # per batch size
_REPEATS = 200  # at most


@dataclass(frozen=True, slots=True)
class Timing:
    """Time from a batch of uint8 images in memory to its probabilities on the CPU."""

    images: int  # in the batch
    seconds: float  # median
    slow_seconds: float  # 95th percentile
    repeats: int
    mean_seconds: float


def time_serving(
    model: nn.Module, split: Split, hardware: Hardware, normalisation: str, *, seconds: float = _SECONDS
) -> tuple[Timing, ...]:
    """Time the prediction of the first images of `split`, for about `seconds` per batch size in `BATCHES`.

    The images of a smaller split are repeated. Other work on the machine is not excluded.
    """
    batches = (split.part(torch.arange(images) % len(split)) for images in BATCHES)
    return tuple(_time(model, batch, hardware, normalisation, seconds) for batch in batches)


def p95(seconds: Sequence[float]) -> float:
    """Return the least of the given times within which 95 % of them lie (the nearest rank)."""
    return sorted(seconds)[-(-95 * len(seconds) // 100) - 1]


def _time(model: nn.Module, batch: Split, hardware: Hardware, normalisation: str, seconds: float) -> Timing:
    predict(model, batch, hardware, normalisation)  # the first call sets up kernels
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 3 or (len(taken) < _REPEATS and time.perf_counter() - began < seconds):
        started = time.perf_counter()
        predict(model, batch, hardware, normalisation)
        taken.append(time.perf_counter() - started)
    return Timing(len(batch), statistics.median(taken), p95(taken), len(taken), statistics.fmean(taken))
