"""The device that training runs on, and its precision."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifar_core.errors import UserError
from cifar_core.machine import usable_cores
from cifar_core.memory import keep_freed_memory

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, slots=True)
class Hardware:
    """A device and the precision of its matrix products; weights are always fp32."""

    device: torch.device
    bf16: bool  # autocast to bfloat16
    name: str = ""  # of the processor of another machine

    @classmethod
    def detect(cls, name: str = "auto") -> Hardware:
        """Return the named device, or the best one for "auto", in bf16 if it computes in bf16 natively.

        Raises:
            UserError: unknown name, or no such device on this machine.
        """
        if name not in DEVICES:
            raise UserError(f"device must be one of {', '.join(DEVICES)}, but got {name!r}")
        here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        chosen = next(kind for kind, present in here.items() if present) if name == "auto" else name
        if not here[chosen]:
            present = ", ".join(kind for kind, is_here in here.items() if is_here)
            if chosen == "cuda" and torch.__version__.endswith("+cpu"):
                present += ", as far as torch's CPU build sees: 'make clean install TORCH_INDEX=' takes the other build"
            raise UserError(f"device {name!r} is not on this machine; it has {present}")
        if chosen == "cuda":
            # torch needs it for `kernels(deterministic=True)`, and reads it once, at the first matrix product.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        return cls(torch.device(chosen), native_bf16(chosen))

    @property
    def dtype(self) -> torch.dtype:
        """The type of matrix products."""
        return torch.bfloat16 if self.bf16 else torch.float32

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Context for forward passes."""
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextlib.contextmanager
    def kernels(self, *, deterministic: bool) -> Iterator[None]:
        """Context for training steps, restricted to deterministic kernels if asked."""
        if not deterministic or torch.are_deterministic_algorithms_enabled():
            yield
            return
        settings: Any = torch.utils.deterministic  # torch's types lack this attribute
        filling = settings.fill_uninitialized_memory
        torch.use_deterministic_algorithms(True)
        # Filling new memory guards against reads before writes, and costs a tenth of dynamic_conv's step.
        settings.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
            settings.fill_uninitialized_memory = filling

    def place(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, in the channels-last memory format that convolutions are fastest in."""
        return model.to(device=self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def describe(self) -> str:
        """Return the processor's name."""
        if self.name:
            return self.name
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return _cpu_name()

    def instruction_set(self) -> str:
        """Return the widest vector instructions of a CPU that torch uses, such as "AVX512-bf16, AMX"; "" for others."""
        if self.device.type != "cpu":
            return ""
        extensions = {"AVX512-bf16": native_bf16("cpu"), "AMX": has_amx()}
        return ", ".join(
            [name for name, here in extensions.items() if here] or [torch.backends.cpu.get_cpu_capability()]
        )


def set_up_cpu(threads: int | None = None) -> None:
    """Set the number of threads, reuse freed memory, and flush denormal numbers to zero.

    Denormal numbers appear when a network has become certain of every answer, and slow some processors down a
    hundredfold. Call this before any computation, because threads inherit the setting when they start.

    Args:
        threads: by default torch's choice, which may exceed the quota of a container: then one for each usable core.
    """
    keep_freed_memory()
    torch.set_flush_denormal(True)
    if threads is not None or torch.get_num_threads() > usable_cores():
        torch.set_num_threads(threads or usable_cores())


def native_bf16(kind: str) -> bool:
    """Return true if devices of that kind compute in bf16: every GPU must, as a run of a sweep may be on any."""
    if kind == "cuda":
        return all(torch.cuda.get_device_capability(gpu) >= (8, 0) for gpu in range(torch.cuda.device_count()))
    # Emulated bf16 is slower than fp32, so ask for the CPU's own flag; torch has it under a private name only.
    return kind == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


@functools.cache
def has_amx() -> bool:
    """Return true if this CPU multiplies matrices with AMX; torch has that under a private name only."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
