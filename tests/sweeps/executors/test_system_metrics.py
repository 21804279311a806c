"""System metrics: what a busy process reads of itself, and of a GPU that tells only half."""

from __future__ import annotations

import time
from unittest.mock import Mock

import pynvml
import pytest
import torch

from sweeps.executors.system_metrics import SystemMetrics


def test_a_busy_process_sees_itself() -> None:
    system = SystemMetrics(torch.device("cpu"))
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    values = system.read()
    assert set(values) == {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_percentage",
        "system/process_cpu_percentage",
        "system/process_memory_megabytes",
    }
    assert 0 < values["system/process_cpu_percentage"] < 150
    assert 0 < values["system/cpu_utilization_percentage"] <= 100
    assert 0 < values["system/system_memory_usage_percentage"] < 100
    assert 50 < values["system/process_memory_megabytes"] < 50_000


def test_a_gpu_has_what_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", Mock(return_value=(60e9, 80e9)))
    monkeypatch.setattr(torch.cuda, "utilization", Mock(side_effect=pynvml.NVMLError(3)))
    monkeypatch.setattr(torch.cuda, "power_draw", Mock(return_value=350_000))
    values = SystemMetrics(torch.device("cuda", 1)).read()
    of_gpu = {name: value for name, value in values.items() if "gpu" in name}
    assert of_gpu == {"system/gpu_1_memory_usage_megabytes": 20_000, "system/gpu_1_power_usage_watts": 350}
