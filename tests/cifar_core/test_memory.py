"""Reuse of freed memory, and the error of one line when memory runs out."""

from __future__ import annotations

import platform
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from cifar_core.errors import OutOfMemory
from cifar_core.memory import oom_context, release_memory
from cifar_core.recipe import Recipe

RECIPE = Recipe(model="custom_resnet", width=1.0, batch_size=512)
SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    RuntimeError("could not create a primitive"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: type(error).__name__)
def test_the_batch_is_named(error: Exception) -> None:
    with pytest.raises(OutOfMemory) as raised, oom_context("a batch of 512 images", RECIPE):
        raise error
    said = str(error).splitlines()[0] if str(error) else "MemoryError"
    expected = f"out of memory: a batch of 512 images did not fit beside the network (custom_resnet, width 1): {said}"
    assert str(raised.value) == expected
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("no")])
def test_other_errors_are_not_changed(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, oom_context("a batch of 512 images", RECIPE):
        raise error
    assert raised.value is error


def test_the_memory_of_every_kind_of_gpu_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(kind, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", cuda := Mock())
    monkeypatch.setattr(torch.mps, "empty_cache", mps := Mock())
    release_memory()
    assert (cuda.call_count, mps.call_count) == (1, 1)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_reused_until_it_is_released() -> None:
    program = """
import resource
import shlex
import torch
from cifar_core.memory import keep_freed_memory, release_memory

def resident():  # in MB
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6

for keep in (lambda: None, keep_freed_memory):
    keep()
    faults = []
    for step in range(10):  # ever smaller, since glibc asks for more than it needs to align a block
        torch.zeros(11_000_000 - 100_000 * step)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    before = resident()
    release_memory()
    print(faults[-1] - faults[-2], before - resident())
"""
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    for kept, line in zip((False, True), output.splitlines(), strict=True):
        faults, given_back = map(float, line.split())
        assert (faults < 0.01 * 40_000_000 / resource.getpagesize()) == kept
        assert (given_back > 39) == kept


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without huge pages")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_tensors_lie_in_huge_pages() -> None:
    program = """
import torch
from cifar_core.memory import keep_freed_memory

keep_freed_memory()
tensor = torch.zeros(30_000_000)
middle = tensor.data_ptr() + tensor.nbytes // 2
within = False
for line in open("/proc/self/smaps"):
    name, *values = line.split()
    if not name.endswith(":"):
        first, beyond = (int(address, 16) for address in name.split("-"))
        within = first <= middle < beyond
    elif within and name in ("Rss:", "VmFlags:"):
        print(*values)
"""
    rss, flags = subprocess.check_output([sys.executable, "-c", program], text=True).splitlines()
    assert "hg" in flags.split()  # MADV_HUGEPAGE: proc_pid_smaps(5)
    assert int(rss.split()[0]) < 400_000  # kilobytes: what is asked for takes no memory until it is used


def test_little_address_space_is_no_error() -> None:
    program = "from cifar_core.memory import keep_freed_memory; keep_freed_memory(); print('went on')"
    command = f"ulimit -v 3500000; exec {sys.executable} -c {shlex.quote(program)}"
    assert subprocess.check_output(["bash", "-c", command], text=True) == "went on\n"
