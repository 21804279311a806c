"""Load of the processor, the memory and the GPU while a run trains, under the names of MLflow's system metrics.

They are read at the points of a run's curves, which costs no thread, and travel with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import psutil
import pynvml
import torch


class SystemMetrics:
    """Reads the load of this process, its machine and its GPU. Shares of processor time are means since the last call.

    MLflow's UI shows metrics with these names under "System metrics".
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._process = device, psutil.Process()
        self.read()

    def read(self) -> dict[str, float]:
        """Return percentages, megabytes and watts by name; a GPU that does not tell one of them is without it."""
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": psutil.virtual_memory().percent,
            "process_cpu_percentage": self._process.cpu_percent(),  # 100 for each busy core
            "process_memory_megabytes": self._process.memory_info().rss // 1e6,
        }
        if self._device.type == "cuda":
            values |= _of_gpu(self._device)
        return {f"system/{name}": value for name, value in values.items()}


def _of_gpu(device: torch.device) -> dict[str, float]:
    free, total = torch.cuda.mem_get_info(device)
    readers: Mapping[str, Callable[[], float]] = {
        "memory_usage_megabytes": lambda: (total - free) // 1e6,
        "utilization_percentage": lambda: torch.cuda.utilization(device),
        "power_usage_watts": lambda: torch.cuda.power_draw(device) / 1000,
    }
    values = {}
    for name, read in readers.items():
        # Some GPUs, and parts of one, do not measure all of them; AMD's need a library that torch does not bring.
        with contextlib.suppress(pynvml.NVMLError, ImportError, RuntimeError):
            values[f"gpu_{device.index or 0}_{name}"] = float(read())
    return values
