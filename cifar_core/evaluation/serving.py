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
LEAST_TIMED = 59  # answers, for a time within which 95 % come: of 58, even the slowest may be too fast (0.95^58 > 5 %)
_ROUNDS = 3  # of which the one with the least mean counts, as other work on the machine only adds
_SECONDS = 1.0  # of a round of one batch size
_MOST = 200  # repeats of a round
_LONGEST = 10  # times the seconds of a round, after which fewer than `LEAST_TIMED` will do


@dataclass(frozen=True, slots=True)
class Timing:
    """Time from a batch of uint8 images in memory to its probabilities on the CPU."""

    images: int  # in the batch
    seconds: float  # median
    slow_seconds: float  # 95th percentile
    repeats: int
    mean_seconds: float


def time_serving(model: nn.Module, split: Split, hardware: Hardware, normalisation: str) -> tuple[Timing, ...]:
    """Time the prediction of the first images of `split`, in batches of the sizes in `BATCHES`.

    The images of a smaller split are repeated. Of three rounds of a second each (up to ten where single images are
    slow) the one with the least mean counts, as a mean, unlike a percentile, rises with a few long hiccups. Other work
    on the machine that lasts through all of them is not excluded.
    """
    batches = (split.part(torch.arange(images) % len(split)) for images in BATCHES)
    return tuple(_time(model, batch, hardware, normalisation) for batch in batches)


def p95(seconds: Sequence[float]) -> float:
    """Return the 95th percentile of the times (nearest rank)."""
    return sorted(seconds)[-(-95 * len(seconds) // 100) - 1]


def _time(model: nn.Module, batch: Split, hardware: Hardware, normalisation: str) -> Timing:
    predict(model, batch, hardware, normalisation)  # the first call sets up kernels
    rounds = (_round(model, batch, hardware, normalisation) for _ in range(_ROUNDS))
    taken = min(rounds, key=statistics.fmean)
    return Timing(len(batch), statistics.median(taken), p95(taken), len(taken), statistics.fmean(taken))


def _round(model: nn.Module, batch: Split, hardware: Hardware, normalisation: str) -> list[float]:
    taken: list[float] = []
    fewest = LEAST_TIMED if len(batch) == 1 else 3
    while (
        len(taken) < 3
        or (len(taken) < _MOST and sum(taken) < _SECONDS)
        or (len(taken) < fewest and sum(taken) < _LONGEST * _SECONDS)
    ):
        started = time.perf_counter()
        predict(model, batch, hardware, normalisation)
        taken.append(time.perf_counter() - started)
    return taken
