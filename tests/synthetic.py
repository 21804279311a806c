"""Synthetic images in place of CIFAR-10."""

from __future__ import annotations

import math

import torch

from cifar_core.data import Split, Splits
from cifar_core.data.data_set import CIFAR10


def synthetic_splits(generator: torch.Generator, train: int = 512, val: int = 256) -> Splits:
    """Generate images that a small network learns in seconds: a colour and a gradient per class, and noise.

    The classes are fixed; `generator` (on the CPU) draws the order and the noise. Labels are balanced: the counts of
    two classes differ by at most one.
    """
    return Splits(train=_synthetic(generator, train), val=_synthetic(generator, val))


def _synthetic(generator: torch.Generator, count: int) -> Split:
    labels = (torch.arange(count) % len(CIFAR10.classes))[torch.randperm(count, generator=generator)]
    angle = 2 * math.pi * torch.arange(len(CIFAR10.classes)) / len(CIFAR10.classes)
    phase = torch.tensor([0.0, 2 * math.pi / 3, 4 * math.pi / 3])
    colour = 128 + 50 * torch.cos(angle[:, None] + phase)
    ramp = torch.linspace(-1, 1, 32)
    gradient = 40 * (angle.cos()[:, None, None] * ramp + angle.sin()[:, None, None] * ramp[:, None])
    classes = colour[:, :, None, None] + gradient[:, None]
    noise = 30 * torch.randn(count, 3, 32, 32, generator=generator)
    return Split((classes[labels] + noise).round().clamp(0, 255).to(torch.uint8), labels)
