"""A small synthetic data set, also for worker processes: this module imports little."""

from __future__ import annotations

import torch

from cifar_core.data import Split, Splits
from cifar_core.data.source import DataSource
from cifar_core.hardware import Hardware
from tests.synthetic import synthetic_splits

CPU = Hardware(torch.device("cpu"), bf16=False)


def small_splits(train: int = 200, val: int = 100) -> Splits:
    return synthetic_splits(torch.Generator().manual_seed(0), train=train, val=val)


def small_test() -> Split:
    return synthetic_splits(torch.Generator().manual_seed(1), train=10, val=100).val


SYNTHETIC = DataSource(small_splits, small_test)
