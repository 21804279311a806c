"""The tags that describe the machine and the code of a run."""

from __future__ import annotations

import pytest
import torch

from cifar_core.data.data_set import CIFAR10
from cifar_core.hardware import Hardware
from cifar_core.models import conv3x3, fused
from sweeps.tracking.provenance import provenance


@pytest.mark.parametrize(
    ("device", "bf16", "compiled", "amx", "kernels"),
    [
        ("cpu", True, True, True, "fused, AMX"),
        ("cpu", True, True, False, "fused, Winograd"),
        ("cpu", True, False, False, "none"),
        ("cpu", False, True, True, "fused, Winograd"),
        ("cpu", False, False, True, "none"),
        ("mps", True, True, True, "none"),
    ],
)
def test_the_kernels_that_train(
    monkeypatch: pytest.MonkeyPatch, device: str, bf16: bool, compiled: bool, amx: bool, kernels: str
) -> None:
    for module in (fused, conv3x3):
        monkeypatch.setattr(module, "is_available", lambda dtype: compiled)
    monkeypatch.setattr(conv3x3, "amx", lambda: object() if amx else None)
    assert provenance(CIFAR10, Hardware(torch.device(device), bf16), 2)["kernels"] == kernels
