"""Latency of a trained network on single images and on large batches."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

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
    mean_seconds: float | None = None  # None: timed by a version that did not keep it


def time_serving(
    model: nn.Module, split: Split, hardware: Hardware, normalisation: str, *, seconds: float = _SECONDS
) -> tuple[Timing, ...]:
    """Time the prediction of the first images of `split`, for about `seconds` per batch size in `BATCHES`.

    Batch sizes larger than the split are left out. Other work on the machine is not excluded.
    """
    return tuple(
        _time(model, split.head(images), hardware, normalisation, seconds) for images in BATCHES if images <= len(split)
    )


def _time(model: nn.Module, batch: Split, hardware: Hardware, normalisation: str, seconds: float) -> Timing:
    predict(model, batch, hardware, normalisation)  # the first call sets up kernels
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 3 or (len(taken) < _REPEATS and time.perf_counter() - began < seconds):
        started = time.perf_counter()
        predict(model, batch, hardware, normalisation)
        taken.append(time.perf_counter() - started)
    slow = sorted(taken)[max(0, -(-95 * len(taken) // 100) - 1)]
    return Timing(len(batch), statistics.median(taken), slow, len(taken), statistics.fmean(taken))
